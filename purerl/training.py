"""The only loop: rollout, learner, train, run, batch, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from purerl import losses
from purerl.core import Agent, Array, Key, Learner, Reward, Rollout, Transition
from purerl.distributions import clip_to_space

# --- environments ---------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What one step of N environments gives: the transition's own values, and where acting goes on from."""

    next_obs: Any  # the true successor
    reward: Array
    terminated: Array
    truncated: Array
    info: Any
    obs: Any  # after a reset where an episode ended
    state: Any


class Environment(NamedTuple):
    """An environment as the loop uses it: vectorised over N and reset at episode ends."""

    reset: Callable[[Array], tuple[Any, Any]]  # keys [N] -> (obs, state)
    # (keys [N], reset_keys [N], state, action, reset) -> Step; `reset` takes reset_keys where an episode ended
    step: Callable[[Array, Array, Any, Any, Callable], Step]


def _canonical(tree: Any) -> Any:
    """No weak types: they would change a loop's carry after its first step."""

    def strong(x):
        x = jnp.asarray(x)
        return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(strong, tree)


def _types(tree: Any) -> tuple[Any, list[str]]:
    """A pytree's structure, and the shape and dtype of every leaf in words."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return jax.tree.structure(tree), [f"{jax.tree_util.keystr(p)}{x.dtype}{list(x.shape)}" for p, x in leaves]


def _select(ended: Array, new: Any, old: Any) -> Any:
    """`new` where an environment ended, leaves `[N, ...]`."""
    pick = lambda new, old: jnp.where(ended.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    return jax.tree.map(pick, new, old)


def resets_itself(env: Any) -> bool:
    """Whether an environment overrides gymnax's `step`, as gymnax's wrappers do; then it must be called as it is."""
    from gymnax.environments.environment import Environment as GymnaxEnvironment

    return not hasattr(type(env), "step_env") or getattr(type(env), "step", None) is not GymnaxEnvironment.step


def vectorized(env: Any, env_params: Any) -> Environment:
    """A gymnax 1.x environment as pure functions over N copies. Actions are clipped to the action space.

    Where `env.step` is gymnax's own, `step_env` and `is_truncated` are called instead, and the reset is computed
    only on steps in which some episode ended (under `vmap`, on every step). A wrapper that overrides `step`
    resets itself; its true successor is read from `info["final_observation"]`.

    Raises:
      ValueError: at trace time, for the five-value step of gymnax 0.x or a reward that is not a scalar.
    """
    space, name = env.action_space(env_params), getattr(env, "name", type(env).__name__)

    def reset(key):
        return _canonical(env.reset(key, env_params))

    def checked(obs, state, reward, terminated, truncated, info, next_obs):
        for what, x in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
            if jnp.shape(x) != ():
                raise ValueError(f"{name}: the {what} of a step has shape {jnp.shape(x)}; it must be a scalar, ()")
        flags = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        next_obs, obs, state = _canonical((next_obs, obs, state))
        return Step(next_obs, jnp.asarray(reward, jnp.float32), *flags, info, obs, state)

    def step_once(key, state, action):
        obs, state, reward, terminated, info = env.step_env(key, state, clip_to_space(space, action), env_params)
        return checked(obs, state, reward, terminated, env.is_truncated(state, env_params), info, obs)

    def step_and_reset(keys, reset_keys, state, action, begin):
        out = jax.vmap(step_once)(keys, state, action)
        for what, stepped, begun in zip(("obs", "state"), out[-2:], jax.eval_shape(begin, keys), strict=True):
            before, after = _types(begun), _types(stepped)
            if before != after:
                raise ValueError(f"{name}: {what} of reset_env is {before[1]}, and of step_env {after[1]}")
        ended = out.terminated | out.truncated
        renew = lambda: _select(ended, begin(reset_keys), (out.obs, out.state))
        obs, state = jax.lax.cond(ended.any(), renew, lambda: (out.obs, out.state))
        return out._replace(obs=obs, state=state)

    def self_resetting(key, state, action):
        out = env.step(key, state, clip_to_space(space, action), env_params)
        if len(out) != 6:
            raise ValueError(
                f"{name}: step returns {len(out)} values; gymnax 1.x returns six (obs, state, reward, terminated, "
                "truncated, info). purerl.envs.from_five_values(env) adapts an environment of gymnax 0.x"
            )
        obs, state, reward, terminated, truncated, info = out
        return checked(obs, state, reward, terminated, truncated, info, info["final_observation"])

    def step_of_wrapper(keys, reset_keys, state, action, begin):
        del reset_keys, begin
        return jax.vmap(self_resetting)(keys, state, action)

    return Environment(jax.vmap(reset), step_of_wrapper if resets_itself(env) else step_and_reset)


def with_reset_pool(environment: Environment, key: Key, size: int) -> Environment:
    """The environment with a `reset` that draws from `size` resets computed now, uniformly and with replacement."""
    pool = environment.reset(jax.random.split(key, size))

    def reset(keys):
        index = jax.vmap(lambda key: jax.random.randint(key, (), 0, size))(keys)
        return jax.tree.map(lambda x: x[index], pool)

    return environment._replace(reset=reset)


# --- one block ------------------------------------------------------------------------------------------------------


def group_keys(key: Key, num_envs: int, group_size: int = 1) -> Array:
    """Keys `[N]` that the `group_size` members of a group share."""
    keys = jax.random.split(key, num_envs // group_size)
    return keys if group_size == 1 else keys[jnp.arange(num_envs) // group_size]


class Position(NamedTuple):
    """Where N environments stand between two blocks."""

    env: Any
    obs: Any
    memory: Any
    episode_return: Array  # float32 [N], of the episode in progress
    episode_length: Array  # int32 [N]


def start(environment: Environment, agent: Agent, keys: Array) -> Position:
    """N environments at an episode's start, from their reset keys `[N]`."""
    num_envs = keys.shape[0]
    obs, env_state = environment.reset(keys)
    memory = agent.memory(num_envs)
    return Position(env_state, obs, memory, jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32))


def rollout(
    environment: Environment,
    agent: Agent,
    agent_state: Any,
    position: Position,
    key: Key,
    length: int,
    group_size: int = 1,
    info: Sequence[str] = (),
) -> tuple[Position, Rollout]:
    """Act for `length` steps: where the environments then stand, and the block `[T, N, ...]`, all of it valid."""
    num_envs = position.episode_return.shape[0]

    def step(carry, key):
        env_state, obs, memory = carry
        act_key, env_key, reset_key = jax.random.split(key, 3)
        action, memory, extras = agent.act(act_key, agent_state, memory, obs)
        keys, reset_keys = jax.random.split(env_key, num_envs), group_keys(reset_key, num_envs, group_size)
        out = environment.step(keys, reset_keys, env_state, action, environment.reset)
        missing = [name for name in info if name not in out.info]
        if missing:
            raise ValueError(f"info: the environment gives {sorted(out.info)}, not {missing}")
        kept = {name: out.info[name] for name in info}
        memory = agent.reset(memory, out.terminated | out.truncated)
        ends, valid = (out.terminated, out.truncated), jnp.ones(num_envs, bool)
        transition = Transition(obs, action, out.reward, out.next_obs, *ends, valid, extras, kept if info else ())
        return (out.state, out.obs, memory), transition

    carry = (position.env, position.obs, position.memory)
    (env_state, obs, memory), transitions = jax.lax.scan(step, carry, jax.random.split(key, length))
    return position._replace(env=env_state, obs=obs, memory=memory), Rollout(transitions, position.memory)


def first_episodes(tr: Transition) -> Transition:
    """The block with only each environment's first episode valid; one that did not end is truncated by the block."""
    ended = (tr.terminated | tr.truncated).astype(jnp.int32)
    valid = jnp.cumsum(ended, axis=0) - ended == 0
    capped = valid[-1] & ~tr.terminated[-1]
    return tr._replace(valid=valid, truncated=tr.truncated.at[-1].set(tr.truncated[-1] | capped))


# --- what a run reports ---------------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """What updates report, in a form that adds up over updates."""

    updates: Array  # int32
    episodes: Array  # int32: episodes finished
    returns: Array  # float32: sum of their returns, in the environment's own reward
    lengths: Array  # float32: sum of their lengths
    metrics: dict[str, Array]


def summarize(sums: Sums) -> dict[str, Array]:
    """`Sums` as means: the agent's metrics per update, return and length per finished episode.

    Where no episode finished, `episodes` is 0, and `episode_return` and `episode_length` are NaN.
    """
    count = jnp.where(sums.episodes > 0, sums.episodes, jnp.nan)
    return {
        "episodes": sums.episodes,
        "episode_return": sums.returns / count,
        "episode_length": sums.lengths / count,
        **{name: x / sums.updates for name, x in sums.metrics.items()},
    }


def _finished(position: Position, tr: Transition) -> tuple[Array, Array, Array, Array, Array]:
    """(episodes finished in a block, their returns' sum, their lengths' sum, return and length still in progress)."""
    ended = (tr.terminated | tr.truncated) & tr.valid
    # a step belongs to a finished episode if its environment ends at that step or later in the block
    finished = jnp.flip(jnp.cumsum(jnp.flip(ended, 0), 0), 0) > 0
    reward = jnp.where(tr.valid, tr.reward, 0.0)
    length = tr.valid.astype(jnp.int32)
    any_end = finished[0]

    def split(x: Array, before: Array) -> tuple[Array, Array]:
        complete = jnp.where(any_end, before, 0).sum() + jnp.where(finished, x, 0).sum()
        return complete, jnp.where(any_end, 0, before) + jnp.where(finished, 0, x).sum(0)

    returns, open_return = split(reward, position.episode_return)
    lengths, open_length = split(length, position.episode_length)
    return ended.sum(dtype=jnp.int32), returns, lengths.astype(jnp.float32), open_return, open_length


# --- the learner ----------------------------------------------------------------------------------------------------


class LearnerState(NamedTuple):
    """Everything a run needs to go on: this is the checkpoint."""

    iteration: Array  # int32 []: updates done
    key: Key
    agent: Any
    reward: Any
    position: Position | tuple  # () where every block starts anew
    nonfinite: Array  # int32 []: the first update whose metrics were not all finite; 0 while there is none


def learner(
    env: Any,
    env_params: Any,
    agent: Agent,
    num_envs: int,
    rollout_length: int,
    reward: Reward | None = None,
    episodic: bool | None = None,
    group_size: int = 1,
    info: Sequence[str] = (),
    reset_pool: int | None = None,
) -> Learner:
    """An agent learning in N copies of an environment: one `step` is one block of experience and one `update`.

    Args:
      env, env_params: a gymnax 1.x environment, such as `purerl.make(id)` gives.
      num_envs, rollout_length: a block is `[rollout_length, num_envs]` steps.
      reward: replaces the environment's reward in what the agent learns from; returns are reported unchanged, and
        what a step paid is in the metrics as `reward`.
      episodic: every block starts with a reset and `rollout_length` caps its episodes; steps after an
        environment's first end are not `valid`. None: as the agent needs.
      group_size: so many neighbouring environments share their reset keys (and nothing else).
      info: names of the leaves of the environment's info that transitions keep.
      reset_pool: where a reset is dear, compute only so many at each block's start, and begin the block's episodes
        from them, drawn with replacement. The bias: within one block, starts repeat more often than they should.
        None computes a reset whenever an episode ends.
    Raises:
      ValueError: for counts that are not positive ints, a group size that does not divide num_envs,
        `episodic=False` for an agent that needs whole episodes, or a pool for a wrapper that resets itself; when it
        steps, for a reward that reports a metric by a name that the learner has for one of its own.
    """
    counts = {"num_envs": num_envs, "rollout_length": rollout_length, "group_size": group_size}
    counts |= {} if reset_pool is None else {"reset_pool": reset_pool}
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} is {count!r}; it must be a positive int")
    if num_envs % group_size:
        raise ValueError(f"group_size is {group_size}; it must divide num_envs, which is {num_envs}")
    if agent.episodic and episodic is False:
        raise ValueError("episodic is False; this agent needs whole episodes: leave it out, or True")
    if reset_pool is not None and resets_itself(env):
        raise ValueError(f"reset_pool is {reset_pool}; {type(env).__name__} resets itself: leave it out")
    episodic = agent.episodic if episodic is None else episodic
    environment = vectorized(env, env_params)

    def block(key, agent_state, position):
        world = environment
        if reset_pool is not None:
            pool_key, key = jax.random.split(key)
            world = with_reset_pool(environment, pool_key, reset_pool)
        if episodic:
            reset_key, key = jax.random.split(key)
            position = start(world, agent, group_keys(reset_key, num_envs, group_size))
        end, data = rollout(world, agent, agent_state, position, key, rollout_length, group_size, info)
        if episodic:
            data = data._replace(transitions=first_episodes(data.transitions))
        return position, end, data

    def init(key):
        reset_key, agent_key, reward_key, run_key = jax.random.split(key, 4)
        position = start(environment, agent, group_keys(reset_key, num_envs, group_size))
        agent_state = _canonical(agent.init(agent_key, position.obs))
        reward_state = ()
        if reward is not None:
            _, _, data = jax.eval_shape(block, run_key, agent_state, position)
            example = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), data.transitions)
            reward_state = _canonical(reward.init(reward_key, example))
        # two zeros: a buffer that is donated must not stand in the state twice
        iteration, nonfinite = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return LearnerState(iteration, run_key, agent_state, reward_state, () if episodic else position, nonfinite)

    def step(state):
        block_key, reward_key, update_key = jax.random.split(jax.random.fold_in(state.key, state.iteration), 3)
        position, end, data = block(block_key, state.agent, state.position)
        episodes, returns, lengths, open_return, open_length = _finished(position, data.transitions)
        reward_state, own_metrics, reward_metrics = state.reward, {}, {}
        if reward is not None:
            reward_state, shaped, reward_metrics = reward.apply(reward_key, state.reward, data.transitions)
            own_metrics = {"reward": losses.masked_mean(shaped, data.transitions.valid)}
            data = data._replace(transitions=data.transitions._replace(reward=shaped))
        agent_state, metrics = agent.update(update_key, state.agent, data)
        metrics = {**metrics, **own_metrics}
        if taken := sorted(reward_metrics.keys() & {*metrics, "episodes", "episode_return", "episode_length"}):
            raise ValueError(
                f"reward reports {', '.join(taken)}, which the learner reports itself; name its terms otherwise"
            )
        end = () if episodic else end._replace(episode_return=open_return, episode_length=open_length)
        metrics = {name: jnp.asarray(x, jnp.float32) for name, x in {**metrics, **reward_metrics}.items()}
        sums = Sums(jnp.ones((), jnp.int32), episodes, returns, lengths, metrics)
        iteration = state.iteration + 1
        finite = jnp.array([jnp.isfinite(x).all() for x in metrics.values()]).all()
        nonfinite = jnp.where((state.nonfinite == 0) & ~finite, iteration, state.nonfinite)
        return LearnerState(iteration, state.key, agent_state, reward_state, end, nonfinite), sums

    return Learner(init, step)


# --- running --------------------------------------------------------------------------------------------------------


def advance(learner: Learner, state: Any, num_updates: Any) -> tuple[Any, dict[str, Array]]:
    """`num_updates` updates and the summary of them: an int gives a scan that `grad` passes, an Array a loop."""

    step = jax.jit(learner.step, inline=True)  # traced once for its shapes and for the loop

    def body(_, carry):
        state, sums = carry
        state, new = step(state)
        return state, jax.tree.map(jnp.add, sums, new)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, state)[1])
    state, sums = jax.lax.fori_loop(0, num_updates, body, (state, zeros))
    return state, summarize(sums)


def train(learner: Learner, key: Key, num_updates: int, every: int = 1) -> tuple[Any, dict[str, Array]]:
    """A whole run as one function of a key: jit, vmap, grad or shard it as you like.

    Args:
      num_updates: calls of `learner.step`.  every: updates that one row of the metrics summarises.
    Returns:
      The final state, and metrics `[num_updates / every, ...]` (see `summarize`).
    Raises:
      ValueError: if `every` does not divide `num_updates`; `run` has no such limit.
    """
    if every < 1 or num_updates < 1 or num_updates % every:
        raise ValueError(f"every is {every}; it must be positive and divide num_updates, which is {num_updates}")
    return jax.lax.scan(lambda state, _: advance(learner, state, every), learner.init(key), length=num_updates // every)


@partial(jax.jit, static_argnums=0)
def _init(make, hp, key):
    return make(hp).init(key)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(make, hp, state, num_updates):
    return advance(make(hp), state, num_updates)


def _as_arrays(hp: Any) -> Any:
    """Python floats and arrays alike become strong float32 arrays, so that neither compiles again."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), hp)


class Program(NamedTuple):
    """A run compiled ahead: `run(..., program=...)` starts from its state, once."""

    state: Any
    advance: Callable


def compile_run(make: Callable[[Any], Learner], hp: Any, key: Key | None = None, state: Any = None) -> Program:
    """Compile everything that `run` will execute, and make its first state; for those who time the two apart."""
    hp = _as_arrays(hp)
    state = _init(make, hp, key) if state is None else state
    compiled = _advance.lower(make, hp, state, jnp.int32(1)).compile()
    return Program(state, lambda make, hp, state, num_updates: compiled(hp, state, num_updates))


def run(
    make: Callable[[Any], Learner],
    hp: Any,
    key: Key | None,
    num_updates: int,
    every: int = 1,
    state: Any = None,
    program: Program | None = None,
) -> Iterator[tuple[int, Any, dict[str, Array]]]:
    """The same run as `train`, in compiled chunks; logging, drawing and saving are the caller's lines.

    Compiles once for a `make` and the ints in `hp`: other floats, keys and lengths run the same program.

    Args:
      make: `hp -> Learner`; define it once and reuse it, since compilations are kept by its identity.
      hp: hyperparameters, any pytree of floats.
      key: of the whole run; None with `state`.
      num_updates: updates to do, counted from the state given.
      every: updates a chunk; the last chunk may be shorter.
      state: where to go on from: what an earlier `run` yielded. It is donated.
      program: what `compile_run` gave.
    Yields:
      `(iteration, state, metrics)`: updates done in all, a state that is valid until the next iteration (copy
      what you keep), and the chunk's metrics (see `summarize`).
    Raises:
      ValueError: for counts that are not positive, or both or neither of key and state.
    """
    if num_updates < 1 or every < 1:
        raise ValueError(f"num_updates and every must be positive, got {num_updates} and {every}")
    if program is None and (key is None) == (state is None):
        raise ValueError("give either a key, to start, or a state, to go on from")
    return _run(make, _as_arrays(hp), key, num_updates, every, state, program)


def _run(make, hp, key, num_updates, every, state, program):
    step = _advance
    if program is not None:
        state, step = program
    elif state is None:
        state = _init(make, hp, key)
    first = int(np.max(np.asarray(state.iteration)))
    for done in range(0, num_updates, every):
        size = min(every, num_updates - done)
        state, metrics = step(make, hp, state, jnp.int32(size))
        yield first + done + size, state, metrics


def batch(make: Callable[[Any], Learner], devices: Sequence[Any] | None = None) -> Callable[[Any], Learner]:
    """Many runs as one: a `make` whose learner takes keys `[S]`, and whose `hp` may have leaves `[S]`.

    Seeds, and values of any float, share one program: leaves of `hp` that are vectors go with the keys, scalars
    are shared. With `devices`, the S runs are split over them, without communication.

    Raises:
      ValueError: at trace time, if the number of devices does not divide S.

    >>> from purerl.core import Learner
    >>> make = lambda hp: Learner(lambda key: hp * jax.random.uniform(key), lambda state: (state, ()))
    >>> batch(make)(jnp.array([0.0, 1.0])).init(jax.random.split(jax.random.key(0), 2)).shape
    (2,)
    """

    def axes(hp):
        return jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, hp)

    def over_devices(function, hp):
        if devices is None:
            return function
        mesh = Mesh(np.array(devices), ("runs",))
        specs = jax.tree.map(lambda x: P("runs") if jnp.ndim(x) else P(), hp)
        return jax.shard_map(function, mesh=mesh, in_specs=(specs, P("runs")), out_specs=P("runs"), check_vma=False)

    def check(keys):
        if devices is not None and keys.shape[0] % len(devices):
            raise ValueError(
                f"{keys.shape[0]} runs; their number must be a multiple of that of devices, {len(devices)}"
            )
        return keys

    def make_batch(hp):
        init = jax.vmap(lambda hp, key: make(hp).init(key), (axes(hp), 0))
        step = jax.vmap(lambda hp, state: make(hp).step(state), (axes(hp), 0))
        return Learner(lambda keys: over_devices(init, hp)(hp, check(keys)), partial(over_devices(step, hp), hp))

    return make_batch


def shard_environments(state: LearnerState, devices: Sequence[Any]) -> LearnerState:
    """One agent's state with its environments split over devices and the rest on all of them.

    Go on with it by `run(..., state=...)`: the partitioner inserts the means. Equal to one device up to rounding.

    Raises:
      ValueError: if the number of devices does not divide the number of environments.
    """
    mesh = Mesh(np.array(devices), ("envs",))
    num_envs = jax.tree.leaves(state.position)[0].shape[0]
    if num_envs % len(devices):
        raise ValueError(f"{len(devices)} devices; their number must divide num_envs, which is {num_envs}")
    everywhere = jax.device_put(state, NamedSharding(mesh, P()))
    return everywhere._replace(position=jax.device_put(state.position, NamedSharding(mesh, P("envs"))))


# --- evaluation -----------------------------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """Episodes `[E]`, one a row. Those not `finished` were cut by `max_steps`; their return is up to there."""

    returns: Array
    lengths: Array
    finished: Array


def evaluate(
    env: Any,
    env_params: Any,
    agent: Agent,
    agent_state: Any,
    key: Key,
    num_episodes: int = 128,
    max_steps: int | None = None,
    greedy: bool = False,
) -> Evaluation:
    """Play one episode in each of `num_episodes` environments: a pure function that changes nothing.

    Args:
      agent_state: `state.agent` of a learner's state.
      max_steps: the cap on an episode; None takes `env_params.max_steps_in_episode`.
      greedy: act by the mode of the policy instead of sampling.
    Raises:
      ValueError: if there is no cap, or a count is not positive.
    """
    max_steps = getattr(env_params, "max_steps_in_episode", None) if max_steps is None else max_steps
    if max_steps is None:
        raise ValueError("max_steps is None, and env_params has no max_steps_in_episode to take: give a cap")
    if num_episodes < 1:
        raise ValueError(f"num_episodes is {num_episodes}; it must be positive")
    environment = vectorized(env, env_params)
    reset_key, step_key = jax.random.split(key)

    def step(carry):
        time, position, finished = carry
        act_key, env_key, reset_key = jax.random.split(jax.random.fold_in(step_key, time), 3)
        if greedy:
            action, memory = agent.greedy(agent_state, position.memory, position.obs)
        else:
            action, memory, _ = agent.act(act_key, agent_state, position.memory, position.obs)
        keys, reset_keys = jax.random.split(env_key, num_episodes), jax.random.split(reset_key, num_episodes)
        out = environment.step(keys, reset_keys, position.env, action, environment.reset)
        ended = out.terminated | out.truncated
        returns = position.episode_return + jnp.where(finished, 0.0, out.reward)
        lengths = position.episode_length + ~finished
        position = Position(out.state, out.obs, agent.reset(memory, ended), returns, lengths)
        return time + 1, position, finished | ended

    begin = (jnp.zeros((), jnp.int32), start(environment, agent, jax.random.split(reset_key, num_episodes)))
    go_on = lambda carry: (carry[0] < max_steps) & ~carry[2].all()
    _, position, finished = jax.lax.while_loop(go_on, step, (*begin, jnp.zeros(num_episodes, bool)))
    return Evaluation(position.episode_return, position.episode_length, finished)
