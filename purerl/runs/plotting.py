"""Learning curves of runs, as a picture."""

from __future__ import annotations

from pathlib import Path

from purerl.runs import report, sweeps


def plot(paths: tuple[Path, ...], metric: str, out: Path | None) -> None:
    """Draw learning curves: one panel for each environment, one curve for each run or configuration of a run."""
    out = report.new_file(out or report.unused(Path("plot.png")), "--out", report.PICTURES)
    panels: dict[str, report.Panel] = {}
    names = [path.resolve().name for path in paths]
    names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    for path, name in zip(paths, names, strict=True):
        panel = sweeps.panel(path, metric)
        if len(paths) == 1:
            panels[path.name] = panel
            continue
        where = panel.title.rpartition(" on ")[2]
        before = panels.get(where, report.Panel(where, "", []))
        what = panel.legend
        label = lambda curve, name=name, what=what: f"{name}, {what} {curve.label}" if what else name
        panels[where] = before._replace(curves=[*before.curves, *(c._replace(label=label(c)) for c in panel.curves)])
    report.picture(out, list(panels.values()), metric.replace("_", " "))
    report.note(f"plot: {out}")
