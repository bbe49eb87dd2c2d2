"""Types of the library: transition, rollout, agent, reward, distribution, network and learner."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.core import Tracer

__all__ = [
    "Agent",
    "Array",
    "Distribution",
    "Key",
    "Learner",
    "MemoryNetwork",
    "Network",
    "Reward",
    "Rollout",
    "Transition",
    "anywhere",
    "short_repr",
    "where_ended",
]

Array = jax.Array


Key = jax.Array  # typed: jax.random.key(seed). First argument, consumed.


def short_repr(self: Any) -> str:
    """A NamedTuple in one line: numbers as they are, of anything larger how many arrays it has and their bytes.

    >>> class State(NamedTuple):
    ...     updates: Any
    ...     params: Any
    ...     __repr__ = short_repr
    >>> State(jnp.int32(3), {"kernel": jnp.zeros((100, 4)), "bias": jnp.zeros(4)})
    State(updates=3, params=<2 arrays, 1.62 kB>)
    """

    def part(x: Any) -> str:
        leaves = jax.tree.leaves(x)
        arrays = [leaf for leaf in leaves if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
        if len(leaves) == 1 and arrays == leaves and not jnp.issubdtype(arrays[0].dtype, jax.dtypes.extended):
            gone = isinstance(arrays[0], jax.Array) and not isinstance(arrays[0], Tracer) and arrays[0].is_deleted()
            known = arrays[0].shape == () and not gone and not isinstance(arrays[0], (Tracer, jax.ShapeDtypeStruct))
            return f"{arrays[0]}" if known else f"<{arrays[0].dtype}{list(arrays[0].shape)}>"
        size = float(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in arrays))
        units = iter(("B", "kB", "MB", "GB", "TB"))
        unit = next(units)
        while size >= 1000:
            size, unit = size / 1000, next(units)
        return f"<{len(leaves)} array{'' if len(leaves) == 1 else 's'}, {size:.3g} {unit}>"

    parts = [f"{name}={part(x)}" for name, x in zip(self._fields, self, strict=True) if jax.tree.leaves(x)]
    return f"{type(self).__name__}({', '.join(parts)})"


class Transition(NamedTuple):
    """One step of N environments, or a time-major `[T, N, ...]` block of steps."""

    obs: Any
    action: Any
    reward: Array
    next_obs: Any  # the true successor, never the observation after a reset
    terminated: Array  # the episode terminated: do not bootstrap
    truncated: Array  # the episode was truncated, such as by a time limit: bootstrap from next_obs
    valid: Array  # False after the first end in an episodic block; True elsewhere
    extras: Any = ()  # the extras that `act` returned with the action
    info: Any = ()  # the leaves of the environment's info that the learner was asked to keep


class Rollout(NamedTuple):
    """The data of one update: a block of transitions and the actor's memory at its start."""

    transitions: Transition  # leaves [T, N, ...]
    memory: Any  # actor memory before the first step, leaves [N, ...]; () if none


class Agent(NamedTuple):
    """An algorithm as a set of pure functions, in the style of `optax.GradientTransformation`.

    `init(key, obs) -> state` initialises the state from the first observations `[N, ...]`.
    `memory(n) -> memory` returns the memory at the start of an episode, for n environments.
    `reset(memory, ended [N]) -> memory` resets the memory of the environments whose episode ended.
    `act(key, state, memory, obs) -> (action, memory, extras)` selects an exploratory action.
    `greedy(state, memory, obs) -> (action, memory)` selects the greedy action; it is deterministic and takes no key.
    `update(key, state, rollout) -> (state, metrics)` updates the state; metrics are a dict of scalars, which are
      finite unless training diverges.
    `episodic`: `update` needs blocks of whole episodes (see `purerl.learner`).
    `group_size`: `update` needs groups of so many neighbouring environments that share their resets.
    `collect`: acts in training rollouts, where that differs from `act`, with the same arguments and results.
    `values(state, memory, obs) -> (q [N, A], memory)` computes the action values of agents that choose by them.
    """

    init: Callable[[Key, Any], Any]
    memory: Callable[[int], Any]
    reset: Callable[[Any, Array], Any]
    act: Callable[[Key, Any, Any, Any], tuple[Any, Any, Any]]
    greedy: Callable[[Any, Any, Any], tuple[Any, Any]]
    update: Callable[[Key, Any, Rollout], tuple[Any, dict[str, Array]]]
    episodic: bool = False
    group_size: int = 1
    collect: Callable[[Key, Any, Any, Any], tuple[Any, Any, Any]] | None = None
    values: Callable[[Any, Any, Any], tuple[Array, Any]] | None = None


class Reward(NamedTuple):
    """A reward as a pair of pure functions, applied to a block before the agent's `update`.

    `init(key, transition) -> state` initialises the state from an example step `[N, ...]`.
    `apply(key, state, transitions) -> (state, reward [T, N], metrics)` computes the training reward of a block.
    """

    init: Callable[[Key, Transition], Any]
    apply: Callable[[Key, Any, Transition], tuple[Any, Array, dict[str, Array]]]


def _not_given(key: Key, p: Array) -> tuple[Any, Array]:
    raise ValueError("this Distribution was made without sample_and_log_prob; give it (key, p) -> (action, log_prob)")


class Distribution(NamedTuple):
    """A family of distributions as a set of pure functions of its parameters `p [..., num_params]`.

    `sample(key, p) -> action [...]`, `log_prob(p, action) -> [...]`, `entropy(p) -> [...]`,
    `mode(p) -> action`, and `kl(p, q) -> [...]`, which is KL(p ‖ q).
    The last `num_free` parameters are learned and do not depend on the observation.
    `sample_and_log_prob(key, p) -> (action, log_prob)` computes both at once. Its results are differentiable in p
      where the family is reparametrised.
    `mask(p, legal) -> p` gives illegal actions a probability of 0; None if the family does not support masks.
    """

    sample: Callable[[Key, Array], Any]
    log_prob: Callable[[Array, Any], Array]
    entropy: Callable[[Array], Array]
    mode: Callable[[Array], Any]
    kl: Callable[[Array, Array], Array]
    num_params: int
    num_free: int = 0
    sample_and_log_prob: Callable[[Key, Array], tuple[Any, Array]] = _not_given
    mask: Callable[[Array, Any], Array] | None = None


class Network(Protocol):
    """An object with these two methods, such as a `flax.linen.Module`. Leaves of obs are `[B, ...]`."""

    def init(self, key: Key, obs: Any, /) -> Any: ...

    def apply(self, params: Any, obs: Any, /) -> Any: ...


class MemoryNetwork(NamedTuple):
    """A network with memory. Leaves of obs are `[N, ...]`; in `unroll` they are `[T, N, ...]`.

    `init(key, obs) -> params` initialises the parameters.
    `memory(n) -> memory` returns the memory at the start of an episode, for n environments.
    `reset(memory, ended [N]) -> memory` resets the memory of the environments whose episode ended.
    `step(params, memory, obs) -> (outputs, memory)` applies the network to one step, as in acting.
    `unroll(params, memory, obs, ended [T, N], next_obs=None) -> (outputs, next_outputs, memory)` applies it to T
      steps, from the memory before the first step, with a reset after every step that `ended`. `next_outputs[t]` is
      the output of `step` for `next_obs[t]` after step t and before any reset, such as V(next_obs) at a truncation;
      it is None without next_obs.
    `episodic`: `unroll` needs blocks of whole episodes, each of which starts with a reset; agents of the
      policy-gradient family pass it on (see `Agent`).

    `purerl.networks.adapters.with_memory` converts a feed-forward `Network`; its memory is ().
    """

    init: Callable[[Key, Any], Any]
    memory: Callable[[int], Any]
    reset: Callable[[Any, Array], Any]
    step: Callable[[Any, Any, Any], tuple[Any, Any]]
    unroll: Callable[..., tuple[Any, Any, Any]]
    episodic: bool = False


class Learner(NamedTuple):
    """A training run as a pair of pure functions. `state.iteration` counts the updates so far.

    `init(key) -> state`; `step(state) -> (state, sums)`, where `sums` is a `purerl.training.Sums`.
    `advance(state, num_updates) -> (state, metrics)`, if given, takes the place of a loop over `step`.
    """

    init: Callable[[Key], Any]
    step: Callable[[Any], tuple[Any, Any]]
    advance: Callable[[Any, Any], tuple[Any, Any]] | None = None


@jax.custom_batching.custom_vmap
def anywhere(x: Array) -> Array:
    """Whether any element of `x` is True, a bool scalar; under `vmap` over the whole batch, and not batched.

    As the predicate of `lax.cond` it therefore leaves a branch in a vmapped program, where that branch is correct for
    elements of the batch that do not need it too.

    >>> jax.vmap(anywhere, out_axes=None)(jnp.array([[False], [True]])).item()
    True
    """
    return x.any()


@anywhere.def_vmap
def _anywhere(size: int, batched: list[bool], x: Array) -> tuple[Array, bool]:
    del size, batched
    return anywhere(x), False


def where_ended(ended: Array, new: Any, old: Any) -> Any:
    """Select `new` where an episode ended and `old` elsewhere.

    Args:
      ended: bool `[N]`.  new, old: pytrees of the same structure, leaves `[N, ...]`.
    Returns:
      A pytree of that structure, leaves `[N, ...]`.

    >>> where_ended(jnp.array([True, False]), jnp.zeros((2, 1)), jnp.ones((2, 1))).tolist()
    [[0.0], [1.0]]
    """
    pick = lambda new, old: jnp.where(ended.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    return jax.tree.map(pick, new, old)
