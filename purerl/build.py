"""Build environments, networks and agents from names, for the command line, tests and reproductions.

>>> import purerl
>>> env, env_params = environment("CartPole-v1")
>>> make = agent(agent_function("ppo"), env.action_space(env_params), body("mlp", (32, 32)))
>>> learner = purerl.learner(env, env_params, make(purerl.PPO()), num_envs=4, rollout_length=16)
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import flax.linen as nn

from purerl import envs, networks
from purerl.agents.parts.declarations import Body, declaration_of, parts_of
from purerl.core import Reward
from purerl.networks.cnn import SMALLEST_FOR_MINATAR, SMALLEST_FOR_NATURE
from purerl.rewards import term

__all__ = [
    "ACTIVATIONS",
    "MEMORIES",
    "TORSOS",
    "agent",
    "agent_function",
    "body",
    "called",
    "environment",
    "from_file",
    "is_own",
    "memory",
    "neighbours",
    "own_files",
    "reward",
    "torso",
    "torso_for",
]

TORSOS = ("mlp", "minatar-cnn", "nature-cnn")
ACTIVATIONS = ("tanh", "relu", "silu", "gelu", "elu")
MEMORIES = ("none", "gru", "lstm", "min-gru", "transformer")
PACKAGE = Path(__file__).resolve().parent


# --- a user's own files ---------------------------------------------------------------------------------------------


def _named(node: ast.AST) -> list[tuple[int, str]]:
    """The modules that an import statement may load: the level of a relative import, and the dotted name."""
    if isinstance(node, ast.Import):
        return [(0, alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        inside = [f"{base}.{alias.name}".strip(".") for alias in node.names]
        return [(node.level, name) for name in (base, *inside) if name]
    return []


def neighbours(file: str | Path) -> list[Path]:
    """The files in the folder of a user's file, and below it, that its import statements load, also by one another."""
    first = Path(file).resolve()
    found, todo = {first}, [first]
    while todo:
        path = todo.pop()
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):  # its import says so
            continue
        for level, name in (pair for node in ast.walk(tree) for pair in _named(node)):
            folder, parts = path.parents[level - 1] if level else first.parent, name.split(".")
            if not folder.is_relative_to(first.parent) or folder / parts[0] == PACKAGE:
                continue
            modules = [folder.joinpath(*parts[: k + 1]) for k in range(len(parts))]
            there = {f for m in modules for f in (m.with_name(m.name + ".py"), m / "__init__.py") if f.is_file()}
            todo += there - found
            found |= there
    return sorted(found - {first})


def own_files(names: Iterable[str]) -> list[str]:
    """The user's files among names, and the files beside them that they import."""
    own = {name.rpartition(":")[0] for name in names if is_own(name)}
    return sorted(own | {str(path) for name in own for path in neighbours(name)})


_loaded: dict[Path, bytes] = {}  # the source of every neighbour, as it was imported


@contextlib.contextmanager
def _beside(path: Path, beside: Mapping[Path, bytes]) -> Iterator[None]:
    """The imports of `python FILE.py`: its folder is first on the path, for its neighbours and their sources.

    Modules of the same names from elsewhere are put aside meanwhile; changed neighbours are executed again. Nothing is
    written into the folder.
    """
    names = {file.relative_to(path.parent).parts[0].removesuffix(".py") for file in beside}
    changed = any(_loaded.get(file, source) != source for file, source in beside.items())

    def is_here(module: Any) -> bool:
        places = [getattr(module, "__file__", None) or "", *(getattr(module, "__path__", None) or [])]
        return any(Path(place).resolve().is_relative_to(path.parent) for place in places if place)

    elsewhere = {}
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        if not is_here(sys.modules[name]):
            elsewhere[name] = sys.modules.pop(name)
        elif changed:
            del sys.modules[name]
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(path.parent))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(path.parent))
        sys.dont_write_bytecode = writes
        sys.modules.update(elsewhere)
        _loaded.update(beside)


def _read_beside(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in neighbours(path)}


@cache
def _module(path: Path, source: bytes, beside: tuple[tuple[Path, bytes], ...]) -> Any:
    """Import a file as a module; it is executed once per version of its source and of its neighbours' sources."""
    # dataclasses and annotations written as strings look their module up in sys.modules; the name must be that of no
    # other module there, such as a package that the file shares its name with
    name = f"{path.stem}_{hashlib.sha256(repr((path, source, beside)).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _beside(path, dict(beside)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def is_own(name: str) -> bool:
    """Whether a name refers to an object in a user's file, FILE.py:name."""
    return ".py:" in name


def from_file(name: str) -> Any:
    """The object that `FILE.py:name` names.

    Raises:
      ValueError: if the file does not exist, cannot be imported or does not define that name.
    """
    path, _, attribute = name.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"{name}: there is no file {path}")
    try:
        there = Path(path).resolve()
        module = _module(there, there.read_bytes(), tuple(_read_beside(there).items()))
    except Exception as error:
        raise ValueError(f"{path} could not be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        own = lambda x: isinstance(x, Reward) or (callable(x) and getattr(x, "__module__", "") == module.__name__)
        names = [n for n, x in vars(module).items() if own(x)]
        raise ValueError(f"{path} has no {attribute!r}; it has {', '.join(names) or 'no functions'}")
    return getattr(module, attribute)


def called(name: str, wanted: str) -> Any:
    """The result of a user's function without arguments; an error inside it stays as it is."""
    function = from_file(name)
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{wanted}: {error}") from error
    path = Path(name.rpartition(":")[0]).resolve()
    with _beside(path, _read_beside(path)):
        return function()


# --- the parts of a learner -----------------------------------------------------------------------------------------


def environment(name: str) -> tuple[Any, Any]:
    """An environment and its parameters: an id of `purerl.make`, or FILE.py:name.

    Raises:
      ValueError: for an unknown name, or a function that does not return an environment.
    """
    if not is_own(name):
        return envs.make(name)
    wanted = f"{name} must be a function without arguments that returns a gymnax Environment, or (env, env_params)"
    made = called(name, wanted)
    env: Any = made[0] if isinstance(made, tuple) and len(made) == 2 else made
    missing = [part for part in ("step_env", "action_space", "observation_space") if not hasattr(env, part)]
    if missing:
        raise ValueError(f"{wanted}; it returns {made!r:.80} without {', '.join(missing)}")
    return (env, env.default_params) if env is made else (env, made[1])


def agent_function(name: str) -> Callable:
    """An agent's constructor: the name of one of the package's agents, or FILE.py:name.

    Raises:
      ValueError: for an unknown name, or a constructor that declares no family.
    """
    make = from_file(name) if is_own(name) else getattr(importlib.import_module(f"purerl.agents.{name}"), name)
    try:
        declaration_of(make)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return make


def torso_for(space: Any) -> str:
    """The name of the torso for an observation space: nature-cnn for images `[height, width, channels]` from 36 x 36
    on, minatar-cnn for smaller ones from 3 x 3 on, otherwise mlp.

    >>> from gymnax.environments import spaces
    >>> torso_for(spaces.Box(0, 255, (84, 84, 4))), torso_for(spaces.Box(0, 1, (2, 9, 1)))
    ('nature-cnn', 'mlp')
    """
    shape = tuple(getattr(space, "shape", None) or ())
    if len(shape) != 3 or min(shape[:2]) < SMALLEST_FOR_MINATAR:
        return "mlp"
    return "nature-cnn" if min(shape[:2]) >= SMALLEST_FOR_NATURE else "minatar-cnn"


def torso(
    name: str, hidden: tuple[int, ...] = (64, 64), activation: str = "tanh", layer_norm: bool = False
) -> Callable:
    """A constructor `() -> flax Module` of the layers with the given name: one of `TORSOS`, or FILE.py:name.

    Raises:
      ValueError: for an unknown name, or a function that does not return a Module.
    """
    if name == "mlp":
        return partial(networks.MLP, hidden=hidden, activation=getattr(nn, activation), layer_norm=layer_norm)
    images = {"minatar-cnn": networks.MinAtarCNN, "nature-cnn": networks.NatureCNN}
    if name in images:
        return partial(images[name], layer_norm=layer_norm)
    if not is_own(name):
        raise ValueError(f"--network is {name!r}; allowed are {', '.join(TORSOS)}, or your own FILE.py:name")
    make = from_file(name)
    module = called(name, f"--network is {name}; it must be a function without arguments")
    if not isinstance(module, nn.Module):
        raise ValueError(f"--network is {name}; it must be a function without arguments that returns a flax Module")
    return make


def memory(name: str, size: int = 64, context: int = 64) -> Any:
    """The memory between torso and heads with the given name, one of `MEMORIES`; None for "none"."""
    made = {
        "none": lambda: None,
        "gru": lambda: networks.gru(size),
        "lstm": lambda: networks.lstm(size),
        # the outputs of a linear recurrence are sums of its inputs, so a nonlinear layer follows before linear heads
        "min-gru": lambda: networks.stack(networks.min_gru(size), networks.MLP((size,))),
        "transformer": lambda: networks.transformer(size, context=context),
    }
    return made[name]()


def body(
    name: str = "mlp",
    hidden: tuple[int, ...] = (64, 64),
    activation: str = "tanh",
    layer_norm: bool = False,
    memory: Any = None,
) -> Body:
    """The layers below the heads; see `torso` and `memory`."""
    joined = torso("mlp", hidden, activation, layer_norm)
    return Body(joined if name == "mlp" else torso(name, hidden, activation, layer_norm), joined, memory)


def agent(
    make: Callable,
    space: Any,
    body: Body = body(),  # noqa: B008 (never changed)
    options: Mapping[str, Any] = {},
    network: Callable[[Any, Any], Any] | None = None,
    subject: Any = None,
    **parts: Any,
) -> Callable[[Any], Any]:
    """`hp -> Agent`, from an agent's constructor and an action space.

    Args:
      make: a constructor that declares its family.
      space: the action space.
      body: the layers below the heads.
      options: values of the options that `declarations.options_of(make)` names; the others have their defaults.
      network: `(the family's subject, such as a distribution, hp) -> network` or (actor, critic), in place of the
        family's network.
      subject: of the network's outputs, such as a distribution; None: as the family has it for the space.
      parts: parts of the constructor, in place of those that the options choose.
    Raises:
      ValueError: for a space or a memory that the agent does not support.
    """
    family = declaration_of(make).family
    subject = family.subject(make, space, options) if subject is None else subject
    given = {**parts_of(make, options), **parts}

    def of(hp):
        own = family.network(make, subject, body, options, hp) if network is None else network(subject, hp)
        return family.agent(make, own, subject, hp, given)

    return of


def reward(name: str) -> Callable[[Any], Reward]:
    """A function `hp -> Reward` from the object FILE.py:name.

    The object is a `Reward`, a function of hyperparameters that returns one, with a parameter called `hp`, or a
    function of transitions that returns a reward for every step, with a parameter of any other name.
    Raises:
      ValueError: for any other object.
    """
    made = from_file(name) if is_own(name) else None
    wanted = (
        f"--reward is {name}; it must be FILE.py:name of a purerl Reward, of a function (hp) that returns one, or of a "
        "function (transitions) that returns a reward for every step"
    )
    if isinstance(made, Reward):
        return lambda hp: made
    try:
        parameters = list(inspect.signature(made).parameters) if callable(made) else []
    except (TypeError, ValueError):
        parameters = []
    if not callable(made) or len(parameters) != 1:
        raise ValueError(wanted)
    if parameters != ["hp"]:
        of_transitions = term(made, f"--reward {name}")
        return lambda hp: of_transitions

    def of(hp):
        given = made(hp)
        if not isinstance(given, Reward):
            raise ValueError(f"{wanted}; it returns {given!r:.80}")
        return given

    return of
