"""Exploration: action selection from Q, bandits, action and parameter noise, and sampling of tokens.

Every exploration parameter (ε, temperature, scale) may be traced, so a schedule is evaluated at the current step:

>>> from purerl import schedules
>>> key, q = jax.random.key(0), jnp.array([0.0, 1.0])
>>> epsilon_greedy(key, q, schedules.linear(10_000, 1.0, 0.0, 10_000)).item()
1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.arguments import check_range, check_shapes
from purerl.bellman import over_temperature, softmax_policy
from purerl.core import Array, Key, where_ended
from purerl.distributions import categorical

__all__ = [
    "Noise",
    "adapt_sigma",
    "boltzmann",
    "dirichlet_noise",
    "epsilon_greedy",
    "epsilon_greedy_probs",
    "gaussian_noise",
    "greedy",
    "greedy_probs",
    "min_p",
    "ornstein_uhlenbeck",
    "perturbed",
    "sample",
    "top_k",
    "top_p",
    "ucb1",
    "with_temperature",
]


def _draw(key: Key, probs: Array) -> Array:
    """Sample an action, int32 `[...]`, from probabilities `[..., A]`."""
    return jax.random.categorical(key, jnp.log(probs)).astype(jnp.int32)


def greedy_probs(q: Array) -> Array:
    """The greedy policy, `[..., A] -> [..., A]`: the best actions have equal probability.

    >>> greedy_probs(jnp.array([2.0, 0.0, 2.0])).tolist()
    [0.5, 0.0, 0.5]
    """
    best = (q == q.max(-1, keepdims=True)).astype(q.dtype)
    return best / best.sum(-1, keepdims=True)


def greedy(key: Key, q: Array) -> Array:
    """Sample uniformly from the greedy actions: int32 `[...]` of Q `[..., A]`. (argmax selects the first.)

    >>> keys = jax.random.split(jax.random.key(0), 100)
    >>> sorted(set(jax.vmap(greedy, (0, None))(keys, jnp.array([2.0, 0.0, 2.0])).tolist()))
    [0, 2]
    """
    return _draw(key, greedy_probs(q))


def epsilon_greedy_probs(q: Array, epsilon) -> Array:
    """π(a|s) = (1 - ε) greedy(a) + ε / A, `[..., A]`.

    Args:
      q: float `[..., A]`; actions whose Q is -inf have probability 0.  epsilon: ε in [0, 1], scalar or `[...]`.

    >>> epsilon_greedy_probs(jnp.array([1.0, 0.0]), 0.5).tolist()
    [0.75, 0.25]
    """
    epsilon = jnp.asarray(epsilon, q.dtype)[..., None]
    there = ~jnp.isneginf(q)
    return (1 - epsilon) * greedy_probs(q) + epsilon * there / there.sum(-1, keepdims=True)


def epsilon_greedy(key: Key, q: Array, epsilon) -> Array:
    """Sample a greedy action with probability 1 - ε, else a uniform action: int32 `[...]` of Q `[..., A]`.

    Reference: Sutton & Barto, 2018, section 2.2.

    >>> epsilon_greedy(jax.random.key(0), jnp.array([0.0, 1.0]), 0.0).item()
    1
    """
    return _draw(key, epsilon_greedy_probs(q, epsilon))


def boltzmann(key: Key, q: Array, temperature) -> Array:
    """Sample from the softmax policy (`bellman.softmax_policy`): int32 `[...]` of Q `[..., A]`; τ ≥ 0.

    >>> boltzmann(jax.random.key(0), jnp.array([0.0, 1.0]), 0.0).item()
    1
    """
    return _draw(key, softmax_policy(q, temperature))


def ucb1(value: Array, count: Array, c=2.0**0.5) -> Array:
    """UCB1: upper confidence bounds of the action values; select the action with the largest bound.

        Q(a) + c √(log t / N(a)),   t = Σ N(a); ∞ where an action was never tried

    Args:
      value: mean reward of every action, float `[..., A]`.  count: N, `[..., A]`.  c: ≥ 0.
    Returns:
      Float `[..., A]`.
    Reference: Auer et al., 2002, "Finite-time analysis of the multiarmed bandit problem", figure 1.

    >>> ucb1(jnp.zeros(2), jnp.array([1, 0]), 2.0).tolist()
    [0.0, inf]
    """
    total = jnp.maximum(count.sum(-1, keepdims=True), 1)
    above: Array = c * jnp.sqrt(jnp.log(total) / jnp.maximum(count, 1))
    return jnp.where(count > 0, value + above, jnp.inf)


def dirichlet_noise(key: Key, probs: Array, alpha=0.3, fraction=0.25, legal: Any = None) -> Array:
    """Add Dirichlet noise to a prior over actions, for the root of a tree search.

        (1 - ε) p + ε η,   η ~ Dir(α, …, α) over the legal actions

    Args:
      probs: p, float `[..., A]`.  alpha: α > 0; AlphaZero uses about 10 over the number of legal actions.
      fraction: ε in [0, 1].  legal: bool `[..., A]`; None: all. If no action is legal, the noise is 0.
    Returns:
      Probabilities, float `[..., A]`.
    Raises:
      ValueError: at trace time, if the shapes differ, or a known α or ε is out of its range.
    Reference: Silver et al., 2018, "A general reinforcement learning algorithm that masters chess, shogi, and Go
      through self-play", methods; 2017 for ε.

    >>> dirichlet_noise(jax.random.key(0), jnp.array([0.25, 0.75]), fraction=0.0).tolist()
    [0.25, 0.75]
    """
    check_range("dirichlet_noise", 0, 1, fraction=fraction)
    if isinstance(alpha, float | int) and not alpha > 0:
        raise ValueError(f"dirichlet_noise: alpha is {alpha}; it must be greater than 0")
    legal = jnp.ones(jnp.shape(probs), bool) if legal is None else jnp.asarray(legal, bool)
    check_shapes("dirichlet_noise", probs=probs, legal=legal)
    # in logs: at small α a gamma variable is 0 in float32, and often all of them are
    log_gamma = jax.random.loggamma(key, alpha, jnp.shape(probs), jnp.result_type(probs))
    noise = jnp.where(legal, jax.nn.softmax(jnp.where(legal, log_gamma, jnp.finfo(log_gamma.dtype).min)), 0.0)
    return (1 - fraction) * probs + fraction * noise


class Noise(NamedTuple):
    """Action noise for N environments.

    `init(n) -> state`, `apply(key, state, scale=1.0) -> (noise [N, *shape], state)`,
    `reset(state, ended [N]) -> state`.
    `scale` multiplies the returned noise, not the state, so it may follow a schedule.
    """

    init: Callable[[int], Any]
    apply: Callable[..., tuple[Array, Any]]
    reset: Callable[[Any, Array], Any]


def gaussian_noise(shape: tuple[int, ...] = (1,), sigma=0.1) -> Noise:
    """Independent normal noise of deviation σ, in units of the action.

    >>> noise = gaussian_noise((2,))
    >>> noise.apply(jax.random.key(0), noise.init(3))[0].shape
    (3, 2)
    """

    def apply(key, state, scale=1.0):
        return scale * sigma * jax.random.normal(key, (state.shape[0], *shape)), state

    return Noise(lambda n: jnp.zeros((n, 0)), apply, lambda state, ended: state)


def ornstein_uhlenbeck(shape: tuple[int, ...] = (1,), sigma=0.2, theta=0.15, dt=1.0) -> Noise:
    """Ornstein-Uhlenbeck noise: temporally correlated noise that reverts to 0. It starts at 0 in every episode.

        x ← x - θ x dt + σ √dt ε,   ε ~ N(0, 1)

    Its deviation tends to σ √dt / √(1 - (1 - θ dt)²).
    Args:
      shape: the shape of an action.  sigma: σ ≥ 0.  theta: θ in [0, 1/dt].  dt: the duration of a step.
    Reference: Uhlenbeck & Ornstein, 1930; Lillicrap et al., 2016, arXiv:1509.02971, section 7.

    >>> noise = ornstein_uhlenbeck(sigma=0.0)
    >>> noise.apply(jax.random.key(0), jnp.ones((1, 1)))[0].tolist()
    [[0.85...]]
    """

    def apply(key, state, scale=1.0):
        state = state - theta * dt * state + sigma * math.sqrt(dt) * jax.random.normal(key, state.shape, state.dtype)
        return scale * state, state

    reset = lambda state, ended: where_ended(ended, jnp.zeros_like(state), state)
    return Noise(lambda n: jnp.zeros((n, *shape)), apply, reset)


def perturbed(key: Key, params: Any, sigma) -> Any:
    """Add independent normal noise of deviation σ to parameters, for consistent exploration within an episode.

    Reference: Plappert et al., 2018, arXiv:1706.01905, section 3.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noise = [sigma * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, [x + n for x, n in zip(leaves, noise, strict=True)])


def adapt_sigma(sigma, distance, target, factor=1.01) -> Array:
    """The next σ of `perturbed`: increased while the policies' distance is at most its target, else decreased.

    Args:
      distance: between the policy and the perturbed one on recent states: the root mean square of their actions'
        difference, or KL.  target: in the same units; for KL with ε-greedy's equivalent,
        -log(1 - ε + ε/A).  factor: > 1.
    Reference: Plappert et al., 2018, arXiv:1706.01905, eq. 2 and appendix C.

    >>> [adapt_sigma(1.0, d, 0.1, 2.0).item() for d in (0.01, 0.5)]
    [2.0, 0.5]
    """
    return sigma * jnp.where(distance <= target, factor, 1 / jnp.asarray(factor, jnp.result_type(float)))


def with_temperature(logits: Array, temperature) -> Array:
    """Logits of p^{1/τ}, `[..., A]`; τ ≥ 0, and at 0 all but the largest logits are -inf.

    >>> with_temperature(jnp.array([1.0, 3.0]), 2.0).tolist()
    [-1.0, 0.0]
    """
    # relative to the largest, so that no τ causes overflow
    gap = logits - logits.max(-1, keepdims=True)
    scaled = over_temperature(gap, jnp.maximum(temperature, jnp.finfo(logits.dtype).tiny))
    return jnp.where(gap == 0, 0.0, scaled)


def _ranks(logits: Array) -> tuple[Array, Array]:
    """The rank of each logit, 0 for the largest, ties in order; and the sorted logits."""
    order = jnp.argsort(-logits, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1), jnp.take_along_axis(logits, order, axis=-1)


def top_k(logits: Array, k) -> Array:
    """Keep exactly the k largest logits, `[..., A]`, ties in order; set the others to -inf.

    Args:
      logits: float `[..., A]`.  k: int ≥ 1, traced or not, scalar or `[...]`; more than A keeps all.
    Reference: Fan et al., 2018, arXiv:1805.04833, section 5.1.

    >>> top_k(jnp.array([1.0, 3.0, 2.0]), 2).tolist()
    [-inf, 3.0, 2.0]
    """
    if isinstance(k, int) and k < 1:
        raise ValueError(f"top_k: k is {k}; it must be at least 1")
    return jnp.where(_ranks(logits)[0] < jnp.asarray(k)[..., None], logits, -jnp.inf)


def top_p(logits: Array, p) -> Array:
    """Nucleus filter: keep the fewest most probable tokens of total probability p; set the others' logits to -inf.

    Args:
      logits: float `[..., A]`.  p: in [0, 1], scalar or `[...]`; the most probable token is always kept.
    Reference: Holtzman et al., 2020, arXiv:1904.09751, eq. 2.

    >>> top_p(jnp.log(jnp.array([0.25, 0.5, 0.25])), 0.6).round(2).tolist()
    [-1.38..., -0.68..., -inf]
    """
    check_range("top_p", 0, 1, p=p)
    rank, ordered = _ranks(logits)
    probs = jax.nn.softmax(ordered)
    before = jnp.cumsum(probs, axis=-1) - probs
    kept = (before < jnp.asarray(p)[..., None]).at[..., 0].set(True)
    return jnp.where(jnp.take_along_axis(kept, rank, axis=-1), logits, -jnp.inf)


def min_p(logits: Array, p) -> Array:
    """Keep tokens at least p times as probable as the most probable one; set the other logits to -inf.

    Args:
      logits: float `[..., A]`.  p: in [0, 1], scalar or `[...]`.
    Reference: Nguyen et al., 2024, arXiv:2407.01082, section 3.

    >>> min_p(jnp.array([0.0, -1.0, -5.0]), 0.1).tolist()
    [0.0, -1.0, -inf]
    """
    check_range("min_p", 0, 1, p=p)
    return jnp.where(logits >= logits.max(-1, keepdims=True) + jnp.log(jnp.asarray(p, logits.dtype))[..., None],
                     logits, -jnp.inf)  # fmt: skip


def sample(key: Key, logits: Array, *filters: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Sample tokens from filtered logits; log-probabilities are those after the filters, renormalised.

    A policy gradient with filtered samples needs these log-probabilities, and must apply the same filters.
    Args:
      logits: float `[..., A]`.  filters: applied in order, such as `lambda x: top_p(x, 0.9)`.
    Returns:
      Tokens, int32 `[...]`, and log-probabilities, float `[...]`.

    >>> token, log_prob = sample(jax.random.key(0), jnp.zeros((2, 4)), lambda x: top_k(x, 1))
    >>> token.tolist(), log_prob.tolist()
    ([0, 0], [0.0, 0.0])
    """
    for change in filters:
        logits = change(logits)
    pi = categorical(logits.shape[-1])
    token = pi.sample(key, logits)
    return token, pi.log_prob(logits, token)
