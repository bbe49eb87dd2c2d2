"""The search for the schedule of a user's training as runs: options, and the training as an environment."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import numpy as np

from purerl import build, networks
from purerl.agents.parts.declarations import declaration_of
from purerl.agents.parts.families import POLICY_GRADIENT, Q_LEARNING
from purerl.envs.training_control import actions, data, models, optimizers
from purerl.envs.training_control.data import Data, Draw
from purerl.envs.training_control.environment import (
    ONCE,
    TrainingControl,
    TrainingControlParams,
    checked,
    last_for_test,
)
from purerl.envs.training_control.models import Model, Objective
from purerl.envs.training_control.optimizers import InnerOptimizer, Settings
from purerl.runs import files, options
from purerl.runs.arguments import Count, Names, Range, Swept

# the largest change in one step, on the scales of `actions.COORDINATES`
LARGEST = {"learning_rate": float(np.log(2)), "momentum": 0.5, "weight_decay": 1.0, "dropout": 0.1,
           "label_smoothing": 0.05}  # fmt: skip
TORSOS = {
    "mlp": lambda width: networks.MLP((width,)),
    "cnn": lambda width: networks.MinAtarCNN(8, width),
    "gru": lambda width: models.over_time(networks.gru(width)),
    "transformer": lambda width: models.over_time(networks.transformer(width)),
}
MOST_VALIDATION, MOST_TEST = 256, 1000  # examples of these parts by default
DRAWS = 64  # of data that are drawn, to see which classes they have
OFFERED = ("seeds", "seed", "chunks", "tensorboard", "wandb", "mlflow")  # options as of `purerl train`
# γ = 1: rewards sum to the fall of the log loss over the whole training; a training is short, so agents learn faster
DEFAULTS: dict[str, Any] = {"gamma": 1.0, "learning_rate": 1e-3, "entropy_cost": 0.0, "learning_starts": 500}
POLICY_GRADIENT_RATE = 3e-3  # of agents that take few gradient steps in a search
PREFIX = "agent_"


class Inner(NamedTuple):
    """The training that is optimised, by names and numbers: a part of a run's config."""

    model: str
    data: str
    loss: str | None = None
    optimizer: str = "momentum"
    momentum: float = 0.9
    weight_decay: float = 0.0
    width: int = 32
    batch_size: int = 8
    updates: int = 200
    changes: int = 10
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    control: tuple[str, ...] = ("learning_rate",)
    rate: float | None = None
    own_rate: bool = False  # whether the rate is the user's
    sweep: int = 0  # trainings that the rate was found with
    compared: int = 100  # trainings of the table
    discrete: bool = False  # whether actions are factors of the rate
    shuffle: int = 0  # seed of the order of the data


# --- names ------------------------------------------------------------------------------------------------------------


def own_names(inner: Mapping[str, Any]) -> list[str]:
    """What of a config of `Inner` may be FILE.py:name."""
    return [name for name in (inner["model"], inner["data"], inner["loss"], inner["optimizer"]) if name]


def short_name(name: str) -> str:
    """A model or data as a part of a file's name.

    >>> short_name("models/own.py:network"), short_name("digits")
    ('own-network', 'digits')
    """
    path, _, attribute = name.rpartition(":")
    return f"{Path(path).stem}-{attribute}" if build.is_own(name) else Path(name).name


def _num_arguments(made: Any) -> int:
    """The number of arguments that a function needs."""
    known = inspect.signature(made).parameters.values()
    return sum(x.default is x.empty and x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD) for x in known)


def _as_data(made: Any) -> Any:
    """A pair (x, y) as Data; anything else as it is."""
    return Data(*made) if isinstance(made, tuple) and len(made) == 2 else made


def _data(name: str, shuffle: int) -> Data | Draw:
    """Data by name, shuffled, or a function that draws them."""
    made: Any = build.from_file(name) if build.is_own(name) else data.load(name)
    if build.is_own(name) and callable(made) and _num_arguments(made) == 0:
        made = made()
    if callable(made):
        return lambda key: _as_data(made(key))
    made = _as_data(made)
    if not isinstance(made, Data):
        raise ValueError(f"{name} is {made!r:.60}; it must be (x, y), a function without arguments that returns that, "
                         "or a function (key) that draws it")  # fmt: skip
    x, y = checked(made)
    order = np.random.default_rng(shuffle).permutation(len(y))  # the last are the test part
    return Data(x[order], y[order])


def _sample(found: Data | Draw, seed: int) -> Data:
    """The data, or one draw of them."""
    made = jax.jit(found, compiler_options=ONCE)(jax.random.key(seed)) if callable(found) else found
    if not isinstance(made, Data):
        raise ValueError(f"data gives {type(made).__name__}; it must give Data(x, y)")
    return made


def _num_outputs(found: Data | Draw, some: Data, seed: int) -> int:
    """The outputs that y needs: its numbers, or its classes; those of one draw of data may lack some."""
    if not np.issubdtype(some.y.dtype, np.integer):
        return some.y.shape[-1]
    largest = int(np.max(some.y))
    if callable(found):
        of_draws = lambda keys: jax.lax.map(lambda key: found(key).y.max(), keys).max()
        keys = jax.random.split(jax.random.key(seed), DRAWS)
        largest = max(largest, int(jax.jit(of_draws, compiler_options=ONCE)(keys)))
    if largest >= len(some.y):
        raise ValueError(f"the integers y go up to {largest}, for {len(some.y)} examples; classes are numbered from 0, "
                         "and numbers to predict must be floats")  # fmt: skip
    return largest + 1


def _model(name: str, width: int, dropout: bool, num_outputs: Callable[[], int]) -> Model | Any:
    """A model by name, with as many outputs as y needs."""
    if name in TORSOS:
        return models.with_head(TORSOS[name](width), num_outputs(), dropout)
    if not build.is_own(name):
        raise ValueError(f"there is no model {name!r}; allowed are {', '.join(TORSOS)}, or your own FILE.py:name")
    made = build.from_file(name)
    is_model = lambda x: not isinstance(x, type) and all(callable(getattr(x, part, None)) for part in ("init", "apply"))
    wanted = f"{name} must be a model with init and apply, such as a flax module, or a function without arguments that returns one"  # noqa: E501
    made = made if is_model(made) else build.called(name, wanted)
    if not is_model(made):
        raise ValueError(f"{wanted}; it gives {made!r:.60}")
    return made


def _objective(name: str | None, y: Any) -> Objective:
    """The objective that y needs, or a user's loss with the score that y needs."""
    usual = models.classification if np.issubdtype(y.dtype, np.integer) else models.regression
    if name is None:
        return usual
    made = build.from_file(name) if build.is_own(name) else None
    if isinstance(made, Objective):
        return made
    if made is None or not callable(made) or _num_arguments(made) not in (2, 3):
        raise ValueError(f"--loss is {name}; it must be FILE.py:name of a function (outputs [B, ...], y [B, ...]) that "
                         "returns a loss for each example, [B], or of an Objective")  # fmt: skip
    return Objective(made if _num_arguments(made) == 3 else lambda outputs, y, smoothing: made(outputs, y), usual.score)


def _optimizer(name: str) -> tuple[InnerOptimizer, int]:
    """An optimiser by name, and its number in `OPTIMIZERS`."""
    if name in optimizers.OPTIMIZERS:
        return optimizers.first_order(), optimizers.OPTIMIZERS.index(name)
    if not build.is_own(name):
        raise ValueError(f"--optimizer is {name!r}; allowed are {', '.join(optimizers.OPTIMIZERS)}, or your own "
                         "FILE.py:name")  # fmt: skip
    made = build.from_file(name)
    made = made if hasattr(made, "update") else build.called(name, f"{name} must be an optimiser of optax")
    if not hasattr(made, "init") or not hasattr(made, "update"):
        raise ValueError(f"{name} is {made!r:.60}; it must be an optimiser of optax with a learning rate of 1")
    return optimizers.of_optax(made), optimizers.MOMENTUM


def _check_effects(inner: Inner, objective: Objective) -> None:
    """Raise a ValueError for a setting that the training does not depend on; dropout is checked with the model."""
    of_optimizer = {"momentum": ("momentum", "adam"), "weight_decay": optimizers.OPTIMIZERS}
    for name in inner.control:
        if inner.optimizer not in of_optimizer.get(name, (inner.optimizer,)):
            raise ValueError(f"--control is {name}, which has no effect with --optimizer {inner.optimizer}")
        own = build.from_file(inner.loss) if inner.loss else objective
        smooths = own is not models.regression if isinstance(own, Objective) else _num_arguments(own) == 3
        if name == "label_smoothing" and not smooths:
            loss = "squared error" if inner.loss is None else f"--loss {inner.loss}, which has two arguments"
            raise ValueError(f"--control is {name}, which has no effect on {loss}")
    if inner.weight_decay and inner.optimizer not in optimizers.OPTIMIZERS:
        raise ValueError(f"--weight-decay is {inner.weight_decay}, which has no effect with --optimizer "
                         f"{inner.optimizer}; give it to the optimiser itself")  # fmt: skip


# --- the environment --------------------------------------------------------------------------------------------------


@cache
def _environment(inner: Inner, sources: tuple[str, ...]) -> TrainingControl:
    del sources  # a changed file is another environment
    found = _data(inner.data, inner.shuffle)
    some = _sample(found, inner.shuffle)
    if inner.model in TORSOS and np.issubdtype(some.y.dtype, np.floating) and some.y.ndim == 1:
        column = lambda x: Data(x.x, x.y[:, None])  # as many outputs as numbers to predict
        found, some = (lambda key, draw=found: column(draw(key))) if callable(found) else column(found), column(some)
    if inner.updates % inner.changes:
        raise ValueError(f"--changes is {inner.changes}; it must divide --updates, which is {inner.updates}")
    num = len(some.y)
    test = min(num // 5, MOST_TEST) if inner.test is None else inner.test
    validation = min(num // 5, MOST_VALIDATION) if inner.validation is None else inner.validation
    train = num - test - validation if inner.train is None else inner.train
    if min(train, validation, test) < 1 or train + validation + test > num:
        raise ValueError(f"the data have {num} examples, and --train {train}, --validation {validation} and --test "
                         f"{test} must fit into them, each at least 1")  # fmt: skip
    if inner.discrete and inner.control != ("learning_rate",):
        raise ValueError(f"--control is {','.join(inner.control)}; this agent chooses among factors of the learning "
                         "rate, and controls nothing else")  # fmt: skip
    if unknown := [name for name in inner.control if name not in LARGEST]:
        raise ValueError(f"--control is {unknown[0]}; allowed are {', '.join(LARGEST)}")
    objective = _objective(inner.loss, some.y)
    _check_effects(inner, objective)
    return TrainingControl(
        _model(inner.model, inner.width, "dropout" in inner.control, partial(_num_outputs, found, some, inner.shuffle)),
        found,
        train,
        validation,
        test,
        updates_per_step=inner.updates // inner.changes,
        batch_size=inner.batch_size,
        budget=inner.changes,
        actions=actions.scale_rate() if inner.discrete else actions.change({x: LARGEST[x] for x in inner.control}),
        objective=objective,
        optimizer=_optimizer(inner.optimizer)[0],
        partition=last_for_test,
    )


def files_of(inner: Inner) -> list[str]:
    """The absolute paths of the user's files that a training names: of Python, and those of a folder of data."""
    is_folder = inner.data not in data.NAMED and not build.is_own(inner.data) and Path(inner.data).is_absolute()
    images = map(str, data.idx_files(inner.data)) if is_folder else ()
    return sorted({*build.own_files(own_names(inner._asdict())), *images})


def assemble(inner: Inner) -> tuple[TrainingControl, TrainingControlParams]:
    """The training as an environment, and its parameters; nothing of it is random but for its keys.

    Raises:
      ValueError: for an unknown name, a missing package, parts that are not in the data, or a training that cannot
        begin: see `TrainingControl`.
    """
    missing = [path for path in files_of(inner) if not Path(path).is_file()]
    if missing:
        raise ValueError(f"there is no file {missing[0]}")
    sources = tuple(files.digest_of(path) for path in files_of(inner))
    env = _environment(inner._replace(rate=None, own_rate=False, sweep=0, compared=0), sources)
    start = {"learning_rate": Settings().learning_rate if inner.rate is None else inner.rate}
    settings = Settings(
        **start, momentum=inner.momentum, weight_decay=inner.weight_decay, optimizer=_optimizer(inner.optimizer)[1]
    )
    return env, env.default_params.replace(settings=settings)  # pyright: ignore[reportAttributeAccessIssue]


def restored(stored: Any) -> Inner:
    """`Inner` of a config on disk.

    Raises:
      ValueError: if an entry is missing or unknown.
    """
    known = stored if isinstance(stored, dict) else {}
    if known.keys() != {*Inner._fields}:
        name = sorted({*Inner._fields} ^ known.keys())[0]
        raise ValueError(f"{name} of the training is missing or unknown; the run is of another version of purerl")
    return Inner(**{**known, "control": tuple(known["control"])})


# --- options ----------------------------------------------------------------------------------------------------------


def _renamed(p: click.Parameter) -> click.Parameter:
    """An option of the agent as `--agent-NAME`: the training that it optimises has options of such names too.

    Structure has one value: a search is one program.
    """
    if isinstance(p.type, Swept):
        p.type = p.type.one
        p.help = p.help and p.help.replace("; several separated by /", "")  # pyright: ignore[reportAttributeAccessIssue]
    prefixed = lambda flags: [f"--{PREFIX[:-1]}-{x[2:]}" if not x.startswith("--no-") else f"--no-agent-{x[5:]}"
                              for x in flags]  # fmt: skip
    p.name, p.opts, p.secondary_opts = f"{PREFIX}{p.name}", prefixed(p.opts), prefixed(p.secondary_opts)
    return p


def parameters(agent: str) -> tuple[list[click.Parameter], list[click.Parameter], list[click.Parameter]]:
    """The options of `purerl optimise`: of the training, of the search, and of the agent, as `--agent-NAME`.

    Raises:
      ValueError: if there is no such agent.
    """
    of_run, own = options.parameters(agent)
    make = build.agent_function(agent)
    say, default = partial(click.Option, show_default=True), Inner("", "")
    rate = actions.COORDINATES["learning_rate"]
    training = [
        click.Argument(["model"], metavar="MODEL"),
        click.Argument(["data"], metavar="DATA"),
        click.Option(["--loss"], metavar="FILE.py:name", help="a function (outputs [B, ...], y [B, ...]) that returns "
                     "the loss of each example, whose mean is positive; or an Objective, with a score too  [default: "
                     "cross-entropy of classes, squared error of numbers]"),
        say(["--optimizer"], default=default.optimizer, metavar="NAME", help=f"{', '.join(optimizers.OPTIMIZERS)}; or "
            "FILE.py:name, an optimiser of optax with a learning rate of 1"),
        say(["--momentum"], type=Range(0, 1, max_open=True), default=default.momentum,
            help="of momentum; of adam it is β₁"),
        say(["--weight-decay"], type=Range(0, math.inf, max_open=True), default=default.weight_decay, help="decoupled"),
        say(["--width"], type=Count(), default=default.width, help="of a MODEL by name"),
        say(["--batch-size"], type=Count(), default=default.batch_size, help="of a minibatch"),
        say(["--updates"], type=Count(), default=default.updates, help="of one training, from beginning to end"),
        say(["--changes"], type=Count(), default=default.changes, help="times that the schedule may change in a "
            "training; they divide --updates"),
        click.Option(["--rate"], type=Range(rate.low, rate.high), help="your constant learning rate: the agents "
                     "start from it, and the table has it  [default: the best of constant rates over six decades]"),
        click.Option(["--train"], type=Count(), help="training examples, drawn anew for every training  [default: all "
                     "others]"),
        click.Option(["--validation"], type=Count(), help="examples whose loss the agent learns from, drawn anew for "
                     f"every training  [default: a fifth, up to {MOST_VALIDATION}]"),
        click.Option(["--test"], type=Count(), help="examples for the table alone, the same in all trainings  "
                     f"[default: a fifth, up to {MOST_TEST:,}]"),
    ]  # fmt: skip
    search = [
        click.Option(["--agent"], default="ppo", show_default=True, help="the agent that searches, such as ppo, sac or "
                     "dqn; or FILE.py:name"),
        say(["--control"], type=Names(), default=",".join(default.control), help=f"what changes: {', '.join(LARGEST)}"),
        say(["--trainings"], type=Count(), default=2048, help="from which each agent learns"),
        say(["--parallel"], type=Count(), default=32, help="trainings at once, of each agent"),
        say(["--compared"], type=Count(), default=default.compared, help="fresh trainings for each row of the table"),
        *(p for p in of_run if p.name in OFFERED),
    ]  # fmt: skip
    parts = {*declaration_of(make).parts, *declaration_of(make).family.options, "hidden", "activation"}
    usual = {**DEFAULTS, "seeds": 2}
    if declaration_of(make).family is POLICY_GRADIENT:
        usual["learning_rate"] = POLICY_GRADIENT_RATE
    for p in [*search, *own]:
        p.default = usual.get(p.name or "", p.default)
        if isinstance(p, click.Option) and p.name == "seeds":
            p.help = "agents, trained at once; the best schedule by validation is kept"
        if isinstance(p, click.Option) and p.name == "anneal_steps":
            p.show_default = "all of the search"
    return training, search, [_renamed(p) for p in [*(p for p in of_run if p.name in parts), *own]]


def config_of(given: Mapping[str, Any]) -> tuple[dict[str, Any], Inner]:
    """The complete config of a run from the values of `parameters`, and its training.

    Raises:
      ValueError: if the agent learns from fewer trainings than it has at once.
    """
    values = dict(given)
    agent, trainings, parallel = (values.pop(name) for name in ("agent", "trainings", "parallel"))
    of_run, own = options.parameters(agent)
    defaults = click.Command("defaults", params=[p for p in of_run if p.name != "env"])
    config = defaults.make_context("defaults", []).params
    of_agent = {name.removeprefix(PREFIX): values.pop(name) for name in list(values) if name.startswith(PREFIX)}
    hyperparameters = {p.name: of_agent.pop(p.name) for p in own}
    if trainings < parallel:
        raise ValueError(f"--trainings is {trainings}; it must be at least --parallel, which is {parallel}")
    declared = declaration_of(build.agent_function(agent))
    inner = Inner(
        **{name: values.pop(name) for name in list(values) if name in Inner._fields},
        discrete=declared.family is Q_LEARNING,
        shuffle=values["seed"],
    )
    if inner.data not in data.NAMED and Path(inner.data).is_dir():
        inner = inner._replace(data=str(Path(inner.data).resolve()))
    names = ("model", "data", "loss", "optimizer")
    inner = inner._replace(
        **{name: options.absolute(getattr(inner, name)) for name in names if getattr(inner, name)},
        own_rate=inner.rate is not None,
        control=tuple(inner.control),
    )
    blocks = {
        "env": f"optimise/{short_name(inner.model)}-{short_name(inner.data)}",
        "num_envs": parallel,
        "rollout_length": inner.changes if declared.family is POLICY_GRADIENT else declared.rollout_length,
        "steps": trainings * inner.changes,
    }
    least = -(-parallel * blocks["rollout_length"] // inner.changes)
    if trainings < least:
        raise ValueError(f"--trainings is {trainings}; it must be at least {least} for this agent, which learns from "
                         f"{blocks['rollout_length']} steps of --parallel {parallel}")  # fmt: skip
    return {"agent": agent, **config, **of_agent, **values, **blocks, "hyperparameters": hyperparameters}, inner


def trainings_of(config: Mapping[str, Any], inner: Inner, num_agents: int) -> int:
    """The inner trainings that a search costs, those for its first rate included."""
    block = config["num_envs"] * config["rollout_length"]
    return num_agents * (config["steps"] // block * block) // inner.changes + inner.sweep


def scheduled(inner: Inner) -> tuple[str, ...]:
    """The settings in the table of a schedule: the learning rate, and what else is controlled.

    >>> scheduled(Inner("mlp", "digits", control=("momentum",)))
    ('learning_rate', 'momentum')
    """
    return tuple(dict.fromkeys(("learning_rate", *inner.control)))
