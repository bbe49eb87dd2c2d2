"""The schedule that a search found, beside constant rates and cosines that cost as much: files, table and picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from rich.table import Table

from purerl import replay, statistics
from purerl.envs.training_control import models, schedules
from purerl.envs.training_control.actions import COORDINATES
from purerl.envs.training_control.environment import TrainingControl
from purerl.runs import files, loading, optimisation, report
from purerl.runs.devices import usable_devices
from purerl.runs.evaluation import evaluation_key
from purerl.runs.optimisation import Inner
from purerl.runs.progress import Progress, console, progress_bar
from purerl.runs.stopped import Stopped

RATES = np.logspace(-5, 1, 61)  # constant rates, and the first of cosines, to choose from
FIRST = 8  # trainings of every second of them, before the search
CHOICE = 64  # trainings that choose among the agents' schedules
FEW = 10  # trainings of the table: below, a bootstrap interval of 95 % contains the mean less than 88 % of the time
AT_ONCE, MOST_BYTES = 256, 2**30  # trainings in one call of the program, and their states
FIND, TUNE, CHOOSE, COMPARE = range(4)  # streams of keys: none is used twice
CSV, JSON, PICTURE, COMPARISON = "schedule.csv", "schedule.json", "schedule.png", "comparison.csv"
FINAL = ("train_loss", "validation_loss", "test_loss", "test_score")
USE = {  # where nothing but the learning rate matters
    "sgd": "optax.sgd({})",
    "momentum": "optax.sgd({}, momentum={})",
    "rmsprop": "optax.rmsprop({}, 0.9, eps_in_sqrt=False)",
    "adam": "optax.adam({}, b1={})",
}

Tables = Mapping[str, np.ndarray]  # for each setting its values at every step, float [S, T] of S schedules


def stream(seed: int, purpose: int, num: int) -> jax.Array:
    """Keys of trainings `[num]`, which no agent learned from."""
    return jax.random.split(jax.random.fold_in(evaluation_key(seed), purpose), num)


# --- trainings under schedules ----------------------------------------------------------------------------------------


@cache
def _program(env: TrainingControl, num_steps: int, names: tuple[str, ...], num: int, devices: tuple[Any, ...]) -> Any:
    """`(env_params, keys [B], settings {name: [B, T]}) -> results [B, ...]`, compiled: of the end, and losses `[B, T]`.

    A training that ends early keeps the results of its end.
    """

    def one(env_params, key, settings):
        table = schedules.rollout(key, env, env_params, num_steps, *schedules.replay(settings))
        last = table["valid"].sum() - 1
        held = jnp.minimum(jnp.arange(num_steps), last)
        final = {name: table[name][last] for name in (*FINAL, "log_loss", "diverged")}
        return final | {f"{name}_curve": table[name][held] for name in FINAL[:2]}

    every = jax.vmap(one, (None, 0, 0))
    mesh, runs = Mesh(np.array(devices), ("runs",)), P("runs")
    split = jax.shard_map(every, mesh=mesh, in_specs=(P(), runs, runs), out_specs=runs, check_vma=False)
    settings = dict.fromkeys(names, jax.ShapeDtypeStruct((num, num_steps), jnp.float32))
    return jax.jit(split).lower(env.default_params, jax.eval_shape(lambda: stream(0, FIND, num)), settings).compile()


def played(
    env: TrainingControl,
    env_params: Any,
    tables: Tables,
    keys: jax.Array,
    devices: Sequence[Any],
    compiled: bool = False,
) -> dict[str, np.ndarray]:
    """Every schedule in every training, with a bar of progress: results `[S, n, ...]` of n keys.

    Schedules with the same key train the same network on the same minibatches.
    compiled: whether this was called before with the same environment and devices.
    """
    count, num_steps = next(iter(tables.values())).shape
    size = replay.bytes_of(jax.eval_shape(lambda key: env.reset_env(key, env_params), keys[0]))
    num, at_once = len(keys), max(min(AT_ONCE, MOST_BYTES // size) // len(devices), 1) * len(devices)
    batches, parts = -(-count * num // at_once), []
    progress = Progress(batches, at_once * num_steps, result="validation loss")
    with progress:
        with progress.compiling(not compiled):
            program = _program(env, num_steps, tuple(tables), at_once, tuple(devices))
        for i in range(batches):
            which = np.arange(i * at_once, (i + 1) * at_once) % (count * num)
            settings = {name: jnp.asarray(x[which // num]) for name, x in tables.items()}
            parts.append(jax.device_get(program(env_params, keys[which % num], settings)))
            progress.update(i + 1, float(np.exp(parts[-1]["log_loss"].mean())))
    joined = {name: np.concatenate([part[name] for part in parts])[: count * num] for name in parts[0]}
    return {name: x.reshape(count, num, *x.shape[1:]) for name, x in joined.items()}


def tables_of(inner: Inner, env_params: Any, rates: np.ndarray) -> dict[str, np.ndarray]:
    """Tables of schedules of the rate, `[S, T]`, in which the other controlled settings keep their first values."""
    start = {name: getattr(env_params.settings, name) for name in optimisation.scheduled(inner)}
    return {name: np.full(rates.shape, x, np.float32) for name, x in start.items()} | {"learning_rate": rates}


def shaped(inner: Inner, shape: Any, rates: np.ndarray) -> np.ndarray:
    """Rates of schedules such as `schedules.cosine`, one for each first rate, float32 `[S, T]`."""
    used = jnp.arange(inner.changes) / inner.changes
    return np.asarray(jax.vmap(lambda rate: shape(rate)(used))(jnp.asarray(rates, jnp.float32)))


def with_rate(inner: Inner, seed: int, devices: int | None) -> Inner:
    """The training with the best constant rate of a few trainings of each, and what they cost.

    Raises:
      ValueError: if every rate diverges.
    """
    env, env_params = optimisation.assemble(inner)
    rates = RATES[::2]
    report.note(f"constant rates: {FIRST} trainings of each of {len(rates)}, from {rates[0]:g} to {rates[-1]:g}")
    tables = tables_of(inner, env_params, shaped(inner, schedules.constant, rates))
    out = played(env, env_params, tables, stream(seed, FIND, FIRST), usable_devices(devices, AT_ONCE))
    if out["diverged"].all():
        raise ValueError(
            f"the training diverges at every constant rate, {rates[0]:g} the lowest; try another --optimizer"
        )
    best = float(np.float32(rates[out["log_loss"].mean(1).argmin()]))
    report.note(f"the best constant rate is {best:.3g}; the agents start from it")
    return inner._replace(rate=best, sweep=len(rates) * FIRST)


# --- the schedule -----------------------------------------------------------------------------------------------------


def averaged(table: Mapping[str, np.ndarray], valid: np.ndarray) -> dict[str, np.ndarray]:
    """One schedule for what an agent did in n trainings: means on the scales of `COORDINATES`, `[n, T]` to `[T]`.

    valid: bool `[n, T]`, false after the end of a training; such steps count only where all trainings have ended.
    """
    weights = valid + 1e-9
    out = {}
    for name, x in table.items():
        at = COORDINATES[name]
        mean = np.average(np.asarray(at.clip(at.of(jnp.asarray(x)))), axis=0, weights=weights)
        out[name] = np.asarray(at.back(jnp.asarray(mean, jnp.float32)))
    return out


def candidates(loaded: loading.Loaded, inner: Inner, keys: jax.Array) -> dict[str, np.ndarray]:
    """The schedule of every sound agent, from its greedy actions in the trainings of the keys, `[R, T]`."""

    @jax.jit
    def play(hp, state, keys):
        agent = loaded.agent(hp)

        def one(key):
            control = schedules.act(loaded.env, agent, state)
            table = schedules.rollout(key, loaded.env, loaded.env_params, inner.changes, *control)
            return {name: table[name] for name in optimisation.scheduled(inner)}, table["valid"]

        return jax.vmap(one)(keys)

    sound = [run for run in range(loaded.plan.num_runs) if run not in loaded.broken]
    if not sound:
        raise ValueError("every agent has values that are not finite: there is no schedule to save")
    found = []
    with progress_bar() as bar:
        task = bar.add_task("schedules of the agents", total=len(sound))
        for run in sound:
            one = loaded.one(run)
            out = jax.device_get(play(jax.tree.map(jnp.float32, one.hp), one.state.agent, keys))
            found.append(averaged(*out))
            bar.advance(task)
    return {name: np.stack([x[name] for x in found]) for name in optimisation.scheduled(inner)}


def cost_of(config: Mapping[str, Any], inner: Inner, num_agents: int) -> int:
    """The trainings of a search, with those that the agents' schedules were read from and chosen by."""
    return optimisation.trainings_of(config, inner, num_agents) + 2 * CHOICE * num_agents


class Row(NamedTuple):
    """A schedule in the table."""

    name: str
    settings: dict[str, np.ndarray]  # [T]
    results: dict[str, np.ndarray]  # of the fresh trainings, [n, ...]


def finish(directory: Path, devices: int | None = None, code: str | None = None) -> None:
    """Write the schedule that a finished search found, and compare it; nothing for a run of another kind.

    devices: how many to split trainings over; None: all.  code: see `sources.sources`.
    Raises:
      Stopped: if it was interrupted; the search is on disk.
      ValueError: if every agent has values that are not finite.
    """
    if not files.read_config(directory).get("inner"):
        return
    try:
        _finish(directory, loading.load(directory, code), usable_devices(devices, AT_ONCE))
    except KeyboardInterrupt:
        raise Stopped(f"stopped; the agents are on disk: {report.to_resume(directory)}") from None


def _finish(directory: Path, loaded: loading.Loaded, devices: list[Any]) -> None:
    plan, env, env_params = loaded.plan, loaded.env, loaded.env_params
    config, inner = plan.config, optimisation.restored(plan.config["inner"])

    def play(tables: Tables, purpose: int, num: int, compiled: bool = True) -> dict[str, np.ndarray]:
        return played(env, env_params, tables, stream(config["seed"], purpose, num), devices, compiled)

    found = candidates(loaded, inner, stream(config["seed"], CHOOSE, CHOICE))
    report.note(f"schedules of {report.counted(len(found['learning_rate']), 'agent')}, {CHOICE} trainings of each")
    chosen = int(play(found, CHOOSE, CHOICE, compiled=False)["log_loss"].mean(1).argmin())
    agent = Path(config["agent"]).name
    rows = {f"found by {agent}": {name: x[chosen] for name, x in found.items()}}

    cost = cost_of(config, inner, plan.num_runs)
    num = -(-cost // len(RATES))
    report.note(
        f"constant rates and cosines: {num} trainings of each of {len(RATES)}, at the search's cost of {cost:,}"
    )
    shapes = {"constant": schedules.constant, "cosine from": schedules.cosine}
    every = tables_of(inner, env_params, np.concatenate([shaped(inner, shape, RATES) for shape in shapes.values()]))
    losses = play(every, TUNE, num)["log_loss"].mean(1).reshape(len(shapes), len(RATES))
    best = losses.argmin(1)
    names = [f"{name} {RATES[k]:.3g}, best of {len(RATES)}" for name, k in zip(shapes, best, strict=True)]
    at = np.arange(len(shapes)) * len(RATES) + best
    rows = {name: {k: x[i] for k, x in every.items()} for name, i in zip(names, at, strict=True)} | rows
    if inner.own_rate:
        own = tables_of(inner, env_params, shaped(inner, schedules.constant, np.array([inner.rate])))
        rows = {f"constant {inner.rate:g}, yours": {name: x[0] for name, x in own.items()}, **rows}

    report.note(f"{inner.compared} fresh trainings of each of {len(rows)} schedules")
    together = {name: np.stack([x[name] for x in rows.values()]) for name in found}
    out = play(together, COMPARE, inner.compared)
    compared = [
        Row(name, settings, {key: x[i] for key, x in out.items()}) for i, (name, settings) in enumerate(rows.items())
    ]
    save(directory, inner, compared)
    score = {models.accuracy: "accuracy", models.r_squared: "R²"}.get(env.objective.score, "score")
    show(plan.title, compared, score)
    picture(directory / PICTURE, plan.title, inner, compared, found)
    report.note(f"schedule: {directory / CSV}  (picture: {directory / PICTURE})")
    report.say(f"in your training: from purerl.envs.training_control import schedules; {usage(directory, inner)}")


def usage(directory: Path, inner: Inner) -> str:
    """Python that trains with the schedule that was saved, without agents."""
    load = lambda *name: f"schedules.load({', '.join(map(json.dumps, (str(directory / CSV), *name)))})"
    if inner.optimizer not in USE:
        optimizer = f"optax.chain({inner.optimizer.rpartition(':')[2]}, optax.scale_by_schedule({load()}))"
    elif inner.weight_decay or {"momentum", "weight_decay"} & {*inner.control}:
        optimizer = f"schedules.optimizer({json.dumps(str(directory / JSON))})"
    else:
        optimizer = USE[inner.optimizer].format(load(), inner.momentum)
    of_model = [f"{name} = {load(name)}" for name in ("dropout", "label_smoothing") if name in inner.control]
    return "; ".join([f"optimizer = {optimizer}", *of_model])


# --- files, table and picture -----------------------------------------------------------------------------------------


def _table(columns: Mapping[str, Sequence]) -> str:
    """Columns as CSV; floats have as many digits as a float32 needs."""
    shortest = lambda x: str(x) if isinstance(x, (str, int, np.integer, np.bool_)) else str(np.float32(x))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows([shortest(x) for x in row] for row in zip(*columns.values(), strict=True))
    return text.getvalue()


def save(directory: Path, inner: Inner, rows: Sequence[Row]) -> None:
    """Write the schedule, which is that of the last row, and the results of all rows."""
    update = np.arange(inner.changes) * (inner.updates // inner.changes)
    schedule = {"update": update, **rows[-1].settings}
    files.write(directory / CSV, _table(schedule))
    plain = {"update": update.tolist()}
    plain |= {name: [float(str(np.float32(x))) for x in values] for name, values in rows[-1].settings.items()}
    fixed = {name: getattr(inner, name) for name in ("optimizer", "momentum", "weight_decay", "batch_size", "updates")}
    fixed = {name: x for name, x in fixed.items() if name not in plain}
    means = {row.name: {name: float(row.results[name].mean()) for name in FINAL} for row in rows}
    about = {"model": inner.model, "data": inner.data, **fixed}
    files.write_json(directory / JSON, {"schedule": plain, "training": about, "means": means})
    count = len(rows[0].results["test_loss"])
    join = lambda name: np.concatenate([row.results[name] for row in rows])
    columns = {
        "schedule": [row.name for row in rows for _ in range(count)],
        "training": [i for _ in rows for i in range(count)],
        **{name: join(name) for name in (*FINAL, "diverged")},
    }
    files.write(directory / COMPARISON, _table(columns))


def _with_interval(values: np.ndarray) -> str:
    low, high = statistics.interval(values, statistics.mean)
    return f"{values.mean():.4g}\n{low:.3g} ..\n{high:.3g}"


def show(title: str, rows: Sequence[Row], score: str) -> None:
    """Print the table, and the differences of the last row from the others."""
    count = len(rows[0].results["test_loss"])
    out = Table(title=f"{title}: mean of {count} fresh trainings, 95 % interval", title_justify="left", show_lines=True)
    out.add_column("schedule", min_width=16)  # a screen may have 80 columns
    for name in ("train\nloss", "validation\nloss", "test\nloss", f"test\n{score}"):
        out.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        out.add_row(row.name, *(_with_interval(row.results[name]) for name in FINAL))
    console().print(out)
    for row in rows[:-1]:
        difference = rows[-1].results["test_loss"] - row.results["test_loss"]
        low, high = statistics.interval(difference, statistics.mean)
        verdict = "lower" if high < 0 else "higher" if low > 0 else "no clear difference"
        verdict = verdict if count >= FEW else "too few trainings to say"  # their intervals are too narrow
        report.say(f"test loss, against {row.name}: {difference.mean():+.4f} [{low:+.4f}, {high:+.4f}], {verdict}; "
                   f"lower in {(difference < 0).sum()} of {count} trainings")  # fmt: skip
    for row in rows:
        if diverged := int(row.results["diverged"].sum()):
            report.note(f"{row.name}: {diverged} of {count} trainings diverged; they count with the largest loss")


def picture(path: Path, title: str, inner: Inner, rows: Sequence[Row], found: Tables) -> None:
    """Draw the schedules, the losses during training, and test losses at the end less those of the first row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    matplotlib.rcParams["text.parse_math"] = False  # a $ in the name of a file is no formula

    def logarithmic(axis: Any) -> None:
        """Labels without mathtext, which is off."""
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())

    names = optimisation.scheduled(inner)
    figure, axes = plt.subplots(1, len(names) + 2, figsize=(4.8 * (len(names) + 2), 4.4), layout="constrained")
    update = np.arange(inner.changes + 1) * (inner.updates // inner.changes)
    colors = [report.COLORS[(1 + i) % len(report.COLORS)] for i in range(len(rows) - 1)] + [report.COLORS[0]]
    steps = lambda x: np.append(x, x[-1])  # each value lasts until the next
    for axis, name in zip(axes, names, strict=False):
        for other in found[name]:
            axis.step(update, steps(other), where="post", color=colors[-1], alpha=0.3, linewidth=0.8)
        for row, color in zip(rows, colors, strict=True):
            axis.step(update, steps(row.settings[name]), where="post", color=color, linewidth=2)
        axis.set(xlabel="update", ylabel=name.replace("_", " "))
        axis.set_title("thin: schedules of the other agents", fontsize=10, loc="left")
        if name == "learning_rate":
            logarithmic(axis)
    losses, final = axes[len(names) :]
    for row, color in zip(rows, colors, strict=True):
        curve = row.results["validation_loss_curve"]
        low, high = np.array([statistics.interval(x, statistics.mean, num_resamples=300) for x in curve.T]).T
        losses.fill_between(update[1:], low, high, color=color, alpha=0.2, linewidth=0)
        losses.plot(update[1:], curve.mean(0), color=color, linewidth=2, label=row.name)
        losses.plot(update[1:], row.results["train_loss_curve"].mean(0), color=color, linewidth=1, linestyle=":")
    losses.set(xlabel="update", ylabel="validation loss, dotted: training loss")
    every = np.concatenate([row.results[f"{name}_curve"].mean(0) for row in rows for name in FINAL[:2]])
    if every.max() > 10 * every.min() > 0:
        logarithmic(losses)
    losses.set_title("means of trainings, 95 % interval", fontsize=10, loc="left")
    losses.legend(fontsize=8, frameon=False)
    first, *others = rows
    for i, (row, color) in enumerate(zip(others, colors[1:], strict=True)):
        values = row.results["test_loss"] - first.results["test_loss"]  # of the same network on the same minibatches
        low, high = statistics.interval(values, statistics.mean)
        spread = i + 0.3 * (np.arange(len(values)) / len(values) - 0.5)
        final.plot(spread, values, ".", color=color, alpha=0.25, markersize=4)
        final.errorbar(i, values.mean(), [[values.mean() - low], [high - values.mean()]], fmt="o", color=color,
                       capsize=4)  # fmt: skip
    final.axhline(0, color=colors[0], linewidth=2)
    final.set_xticks(range(len(others)), [row.name.split(",")[0].replace(" ", "\n", 1) for row in others], fontsize=8)
    final.set_xlim(-0.6, len(others) - 0.4)
    final.set_ylabel(f"test loss less that of {first.name.split(',')[0]}")
    final.set_title("the same trainings, their mean, 95 % interval", fontsize=10, loc="left")
    for axis in axes:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    report.save_figure(path, figure)
