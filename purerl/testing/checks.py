"""Conformance checks. Each raises an AssertionError that describes the violation, or returns None."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl import distributions, networks, normalize, training
from purerl.core import Agent, Learner, Reward, Transition
from purerl.training.environments import is_truncated
from purerl.training.loop import as_arrays


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path) or "it", x) for path, x in jax.tree_util.tree_leaves_with_path(tree)]


def _plain(x: Any) -> np.ndarray:
    is_key = jnp.issubdtype(jnp.asarray(x).dtype if not hasattr(x, "dtype") else x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def initial_state(agent: Agent, env: Any, env_params: Any, key: Any) -> Any:
    """An agent's initial state, whose normaliser, if it has one, has seen observations."""

    @jax.jit
    def init(key):
        obs, _ = jax.vmap(lambda key: env.reset(key, env_params))(jax.random.split(key, 3))
        state = agent.init(key, obs)
        if isinstance(state, normalize.NormalizedState):
            seen = jax.tree.map(lambda x: 1 + 2 * jax.random.normal(key, (50, *x.shape[1:])), obs)
            state = state._replace(moments=normalize.merge(state.moments, seen, jnp.ones(50, bool)))
        return state

    return init(key)


def assert_same_structure(a: Any, b: Any, what: str) -> None:
    """Same pytree, shapes, dtypes and weak types."""
    assert jax.tree.structure(a) == jax.tree.structure(b), f"{what}: the pytree changes its structure"
    for (path, x), (_, y) in zip(_leaves(a), _leaves(b), strict=True):
        x, y = jax.typeof(x), jax.typeof(y)
        assert x == y, f"{what}: {path} is {x} and becomes {y}"


def assert_same_bits(a: Any, b: Any, what: str) -> None:
    """Equal in every bit; NaN equals NaN."""
    assert jax.tree.structure(a) == jax.tree.structure(b), f"{what}: the pytrees differ in structure"
    for (path, x), (_, y) in zip(_leaves(a), _leaves(b), strict=True):
        x, y = _plain(x), _plain(y)
        same = x.shape == y.shape and x.tobytes() == y.tobytes()
        assert same, f"{what}: {path} differs" + ("" if x.shape != y.shape else f", by up to {np.max(np.abs(x - y))}")


def assert_close(a: Any, b: Any, what: str, tolerance: float = 1e-5) -> None:
    """Equal up to rounding, relative to the larger of 1 and the value."""
    for (path, x), (_, y) in zip(_leaves(a), _leaves(b), strict=True):
        x, y = _plain(x).astype(np.float64), _plain(y).astype(np.float64)
        apart = np.abs(x - y) / np.maximum(1.0, np.abs(y))
        apart = np.where(np.isnan(x) & np.isnan(y), 0.0, apart)
        assert x.size == 0 or apart.max() <= tolerance, f"{what}: {path} differs by {apart.max():.2g}"


def assert_finite(tree: Any, what: str) -> None:
    """No NaN and no infinity in any float leaf."""
    for path, x in _leaves(tree):
        x = _plain(x)
        assert not np.issubdtype(x.dtype, np.floating) or np.isfinite(x).all(), f"{what}: {path} is not finite"


class _Compilations:
    """Counts programs compiled inside a `with` block."""

    def __enter__(self) -> _Compilations:
        self.count, self.active = 0, True
        jax.monitoring.register_event_duration_secs_listener(self._on)
        return self

    def _on(self, event: str, *_: Any, **__: Any) -> None:
        self.count += self.active and event == "/jax/core/compile/backend_compile_duration"

    def __exit__(self, *_: Any) -> None:
        self.active = False


def check_agent(
    make_agent: Callable[[Any], Agent],
    hp: Any,
    env: Any,
    env_params: Any,
    key: Any,
    num_envs: int = 4,
    rollout_length: int = 8,
    reward: Callable[[Any], Reward | None] = lambda hp: None,
    num_updates: int = 4,
) -> None:
    """Check that an agent keeps the contract of `Agent` in the learner.

    One seed gives the same bits twice and another seed gives others; `update` keeps the state's structure;
    everything stays finite; chunks of any length, and a run that is stopped and resumed, equal one scan bit for
    bit; other floats and a second run compile nothing; no key is used twice; a batch of seeds equals its members;
    `act` and `greedy` give actions of the space's shape.

    Args:
      make_agent: `hp -> Agent`.
      hp: a `purerl.config`.
      env, env_params: where it acts.
      key: of all that is random here.
      reward: `hp -> Reward`, if it learns from another reward than the environment's.
    Raises:
      AssertionError: saying which clause is broken, and by which leaf of the state.
    """

    def make(hp):
        return training.learner(env, env_params, make_agent(hp), num_envs, rollout_length, reward(hp))

    key, other = jax.random.split(key)
    traced = trace(make, hp, key)
    check_structure(traced)
    check_actions(make_agent(hp), traced.begin.agent, env, env_params, key, num_envs)
    state, metrics = jax.jit(lambda hp, key: training.train(make(hp), key, num_updates))(as_arrays(hp), key)
    assert_finite((state.agent, metrics | {"episode_return": 0.0, "episode_length": 0.0}), "training")
    check_runs(make, hp, key, other, num_updates, state)
    check_batch(make, hp, jax.random.split(key, 2))


class Traced(NamedTuple):
    """Results of tracing a learner: shapes of its first state and of a step's results, and the traced step."""

    begin: Any
    end: Any
    sums: Any
    step: Any  # a jaxpr


def trace(make: Callable[[Any], Learner], hp: Any, key: Any) -> Traced:
    """Trace a learner's first state and a step.

    Raises:
      jax.errors.KeyReuseError: where a key is used twice.
    """

    def step(hp, state):
        return make(hp).step(state)

    def both(hp, key):
        state = make(hp).init(key)
        return state, jax.jit(step)(hp, state)

    with jax.debug_key_reuse(True):
        traced = jax.jit(both).trace(as_arrays(hp), key)
    inner = [eqn.params for eqn in traced.jaxpr.jaxpr.eqns if eqn.params.get("name") == "step"]
    begin, (end, sums) = traced.out_info
    return Traced(begin, end, sums, inner[-1]["jaxpr"].jaxpr)


def check_structure(traced: Traced) -> None:
    """`update` keeps the state's structure, and metrics are scalars."""
    assert_same_structure(traced.begin, traced.end, "update")
    for path, x in _leaves(traced.sums.metrics):
        assert x.shape == (), f"update: metric {path} has shape {x.shape}; metrics are scalars"


def check_actions(agent: Agent, agent_state: Any, env: Any, env_params: Any, key: Any, num_envs: int) -> None:
    """`act` and `greedy` give actions of the space's shape, by their shapes alone."""
    reset = training.vectorized(env, env_params).reset
    obs, memory = jax.eval_shape(reset, jax.random.split(key, num_envs))[0], agent.memory(num_envs)
    acted = jax.eval_shape(lambda key, s, obs: agent.act(key, s, memory, obs)[0], key, agent_state, obs)
    greedy = jax.eval_shape(lambda s, obs: agent.greedy(s, memory, obs)[0], agent_state, obs)
    assert_same_structure(acted, greedy, "greedy against act: the action")
    space = distributions.tree_of(env.action_space(env_params))
    wanted = [(num_envs, *part.shape) for part in jax.tree.leaves(space)]
    shapes = [x.shape for x in jax.tree.leaves(acted)]
    assert shapes == wanted, f"act: actions have shapes {shapes}, the space wants {wanted}"


def check_runs(make: Callable[[Any], Learner], hp: Any, key: Any, other: Any, num_updates: int, state: Any) -> None:
    """Runs of one program: chunks, the shorter last one, another seed, other floats, stopped and resumed.

    Args:
      state: what `num_updates` updates from `key` come to.
    """
    copy = partial(jax.tree.map, lambda x: x.copy())
    chunks = list(training.run(make, hp, key, num_updates, every=num_updates - 1))
    assert [iteration for iteration, _, _ in chunks] == [num_updates - 1, num_updates]
    assert_same_bits(state, chunks[-1][1], "a run in chunks against one scan")
    changed = jax.tree.map(lambda x: x * 0.99, as_arrays(hp))
    with _Compilations() as compiled:
        *_, (_, again, _) = training.run(make, hp, key, num_updates, every=num_updates)
        for _ in training.run(make, changed, other, 1):
            pass
    assert compiled.count == 0, f"a second run compiled {compiled.count} programs; floats and lengths must not"
    assert_same_bits(state, again, "the same seed twice")
    *_, (_, half, _) = training.run(make, hp, key, num_updates // 2)
    *_, (iteration, resumed, _) = training.run(make, hp, None, num_updates - num_updates // 2, state=copy(half))
    assert iteration == num_updates, f"a resumed run ends at iteration {iteration}, not {num_updates}"
    assert_same_bits(state, resumed, "a resumed run against an uninterrupted one")
    *_, (_, different, _) = training.run(make, hp, other, num_updates)
    pairs = zip(_leaves(state.agent), _leaves(different.agent), strict=True)
    assert any(_plain(x).tobytes() != _plain(y).tobytes() for (_, x), (_, y) in pairs), "two seeds give the same agent"


def check_batch(make: Callable[[Any], Learner], hp: Any, keys: Any) -> None:
    """A batch of seeds equals its members after one update; later an action may flip, and runs part for good reason."""
    batched = training.batch(make)(as_arrays(hp))
    several, _ = jax.jit(lambda keys: batched.step(batched.init(keys)))(keys)
    *_, (_, one, _) = training.run(make, hp, keys[1], 1)
    assert_close(jax.tree.map(lambda x: x[1], several.agent), one.agent, "one of a batch against itself alone")


def _num_choices(part: Any) -> np.ndarray:
    """The number of values of each entry of a discrete space; bits have two."""
    return np.asarray(
        part.nvec if hasattr(part, "nvec") else part.n if distributions.is_discrete(part) else 2, np.int32
    )


def _random_action(space: Any, key: Any) -> Any:
    """A random action, as policies have them: choices are counted from 0."""
    parts, structure = jax.tree.flatten(distributions.tree_of(space))

    def draw(part, key):
        if not any(kind.__module__.startswith("gymnasium.") for kind in type(part).__mro__):
            x = part.sample(key)
            return x - first if np.any(first := distributions.first_of(part)) else x
        if not hasattr(part, "low"):  # gymnasium's spaces have a generator of their own and take no key
            return jax.random.randint(key, part.shape, 0, _num_choices(part))
        low, high = np.asarray(part.low, np.float32), np.asarray(part.high, np.float32)
        bounded = np.isfinite(low) & np.isfinite(high)
        uniform = jax.random.uniform(
            key, part.shape, minval=np.where(bounded, low, 0), maxval=np.where(bounded, high, 1)
        )
        return jnp.where(bounded, uniform, jnp.clip(jax.random.normal(key, part.shape), low, high))

    keys = [key] if len(parts) == 1 else jax.random.split(key, len(parts))
    return structure.unflatten([draw(part, key) for part, key in zip(parts, keys, strict=True)])


def _legal_action(space: Any, key: Any, obs: Any) -> Any:
    """A random action, as policies have them, legal if the observation of one environment has a mask."""
    action, (_, mask) = _random_action(space, key), networks.split_mask(obs)
    if mask is None:
        return action
    named, structure = jax.tree_util.tree_flatten_with_path(distributions.tree_of(space))
    paths = [path for path, _ in named]
    drawn = []
    for own_key, path, x in zip(jax.random.split(key, len(paths)), paths, jax.tree.leaves(action), strict=True):
        legal = distributions.find(mask, path)
        logits = None if legal is None else jnp.where(legal, 0.0, -jnp.inf)
        drawn.append(x if logits is None else jax.random.categorical(own_key, logits).astype(x.dtype))
    return structure.unflatten(drawn)


def check_env(env: Any, env_params: Any, key: Any, num_steps: int = 50, num_envs: int = 4) -> None:
    """Check that an environment is one that the learner can use, by random play.

    Observations have the declared shape and lie in the declared space; rewards are float32 scalars; ends are bool
    scalars; states keep their structure; the same key gives the same episode; nothing becomes NaN; the reported
    successor of a step that did not end is the next observation; where observations have an `action_mask`, play keeps
    to it, and some action is legal in every state.

    Raises:
      AssertionError: saying what is wrong.
      ValueError: for what the learner refuses too, such as the five-value step of gymnax 0.x.
    """
    name = getattr(env, "name", type(env).__name__)
    environment = training.vectorized(env, env_params)
    space, action_space = env.observation_space(env_params), env.action_space(env_params)
    reset_key, play_key = jax.random.split(key)
    reset = jax.jit(environment.reset)  # jitted, so that a reset and a step are traced once
    step = jax.jit(lambda keys, reset_keys, state, actions: environment.step(keys, reset_keys, state, actions, reset))

    def play(reset_key, play_key):
        def one(carry, key):
            obs, state = carry
            keys = jax.random.split(key, (3, num_envs))
            actions = jax.vmap(partial(_legal_action, action_space))(keys[2], obs)
            out = step(keys[0], keys[1], state, actions)
            return (out.obs, out.state), (out, obs)

        begin = reset(jax.random.split(reset_key, num_envs))
        return begin, *jax.lax.scan(one, begin, jax.random.split(play_key, num_steps))

    keys = jax.random.split(reset_key, num_envs)
    begin = jax.eval_shape(reset, keys)
    obs, state = begin
    _check_dtypes(name, env, env_params, obs, state, keys[0])
    actions = jax.eval_shape(jax.vmap(partial(_random_action, action_space)), keys)
    jax.eval_shape(step, keys, keys, begin[1], actions)
    known = hasattr(space, "shape") or hasattr(space, "spaces")
    parts = jax.tree.leaves(distributions.tree_of(space)) if known else []
    if known:
        shapes = [x.shape[1:] for x in jax.tree.leaves(begin[0])]
        wanted = [tuple(part.shape) for part in parts]
        assert shapes == wanted, f"{name}: observations have shapes {shapes}, the space has {wanted}"
        for (path, x), part in zip(_leaves(begin[0]), parts, strict=True):
            declared = jax.dtypes.canonicalize_dtype(getattr(part, "dtype", x.dtype))
            assert x.dtype == declared, f"{name}: observation {path} is {x.dtype}, the space has {declared}"

    play = jax.jit(play)
    (_, _, (steps, obs)), (_, _, (again, _)) = play(reset_key, play_key), play(reset_key, play_key)
    for path, mask in _leaves(networks.split_mask(obs)[1]):
        stuck = ~np.asarray(mask).any(-1)
        assert not stuck.any(), f"{name}: action_mask {path} allows no action in {stuck.sum()} of the states acted in"
    assert_same_bits(steps.reward, again.reward, f"{name}: rewards of the same key")
    assert_same_bits(steps.next_obs, again.next_obs, f"{name}: observations of the same key")
    assert_finite((steps.next_obs, steps.reward), name)
    for seen in (steps.next_obs, obs) if known else ():  # the successors, and what a reset gives
        for (path, x), part in zip(_leaves(seen), parts, strict=True):
            which = "observation" if path == "it" else f"observation {path}"
            outside = np.asarray(x)[_outside(part, np.asarray(x, np.float64))]
            assert not outside.size, f"{name}: {which} {outside[:3]} lies outside of {part!r}"
    going_on = ~np.asarray(steps.terminated | steps.truncated)[:-1]
    for x, y in zip(jax.tree.leaves(steps.next_obs), jax.tree.leaves(obs), strict=True):
        x, y = np.asarray(x)[:-1][going_on], np.asarray(y)[1:][going_on]
        assert (x == y).all(), f"{name}: a step that did not end reports a successor that is not the next observation"


def _outside(part: Any, x: np.ndarray) -> np.ndarray:
    """Which of the numbers `[..., *shape]` lie outside of a space that is neither Dict nor Tuple."""
    if hasattr(part, "low"):
        low, high = np.asarray(part.low, np.float64), np.asarray(part.high, np.float64)
    else:
        low = np.asarray(distributions.first_of(part))
        high = low + _num_choices(part) - 1
    return (x < low - 1e-4) | (x > high + 1e-4)


def _check_dtypes(name: str, env: Any, env_params: Any, obs: Any, state: Any, key: Any) -> None:
    """Rewards are float32 and ends bool as the environment has them, before the learner converts them."""
    step = env.step if training.resets_itself(env) else env.step_env
    space = env.action_space(env_params)

    def first(key, obs, state):
        action = distributions.clip_to_space(space, _legal_action(space, key, obs))
        _, new, reward, terminated, *rest = step(key, state, action, env_params)
        if not training.resets_itself(env):
            return reward, terminated, is_truncated(env, new, env_params)
        return reward, terminated, rest[0] if len(rest) > 1 else terminated  # five values are refused later

    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (obs, state))
    reward, terminated, truncated = jax.eval_shape(first, key, *one)
    assert reward.dtype == jnp.float32, f"{name}: the reward of a step is {reward.dtype}; it must be float32"
    for what, x in (("terminated", terminated), ("truncated", truncated)):
        assert x.dtype == bool, f"{name}: {what} of a step is {x.dtype}; it must be bool"


def check_reward(reward: Reward, transitions: Transition, key: Any) -> None:
    """Check that a reward keeps the contract of `Reward` on a block `[T, N, ...]`.

    It gives a float32 `[T, N]` that is finite where valid; its state keeps its structure; the same input gives the
    same output; steps that are not valid have no effect on those that are.

    Raises:
      AssertionError: saying which clause is broken.
    """
    init_key, apply_key = jax.random.split(key)
    shape = transitions.reward.shape
    state = reward.init(init_key, jax.tree.map(lambda x: x[0], transitions))
    apply = jax.jit(reward.apply)
    new_state, shaped, metrics = apply(apply_key, state, transitions)
    assert_same_structure(state, new_state, "reward state")
    assert shaped.shape == shape, f"the reward has shape {shaped.shape}; it must be {shape}"
    assert shaped.dtype == jnp.float32, f"the reward is {shaped.dtype}; it must be float32"
    broken = sorted(name for name, x in metrics.items() if not np.isfinite(x).all())
    finite = np.isfinite(np.asarray(shaped)[np.asarray(transitions.valid)]).all()
    assert finite, "the reward is not finite" + (f"; nor are {', '.join(broken)}" if broken else "")
    for path, x in _leaves(metrics):
        assert jnp.shape(x) == (), f"metric {path} has shape {jnp.shape(x)}; metrics are scalars"
    assert_same_bits(shaped, apply(apply_key, state, transitions)[1], "the same input twice")
    masked = transitions._replace(valid=transitions.valid.at[-1].set(False))
    poisoned = masked._replace(reward=masked.reward.at[-1].set(1e6))
    a, b = (apply(apply_key, state, block)[1][:-1] for block in (masked, poisoned))
    assert_same_bits(a, b, "a step that is not valid changes the reward of others: it")
