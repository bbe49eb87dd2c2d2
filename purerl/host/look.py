"""The commands that look at what was trained: evaluate, plot, render, list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from purerl import training
from purerl.host import checkpoint, drawing, jobs, loading, report, runs, work
from purerl.host.cli import agent_names


def _bar() -> rich.progress.Progress:
    columns = (
        rich.progress.TextColumn("{task.description}"), rich.progress.BarColumn(bar_width=30),
        rich.progress.MofNCompleteColumn(), rich.progress.TimeRemainingColumn(compact=True),
    )  # fmt: skip
    console = Console(stderr=True)
    return rich.progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def evaluation_key(seed: int) -> Any:
    """A key that no training run starts from: theirs are folded with their seed's number."""
    return jax.random.fold_in(jax.random.key(seed), 2**31)


def evaluate(run: Path, episodes: int, seed: int, max_steps: int | None) -> None:
    """Play episodes with every run of a directory, greedy and stochastic, and print a table."""
    loaded = loading.load(run)
    key, job, seeds = evaluation_key(seed), loaded.plan, len(loaded.plan.keys)

    def play(hp, state, key, greedy):
        agent = loaded.agent(hp)
        return training.evaluate(loaded.env, loaded.env_params, agent, state, key, episodes, max_steps, greedy)

    play = jax.jit(play, static_argnums=3)
    sound = [r for r in range(job.num_runs) if r not in loaded.broken]
    returns, lengths, unfinished = np.full((2, job.num_runs), np.nan), np.full((2, job.num_runs), np.nan), 0
    with _bar() as bar:
        task = bar.add_task(f"{episodes} episodes each", total=2 * len(sound))
        for mode, greedy in enumerate((True, False)):
            for r in sound:
                one = loaded.one(r)
                hp = jax.tree.map(jnp.float32, one.hp)
                out = play(hp, one.state.agent, jax.random.fold_in(jax.random.fold_in(key, r), mode), greedy)
                returns[mode, r], lengths[mode, r] = float(out.returns.mean()), float(out.lengths.mean())
                unfinished += int((~out.finished).sum())
                bar.advance(task)
    title = f"{job.title}: {episodes} episodes of each run, after {loaded.iteration:,} iterations"
    out = report.grid(title, *job.swept, "actions")
    out.add_column("length", justify="right", no_wrap=True)
    for index in range(len(job.grid)):
        for mode, name in enumerate(("greedy", "stochastic")):
            here = slice(index * seeds, (index + 1) * seeds)
            values = job.labels[index].split(", ") if job.swept else []
            known = lengths[mode, here][~np.isnan(lengths[mode, here])]
            cells = report.scores(returns[mode, here]) if len(known) else ["every seed is broken", "", "", ""]
            out.add_row(*values, name, *cells, f"{known.mean():.1f}" if len(known) else "")
    Console().print(out)
    report.say("IQM and interval are over seeds, each of which counts with its mean")
    for r, iteration in loaded.broken.items():
        report.note(f"{job.name_of(r)}: not finite from iteration {iteration} on; left out")
    if unfinished:
        report.note(f"{unfinished} episodes had not ended at the limit; their return is up to there")


def plot(paths: tuple[Path, ...], metric: str, out: Path | None) -> None:
    """Draw runs, one panel an environment, one curve a run (or a configuration of one)."""
    out = report.new_file(out or report.unused(Path("plot.png")), "--out", report.PICTURES)
    panels: dict[str, report.Panel] = {}
    names = [path.resolve().name for path in paths]
    names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    for path, name in zip(paths, names, strict=True):
        job = jobs.of_directory(path, same_files=False)
        metrics = runs.read_metrics(path / runs.METRICS, job.num_runs)
        if metric not in metrics.columns:
            allowed = ", ".join(n for n in metrics.columns if n != "seed" and n not in job.swept)
            raise ValueError(f"--metric is {metric}; {path} has {allowed or 'no metrics yet'}")
        notes = [checkpoint.read(p)[1] for p in checkpoint.paths(path / runs.CHECKPOINTS)[:1]]
        broken = work.Record(job, metrics, notes[0] if notes else {}).broken
        panel = work.panel_of(job, metrics, broken, metric)
        if len(paths) == 1:
            panels[path.name] = panel
            continue
        where = job.title.rpartition(" on ")[2]
        before = panels.get(where, report.Panel(where, "", []))
        what = ", ".join(job.swept)
        label = lambda curve, name=name, what=what: f"{name}, {what} {curve.label}" if what else name
        panels[where] = before._replace(curves=[*before.curves, *(c._replace(label=label(c)) for c in panel.curves)])
    report.picture(out, list(panels.values()), metric.replace("_", " "))
    report.note(f"plot: {out}")


def render(run: Path, number: int, stochastic: bool, seed: int, max_steps: int, out: Path | None) -> None:
    """Draw one episode of one run."""
    loaded = loading.load(run)
    out = report.new_file(out or report.unused(run / "episode.gif"), "--out", (".gif",))
    one = loaded.one(number)
    draw, frames_per_second = drawing.painter(loaded.env, loaded.env_params)
    states, rewards, count = drawing.episode(one, evaluation_key(seed), max_steps, greedy=not stochastic)
    with _bar() as bar:
        task = bar.add_task("drawing", total=count)
        drawing.gif(out, states, rewards, count, draw, frames_per_second, lambda n: bar.update(task, completed=n))
    report.note(f"episode of {count} steps, return {float(np.sum(rewards[:count])):.1f}: {out}")


def _space(space: Any) -> str:
    if hasattr(space, "n"):
        return f"Discrete({space.n})"
    if hasattr(space, "low"):
        low, high = np.min(space.low), np.max(space.high)
        bounds = "" if max(abs(low), abs(high)) > 1e30 else f" in [{low:g}, {high:g}]"
        return f"Box{list(space.shape)}{bounds}"
    inside = getattr(space, "spaces", ())
    if hasattr(inside, "keys"):
        return ", ".join(f"{name}: {_space(inside[name])}" for name in inside)
    return f"({', '.join(map(_space, inside))})" if inside else repr(space)


def catalogue() -> None:
    """Print every agent, and every environment with its spaces."""
    import gymnax

    from purerl.envs import adapters, make, suites

    agents = Table(title="agents", title_justify="left")
    agents.add_column("name")
    agents.add_column("what it is")
    for name, line in agent_names().items():
        agents.add_row(name, line)
    environments = Table(title="environments", title_justify="left")
    environments.add_column("name", no_wrap=True)
    for name in ("observations", "actions"):
        environments.add_column(name, overflow="fold")
    environments.add_column("limit", justify="right")
    for name in (*gymnax.registered_envs, *adapters.OWN):
        if name in adapters.DOWNLOADS:
            environments.add_row(name, "downloads its data when it is first made", "", "")
            continue
        env, env_params = make(name)
        limit = getattr(env_params, "max_steps_in_episode", None)
        spaces = _space(env.observation_space(env_params)), _space(env.action_space(env_params))
        environments.add_row(name, *spaces, f"{int(limit)}" if limit else "none")
    for name in suites.SUITES:
        environments.add_row(f"{name}/...", escape(f"of the package {name}: pip install 'purerl[{name}]'"), "", "")
    console = Console()
    console.print(agents)
    console.print(environments)
