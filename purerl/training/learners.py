"""A training run as a pair of pure functions: init and step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from purerl import losses
from purerl.arguments import check_counts
from purerl.core import Agent, Array, Key, Learner, Reward, Transition, short_repr
from purerl.training.environments import canonical, count_own, group_keys, resets_itself, vectorized, with_reset_pool
from purerl.training.rollouts import ActorState, first_episodes, rollout, start


class Sums(NamedTuple):
    """Statistics of updates, as sums over updates."""

    updates: Array  # int32
    episodes: Array  # int32: episodes finished
    returns: Array  # float32: sum of their returns, in the environment's reward
    lengths: Array  # float32: sum of their lengths
    metrics: dict[str, Array]  # float32 []: of the agent


def summarize(sums: Sums) -> dict[str, Array]:
    """Convert `Sums` to means: the agent's metrics per update, return and length per finished episode.

    If no episode finished, `episodes` is 0, and `episode_return` and `episode_length` are NaN.
    """
    count = jnp.where(sums.episodes > 0, sums.episodes, jnp.nan)
    return {
        "episodes": sums.episodes,
        "episode_return": sums.returns / count,
        "episode_length": sums.lengths / count,
        **{name: x / sums.updates for name, x in sums.metrics.items()},
    }


def _finished(position: ActorState, tr: Transition) -> tuple[Array, Array, Array, Array, Array]:
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


class LearnerState(NamedTuple):
    """The complete state of a run, as stored in a checkpoint."""

    iteration: Array  # int32 []: updates so far
    key: Key
    agent: Any
    reward: Any
    position: ActorState | tuple  # () if every block starts with a reset
    nonfinite: Array  # int32 []: the first update whose metrics were not all finite; 0 if there is none

    __repr__ = short_repr


def learner(
    env: Any,
    env_params: Any,
    agent: Agent,
    num_envs: int,
    rollout_length: int,
    reward: Reward | None = None,
    episodic: bool | None = None,
    group_size: int | None = None,
    info: Sequence[str] = (),
    reset_pool: int | None = None,
    returns: Literal["environment", "training"] = "environment",
) -> Learner:
    """A learner of an agent in N copies of an environment: one `step` is one block of transitions and one `update`.

    Args:
      env, env_params: a gymnax 1.x environment, such as `purerl.make(id)` gives. A leaf of `env_params` that has one
        axis more than in `env.default_params`, `[num_envs, ...]`, has a value for each environment (domain
        randomisation): `env_params.replace(length=jax.random.uniform(key, (num_envs,), minval=0.3, maxval=0.7))`.
      num_envs, rollout_length: a block is `[rollout_length, num_envs]` steps.
      reward: the training reward, which replaces the environment's reward in updates. Reported returns remain those
        of the environment; the mean training reward of a step is the metric `reward`, in which environments whose
        reward is NaN in the block, because it cannot be scored, do not count (agents that leave them out count them).
      episodic: every block starts with a reset and `rollout_length` limits its episodes; steps after the end of an
        environment's first episode are not `valid`. None: as the agent needs.
      group_size: the number of neighbouring environments that share their reset keys (and nothing else). None: as the
        agent needs.
      info: names of the leaves of the environment's info that transitions store.
      reset_pool: for environments with an expensive reset, the number of resets computed at the start of each block.
        Its episodes start from states sampled from this pool with replacement. The bias: within one block, initial
        states repeat more often. None computes a reset whenever an episode ends.
      returns: the reward that reported returns are sums of: the environment's, or the training reward, for
        environments whose own reward is not the aim; those whose reward is NaN in the block do not count.
    Raises:
      ValueError: for counts that are not positive ints, a group size that does not divide num_envs or is not the one
        that the agent needs, `episodic=False` for an agent that needs whole episodes, or a pool for a wrapper that
        resets itself; in `step`, for a reward with a metric that has the name of one of the learner's metrics.
    """
    if returns not in ("environment", "training"):
        raise ValueError(f"returns is {returns!r}; it must be 'environment' or 'training'")
    group_size = agent.group_size if group_size is None else group_size
    counts = {"num_envs": num_envs, "rollout_length": rollout_length, "group_size": group_size}
    counts |= {} if reset_pool is None else {"reset_pool": reset_pool}
    check_counts("learner", **counts)
    if num_envs % group_size:
        raise ValueError(f"group_size is {group_size}; it must divide num_envs, which is {num_envs}")
    if agent.group_size not in (1, group_size):
        raise ValueError(f"group_size is {group_size}; this agent needs groups of {agent.group_size}: leave it out")
    if agent.episodic and episodic is False:
        raise ValueError("episodic is False; this agent needs whole episodes: leave it out, or True")
    if reset_pool is not None and resets_itself(env):
        raise ValueError(f"reset_pool is {reset_pool}; {type(env).__name__} resets itself: leave it out")
    episodic = agent.episodic if episodic is None else episodic
    own = count_own(env, env_params)
    if own is not None and own != num_envs:
        raise ValueError(f"env_params has values for {own} environments; num_envs is {num_envs}")
    if own is not None and reset_pool is not None:
        raise ValueError(f"reset_pool is {reset_pool}; states of a pool do not have each environment's own env_params")
    environment = vectorized(env, env_params)

    def block(key, agent_state, position):
        world = environment
        if reset_pool is not None:
            pool_key, key = jax.random.split(key)
            world = with_reset_pool(environment, pool_key, reset_pool)
        if episodic:
            reset_key, key = jax.random.split(key)
            position = start(world, agent, group_keys(reset_key, num_envs, group_size))
        end, data = rollout(world, agent, agent_state, position, key, rollout_length, group_size, info, episodic)
        if episodic:
            data = data._replace(transitions=first_episodes(data.transitions))
        return position, end, data

    def init(key):
        reset_key, agent_key, reward_key, run_key = jax.random.split(key, 4)
        position = start(environment, agent, group_keys(reset_key, num_envs, group_size))
        agent_state = canonical(agent.init(agent_key, position.obs))
        reward_state = ()
        if reward is not None:
            _, _, data = jax.eval_shape(block, run_key, agent_state, position)
            example = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), data.transitions)
            reward_state = canonical(reward.init(reward_key, example))
        # two arrays: a donated buffer must not occur twice in the state
        iteration, nonfinite = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return LearnerState(iteration, run_key, agent_state, reward_state, () if episodic else position, nonfinite)

    def step(state):
        block_key, reward_key, update_key = jax.random.split(jax.random.fold_in(state.key, state.iteration), 3)
        position, end, data = block(block_key, state.agent, state.position)
        reported = data.transitions
        reward_state, own_metrics, reward_metrics = state.reward, {}, {}
        if reward is not None:
            reward_state, shaped, reward_metrics = reward.apply(reward_key, state.reward, data.transitions)
            own_metrics = {"reward": losses.scorable_mean(shaped, data.transitions.valid)}
            data = data._replace(transitions=data.transitions._replace(reward=shaped))
            if returns == "training":  # of the environments whose reward is nowhere NaN
                scored = ~(jnp.isnan(shaped) & reported.valid).any(0)
                reported = data.transitions._replace(valid=reported.valid & scored)
        episodes, total, lengths, open_return, open_length = _finished(position, reported)
        agent_state, metrics = agent.update(update_key, state.agent, data)
        metrics = {**metrics, **own_metrics}
        if reserved := sorted(reward_metrics.keys() & {*metrics, "episodes", "episode_return", "episode_length"}):
            raise ValueError(
                f"reward reports {', '.join(reserved)}, which the learner reports itself; name its terms otherwise"
            )
        end = () if episodic else end._replace(episode_return=open_return, episode_length=open_length)
        metrics = {name: jnp.asarray(x, jnp.float32) for name, x in {**metrics, **reward_metrics}.items()}
        sums = Sums(jnp.ones((), jnp.int32), episodes, total, lengths, metrics)
        iteration = state.iteration + 1
        finite = jnp.array([jnp.isfinite(x).all() for x in metrics.values()]).all()
        nonfinite = jnp.where((state.nonfinite == 0) & ~finite, iteration, state.nonfinite)
        return LearnerState(iteration, state.key, agent_state, reward_state, end, nonfinite), sums

    return Learner(init, step)
