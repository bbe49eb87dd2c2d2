"""Fixed schedules of the learning rate to compare with, trainings under them, and recorded schedules for optax."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from purerl import schedules
from purerl.arguments import check_range
from purerl.core import Agent, Array, Key
from purerl.distributions import clip_to_space
from purerl.envs.training_control.environment import TrainingControl, TrainingControlParams
from purerl.envs.training_control.optimizers import OPTIMIZERS, Settings, as_arrays, first_order

Schedule = Callable[[Array], Array]  # fraction of the budget that is used, in [0, 1) -> learning rate
# (carry, obs, settings so far, fraction used) -> (carry, settings of the next step)
Control = Callable[[Any, Any, Settings, Array], tuple[Any, Settings]]


def constant(rate: Any) -> Schedule:
    """α(t) = rate."""
    return lambda t: jnp.broadcast_to(rate, jnp.shape(t))


def step(rate: Any, factor: Any = 0.1, every: Any = 1 / 3) -> Schedule:
    """α(t) = rate · factor^⌊t / every⌋.

    >>> step(1.0, 0.5, 0.25)(jnp.array([0.0, 0.3, 0.8])).tolist()
    [1.0, 0.5, 0.125]
    """
    return lambda t: rate * factor ** jnp.floor(t / every)


def exponential(rate: Any, final: Any) -> Schedule:
    """α(t) = rate · (final / rate)^t, both > 0."""
    return lambda t: schedules.exponential(t, rate, final, 1.0)


def cosine(rate: Any, final: Any = 0.0) -> Schedule:
    """α(t) = final + ½ (rate - final) (1 + cos πt). Loshchilov & Hutter, 2017, arXiv:1608.03983, eq. 5.

    >>> cosine(1.0)(jnp.array([0.0, 0.5])).round(6).tolist()
    [1.0, 0.5]
    """
    return lambda t: schedules.cosine(t, rate, final, 1.0)


def one_cycle(peak: Any, warmup: Any = 0.3, start: Any = 1 / 25, final: Any = 1e-4) -> Schedule:
    """A cosine from start · peak to peak within `warmup` of the budget, then one to final · start · peak.

    Reference: Smith & Topin, 2018, arXiv:1708.07120; with the defaults of `torch.optim.lr_scheduler.OneCycleLR`.

    >>> [round(x, 4) for x in one_cycle(1.0)(jnp.array([0.0, 0.3])).tolist()]
    [0.04, 1.0]
    """

    def rate(t):
        rising = schedules.cosine(t, start * peak, peak, warmup)
        falling = schedules.cosine(t - warmup, peak, final * start * peak, 1 - warmup)
        return jnp.where(t < warmup, rising, falling)

    return rate


def follow(schedule: Schedule) -> Control:
    """The control of a training by a schedule of its learning rate, whatever happens."""

    def control(carry, obs, settings, used):
        del obs
        return carry, settings._replace(learning_rate=schedule(used))

    return control


def replay(settings: Mapping[str, Any]) -> tuple[Control, Array]:
    """The control of a training by recorded settings, whatever happens, and its carry: `rollout(…, *replay(table))`.

    Args:
      settings: for each setting that is to change its values, float `[T]`, one for each step.
    """

    def control(i, obs, before, used):
        del obs, used
        return i + 1, before._replace(**{name: jnp.asarray(x)[i] for name, x in settings.items()})

    return control, jnp.zeros((), jnp.int32)


def act(env: TrainingControl, agent: Agent, agent_state: Any) -> tuple[Control, Any]:
    """The control of a training by the greedy actions of an agent, and its first memory: `rollout(…, *act(…))`."""

    def control(memory, obs, settings, used):
        del used
        action, memory = agent.greedy(agent_state, memory, jax.tree.map(lambda x: x[None], obs))
        action = clip_to_space(env.actions.space, jax.tree.map(lambda x: x[0], action))
        return memory, env.actions.apply(settings, action)

    return control, agent.memory(1)


def rollout(
    key: Key, env: TrainingControl, env_params: TrainingControlParams, num_steps: int, control: Control, carry: Any = ()
) -> dict[str, Array]:
    """The record of one training under a control, one row for each step: a table of arrays `[num_steps]`.

    With the same key every control trains the same network on the same minibatches. It is a pure function: `vmap` it
    over keys, or over the rates of a schedule.

    Args:
      key: of the training.  num_steps: rows; those after the end of the episode are not `valid`.
      control: `follow(schedule)`, or with its carry `act(env, agent, agent_state)`.
    Returns:
      The `info` of `TrainingControl`, with `reward` and `valid`; `update` is the number of updates before the row.

    >>> from purerl import networks
    >>> from purerl.envs.training_control import data, models
    >>> model = models.with_head(networks.MLP((8,)), 2)
    >>> env = TrainingControl(model, data.two_spirals(40), 20, 10, 10, updates_per_step=2, batch_size=10)
    >>> table = rollout(jax.random.key(0), env, env.default_params, 3, follow(exponential(0.1, 0.001)))
    >>> table["update"].tolist(), table["validation_loss"].shape
    ([0, 2, 4], (3,))
    """
    obs, state = env.reset_env(key, env_params)

    def one(loop, _):
        obs, state, carry, going = loop
        used = 1 - state.statistics.left
        after, settings = control(carry, obs, state.settings, used)
        next_obs, next_state, reward, terminated, info = env.advance(state, settings, env_params)
        row = info | {"reward": reward, "valid": going, "update": state.time * env.updates_per_step}
        ended = terminated | env.is_truncated(next_state, env_params)
        return (next_obs, next_state, after, going & ~ended), row

    _, table = jax.lax.scan(one, (obs, state, carry, jnp.ones((), bool)), length=num_steps)
    return table


def schedule_of(table: Mapping[str, Any], name: str = "learning_rate") -> optax.Schedule:
    """A recorded schedule as a schedule of optax: the rate of the last row whose `update` is reached.

    Args:
      table: columns `update`, ints that increase from 0, and `learning_rate`, positive; rows that are not `valid`, if
        there is such a column, are left out. Lists or arrays, such as of a CSV file.
      name: the column to return instead of the learning rate, such as "momentum"; its values may be 0.
    Returns:
      `count -> learning rate`, which may be traced: `optax.sgd(schedule_of(table), momentum=0.9)`.
    Raises:
      ValueError: if a column is missing, empty, of another length or has other values.

    >>> schedule = schedule_of({"update": [0, 10, 20], "learning_rate": [0.1, 0.2, 0.05]})
    >>> [round(schedule(count).item(), 3) for count in (0, 9, 10, 500)]
    [0.1, 0.1, 0.2, 0.05]
    """
    for column in ("update", name):
        if column not in table:
            raise ValueError(f"schedule_of: the table has {sorted(table)}; it must have {column}")
    update, rate = np.asarray(table["update"]), np.asarray(table[name], float)
    valid = np.asarray(table.get("valid", np.ones(update.shape)), bool)
    if update.ndim != 1 or not update.shape == rate.shape == valid.shape or not valid.any():
        raise ValueError(f"schedule_of: columns have shapes {update.shape}, {rate.shape}; they must be [n], n ≥ 1")
    update, rate = update[valid], rate[valid]
    if update[0] != 0 or (np.diff(update) <= 0).any():
        raise ValueError(f"schedule_of: update is {update}; it must increase from 0")
    least = np.nextafter(0, 1) if name == "learning_rate" else 0.0
    check_range("schedule_of", least, np.finfo(float).max, **{name: rate})

    def schedule(count):
        return jnp.asarray(rate, jnp.float32)[jnp.searchsorted(jnp.asarray(update), count, side="right") - 1]

    return schedule


def _read(path: Path) -> dict[str, Any]:
    """The contents of `schedule.json`, of which a CSV file has the columns of `schedule` alone."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        stored = json.loads(text)
        if not isinstance(stored, dict) or not isinstance(stored.get("schedule"), dict):
            raise ValueError("it has no columns in `schedule`")
        return stored
    rows = list(csv.DictReader(io.StringIO(text)))
    return {"schedule": {column: [float(row[column]) for row in rows] for column in (rows[0] if rows else ())}}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of a file's contents name the file."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{path} is not a schedule: {getattr(error, 'strerror', None) or error}") from None


def load(path: str | Path, name: str = "learning_rate") -> optax.Schedule:
    """The schedule that `purerl optimise` found, for any training with optax: `optax.sgd(load("schedule.csv"), 0.9)`.

    Args:
      path: `schedule.csv` or `schedule.json` of a run, or any CSV file with the columns of `schedule_of`.
      name: the column, if several settings were optimised, such as "momentum".
    Raises:
      ValueError: if the file cannot be read, or has other columns or values.
    """
    with _naming(path := Path(path)):
        return schedule_of(_read(path)["schedule"], name)


def optimizer(path: str | Path) -> optax.GradientTransformation:
    """The optimiser of the training that `purerl optimise` found a schedule for, with all of its settings.

    Learning rate, momentum and weight decay follow the schedule where it has them, and otherwise are those of the
    training. It computes what `optimizers.first_order` does; its update needs the parameters.

    Args:
      path: `schedule.json` of a run whose optimiser is one of `OPTIMIZERS`.
    Raises:
      ValueError: if the file cannot be read, or has another optimiser or other values.
    """
    names = ("learning_rate", "momentum", "weight_decay")
    with _naming(path := Path(path)):
        stored = _read(path)
        training, table = stored["training"], stored["schedule"]
        if training["optimizer"] not in OPTIMIZERS:
            raise ValueError(f"its optimizer is {training['optimizer']!r}; it must be one of {', '.join(OPTIMIZERS)}")
        changing = {name: schedule_of(table, name) for name in names if name not in training}
        fixed = {name: float(training[name]) for name in names if name in training}
    kind, inner = OPTIMIZERS.index(training["optimizer"]), first_order()

    def init(params):
        return jnp.zeros((), jnp.int32), inner.init(params)

    def update(grads, state, params=None):
        if params is None:
            raise ValueError("schedules.optimizer: the update needs the parameters: update(grads, state, params)")
        count, state = state
        now = {name: schedule(count) for name, schedule in changing.items()}
        updates, state = inner.update(grads, state, params, as_arrays(Settings(**fixed, **now, optimizer=kind)))
        return updates, (optax.safe_increment(count), state)

    return optax.GradientTransformation(init, update)
