"""How to act when the values are not yet known: choices over Q, bandits, noise, and sampling of sequences.

Every number that sets how much (ε, temperature, scale) may be traced, so a schedule is its value at the step:

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

from purerl.bellman import over_temperature, softmax_policy
from purerl.core import Array, Key, check_range, check_shapes
from purerl.distributions import categorical
from purerl.memory import clear

# --- choices over Q -----------------------------------------------------------------------------------------------


def _draw(key: Key, probs: Array) -> Array:
    """An action, int32 `[...]`, of probabilities `[..., A]`."""
    return jax.random.categorical(key, jnp.log(probs)).astype(jnp.int32)


def greedy_probs(q: Array) -> Array:
    """The greedy policy, `[..., A] -> [..., A]`: the best actions share it evenly.

    >>> greedy_probs(jnp.array([2.0, 0.0, 2.0])).tolist()
    [0.5, 0.0, 0.5]
    """
    best = (q == q.max(-1, keepdims=True)).astype(q.dtype)
    return best / best.sum(-1, keepdims=True)


def greedy(key: Key, q: Array) -> Array:
    """A best action, every one of them alike: int32 `[...]` of Q `[..., A]`. (argmax takes the first.)

    >>> keys = jax.random.split(jax.random.key(0), 100)
    >>> sorted(set(jax.vmap(greedy, (0, None))(keys, jnp.array([2.0, 0.0, 2.0])).tolist()))
    [0, 2]
    """
    return _draw(key, greedy_probs(q))


def epsilon_greedy_probs(q: Array, epsilon) -> Array:
    """π(a|s) = (1 - ε) greedy(a) + ε / A, `[..., A]`.

    Args:
      q: float `[..., A]`; actions whose Q is -inf are not there.  epsilon: ε in [0, 1], scalar or `[...]`.

    >>> epsilon_greedy_probs(jnp.array([1.0, 0.0]), 0.5).tolist()
    [0.75, 0.25]
    """
    epsilon = jnp.asarray(epsilon, q.dtype)[..., None]
    there = ~jnp.isneginf(q)
    return (1 - epsilon) * greedy_probs(q) + epsilon * there / there.sum(-1, keepdims=True)


def epsilon_greedy(key: Key, q: Array, epsilon) -> Array:
    """A best action with probability 1 - ε, any action with probability ε: int32 `[...]` of Q `[..., A]`.

    Reference: Sutton & Barto, 2018, section 2.2.

    >>> epsilon_greedy(jax.random.key(0), jnp.array([0.0, 1.0]), 0.0).item()
    1
    """
    return _draw(key, epsilon_greedy_probs(q, epsilon))


def boltzmann(key: Key, q: Array, temperature) -> Array:
    """An action of the softmax policy (`bellman.softmax_policy`): int32 `[...]` of Q `[..., A]`; τ ≥ 0.

    >>> boltzmann(jax.random.key(0), jnp.array([0.0, 1.0]), 0.0).item()
    1
    """
    return _draw(key, softmax_policy(q, temperature))


def ucb1(value: Array, count: Array, c=2.0**0.5) -> Array:
    """Optimism in the face of uncertainty: what to be greedy over.

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
    """A prior over actions with noise, for the root of a search.

        (1 - ε) p + ε η,   η ~ Dir(α, …, α) over the legal actions

    Args:
      probs: p, float `[..., A]`.  alpha: α > 0; about 10 over the number of legal actions is AlphaZero's.
      fraction: ε in [0, 1].  legal: bool `[..., A]`; None: all. Where none is, the noise is 0.
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


# --- bandits ------------------------------------------------------------------------------------------------------


class Bandit(NamedTuple):
    """How to learn which of A arms pays: pure functions of one bandit, to be vmapped over many.

    `init(num_arms) -> state`, `act(key, state) -> arm`, `update(state, arm, reward) -> state`.
    """

    init: Callable[[int], Any]
    act: Callable[[Key, Any], Array]
    update: Callable[[Any, Array, Array], Any]


class Arms(NamedTuple):
    """What is known of each arm, `[A]`."""

    value: Array  # of a gradient bandit: the preference
    count: Array  # int32: pulls
    mean_reward: Array  # of all pulls, a scalar


def _start(initial: Any) -> Callable[[int], Arms]:
    def init(num_arms):
        zero = jnp.zeros((), jnp.result_type(float))
        return Arms(jnp.full(num_arms, initial, zero.dtype), jnp.zeros(num_arms, jnp.int32), zero)

    return init


def _average(step_size: Any) -> Callable[[Arms, Array, Array], Arms]:
    """Q(a) ← Q(a) + α (r - Q(a)), with α = 1 / N(a), the sample mean, where step_size is None."""

    def update(state, arm, reward):
        count = state.count.at[arm].add(1)
        alpha = 1 / count[arm] if step_size is None else step_size
        value = state.value.at[arm].add(alpha * (reward - state.value[arm]))
        return Arms(value, count, state.mean_reward + (reward - state.mean_reward) / count.sum())

    return update


def epsilon_greedy_bandit(epsilon=0.1, step_size=None, initial=0.0) -> Bandit:
    """ε-greedy over estimated values; optimistic where `initial` is larger than any reward.

    Args:
      epsilon: ε, a number or a function of the pulls so far, such as `lambda t: schedules.linear(t, 1.0, 0.0, 500)`.
      step_size: α in (0, 1]; None: the sample mean.  initial: Q before the first pull.
    Reference: Sutton & Barto, 2018, sections 2.2 to 2.6.
    """

    def act(key, state):
        now = epsilon(state.count.sum()) if callable(epsilon) else epsilon
        return epsilon_greedy(key, state.value, now)

    return Bandit(_start(initial), act, _average(step_size))


def ucb_bandit(c=2.0, step_size=None) -> Bandit:
    """Greedy over `ucb1`.

    Args:
      c: how much uncertainty is worth, a number or a function of the pulls so far.  step_size: see
        `epsilon_greedy_bandit`.
    Reference: Sutton & Barto, 2018, eq. 2.10.
    """

    def act(key, state):
        now = c(state.count.sum()) if callable(c) else c
        return greedy(key, ucb1(state.value, state.count, now))

    return Bandit(_start(0.0), act, _average(step_size))


def gradient_bandit(step_size=0.1, baseline: bool = True) -> Bandit:
    """Softmax over preferences H, which climb the gradient of the expected reward.

        H ← H + α (r - r̄) (onehot(a) - π),   π = softmax(H)

    Args:
      step_size: α > 0.  baseline: r̄ is the mean reward so far, this one included; otherwise 0.
    Reference: Sutton & Barto, 2018, eq. 2.12.
    """
    act = lambda key, state: jax.random.categorical(key, state.value).astype(jnp.int32)

    def update(state, arm, reward):
        count = state.count.at[arm].add(1)
        mean = state.mean_reward + (reward - state.mean_reward) / count.sum()
        push = jax.nn.one_hot(arm, len(state.value)) - jax.nn.softmax(state.value)
        return Arms(state.value + step_size * (reward - mean * baseline) * push, count, mean)

    return Bandit(_start(0.0), act, update)


# --- noise of actions and of parameters ---------------------------------------------------------------------------


class Noise(NamedTuple):
    """Noise to add to actions of N environments.

    `init(n) -> state`, `apply(key, state, scale=1.0) -> (noise [N, *shape], state)`,
    `reset(state, ended [N]) -> state`.
    `scale` multiplies what is given, not what is remembered, so it may follow a schedule.
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
        return scale * sigma * jax.random.normal(key, (len(state), *shape)), state

    return Noise(lambda n: jnp.zeros((n, 0)), apply, lambda state, ended: state)


def ornstein_uhlenbeck(shape: tuple[int, ...] = (1,), sigma=0.2, theta=0.15, dt=1.0) -> Noise:
    """Noise that drifts, and is drawn back to 0; it starts at 0 in every episode.

        x ← x - θ x dt + σ √dt ε,   ε ~ N(0, 1)

    Its deviation tends to σ √dt / √(1 - (1 - θ dt)²).
    Args:
      shape: of an action.  sigma: σ ≥ 0.  theta: θ in [0, 1/dt].  dt: the time of a step.
    Reference: Uhlenbeck & Ornstein, 1930; Lillicrap et al., 2016, arXiv:1509.02971, section 7.

    >>> noise = ornstein_uhlenbeck(sigma=0.0)
    >>> noise.apply(jax.random.key(0), jnp.ones((1, 1)))[0].tolist()
    [[0.85...]]
    """

    def apply(key, state, scale=1.0):
        state = state - theta * dt * state + sigma * math.sqrt(dt) * jax.random.normal(key, state.shape, state.dtype)
        return scale * state, state

    reset = lambda state, ended: clear(state, ended, jnp.zeros_like(state))
    return Noise(lambda n: jnp.zeros((n, *shape)), apply, reset)


def perturbed(key: Key, params: Any, sigma) -> Any:
    """Parameters with independent normal noise of deviation σ: consistent exploration for a whole episode.

    Reference: Plappert et al., 2018, arXiv:1706.01905, section 3.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noise = [sigma * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, [x + n for x, n in zip(leaves, noise, strict=True)])


def adapt_sigma(sigma, distance, target, factor=1.01) -> Array:
    """The next σ of `perturbed`: larger while the policies' distance is below its target, else smaller.

    Args:
      distance: between the policy and the perturbed one on recent states: the root mean square of their actions'
        difference, or KL.  target: in the same units; for KL with ε-greedy's equivalent,
        -log(1 - ε + ε/A).  factor: > 1.
    Reference: Plappert et al., 2018, arXiv:1706.01905, eq. 2 and appendix C.

    >>> [adapt_sigma(1.0, d, 0.1, 2.0).item() for d in (0.01, 0.5)]
    [2.0, 0.5]
    """
    return sigma * jnp.where(distance <= target, factor, 1 / jnp.asarray(factor, jnp.result_type(float)))


# --- sampling of sequences ----------------------------------------------------------------------------------------


def with_temperature(logits: Array, temperature) -> Array:
    """Logits of p^{1/τ}, `[..., A]`; τ > 0, and at 0 only the best are left.

    >>> with_temperature(jnp.array([1.0, 3.0]), 2.0).tolist()
    [-1.0, 0.0]
    """
    # from the largest, so that no τ overflows
    gap = logits - logits.max(-1, keepdims=True)
    scaled = over_temperature(gap, jnp.maximum(temperature, jnp.finfo(logits.dtype).tiny))
    return jnp.where(gap == 0, 0.0, scaled)


def _ranks(logits: Array) -> tuple[Array, Array]:
    """Each logit's rank, 0 the largest and of equals the first; and the logits in that order."""
    order = jnp.argsort(-logits, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1), jnp.take_along_axis(logits, order, axis=-1)


def top_k(logits: Array, k) -> Array:
    """The k largest logits, the others -inf; exactly k of them, of equals the first.

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
    """The nucleus: the smallest set of most probable tokens that together have probability p; the others -inf.

    Args:
      logits: float `[..., A]`.  p: in [0, 1], scalar or `[...]`; the most probable one always stays.
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
    """Tokens that are at least p times as probable as the most probable one; the others -inf.

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
    """Tokens, and their log-probabilities under what they were drawn from: after the filters, renormalised.

    A policy gradient of filtered samples needs these, and the same filters when it computes them again.
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
