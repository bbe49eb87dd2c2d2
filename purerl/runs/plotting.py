"""Learning curves of runs, as a picture."""

from __future__ import annotations

from pathlib import Path

from purerl.runs import checkpoint, files, report
from purerl.runs.record import noted, outline_of, panel_of


def plot(paths: tuple[Path, ...], metric: str, out: Path | None) -> None:
    """Draw learning curves: one panel for each environment, one curve for each run or configuration of a run."""
    out = report.new_file(out or report.unused(Path("plot.png")), "--out", report.PICTURES)
    panels: dict[str, report.Panel] = {}
    names = [path.resolve().name for path in paths]
    names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    for path, name in zip(paths, names, strict=True):
        plan = outline_of(path)
        metrics = files.read_metrics(path / files.METRICS, plan.num_runs)
        if metric not in metrics.columns:
            allowed = ", ".join(n for n in metrics.columns if n != "seed" and n not in plan.swept)
            raise ValueError(f"--metric is {metric}; {path} has {allowed or 'no metrics yet'}")
        notes = [checkpoint.read(p)[1] for p in checkpoint.paths(path / files.CHECKPOINTS)[:1]]
        broken = noted(notes[0] if notes else {}, "broken", plan.num_runs)
        panel = panel_of(plan, metrics, broken, metric)
        if len(paths) == 1:
            panels[path.name] = panel
            continue
        where = plan.title.rpartition(" on ")[2]
        before = panels.get(where, report.Panel(where, "", []))
        what = ", ".join(plan.swept)
        label = lambda curve, name=name, what=what: f"{name}, {what} {curve.label}" if what else name
        panels[where] = before._replace(curves=[*before.curves, *(c._replace(label=label(c)) for c in panel.curves)])
    report.picture(out, list(panels.values()), metric.replace("_", " "))
    report.note(f"plot: {out}")
