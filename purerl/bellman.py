"""Policies and values of Q, and one-step backups, which give the TD targets of Q. Actions are the last axis of Q.

Three equations are the basis of this module:

    π(a|s) = e^{Q(s,a)/τ} / Z(s)            softmax_policy
    Q(s,a) = r + γ max Q(s',a')              max_backup
    V(s)   = Σ π(a|s) Q(s,a)                 state_value

Every backup is `(reward, gamma, terminated, next: Next) -> target`, for any leading axes, so that a value-based agent
takes any of them as one argument. Functions such as `soft_backup(temperature)` return backups with parameters. Values
after a termination have no effect, NaN included. Targets are constants of a loss: stop their gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl.arguments import check_shapes
from purerl.core import Array

__all__ = [
    "Backup",
    "Next",
    "categorical_backup",
    "categorical_projection",
    "categorical_successors",
    "centers",
    "clipped_double_backup",
    "clipped_mass",
    "double_backup",
    "expectation",
    "expected_backup",
    "expected_quantile_backup",
    "hl_gauss",
    "max_backup",
    "mellowmax",
    "mellowmax_backup",
    "munchausen_backup",
    "over_temperature",
    "persistent_backup",
    "quantile_backup",
    "sarsa_backup",
    "signed_hyperbolic",
    "signed_parabolic",
    "soft_backup",
    "soft_value",
    "softmax_backup",
    "softmax_policy",
    "state_value",
    "symexp",
    "symlog",
    "transformed_backup",
    "two_hot",
]

Backup = Callable[[Any, Any, Any, Any], Array]


class Next(NamedTuple):
    """Inputs of a backup that concern the successor state; each backup documents the fields it needs.

    Every backup needs q. A bare array in place of a `Next` is its q.
    """

    q: Array  # Q(s', ·) of the target network [..., A]; distributional: [..., A, K]
    online: Any = None  # the same of the online network
    probs: Any = None  # π(·|s') [..., A]
    action: Any = None  # a', int [...]
    q_now: Any = None  # Q(s, ·) of the target network [..., A]
    action_now: Any = None  # a, int [...]


def _need(function: str, next: Any, *names: str) -> Any:
    next = next if isinstance(next, Next) else Next(jnp.asarray(next))
    for name in names:
        if getattr(next, name) is None:
            raise ValueError(f"{function}: next.{name} is None; this backup needs " + ", ".join(("q", *names)))
    return next


def _target(function: str, reward, gamma, terminated, value) -> Array:
    """r + γ (1 - terminated) V(s')."""
    check_shapes(function, reward=reward, terminated=terminated, **{"the value of next": value})
    return reward + gamma * jnp.where(terminated, 0.0, value)


def _target_of_atoms(function: str, reward, gamma, terminated, atoms) -> Array:
    """The TD target for every atom of a last axis."""
    wide = lambda x: jnp.broadcast_to(jnp.asarray(x)[..., None], atoms.shape)
    gamma = jnp.asarray(gamma)
    return _target(function, wide(reward), gamma[..., None] if gamma.ndim else gamma, wide(terminated), atoms)


def _of_action(q: Array, action: Any) -> Array:
    """Q of actions `[...]`: `[..., A] -> [...]`, or `[..., A, K] -> [..., K]`."""
    index = jnp.asarray(action, jnp.int32)
    tail = q.ndim - index.ndim - 1
    return jnp.take_along_axis(q, index.reshape(*index.shape, 1, *[1] * tail), axis=index.ndim).squeeze(index.ndim)


# --- policies and values of Q -------------------------------------------------------------------------------------


def over_temperature(gap: Array, temperature: Array) -> Array:
    """gap / τ, both `[...]`; where the gap is -inf, the result is -inf and has no gradient in τ."""
    there = ~jnp.isneginf(gap)
    return jnp.where(there, jnp.where(there, gap, 0.0) / temperature, -jnp.inf)


def softmax_policy(q: Array, temperature=1.0) -> Array:
    """The softmax policy over Q.

        π(a|s) = e^{Q(s,a)/τ} / Z(s),   Z(s) = Σ e^{Q(s,a)/τ}

    Args:
      q: float `[..., A]`.
      temperature: τ ≥ 0, in units of the return, scalar or `[...]`; at 0 the greedy actions have equal probability
        and there is no gradient. Derivatives with respect to τ are finite for τ ≥ 1e-15.
    Returns:
      Probabilities, float `[..., A]`.

    >>> softmax_policy(jnp.array([1.0, 1.0, 0.0]), 0.0).tolist()
    [0.5, 0.5, 0.0]
    """
    q = 1.0 * jnp.asarray(q)  # Q of whole numbers as well
    temperature = jnp.asarray(temperature, q.dtype)[..., None]
    gap = q - q.max(-1, keepdims=True)
    return jax.nn.softmax(over_temperature(gap, jnp.maximum(temperature, jnp.finfo(q.dtype).tiny)))


def state_value(probs: Array, q: Array) -> Array:
    """V(s) = Σ π(a|s) Q(s,a), `[..., A] -> [...]`; actions of probability 0 are ignored, even if their Q is -inf.

    >>> state_value(jnp.array([0.25, 0.75]), jnp.array([4.0, 8.0])).item()
    7.0
    """
    return jnp.where(probs == 0, 0.0, probs * jnp.where(probs == 0, 0.0, q)).sum(-1)


def soft_value(q: Array, temperature) -> Array:
    """The soft state value: the maximum over policies of expected Q plus τ times the entropy in nats.

        V(s) = τ log Σ e^{Q(s,a)/τ}

    It lies between max Q and max Q + τ log A. It is accurate to a few rounding errors of the largest |Q| for
    τ ≥ 1e-30, and so are its derivatives for τ ≥ 1e-15.
    Args:
      q: float `[..., A]`; actions whose Q is -inf are ignored.  temperature: τ > 0, scalar or `[...]`.
    Returns:
      Values, float `[...]`.
    Reference: Haarnoja et al., 2017, arXiv:1702.08165, theorem 1.

    >>> print(soft_value(jnp.zeros(2), 1.0).round(4))
    0.6931
    """
    temperature, largest = jnp.asarray(temperature, q.dtype), jax.lax.stop_gradient(q.max(-1))
    gap = jnp.where(jnp.isneginf(q), -jnp.inf, q - largest[..., None])  # so that nothing divided by τ overflows upwards
    return largest + temperature * jax.nn.logsumexp(over_temperature(gap, temperature[..., None]), axis=-1)


def mellowmax(q: Array, omega) -> Array:
    """A soft maximum that is a non-expansion: the mean as ω → 0, the maximum as ω → ∞.

        mm(Q) = log(1/A Σ e^{ωQ}) / ω

    It is accurate to a few rounding errors of the largest |Q| for ω ≥ 1e-30, if ω (max Q - min Q) does not overflow;
    so is its gradient in Q. Its derivative in ω loses precision where ω (max Q - min Q) is below 0.01.
    Args:
      q: float `[..., A]`; actions whose Q is -inf are ignored and not counted in A.  omega: ω > 0, scalar or `[...]`.
    Returns:
      Values, float `[...]`.
    Reference: Asadi & Littman, 2017, arXiv:1612.05628.

    >>> mellowmax(jnp.array([3.0, 3.0]), 5.0).round(4).item()
    3.0
    """
    omega, largest = jnp.asarray(omega, q.dtype), jax.lax.stop_gradient(q.max(-1))
    there = ~jnp.isneginf(q)
    gap = jnp.where(there, q - largest[..., None], 0.0)
    size = jnp.maximum(there.sum(-1), 1)
    # 1/A Σ e^{ω gap} - 1, without the cancellation at small ω
    excess = jnp.expm1(omega[..., None] * gap).sum(-1) / size
    return largest + jnp.log1p(excess) / omega


# --- backups ------------------------------------------------------------------------------------------------------


def max_backup(reward, gamma, terminated, next: Any) -> Array:
    """The Bellman optimality backup, of Q-learning.

        r + γ max Q(s',a')

    Args:
      reward: float `[...]`.  gamma: in [0, 1], scalar or `[...]`.  terminated: bool `[...]`.  next: q.
    Returns:
      Targets, float `[...]`, as for every backup except the distributional ones.
    Raises:
      ValueError: at trace time, if shapes differ or a field is missing, as for every backup.
    Reference: Watkins & Dayan, 1992, eq. 1.

    >>> max_backup(jnp.ones(2), 0.5, jnp.array([False, True]), jnp.array([[2.0, 4.0]] * 2)).tolist()
    [3.0, 1.0]
    """
    next = _need("max_backup", next)
    return _target("max_backup", reward, gamma, terminated, next.q.max(-1))


def double_backup(reward, gamma, terminated, next: Any) -> Array:
    """The backup of double Q-learning: the online network selects the action, the target network evaluates it.

        r + γ Q(s', argmax Q_online(s',a'))

    Args:
      next: q, online.
    Reference: van Hasselt et al., 2016, arXiv:1509.06461, eq. 4.

    >>> double_backup(0.0, 1.0, False, Next(jnp.array([1.0, 5.0]), online=jnp.array([9.0, 0.0]))).item()
    1.0
    """
    next = _need("double_backup", next, "online")
    return _target("double_backup", reward, gamma, terminated, _of_action(next.q, next.online.argmax(-1)))


def expected_backup(reward, gamma, terminated, next: Any) -> Array:
    """The backup of expected Sarsa: the value of a given policy.

        r + γ Σ π(a'|s') Q(s',a')

    Args:
      next: q, probs.
    Reference: Sutton & Barto, 2018, eq. 6.9.

    >>> expected_backup(1.0, 0.5, False, Next(jnp.array([0.0, 4.0]), probs=jnp.array([0.5, 0.5]))).item()
    2.0
    """
    next = _need("expected_backup", next, "probs")
    return _target("expected_backup", reward, gamma, terminated, state_value(next.probs, next.q))


def sarsa_backup(reward, gamma, terminated, next: Any) -> Array:
    """The backup of Sarsa: the value of the next action taken.

        r + γ Q(s', a')

    Args:
      next: q, action; without an action, q `[...]` is Q(s', a'), as from critics of continuous actions.
    Reference: Sutton & Barto, 2018, eq. 6.7.

    >>> sarsa_backup(1.0, 0.5, False, Next(jnp.array([0.0, 4.0]), action=1)).item()
    3.0
    """
    next = _need("sarsa_backup", next)
    value = next.q if next.action is None else _of_action(next.q, next.action)
    return _target("sarsa_backup", reward, gamma, terminated, value)


def softmax_backup(temperature) -> Backup:
    """The backup with the softmax policy over Q: the maximum as τ → 0, the mean as τ → ∞.

        r + γ Σ π(a'|s') Q(s',a'),   π = softmax(Q / τ)

    It is not a non-expansion, so its iteration may not converge; the iteration of `mellowmax_backup` converges.
    Args:
      temperature: τ ≥ 0.  next: q.
    Reference: Asadi & Littman, 2017, arXiv:1612.05628.

    >>> softmax_backup(0.0)(0.0, 1.0, False, jnp.array([2.0, 4.0])).item()
    4.0
    """

    def backup(reward, gamma, terminated, next):
        next = _need("softmax_backup", next)
        value = state_value(softmax_policy(next.q, temperature), next.q)
        return _target("softmax_backup", reward, gamma, terminated, value)

    return backup


def soft_backup(temperature) -> Backup:
    """The backup of soft Q-learning: the value with an entropy bonus (`soft_value`).

        r + γ τ log Σ e^{Q(s',a')/τ}

    Args:
      temperature: τ > 0.  next: q.
    Reference: Haarnoja et al., 2017, arXiv:1702.08165, theorem 2.

    >>> print(soft_backup(1.0)(0.0, 1.0, False, jnp.zeros(2)).round(4))
    0.6931
    """

    def backup(reward, gamma, terminated, next):
        next = _need("soft_backup", next)
        return _target("soft_backup", reward, gamma, terminated, soft_value(next.q, temperature))

    return backup


def mellowmax_backup(omega) -> Backup:
    """r + γ mm(Q(s', ·)), see `mellowmax`.

    Args:
      omega: ω > 0.  next: q.
    Reference: Asadi & Littman, 2017, arXiv:1612.05628.

    >>> mellowmax_backup(5.0)(0.0, 1.0, False, jnp.array([3.0, 3.0])).round(4).item()
    3.0
    """

    def backup(reward, gamma, terminated, next):
        next = _need("mellowmax_backup", next)
        return _target("mellowmax_backup", reward, gamma, terminated, mellowmax(next.q, omega))

    return backup


def munchausen_backup(temperature=0.03, alpha=0.9, low=-1.0) -> Backup:
    """The soft backup with the scaled log-probability of the action added to the reward.

        r + α [τ log π(a|s)]_low^0 + γ τ log Σ e^{Q(s',a')/τ},   π = softmax(Q / τ)

    Args:
      temperature: τ > 0.  alpha: α in [0, 1].  low: the lower bound to which τ log π is clipped.
      next: q, q_now, action_now.
    Reference: Vieillard et al., 2020, arXiv:2007.14430, section 3.

    >>> nothing = Next(jnp.zeros(2), q_now=jnp.zeros(2), action_now=0)
    >>> munchausen_backup(1.0, alpha=1.0)(0.0, 1.0, False, nothing).round(4).item()
    0.0
    """

    def backup(reward, gamma, terminated, next):
        next = _need("munchausen_backup", next, "q_now", "action_now")
        gap = next.q_now - next.q_now.max(-1, keepdims=True)
        # τ log π, with no quotient by τ that overflows
        bonus = jnp.clip(_of_action(gap, next.action_now) - soft_value(gap, temperature), low, 0.0)
        value = soft_value(next.q, temperature)
        return _target("munchausen_backup", reward + alpha * bonus, gamma, terminated, value)

    return backup


def clipped_double_backup(backup: Backup = max_backup) -> Backup:
    """A backup of the minimum over several critics.

        r + γ · value of min Qᵢ(s', ·)

    With `expected_backup` it is the backup of discrete SAC, with `sarsa_backup` that of TD3; subtract τ log π(a'|s')
    from q for SAC.
    Args:
      backup: the backup of one critic.  next: q of all critics `[critics, ..., A]`, and the fields of `backup`.
    Reference: Fujimoto et al., 2018, arXiv:1802.09477, eq. 10.

    >>> twins = jnp.array([[1.0, 5.0], [3.0, 2.0]])
    >>> clipped_double_backup()(0.0, 1.0, False, twins).item()
    2.0
    """

    def clipped(reward, gamma, terminated, next):
        next = _need("clipped_double_backup", next)
        return backup(reward, gamma, terminated, next._replace(q=next.q.min(0)))

    return clipped


def persistent_backup(alpha=0.1) -> Backup:
    """The backup of persistent Q-learning: with probability α the action is repeated in the next state.

        r + γ (1 - terminated) [(1 - α) max Q(s', ·) + α Q(s', a)]

    The value of suboptimal actions decreases, and the action gap grows.
    Args:
      alpha: α in [0, 1].  next: q and action_now.
    Reference: Bellemare et al., 2016, arXiv:1512.04860; of its operators, the one that only repeats the action.

    >>> state = Next(jnp.array([2.0, 1.0]), action_now=1)
    >>> persistent_backup(0.5)(1.0, 1.0, False, state).item()
    2.5
    """

    def persistent(reward, gamma, terminated, next):
        next = _need("persistent_backup", next, "action_now")
        value = (1 - alpha) * next.q.max(-1) + alpha * _of_action(next.q, next.action_now)
        return _target("persistent_backup", reward, gamma, terminated, value)

    return persistent


def transformed_backup(backup: Backup, forward: Callable[[Array], Array], inverse: Callable[[Array], Array]) -> Backup:
    """A backup of transformed values, such as with `signed_hyperbolic` and its inverse.

        h(r + γ · value of h⁻¹(Q(s', ·)))

    Reference: Pohlen et al., 2018, arXiv:1805.11593, section 3.2.

    >>> transformed_backup(max_backup, symlog, symexp)(0.0, 1.0, False, jnp.array([0.0, 1.0])).round(4).item()
    1.0
    """

    def transformed(reward, gamma, terminated, next):
        next = _need("transformed_backup", next)
        values = {name: getattr(next, name) for name in ("q", "online", "q_now")}
        plain = next._replace(**{name: inverse(q) for name, q in values.items() if q is not None})
        return forward(backup(reward, gamma, terminated, plain))

    return transformed


# --- distributional backups ---------------------------------------------------------------------------------------


def expectation(probs: Array, support: Array) -> Array:
    """Mean of distributions over atoms, Σ p z: `[..., K] x [K] -> [...]`.

    >>> expectation(jnp.array([0.5, 0.5]), jnp.array([0.0, 3.0])).item()
    1.5
    """
    return (probs * support).sum(-1)


def categorical_projection(atoms: Array, probs: Array, support: Array) -> Array:
    """Project a distribution over any atoms onto the support: each atom's mass is split between its two neighbours.

        pᵢ = Σⱼ qⱼ [1 - |clip(xⱼ) - zᵢ| / Δ]⁺      (where z is evenly spaced)

    The projection preserves the mass, and it preserves the mean if no atom lies outside of the support.
    Args:
      atoms: x, float `[..., J]`.  probs: q, float `[..., J]`.  support: z, float `[K]`, increasing, K ≥ 2.
    Returns:
      Probabilities, float `[..., K]`.
    Reference: Bellemare et al., 2017, arXiv:1707.06887, eq. 7.

    >>> categorical_projection(jnp.array([0.5, 9.0]), jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0, 2.0])).tolist()
    [0.25, 0.25, 0.5]
    """
    _check_increasing("categorical_projection", "support", support)
    args = jnp.broadcast_arrays(atoms, probs)
    return jax.lax.platform_dependent(*args, support, cpu=_project_one_by_one, default=_project_at_once)


def _project_at_once(atoms: Array, probs: Array, support: Array) -> Array:
    """J·K products: for accelerators, on which a scatter-add is slow and its result depends on the order."""
    return (probs[..., None] * two_hot(atoms, support)).sum(-2)


def _project_one_by_one(atoms: Array, probs: Array, support: Array) -> Array:
    """J·log K steps; takes half the time on a CPU."""

    def one(atoms, probs):
        x = jnp.clip(atoms, support[0], support[-1])
        lower = jnp.clip(jnp.searchsorted(support, x, side="right") - 1, 0, support.size - 2)
        risen = probs * (x - support[lower]) / (support[lower + 1] - support[lower])
        return jnp.zeros(support.shape, risen.dtype).at[lower].add(probs - risen).at[lower + 1].add(risen)

    flat = lambda x: x.reshape(-1, x.shape[-1])
    return jax.vmap(one)(flat(atoms), flat(probs)).reshape(*atoms.shape[:-1], support.size)


def clipped_mass(atoms: Array, probs: Array, support: Array) -> Array:
    """The probability mass that `categorical_projection` clips to an end of the support.

        Σⱼ qⱼ [xⱼ < z₁ or xⱼ > z_K]

    Clipped mass biases the mean of the learned distribution.
    Args:
      atoms, probs: float `[..., J]`.  support: z, float `[K]`, increasing.
    Returns:
      Float `[...]` in [0, 1].

    >>> clipped_mass(jnp.array([0.5, 9.0]), jnp.array([0.75, 0.25]), jnp.array([0.0, 1.0, 2.0])).item()
    0.25
    """
    slack = 1e-5 * (support[-1] - support[0])  # for rounding errors, such as of r + γz at γ = 1
    beyond = (atoms < support[0] - slack) | (atoms > support[-1] + slack)
    return jnp.where(beyond, probs, 0.0).sum(-1)


def categorical_successors(support: Array, reward, gamma, terminated, next: Any) -> tuple[Array, Array]:
    """The greedy action's distribution, scaled by γ and shifted by r, before its projection onto the support.

    Args:
      support: z, float `[K]`.  next: as in `categorical_backup`.
    Returns:
      Atoms r + γz and their probabilities, float `[..., K]` each.
    Raises:
      ValueError: at trace time, if shapes differ.

    >>> atoms, _ = categorical_successors(jnp.array([0.0, 2.0]), 1.0, 0.5, False, jnp.array([[0.5, 0.5]]))
    >>> atoms.tolist()
    [1.0, 2.0]
    """
    next = _need("categorical_backup", next)
    if next.q.shape[-1:] != support.shape:
        raise ValueError(f"categorical_backup: next.q is {next.q.shape}; it must end with (A, {support.size})")
    chooser = next.q if next.online is None else next.online
    probs = _of_action(next.q, expectation(chooser, support).argmax(-1))
    atoms = jnp.broadcast_to(support, probs.shape)
    atoms = _target_of_atoms("categorical_backup", reward, gamma, terminated, atoms)
    # after a termination every atom is the reward, so any finite probabilities are correct
    return atoms, jnp.where(jnp.asarray(terminated)[..., None], 1 / support.size, probs)


def categorical_backup(support: Array) -> Backup:
    """The backup of C51: the greedy action's distribution, scaled by γ, shifted by r and projected onto the support.

    Args:
      support: z, float `[K]`.  next: q, probabilities of the atoms `[..., A, K]`; also online, if the online network
        selects the greedy action (double Q-learning).
    Returns:
      A backup, which returns probabilities `[..., K]`, for `losses.categorical_cross_entropy`.
    Reference: Bellemare et al., 2017, arXiv:1707.06887, algorithm 1.

    >>> certain = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # worth 0, and 1
    >>> categorical_backup(jnp.array([0.0, 1.0, 2.0]))(1.0, 0.5, False, certain).tolist()
    [0.0, 0.5, 0.5]
    """

    return lambda *args: categorical_projection(*categorical_successors(support, *args), support)


def quantile_backup(reward, gamma, terminated, next: Any) -> Array:
    """The backup of QR-DQN and IQN: the greedy action's quantiles, scaled by γ and shifted by r.

        r + γ θⱼ(s', argmax mean θ(s',a'))

    Args:
      next: q `[..., A, K]`, K quantiles of each action, at fixed or sampled fractions; also online `[..., A, K']`,
        if the greedy action comes from another network or from other fractions.
    Returns:
      Targets, float `[..., K]`, for `losses.quantile_huber`.
    Reference: Dabney et al., 2018, arXiv:1710.10044, algorithm 1; 2018, arXiv:1806.06923, section 3.

    >>> quantile_backup(1.0, 0.5, False, jnp.array([[0.0, 0.0], [2.0, 4.0]])).tolist()
    [2.0, 3.0]
    """
    next = _need("quantile_backup", next)
    chooser = next.q if next.online is None else next.online
    quantiles = _of_action(next.q, chooser.mean(-1).argmax(-1))
    return _target_of_atoms("quantile_backup", reward, gamma, terminated, quantiles)


def expected_quantile_backup(reward, gamma, terminated, next: Any) -> Array:
    """The backup of expected Sarsa for quantiles: the mixture of all actions' quantiles, weighted by the policy.

        r + γ θⱼ(s',a') with weight π(a'|s') / K,   over all a' and j

    Args:
      next: q `[..., A, K]`, quantiles; probs `[..., A]`.
    Returns:
      Quantiles of that mixture at the fractions (i + ½)/K, float `[..., K]`, for `losses.quantile_huber`; for a
      deterministic policy exactly the sorted quantiles of its action.
    Reference: Dabney et al., 2018, arXiv:1710.10044; Bellemare, Dabney & Rowland, 2023, "Distributional reinforcement
      learning", for the mixture.

    >>> nothing = jnp.array([[0.0, 0.0], [2.0, 4.0]])
    >>> expected_quantile_backup(1.0, 0.5, False, Next(nothing, probs=jnp.array([0.5, 0.5]))).tolist()
    [1.0, 2.0]
    """
    next = _need("expected_quantile_backup", next, "probs")
    *lead, _, count = next.q.shape
    if jnp.shape(next.probs) != next.q.shape[:-1]:
        shapes = f"next.q {next.q.shape}, next.probs {jnp.shape(next.probs)}"
        raise ValueError(
            f"expected_quantile_backup: probs must have the shape of q without its last axis, got {shapes}"
        )
    weight = jnp.broadcast_to(next.probs[..., None] / count, next.q.shape).reshape(*lead, -1)
    theta = jnp.where(weight == 0, jnp.inf, next.q.reshape(*lead, -1))  # actions of probability 0 last
    order = jnp.argsort(theta, axis=-1)
    sorted_theta, weight = (jnp.take_along_axis(x, order, axis=-1) for x in (theta, weight))
    below = jnp.cumsum(weight, axis=-1)
    # the first atom up to which the mass reaches each fraction
    fraction = (jnp.arange(count) + 0.5) / count * below[..., -1:]
    index = (below[..., None, :] < fraction[..., :, None]).sum(-1)
    quantiles = jnp.take_along_axis(sorted_theta, index, axis=-1)
    return _target_of_atoms("expected_quantile_backup", reward, gamma, terminated, quantiles)


# --- values as classes --------------------------------------------------------------------------------------------


def _check_increasing(function: str, name: str, points: Any) -> None:
    if jnp.ndim(points) != 1 or jnp.shape(points)[0] < 2:
        raise ValueError(f"{function}: {name} has shape {jnp.shape(points)}; it must be a vector of at least 2")
    if not isinstance(points, Tracer) and not (np.diff(np.asarray(points)) > 0).all():
        raise ValueError(f"{function}: {name} must increase, got {points}")


def two_hot(x: Array, support: Array) -> Array:
    """Encode a number as weights of its two neighbours in the support, with that `expectation`; clipped to its ends.

    Args:
      x: float `[...]`.  support: float `[K]`, increasing, with any spacing.
    Returns:
      Probabilities, float `[..., K]`.
    Raises:
      ValueError: if the support does not increase.
    Reference: Schrittwieser et al., 2020, arXiv:1911.08265, appendix F.

    >>> two_hot(jnp.array(2.5), jnp.array([0.0, 2.0, 4.0])).tolist()
    [0.0, 0.75, 0.25]
    """
    _check_increasing("two_hot", "support", support)
    x = jnp.clip(x, support[0], support[-1])[..., None]
    gaps = jnp.diff(support)
    wide = jnp.ones_like(gaps[:1])  # beyond the ends, where x never is
    below, above = jnp.concatenate([wide, gaps]), jnp.concatenate([gaps, wide])
    # elementwise, without a gather or scatter, so that XLA fuses it with a following sum
    weight = jnp.minimum((x - (support - below)) * (1 / below), ((support + above) - x) * (1 / above))
    return jnp.clip(weight, 0.0, 1.0)


def hl_gauss(x: Array, edges: Array, sigma) -> Array:
    """Encode a number as the mass of a normal distribution around it in each bin, for a cross-entropy loss.

        pᵢ = [Φ((eᵢ₊₁ - x)/σ) - Φ((eᵢ - x)/σ)] / [Φ((e_K - x)/σ) - Φ((e₀ - x)/σ)]

    Args:
      x: float `[...]`, clipped to the ends.  edges: e, float `[K + 1]`, increasing.
      sigma: σ > 0; the paper uses 0.75 times the width of a bin.
    Returns:
      Probabilities of the bins, float `[..., K]`; `expectation(p, centers(edges))` recovers the number.
    Raises:
      ValueError: if the edges do not increase.
    Reference: Farebrother et al., 2024, arXiv:2403.03950, section 3.1; Imani & White, 2018.

    >>> probs = hl_gauss(jnp.array(0.0), jnp.array([-2.0, -1.0, 0.0, 1.0, 2.0]), 0.75)
    >>> [round(p, 3) for p in probs.tolist()]
    [0.088, 0.412, 0.412, 0.088]
    """
    _check_increasing("hl_gauss", "edges", edges)
    x = jnp.clip(x, edges[0], edges[-1])[..., None]
    below = jax.scipy.special.ndtr((edges - x) / sigma)
    return jnp.diff(below, axis=-1) / (below[..., -1:] - below[..., :1])


def centers(edges: Array) -> Array:
    """Middles of bins, `[K + 1] -> [K]`.

    >>> centers(jnp.array([0.0, 2.0, 6.0])).tolist()
    [1.0, 4.0]
    """
    return 0.5 * (edges[1:] + edges[:-1])


def _sign(x: Array) -> Array:
    """The sign of x, 1 at 0: so that sign(x) f(sign(x) x) has the slope of f at 0."""
    return jnp.where(x < 0, -1.0, 1.0)


def signed_hyperbolic(x: Array, epsilon=1e-3) -> Array:
    """h(x) = sign(x) (√(|x| + 1) - 1) + εx, an invertible compression of large values; elementwise, any shape.

    Reference: Pohlen et al., 2018, arXiv:1805.11593, proposition A.2.

    >>> signed_hyperbolic(jnp.array([-3.0, 0.0, 8.0]), 0.0).tolist()
    [-1.0, 0.0, 2.0]
    """
    # √(|x| + 1) - 1 without the cancellation near 0, nor ∞/∞
    finite = jnp.where(jnp.isinf(x), 0.0, x)
    return jnp.where(jnp.isinf(x), x, finite / (jnp.sqrt(jnp.abs(finite) + 1) + 1) + epsilon * finite)


def signed_parabolic(x: Array, epsilon=1e-3) -> Array:
    """The inverse of `signed_hyperbolic`; elementwise, any shape; ε ≥ 0.

        h⁻¹(x) = sign(x) (w² + 2w),   w = 2|x| / (1 + 2ε + √((1 + 2ε)² + 4ε|x|))

    Reference: Pohlen et al., 2018, arXiv:1805.11593, proposition A.2.

    >>> print(signed_parabolic(signed_hyperbolic(jnp.array([-3.0, 0.0, 800.0]))).round(2))
    [ -3.   0. 800.]
    """
    # with w = √(|h⁻¹| + 1) - 1:  ε w² + (1 + 2ε) w = |x|, and |h⁻¹| = w² + 2w
    finite = jnp.where(jnp.isinf(x), 0.0, x)  # such as the value of an action that a mask rules out
    size = _sign(finite) * finite
    slope = 1 + 2 * epsilon
    w = 2 * size / (slope + jnp.sqrt(jnp.square(slope) + 4 * epsilon * size))
    return jnp.where(jnp.isinf(x), x, _sign(x) * (jnp.square(w) + 2 * w))


def symlog(x: Array) -> Array:
    """sign(x) log(1 + |x|), elementwise, any shape.

    Reference: Hafner et al., 2023, arXiv:2301.04104.

    >>> print(symlog(jnp.array([0.0, -1.0])).round(4))
    [ 0.     -0.6931]
    """
    return _sign(x) * jnp.log1p(_sign(x) * x)


def symexp(x: Array) -> Array:
    """sign(x) (e^{|x|} - 1), the inverse of `symlog`; elementwise, any shape.

    >>> symexp(symlog(jnp.array(5.0))).round(4).item()
    5.0
    """
    return _sign(x) * jnp.expm1(_sign(x) * x)
