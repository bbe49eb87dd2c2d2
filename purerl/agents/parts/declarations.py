"""Declarations of agents as data: their networks, and the parts that the command line can exchange.

An agent's constructor carries a `Declaration`, so that the command line and the reproductions of papers can assemble it
from names, the package's own agents and a user's alike:

    @declare(POLICY_GRADIENT, Mine(), num_envs=16)
    def mine(network, policy, hp=Mine()): ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """An option whose value is one of several names; the first is the default."""

    values: Mapping[str, Callable[[Mapping[str, Any]], Any]]  # name -> part, a function of all options of the agent
    help: str


class Switch(NamedTuple):
    """An option that is on or off."""

    default: bool
    help: str
    off: str = ""  # its name where it is off; otherwise "no-" and the name


class Number(NamedTuple):
    """An option that is a positive number."""

    default: float
    help: str


Option = Choice | Switch | Number


class Body(NamedTuple):
    """The layers below the heads, each `() -> flax Module`."""

    torso: Callable[[], Any]  # of observations
    joined: Callable[[], Any]  # of features beside a continuous action; the torso itself where it takes both
    memory: Any = None  # between torso and heads


class Family(NamedTuple):
    """Agents whose constructors take the same arguments.

    `subject(make, space, options)`: the subject of the outputs: a distribution, or a number of actions.
    `network(make, subject, body, options, hp)`: the network, or the networks.
    `agent(make, network, subject, hp, parts)`: the constructor called.
    `parts(make, options)`: parameters of the constructor that the family's own options choose.
    """

    subject: Callable[..., Any]
    network: Callable[..., Any]
    agent: Callable[..., Any]
    options: Mapping[str, Option]
    parts: Callable[..., dict[str, Any]] = lambda make, options: {}


class Declaration(NamedTuple):
    """The declaration of an agent: its family, defaults, networks and parts."""

    family: Family
    hp: Any  # the default hyperparameters
    num_envs: int = 8  # what the defaults are tuned for
    rollout_length: int = 128
    hidden: tuple[int, ...] = (64, 64)  # of the multilayer perceptron
    activation: str = "tanh"
    layer_norm: bool = False
    parts: Mapping[str, Option] = {}  # of the constructor, by the names of its parameters
    switches: Mapping[str, bool] = {}  # of the family, where their defaults are others
    box: Callable[..., Any] | None = None  # actor-critics: the distribution of continuous actions
    network: Callable[..., Any] | None = None  # Q-learning: `(num_actions, torso, dueling=, noise=, ...)`; a q_network
    outputs: Callable[[Any], int] | None = None  # Q-learning: numbers that the network gives for each action, of hp
    memory: bool = True  # whether the network may have memory
    perturb: bool = False  # Q-learning: whether the constructor takes `perturb`, as noisy networks need


def declare(family: Family, hp: Any, **about: Any) -> Callable[[Callable], Callable]:
    """A decorator that attaches a `Declaration` to an agent's constructor, without changing it.

    Raises:
      ValueError: for a family, hyperparameters, parts or switches that are none.
    """

    def attach(make: Callable) -> Callable:
        if not isinstance(family, Family):
            raise ValueError(f"declare: family is {family!r}; it must be a Family, such as purerl.POLICY_GRADIENT")
        if not dataclasses.is_dataclass(hp) or isinstance(hp, type):
            raise ValueError(f"declare: hp is {hp!r}; it must be an instance of a purerl.config class")
        if unknown := sorted(set(about) - set(Declaration._fields)):
            raise ValueError(f"declare: {unknown[0]} is unknown; allowed are {', '.join(Declaration._fields[2:])}")
        if unknown := sorted(set(about.get("switches", {})) - set(family.options)):
            raise ValueError(f"declare: the family has no switch {unknown[0]!r}; it has {', '.join(family.options)}")
        make.declaration = Declaration(family, hp, **about)  # pyright: ignore[reportFunctionMemberAccess]
        return make

    return attach


def declare_like(make: Callable, hp: Any, **changed: Any) -> Callable[[Callable], Callable]:
    """The decorator of an agent that is declared as another one, but for its hyperparameters and what is `changed`."""
    return declare(**{**declaration_of(make)._asdict(), "hp": hp, **changed})


def name_of(make: Any) -> str:
    """The name of an agent's constructor, or of a `functools.partial` of one."""
    return getattr(getattr(make, "func", make), "__name__", repr(make))


def declaration_of(make: Any) -> Declaration:
    """The declaration of an agent's constructor, or of a `functools.partial` of one.

    Raises:
      ValueError: if it has none.
    """
    found = getattr(getattr(make, "func", make), "declaration", None)
    if not isinstance(found, Declaration):
        raise ValueError(
            f"{name_of(make)} must be a function that declares its family, such as "
            "@purerl.declare(purerl.POLICY_GRADIENT, Config()), where Config is a purerl.config class"
        )
    return found


def options_of(make: Any) -> dict[str, Option]:
    """The options of an agent's constructor other than its hyperparameters."""
    about = declaration_of(make)
    family = {
        name: option._replace(default=about.switches[name]) if name in about.switches else option
        for name, option in about.family.options.items()
    }
    return family | dict(about.parts)


def parts_of(make: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an agent's constructor that the options choose."""
    about = declaration_of(make)
    chosen = {name: part for name, part in about.parts.items() if isinstance(part, Choice) and name in options}
    own = {name: choice.values[options[name]](options) for name, choice in chosen.items()}
    return own | about.family.parts(make, options)
