"""Environments of other packages as the learner wants them; each package is an extra, imported when it is asked for.

What they share: `step_env` gives the true successor and whether the MDP ended, `is_truncated` whether the clock did,
and resets are the learner's, each from a key of its own. Where a reset is dear, `purerl.learner(..., reset_pool=size)`
computes a few at each block's start; its docstring says how that is biased.
"""

from __future__ import annotations

import difflib
import importlib
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.core import Array


@struct.dataclass
class EpisodeParams:
    """max_steps_in_episode: the time limit."""

    max_steps_in_episode: int


class Inner(NamedTuple):
    """The state of another package's environment, whether the clock ended it, and the steps taken."""

    env: Any
    truncated: Array
    time: Array


class Suite(Environment):
    """An environment of another package, from two functions.

    Args:
      name: its id here.
      reset: `key -> (obs, state)`.
      step: `(key, state, action) -> (obs, state, reward, terminated, truncated)`.
      action_space: of gymnax.
      max_steps: truncates episodes that the environment itself has not ended by then.
    """

    def __init__(self, name: str, reset: Callable, step: Callable, action_space: Any, max_steps: int):
        self._name, self._reset, self._step = name, reset, step
        self._space, self._max_steps = action_space, max_steps
        self._seen = _shapes(reset)[0]

    @property
    def default_params(self) -> EpisodeParams:
        return EpisodeParams(self._max_steps)

    @property
    def name(self) -> str:
        return self._name

    @property
    def num_actions(self) -> int:
        return self._space.n if hasattr(self._space, "n") else math.prod(self._space.shape)

    def reset_env(self, key, params):
        obs, state = self._reset(key)
        return obs, Inner(state, jnp.zeros((), bool), jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        obs, inner, reward, terminated, truncated = self._step(key, state.env, action)
        flags = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        return obs, Inner(inner, flags[1], state.time + 1), jnp.asarray(reward, jnp.float32), flags[0], {}

    def is_truncated(self, state, params):
        return state.truncated | (state.time >= params.max_steps_in_episode)

    def action_space(self, params=None):
        return self._space

    def observation_space(self, params):
        return _space_of(self._seen)


def _shapes(reset: Callable) -> Any:
    """The shapes of what a function of a key gives; nothing is drawn."""
    return jax.eval_shape(lambda seed: reset(jax.random.key(seed)), jnp.zeros((), jnp.int32))


def _space_of(obs: Any) -> spaces.Space:
    """The widest space of observations like these."""
    if isinstance(obs, dict):
        return spaces.Dict({name: _space_of(obs[name]) for name in sorted(obs)})
    if isinstance(obs, tuple):
        return spaces.Tuple([_space_of(x) for x in obs])
    whole = jnp.issubdtype(obs.dtype, jnp.integer)
    low, high = (0, 1) if obs.dtype == bool else (-jnp.inf, jnp.inf)
    if whole:
        low, high = jnp.iinfo(obs.dtype).min, jnp.iinfo(obs.dtype).max
    return spaces.Box(low, high, obs.shape, obs.dtype)


def _as_dict(obs: Any) -> Any:
    """NamedTuples and dataclasses as dicts, nested as they are."""
    if isinstance(obs, dict):
        return {name: _as_dict(x) for name, x in obs.items()}
    if hasattr(obs, "_asdict"):
        return _as_dict(obs._asdict())
    if hasattr(obs, "__dataclass_fields__"):
        return {name: _as_dict(getattr(obs, name)) for name in obs.__dataclass_fields__}
    return obs


def near(name: str, names: list[str]) -> str:
    """What to say of a name that is not among those that are there: which are like it, or all of them."""
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(alike)}?" if alike else "allowed are " + ", ".join(names)


def _known(suite: str, name: str, names: Any) -> None:
    """Raise a ValueError unless a package has an environment of this name."""
    names = sorted(names)
    if name not in names:
        raise ValueError(f"there is no environment {suite}/{name}; {near(name, names)}")


def brax(name: str, max_steps: int = 1000, **kwargs: Any) -> Environment:
    """`brax/ant` and the like; `backend="spring"`, "positional", "generalized" or "mjx" chooses the physics."""
    envs = importlib.import_module("brax.envs")

    _known("brax", name, envs._envs)
    over = operator.attrgetter("done")  # brax's word for the end of the MDP; its time limit is a wrapper's
    env = envs.get_environment(name, **kwargs)

    def reset(key):
        state = env.reset(key)
        return state.obs, state

    def step(key, state, action):
        del key  # brax keeps its own, if it needs one
        state = env.step(state, action)
        return state.obs, state, state.reward, over(state), False

    return Suite(f"brax/{name}", reset, step, spaces.Box(-1.0, 1.0, (env.action_size,)), max_steps)


def jumanji(name: str, **kwargs: Any) -> Environment:
    """`jumanji/Snake-v1` and the like. Several discrete actions whose mask is joint become one choice among all."""
    package, specs = importlib.import_module("jumanji"), importlib.import_module("jumanji.specs")

    _known("jumanji", name, package.registered_environments())
    env = package.make(name, **kwargs)
    spec = env.action_spec
    _, first = _shapes(env.reset)
    mask = getattr(first.observation, "action_mask", None)
    act, see_mask = (lambda action: action), (lambda mask: mask)
    if isinstance(spec, specs.DiscreteArray):
        space = spaces.Discrete(int(spec.num_values))
    elif isinstance(spec, specs.MultiDiscreteArray):
        counts = tuple(int(n) for n in spec.num_values.reshape(-1))
        if mask is not None and mask.shape == counts:
            space = spaces.Discrete(math.prod(counts))
            act = lambda action: jnp.stack(jnp.unravel_index(action, counts)).reshape(spec.shape).astype(spec.dtype)
            see_mask = lambda mask: mask.reshape(-1)
        else:
            space = spaces.Tuple([spaces.Discrete(n) for n in counts])
            act = lambda action: jnp.stack(action).reshape(spec.shape).astype(spec.dtype)
            see_mask = lambda mask: tuple(row[:n] for row, n in zip(mask, counts, strict=True))
    elif isinstance(spec, specs.BoundedArray):
        space = spaces.Box(spec.minimum, spec.maximum, spec.shape)
    else:
        raise ValueError(f"jumanji/{name}: its action spec {spec} is none of discrete, multi-discrete and bounded")

    def see(timestep):
        obs = _as_dict(timestep.observation)
        if mask is not None:
            obs["action_mask"] = see_mask(obs["action_mask"])
        return obs

    def reset(key):
        state, timestep = env.reset(key)
        return see(timestep), state

    def step(key, state, action):
        del key  # its state has one
        state, timestep = env.step(state, act(action))
        dead = (timestep.discount == 0).all()
        return see(timestep), state, timestep.reward, timestep.last() & dead, timestep.last() & ~dead

    return Suite(f"jumanji/{name}", reset, step, space, int(getattr(env, "time_limit", 10_000)))


def xminigrid(name: str, **kwargs: Any) -> Environment:
    """`xminigrid/MiniGrid-Empty-5x5` and the like; kwargs change its parameters."""
    package = importlib.import_module("xminigrid")

    _known("xminigrid", name, package.registered_environments())
    env, env_params = package.make(name)
    env_params = env_params.replace(**kwargs)

    def reset(key):
        timestep = env.reset(env_params, key)
        return timestep.observation, timestep

    def step(key, state, action):
        del key  # its state has one
        timestep = env.step(env_params, state, action)
        dead = timestep.discount == 0
        return timestep.observation, timestep, timestep.reward, timestep.last() & dead, timestep.last() & ~dead

    space = spaces.Discrete(int(env.num_actions(env_params)))
    return Suite(f"xminigrid/{name}", reset, step, space, int(env_params.max_steps))


def craftax(name: str, max_steps: int = 10_000, **kwargs: Any) -> Environment:
    """`craftax/Craftax-Symbolic-v1` and the like; max_steps is its own time limit."""
    make_env = importlib.import_module("craftax.craftax_env").make_craftax_env_from_name

    try:
        env = make_env(name, auto_reset=False, **kwargs)
    except ValueError as error:
        raise ValueError(f"there is no environment craftax/{name}: {error}") from error
    env_params = env.default_params.replace(max_timesteps=max_steps)

    def reset(key):
        return env.reset_env(key, env_params)

    def step(key, state, action):
        # five values: `over` is both the death of the player and the end of time
        obs, state, reward, over, _ = env.step_env(key, state, action, env_params)
        late = state.timestep >= max_steps
        return obs, state, reward, over & ~late, over & late

    space = spaces.Discrete(int(env.action_space(env_params).n))
    return Suite(f"craftax/{name}", reset, step, space, max_steps)


def uniform_opponent(key: Array, state: Any) -> Array:
    """A move of pgx that is drawn from the legal ones."""
    return jax.random.categorical(key, jnp.where(state.legal_action_mask, 0.0, -jnp.inf)).astype(jnp.int32)


def pgx(name: str, opponent: Callable[[Array, Any], Array] = uniform_opponent, **kwargs: Any) -> Environment:
    """`pgx/connect_four` and the like, seen by player 0: the others move, until it is the agent's turn again.

    opponent: `(key, pgx's state) -> action` of everyone else; who begins is drawn by pgx.
    """
    package = importlib.import_module("pgx")

    _known("pgx", name, package.available_envs())
    env: Any = package.make(name, **kwargs)

    def others(key, state):
        """Everyone's moves until player 0 is on or the game is over, and what they bring player 0."""

        def go_on(carry):
            _, state, _ = carry
            return (state.current_player != 0) & ~state.terminated & ~state.truncated

        def move(carry):
            key, state, reward = carry
            key, move_key, step_key = jax.random.split(key, 3)
            state = env.step(state, opponent(move_key, state), step_key)
            return key, state, reward + state.rewards[0]

        return jax.lax.while_loop(go_on, move, (key, state, jnp.zeros(())))[1:]

    def see(state):
        # the observation is the current player's: that is player 0, unless the game is over
        return {"observation": state.observation, "action_mask": state.legal_action_mask & (state.current_player == 0)}

    def reset(key):
        init_key, key = jax.random.split(key)
        state, _ = others(key, env.init(init_key))
        return see(state), state

    def step(key, state, action):
        step_key, key = jax.random.split(key)
        state = env.step(state, action, step_key)
        own = state.rewards[0]
        state, theirs = others(key, state)
        return see(state), state, own + theirs, state.terminated, state.truncated

    return Suite(f"pgx/{name}", reset, step, spaces.Discrete(int(env.num_actions)), 10_000)


SUITES = {"brax": brax, "jumanji": jumanji, "xminigrid": xminigrid, "craftax": craftax, "pgx": pgx}


def make(env_id: str, **kwargs: Any) -> Environment:
    """The environment of an id such as "brax/ant".

    Raises:
      ValueError: for a suite or name that is not there, or a package that is not installed, naming its extra.
    """
    suite, _, name = env_id.partition("/")
    if suite not in SUITES:
        raise ValueError(f"there is no suite {suite!r} of environments; allowed are {', '.join(SUITES)}")
    try:
        importlib.import_module(suite)
    except ImportError as error:
        raise ValueError(f"{env_id} needs the package {suite}: pip install 'purerl[{suite}]' ({error})") from error
    return SUITES[suite](name, **kwargs)
