"""From words to functions: an agent's command with one option a hyperparameter, and the parts that it names."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import typing
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import click

from purerl.host.cli import Count, Entries, Numbers, OneLine, Seed, Widths, agent_names, one_line, prepare, way_options

ACTIVATIONS = ("tanh", "relu", "silu", "gelu", "elu")
MEMORIES = ("none", "gru", "lstm", "min-gru", "transformer")
# Parts that an agent's constructor takes by these names, and the words for them; the first is the default.
PARTS = {
    "backup": (("max", "double", "munchausen", "soft", "rescaled"), "what Q(s,a) is drawn to: see purerl.bellman"),
    "td_loss": (("squared", "huber"), "of the error of Q"),
    "explore": (("epsilon-greedy", "boltzmann"), "how actions are chosen; the next options say how much"),
    "process": (("gaussian", "ornstein-uhlenbeck"), "of the noise that explores"),
}
BOXES = ("normal", "tanh-normal", "beta")  # policies of continuous actions


@cache
def _module(path: Path, source: bytes) -> Any:
    """A file as a module, executed once as long as its source stays, however many of its names are asked for."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def from_file(text: str) -> Any:
    """The object that `FILE.py:name` names."""
    path, _, name = text.rpartition(":")
    if not Path(path).is_file():
        raise OneLine(f"{text}: there is no file {path}")
    try:
        module = _module(Path(path).resolve(), Path(path).read_bytes())
    except Exception as error:
        raise OneLine(f"{path} could not be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        from purerl.core import Reward

        own = lambda x: isinstance(x, Reward) or (callable(x) and getattr(x, "__module__", "") == module.__name__)
        names = [n for n, x in vars(module).items() if own(x)]
        raise OneLine(f"{path} has no {name!r}; it has {', '.join(names) or 'no functions'}")
    return getattr(module, name)


def agent_function(name: str) -> tuple[typing.Callable, type]:
    """An agent's constructor and the class of its `hp`.

    Constructors are `(network, policy, hp)`, `(network, hp)` where Q is learned, or `(actor, critic, policy, hp)`.
    """
    own = ".py:" in name
    make = from_file(name) if own else getattr(importlib.import_module(f"purerl.agents.{name}"), name)
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        parameters = {}
    hp = parameters["hp"].default if "hp" in parameters else None
    names = set(parameters)
    if not ("network" in names or {"actor", "critic", "policy"} <= names) or not dataclasses.is_dataclass(hp):
        raise OneLine(f"{name} must be a function (network, policy, hp=Config()), (network, hp=Config()) if it learns "
                      "Q, or (actor, critic, policy, hp=Config()), whose Config is a purerl.config class")  # fmt: skip
    return make, type(hp)


def takes(make: typing.Callable, part: str) -> bool:
    """Whether an agent's constructor has a parameter of this name."""
    return part in inspect.signature(make).parameters


def hyperparameter_options(config: type) -> list[click.Option]:
    """One option for every field of a config class."""
    hints = {k: h for k, h in typing.get_type_hints(config).items() if typing.get_origin(h) is not ClassVar}

    def option(field: dataclasses.Field) -> click.Option:
        flag, hint = "--" + field.name.replace("_", "-"), hints[field.name]
        said = field.metadata.get("doc", "")
        extra: dict[str, Any] = {"default": field.default, "show_default": True, "help": said}
        if hint is bool:
            return click.Option([f"{flag}/--no-{flag[2:]}"], **extra)
        if typing.get_origin(hint) is Literal:
            return click.Option([flag], type=click.Choice(typing.get_args(hint)), **extra)
        if hint is int:
            return click.Option([flag], type=int, **extra)
        extra["help"] = said.replace("; None ", "; none ")
        share = field.metadata.get("share")
        if share is not None:  # filled in by `jobs.plan`
            words = {1.0: "--steps", 0.5: "half of --steps"}
            extra |= {"default": None, "show_default": words.get(share, f"{share:g} x --steps")}
        elif field.default is None:
            extra["show_default"] = "none"
        return click.Option([flag], type=Numbers(optional=hint is not float), **extra)

    return [option(field) for field in dataclasses.fields(config)]


def run_options(make: typing.Callable, config: type) -> list[click.Parameter]:
    """What every agent's command asks about a job; together with the hyperparameters, this is the job."""
    usual = {"num_envs": 8, "rollout_length": 128, "hidden": (64, 64), "activation": "tanh"}
    usual |= {name: getattr(config, name) for name in usual if hasattr(config, name)}
    say = partial(click.Option, show_default=True)
    widths = ",".join(map(str, usual["hidden"]))
    parts = [
        say([f"--{part.replace('_', '-')}"], type=click.Choice(words), default=words[0], help=about)
        for part, (words, about) in PARTS.items() if takes(make, part)
    ]  # fmt: skip
    if takes(make, "critic"):
        own = parts
    elif takes(make, "policy"):
        own = [
            say(["--shared-torso/--separate-torsos"], default=False, help="whether actor and critic share their torso"),
            say(["--policy"], type=click.Choice(BOXES), default=BOXES[0], help="of continuous actions; a normal's are "
                "clipped to the bounds, the others' lie inside"),
        ]  # fmt: skip
    else:
        build = getattr(config, "network", None)
        preset = getattr(build, "keywords", {})
        own = [
            say(["--dueling/--no-dueling"], default=preset.get("dueling", False), help="Q = V + A - mean A"),
            say(["--noise/--no-noise"], default=preset.get("noise", False), help="noisy layers in the head: explores "
                "without --explore-start and --explore-end"),
            *parts,
        ]  # fmt: skip
        if "backup" in {option.name for option in own}:
            own.append(say(["--temperature"], type=click.FloatRange(0, min_open=True), default=0.03,
                           help="τ of --backup munchausen and soft"))  # fmt: skip
    return [
        click.Argument(["env"], metavar="ENV"),
        say(["--seeds"], type=Count(), default=8, help="runs with seeds of their own, trained at once"),
        say(["--seed"], type=Seed(), default=0, help="of everything that is random"),
        say(["--steps"], type=Count(), default="5e5", help="environment steps of each run"),
        say(["--num-envs"], type=Count(), default=usual["num_envs"], help="environments that each run acts in"),
        say(["--rollout-length"], type=Count(), default=usual["rollout_length"], help="steps between updates"),
        click.Option(["--network"], help="mlp, minatar-cnn, or FILE.py:name, a function that returns a torso  "
                     "[default: minatar-cnn for images, mlp for the rest]"),
        say(["--hidden"], type=Widths(), default=widths, help="widths of the mlp"),
        say(["--activation"], type=click.Choice(ACTIVATIONS), default=usual["activation"], help="of the mlp"),
        say(["--layer-norm/--no-layer-norm"], default=getattr(config, "layer_norm", False), help="normalise each layer "
            "of the torso"),
        *own,
        say(["--memory"], type=click.Choice(MEMORIES), default="none", help="what remembers between torso and heads"),
        say(["--memory-size"], type=Count(), default=64, help="features of the memory"),
        say(["--context"], type=Count(), default=64, help="steps of its episode that a transformer sees"),
        click.Option(["--reward"], metavar="FILE.py:name", help="what the agent learns from instead: a purerl Reward, "
                     "or a function of the hyperparameters that returns one; returns are reported as they are"),
        say(["--normalize-reward/--no-normalize-reward"], default=False, help="divide rewards by the deviation of "
            "the discounted return; returns are reported as they are"),
        click.Option(["--observe"], type=Entries(), help="entries of a flat observation to keep, such as 0,2: "
                     "CartPole-v1 without velocities"),
        click.Option(["--time-limit"], type=Count(), help="truncate episodes after so many steps"),
        click.Option(["--sticky-actions"], type=click.FloatRange(0, 1), help="probability that an action repeats"),
        click.Option(["--stop-when"], type=float, metavar="RETURN", help="end each run when its last 100 episodes "
                     "reach this mean return"),
        click.Option(["--chunks"], type=Count(), help="points of the learning curve; between them a run is saved, and "
                     "can be stopped  [default: 100, up to 1000 for long runs]"),
        say(["--tensorboard/--no-tensorboard"], default=False, help="write TensorBoard files into the directory"),
        click.Option(["--wandb"], metavar="PROJECT", help="log to a project of Weights & Biases"),
        click.Option(["--mlflow"], metavar="EXPERIMENT", help="log to an experiment of MLflow"),
    ]  # fmt: skip


def absolute(name: str) -> str:
    """FILE.py:name with the file's whole path; any other name as it is."""
    if ".py:" not in name:
        return name
    path, _, function = name.rpartition(":")
    return f"{Path(path).resolve()}:{function}"


def parameters(agent: str) -> tuple[list[click.Parameter], list[click.Option]]:
    """What an agent's command asks about the job, and about the agent's hyperparameters."""
    if agent not in agent_names() and ".py:" not in agent:
        allowed = ", ".join(agent_names())
        raise OneLine(f"there is no agent {agent!r}; allowed are {allowed}, or your own FILE.py:name")
    make, config = agent_function(agent)
    fields = [field.name for field in dataclasses.fields(config)]
    return [p for p in run_options(make, config) if p.name not in fields], hyperparameter_options(config)


def restore(stored: dict[str, Any]) -> dict[str, Any]:
    """A config from disk, each value checked as on the command line.

    Raises:
      OneLine: for what no command line could have given.
    """
    stored = dict(stored)
    agent = stored.pop("agent", None)
    job, own = parameters(str(agent))
    context = click.Context(click.Command("config"))

    def convert(parameters: typing.Sequence[click.Parameter], given: Any) -> dict[str, Any]:
        if not isinstance(given, dict) or given.keys() != {p.name for p in parameters}:
            names = sorted({p.name or "" for p in parameters} ^ set(given if isinstance(given, dict) else ()))
            raise OneLine(f"{names[0]} is missing or unknown; the run is of another version of purerl, or of {agent}")
        return {p.name or "": p.type_cast_value(context, given[p.name]) for p in parameters}

    own_values = convert(own, stored.pop("hyperparameters", None))
    horizons, every = stored.pop("horizons", None), stored.pop("updates_per_chunk", None)
    stored.pop("format", None)
    sound = isinstance(horizons, list) and all(isinstance(x, dict) and "iteration" in x for x in horizons)
    numbers = sound and all(type(value) in (int, float) for change in horizons for value in change.values())
    if not numbers or type(every) is not int or every < 1:
        raise OneLine("horizons or updates_per_chunk is missing or not what a run writes")
    rest = {"horizons": horizons, "updates_per_chunk": every}
    return {"agent": agent, **convert(job, stored), "hyperparameters": own_values, **rest}


def torso(name: str, hidden: tuple[int, ...], activation: str, layer_norm: bool) -> typing.Callable:
    """The network's torso that a name stands for."""
    import flax.linen as nn

    from purerl import networks

    if name == "mlp":
        return partial(networks.MLP, hidden=hidden, activation=getattr(nn, activation), layer_norm=layer_norm)
    if name == "minatar-cnn":
        return partial(networks.MinAtarCNN, layer_norm=layer_norm)
    if ".py:" in name:
        make = from_file(name)
        try:
            module = make()
        except TypeError as error:
            raise OneLine(f"--network is {name}; it must be a function without arguments: {error}") from error
        if not isinstance(module, nn.Module):
            raise OneLine(f"--network is {name}; it must be a function without arguments that returns a flax Module")
        return make
    raise OneLine(f"--network is {name!r}; allowed are mlp, minatar-cnn, or your own FILE.py:name")


def memory(name: str, size: int, context: int) -> Any:
    """The memory that a name stands for; None without."""
    from purerl import networks

    made = {
        "none": lambda: None,
        "gru": lambda: networks.gru(size),
        "lstm": lambda: networks.lstm(size),
        # what a linear recurrence gives is a sum of what was seen, of which the heads alone would make little
        "min-gru": lambda: networks.stack(networks.min_gru(size), networks.MLP((size,))),
        "transformer": lambda: networks.transformer(size, context=context),
    }
    return made[name]()


def agent_of(job: dict[str, Any], space: Any) -> typing.Callable:
    """`hp -> Agent` of a job's words, for an action space."""
    from purerl import bellman, distributions, exploration, losses, networks, values

    make, config = agent_function(job["agent"])
    body = torso(job["network"], job["hidden"], job["activation"], job["layer_norm"])
    core = memory(job["memory"], job["memory_size"], job["context"])
    if takes(make, "critic"):
        if core is not None:
            raise ValueError(f"--memory is {job['memory']}; {job['agent']} takes no network with memory")
        policy = distributions.hybrid(space, getattr(config, "box", distributions.squashed))
        if job["network"] == "mlp":
            critic = networks.critic(policy, body)
        else:  # the action joins what has been seen
            critic = networks.critic(policy, torso("mlp", job["hidden"], job["activation"], job["layer_norm"]), body)
        kinds = {"gaussian": exploration.gaussian_noise, "ornstein-uhlenbeck": exploration.ornstein_uhlenbeck}
        process = {"process": kinds[job["process"]]} if takes(make, "process") else {}
        return lambda hp: make(networks.actor(policy, body), critic, policy, hp, **process)
    if takes(make, "policy"):
        boxes = zip(BOXES, (distributions.normal, distributions.tanh_normal, distributions.beta), strict=True)
        policy = distributions.for_space(space, dict(boxes)[job["policy"]])
        net = networks.actor_critic(policy, body, job["shared_torso"], core)
        return lambda hp: make(net, policy, hp)
    if not hasattr(space, "n"):
        raise ValueError(f"{job['agent']} is for discrete actions; {job['env']} has {space!r}")
    build = getattr(config, "network", networks.q_network)
    build = getattr(build, "func", build)
    if core is not None and not takes(build, "memory"):
        raise ValueError(f"--memory is {job['memory']}; {job['agent']} takes no network with memory")
    kinds = {"dueling": job["dueling"], "noise": job["noise"]} | ({} if core is None else {"memory": core})
    given = {
        "backup": {
            "max": bellman.max_backup,
            "double": bellman.double_backup,
            "munchausen": bellman.munchausen_backup(job.get("temperature")),
            "soft": bellman.soft_backup(job.get("temperature")),
            "rescaled": bellman.transformed_backup(
                bellman.double_backup, bellman.signed_hyperbolic, bellman.signed_parabolic
            ),
        },
        "td_loss": {"squared": losses.squared, "huber": losses.huber},
        "explore": {"epsilon-greedy": exploration.epsilon_greedy, "boltzmann": exploration.boltzmann},
    }
    parts = {name: words[job[name]] for name, words in given.items() if takes(make, name)}
    if takes(make, "perturb"):
        parts["perturb"] = networks.noisy if job["noise"] else values.unperturbed
    elif job["noise"]:
        raise ValueError(f"--noise: {job['agent']} has no part that draws it")

    def agent(hp):
        outputs = getattr(hp, "num_atoms", None) or getattr(hp, "num_quantiles", None)
        return make(build(space.n, body, **kinds, **({"outputs": outputs} if outputs else {})), hp, **parts)

    return agent


def reward(name: str) -> typing.Callable:
    """`hp -> Reward`, of the Reward, or the function of hyperparameters, that FILE.py:name names."""
    from purerl.core import Reward

    made = from_file(name) if ".py:" in name else None

    def of(hp):
        try:
            given = made if isinstance(made, Reward) or not callable(made) else made(hp)
        except AttributeError as error:  # most likely of a function of transitions
            raise ValueError(
                f"--reward is {name}; called with the hyperparameters it says: {error}. If it is a function of "
                "transitions, purerl.rewards.term(function) is the Reward of it"
            ) from error
        if not isinstance(given, Reward):
            raise ValueError(f"--reward is {name}; it must be FILE.py:name of a purerl Reward, or of a function of the "
                             f"hyperparameters that returns one; it is {given!r:.80}")  # fmt: skip
        return given

    return of


def environment(name: str) -> tuple[Any, Any]:
    """The environment, and its parameters, that a name stands for."""
    if ".py:" not in name:
        from purerl.envs import make

        return make(name)
    try:
        made = from_file(name)()
        env, env_params = made if isinstance(made, tuple) else (made, made.default_params)
        for needed in (env.action_space, env.observation_space):
            needed(env_params)
    except (AttributeError, TypeError, ValueError) as error:
        wanted = "a function without arguments that returns a gymnax Environment, or (env, env_params)"
        raise OneLine(f"{name} must be {wanted}: {error}") from error
    return env, env_params


def command(name: str) -> click.Command:
    """The command that trains one agent."""
    prepare()
    from purerl.host import jobs, work

    job, own = parameters(name)
    way = way_options("runs/AGENT-ENV")

    def invoke(**given: Any) -> None:
        take = lambda parameters: {p.name: given[p.name] for p in parameters}
        with one_line():
            work.train(jobs.plan({"agent": name, **take(job), "hyperparameters": take(own)}), **take(way))

    return click.Command(
        name,
        params=[*job, *way, *own],
        callback=invoke,
        help=(inspect.getdoc(agent_function(name)[0]) or "").split("\n")[0],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
