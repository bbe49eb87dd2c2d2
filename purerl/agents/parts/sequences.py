"""Common parts of agents that learn from whole sequences: frozen reference, returns, groups, losses of steps.

A sequence is an episode of a block `[T, N]` of whole episodes; the steps of a text are its tokens. Blocks are
time-major, and the losses, which are those of `purerl.text.objectives`, are of arrays `[N, T]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl import losses
from purerl.agents.parts.policy_gradient import policy_gradient_agent
from purerl.core import Agent, Array, Distribution, Key, MemoryNetwork, Network, Transition
from purerl.gradients import epochs, sgd
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory
from purerl.text import objectives


@config
class Sequences:
    """Hyperparameters that every agent of whole sequences has; configs of agents add their own."""

    learning_rate: float = option(3e-3, "step size of Adam", low=0.0)
    anneal_steps: float | None = option(
        None,
        "environment steps over which the learning rate falls to 0; None keeps it",
        low=0.0,
        open_low=True,
        share=1.0,
    )
    entropy_cost: float = option(0.0, "weight of the entropy bonus", low=0.0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this global norm", low=0.0, open_low=True)
    kl_cost: float | None = option(
        None, "β, the weight of the KL from the policy to the frozen first one; None keeps none", low=0.0
    )
    kl_target: float | None = option(
        None, "nats a sequence near which β keeps the KL; None leaves β as it is", low=0.0, open_low=True
    )
    kl: Literal["k1", "k2", "k3"] = option("k1", "estimator of the KL: see purerl.text.objectives")
    kl_in: Literal["reward", "loss"] = option("reward", "whether the KL is a term of the reward or of the loss")


class SequenceState(NamedTuple):
    """The state of an agent of whole sequences: that of `Trained`, and what it compares with."""

    params: Any
    opt_state: Any
    updates: Array  # int32 []: calls of the agent's `update` so far
    reference: Any  # the frozen parameters; () without a KL cost
    kl_cost: Any  # β, float []; () unless it adapts
    own: Any  # of one agent, such as a moving average; ()


class Batch(NamedTuple):
    """Inputs of a loss other than parameters: leaves `[T, N, ...]`, or `[1, N]` for what a sequence has once."""

    obs: Any
    action: Any
    log_prob: Array  # when the action was taken
    ended: Array
    mask: Array  # bool: the steps that enter the losses
    reference: Any = ()  # log-probabilities under the reference; () without one
    reward: Any = ()  # [1, N]: of the sequence, without a gradient, NaN where it cannot be scored
    advantage: Any = ()  # [1, N], or [T, N]
    value: Any = ()  # before the update
    target: Any = ()  # of the value


class Steps(NamedTuple):
    """What a network makes of the steps of a batch, float `[N, T]` each."""

    log_prob: Array
    log_ratio: Array  # to when the action was taken
    entropy: Array
    value: Array
    mask: Array  # bool


def nothing(params: Any, obs: Any) -> tuple:
    """The own state of an agent that has none."""
    del params, obs
    return ()


def sequence_agent(
    network: Network | MemoryNetwork,
    policy: Distribution,
    hp: Any,
    optimizer: optax.GradientTransformation,
    update: Callable,
    reference: Any = None,
    group_size: int = 1,
    own: Callable[[Any, Any], Any] = nothing,
) -> Agent:
    """Build an agent of whole sequences from its `update`.

    Args:
      network: returns (policy parameters `[..., P]`, value `[...]`).
      hp: a config of `Sequences`.
      update: `(key, state: SequenceState, rollout) -> (state, metrics)`.
      reference: parameters of the frozen reference; None: those that `init` gives.
      group_size: see `Agent`.
      own: `(params, obs) -> own state`, the field of this name of the first state.
    Raises:
      ValueError: for a `kl_target` or a reference without a `kl_cost`.
    """
    if hp.kl_cost is None and not (hp.kl_target is None and reference is None):
        given = "reference" if hp.kl_target is None else f"kl_target {hp.kl_target}"
        raise ValueError(f"{type(hp).__name__}: there is a {given}, but kl_cost is None; give it a number")
    network = with_memory(network)
    agent = policy_gradient_agent(network, policy, optimizer, update, episodic=True)

    def init(key, obs):
        params, opt_state, updates = agent.init(key, obs)
        # copies, since no buffer may occur twice in a state
        frozen = () if hp.kl_cost is None else jax.tree.map(jnp.copy, params if reference is None else reference)
        kl_cost = () if hp.kl_target is None else jnp.asarray(hp.kl_cost, jnp.result_type(float))
        return SequenceState(params, opt_state, updates, frozen, kl_cost, own(params, obs))

    return agent._replace(init=init, group_size=group_size)


# --- reading a block ----------------------------------------------------------------------------------------------


def without_tails(tr: Transition) -> Transition:
    """The block `[T, N]` with every step behind an end replaced by the first step of its sequence, with reward 0.

    Masks leave these steps out of losses; with sound values in their place, whatever they were, gradients are finite
    too (0 x NaN is NaN).
    """

    def sound(x):
        return jnp.where(tr.valid.reshape(*tr.valid.shape, *[1] * (x.ndim - 2)), x, x[:1])

    terminated, truncated = tr.terminated & tr.valid, tr.truncated & tr.valid
    reward = jnp.where(tr.valid, tr.reward, 0.0)
    return jax.tree.map(sound, tr)._replace(reward=reward, terminated=terminated, truncated=truncated, valid=tr.valid)


def read(
    network: Network | MemoryNetwork, policy: Distribution, hp: Any, state: SequenceState, tr: Transition
) -> Batch:
    """The batch of a block `without_tails`, with the log-probabilities of the reference if there is a KL cost."""
    b = Batch(tr.obs, tr.action, tr.extras, tr.terminated | tr.truncated, tr.valid)
    if hp.kl_cost is None:
        return b
    return b._replace(reference=evaluate(network, policy, state.reference, b).log_prob.T)


def evaluate(network: Network | MemoryNetwork, policy: Distribution, params: Any, b: Batch) -> Steps:
    """Apply the network to sequences, each from the memory at the start of an episode."""
    network = with_memory(network)
    pi, value = network.unroll(params, network.memory(b.mask.shape[1]), b.obs, b.ended)[0]
    log_prob = policy.log_prob(pi, b.action)
    return Steps(*[x.T for x in (log_prob, log_prob - b.log_prob, policy.entropy(pi), value, b.mask)])


def by_group(x: Array, group_size: int) -> Array:
    """Numbers of sequences `[N]` by group, `[N / G, G]`.

    Raises:
      ValueError: at trace time, if G does not divide N.
    """
    if x.shape[0] % group_size:
        raise ValueError(f"group_size is {group_size}; it must divide num_envs, which is {x.shape[0]}")
    return x.reshape(-1, group_size)


def terminated(tr: Transition) -> Array:
    """Whether sequences ended by themselves and were not cut, bool `[N]`, of a block `without_tails`."""
    return tr.terminated.any(0)


# --- rewards ------------------------------------------------------------------------------------------------------


def coefficient(hp: Any, state: SequenceState) -> Any:
    """β, the weight of the KL to the reference; 0 without one."""
    if hp.kl_cost is None:
        return 0.0
    return hp.kl_cost if hp.kl_target is None else state.kl_cost


def kl_of_sampled(hp: Any, b: Batch) -> Array:
    """Estimates of the KL to the reference from the policy that sampled the batch, float `[N, T]`; 0 without one."""
    if hp.kl_cost is None:
        return jnp.zeros(b.log_prob.T.shape, b.log_prob.dtype)
    return objectives.kl_to_reference(b.log_prob.T, b.reference.T, hp.kl)


def penalized(hp: Any, state: SequenceState, b: Batch, returns: Array) -> Array:
    """Rewards of sequences `[N]`, minus β Σₜ KLₜ if the KL is a term of the reward."""
    if hp.kl_cost is None or hp.kl_in == "loss":
        return returns
    return objectives.penalized_reward(returns, kl_of_sampled(hp, b), b.mask.T, coefficient(hp, state))


def after_update(hp: Any, state: SequenceState, b: Batch, returns: Array) -> tuple[SequenceState, dict[str, Array]]:
    """The state with one more update and, if it adapts, the next β; metrics of the sequences that were sampled.

    Args:
      b: the batch of the block.  returns: the rewards of its sequences `[N]`, NaN where they cannot be scored.
    """
    counted = b.mask.any(0)
    mean = lambda x: losses.masked_mean(x, counted)
    metrics = {"length": mean(b.mask.sum(0).astype(jnp.float32)), "unscorable": (jnp.isnan(returns) & counted).sum()}
    state = state._replace(updates=state.updates + 1)
    if hp.kl_cost is None:
        return state, metrics
    metrics["kl"] = mean(objectives.sequence_log_prob(kl_of_sampled(hp, b), b.mask.T))
    if hp.kl_target is None:
        return state, metrics
    metrics["kl_cost"] = state.kl_cost
    cost = objectives.proportional_kl_coefficient(state.kl_cost, metrics["kl"], hp.kl_target)
    return state._replace(kl_cost=cost), metrics


# --- losses -------------------------------------------------------------------------------------------------------


def with_costs(
    hp: Any, cost: Any, b: Batch, now: Steps, policy_loss: Array, normaliser: Callable[[Array, Array], Array]
) -> tuple[Array, dict[str, Array]]:
    """The policy's loss with its other terms, the entropy bonus and the KL to the reference if it is one; and metrics.

        loss + β normaliser(KL) - c H,   H: mean entropy of the steps

    policy_loss: float []. `max_log_ratio` is max |log ρ|: before the first gradient step it is how far acting and
    learning disagree, 0 but for rounding.
    """
    entropy = losses.masked_mean(now.entropy, now.mask)
    total = policy_loss - hp.entropy_cost * entropy
    if hp.kl_cost is not None and hp.kl_in == "loss":
        total += cost * normaliser(objectives.kl_to_reference(now.log_prob, b.reference.T, hp.kl), now.mask)
    furthest = jnp.where(now.mask, jnp.abs(now.log_ratio), 0.0).max()
    return total, {"policy_loss": policy_loss, "entropy": entropy, "max_log_ratio": furthest}


def passes(loss: Callable, optimizer: optax.GradientTransformation, num_epochs: int, num_minibatches: int) -> Callable:
    """Passes over a batch in minibatches of whole sequences: `improve(key, state, batch, learning_rate)`.

    Raises:
      ValueError: at trace time, if `num_minibatches` does not divide the sequences.
    """
    step = sgd(loss, optimizer)

    def improve(key, state, b, learning_rate):
        num = b.mask.shape[1]
        if num % num_minibatches:
            raise ValueError(
                f"num_minibatches is {num_minibatches}; it must divide {num}, the sequences of an update: num_envs"
            )
        if num_epochs == num_minibatches == 1:
            return step(state, b, learning_rate)
        return epochs(step, num_epochs, num_minibatches)(key, state, b, learning_rate)

    return improve


# --- dynamic sampling ---------------------------------------------------------------------------------------------


class Buffer(NamedTuple):
    """Groups sampled since the last gradient step, as many as a block has."""

    batch: Batch  # leaves [T, N, ...]
    count: Array  # int32 []: groups in it


def empty_buffer(network: Network | MemoryNetwork, policy: Distribution, hp: Any) -> Callable[[Any, Any], Buffer]:
    """A function `(params, obs [N, ...]) -> Buffer` for N sequences of `hp.max_length` steps."""
    network = with_memory(network)

    def own(params, obs):
        num = jax.tree.leaves(obs)[0].shape[0]

        def sampled(key, params, obs):
            (pi, _), _ = network.step(params, network.memory(num), obs)
            action = policy.sample(key, pi)
            return action, policy.log_prob(pi, action)

        action, log_prob = jax.eval_shape(sampled, jax.eval_shape(jax.random.key, 0), params, obs)
        zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros((hp.max_length, *x.shape), x.dtype), tree)
        flags = jax.ShapeDtypeStruct((num,), bool)
        reference = () if hp.kl_cost is None else zeros(log_prob)
        batch = Batch(zeros(obs), zeros(action), zeros(log_prob), zeros(flags), zeros(flags), reference)
        return Buffer(batch._replace(reward=jnp.zeros((1, num))), jnp.zeros((), jnp.int32))

    return own


def when_full(
    learn: Callable, key: Key, state: SequenceState, b: Batch, informative: Array
) -> tuple[SequenceState, dict[str, Array]]:
    """Put the informative groups of a block into the buffer, and learn from it once it is full.

    The policy does not change while the buffer is filled. Groups for which there is no room are left out.
    Args:
      learn: `(key, state, batch) -> (state, metrics)`; the metrics are 0 in an update without it.
      state: its `own` is the buffer.  b: leaves `[T, N, ...]`.  informative: bool `[N / G]`.
    Returns:
      The state, and metrics: `learn`'s, `learned`: whether it was called, `buffered`: groups in the buffer before that.
    Raises:
      ValueError: at trace time, for sequences of another length than those of the buffer.
    Reference: Yu et al., 2025, arXiv:2503.14476, section 3.2.
    """
    buffer: Buffer = state.own
    (num_groups,), (length, num) = informative.shape, b.mask.shape
    if length != buffer.batch.mask.shape[0]:
        raise ValueError(
            f"max_length is {buffer.batch.mask.shape[0]}; for dynamic sampling it must be rollout_length, {length}"
        )
    group: Array = jnp.where(informative, buffer.count + jnp.cumsum(informative) - 1, num_groups)
    size = num // num_groups
    rows = (group[:, None] * size + jnp.arange(size)).reshape(-1)
    # rows behind the last are dropped
    put = lambda old, new: old.at[:, rows].set(new.astype(old.dtype), mode="drop")
    batch = jax.tree.map(put, buffer.batch, b)
    count = jnp.minimum(buffer.count + informative.sum(dtype=jnp.int32), num_groups)
    full, now = count == num_groups, lambda: learn(key, state, batch)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(now)[1])
    state, metrics = jax.lax.cond(full, now, lambda: (state, zeros))
    state = state._replace(own=Buffer(batch, jnp.where(full, 0, count)))
    return state, {**metrics, "learned": full, "buffered": count}


# --- parts of a loss, by name -------------------------------------------------------------------------------------


def constant_length(loss: Array, mask: Array) -> Array:
    """`objectives.dr_grpo` with the length of the block as the longest sequence: Σ ℓ m / (N T).

    >>> constant_length(jnp.ones((1, 4)), jnp.array([[True, True, False, False]])).item()
    0.5
    """
    return objectives.dr_grpo(mask.shape[1])(loss, mask)


def of_steps(now: Steps, advantage: Array, low=0.2, high=0.28) -> tuple[Array, Array]:
    """`objectives.clipped`, with one ratio a step: its loss, and where the ratio is out of its bounds; `[N, T]`."""
    rho = losses.ratio(now.log_ratio)
    return objectives.clipped(now.log_ratio, advantage, low, high), (rho < 1 - low) | (rho > 1 + high)


def of_sequences(now: Steps, advantage: Array, low=3e-4, high=4e-4) -> tuple[Array, Array]:
    """`objectives.gspo`, with one ratio a sequence: its loss, and where the ratio is out of its bounds; `[N, T]`."""
    rho = losses.ratio(objectives.sequence_log_ratio(now.log_ratio, now.mask))[:, None]
    loss = objectives.gspo(now.log_ratio, advantage, now.mask, low, high)
    return loss, jnp.broadcast_to((rho < 1 - low) | (rho > 1 + high), loss.shape)


def as_weights(now: Steps, advantage: Array, low=0.0, high=5.0) -> tuple[Array, Array]:
    """`objectives.cispo`, with ratios as weights, at most `high`: its loss, and where they are larger; `[N, T]`."""
    del low  # there is no lower clip
    above = losses.ratio(now.log_ratio) > high
    return objectives.cispo(now.log_prob, now.log_ratio, advantage, high), above


Named = Mapping[str, Callable]
NORMALISERS: Named = {
    "grpo": objectives.grpo,
    "bnpo": objectives.bnpo,
    "dr_grpo": constant_length,
    "dapo": objectives.dapo,
}
RATIOS: Named = {"token": of_steps, "gspo": of_sequences, "cispo": as_weights}
