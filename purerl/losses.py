"""Losses per element: `[...] -> [...]`. The caller averages them over `valid` with `masked_mean`."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from purerl.arguments import check_shapes
from purerl.bellman import soft_value
from purerl.core import Array

__all__ = [
    "adapt_kl_coefficient",
    "better_half",
    "categorical_cross_entropy",
    "change",
    "clipped_value",
    "deterministic_policy_gradient",
    "dpo_drift",
    "expectile",
    "exponential_weights",
    "huber",
    "kl_estimates",
    "kl_multiplier",
    "kl_penalty",
    "masked_mean",
    "mpo_temperature",
    "mpo_weights",
    "policy_gradient",
    "ppo_clip",
    "quantile_huber",
    "ratio",
    "scorable_mean",
    "simple_policy",
    "soft_temperature",
    "squared",
    "standardize",
    "vmpo_policy",
    "vmpo_temperature",
]


def masked_mean(x: Array, valid: Array) -> Array:
    """Mean of `x [...]` where `valid [...]` is True; 0 if no element is valid. Masked elements may be NaN.

    >>> masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False])).item()
    2.0
    """
    check_shapes("masked_mean", x=x, valid=valid)
    return jnp.where(valid, x, 0.0).sum() / jnp.maximum(valid.sum(), 1)


def scorable_mean(reward: Array, valid: Array) -> Array:
    """Mean of rewards `[T, N]` over the valid steps of the environments without a NaN among them.

    The reward NaN is that of a step, such as the last one of a text, that cannot be scored. In an episodic block the
    mean is over the episodes that can be scored. It is NaN if there is none, and 0 if no step is valid.

    >>> scorable_mean(jnp.array([[0.0, 0.0], [2.0, jnp.nan]]), jnp.ones((2, 2), bool)).item()
    1.0
    """
    scorable = ~(valid & jnp.isnan(reward)).any(0)
    mean = masked_mean(reward, valid & scorable)
    return jnp.where(valid.any() & ~(valid & scorable).any(), jnp.nan, mean)


def standardize(x: Array, valid: Array, epsilon: float = 1e-8) -> Array:
    """(x - mean) / (std + ε) of `x [...]`, mean and population std over `valid [...]`; 0 if x is constant or masked.

    >>> standardize(jnp.array([1.0, 3.0]), jnp.ones(2, bool)).round(3).tolist()
    [-1.0, 1.0]
    """
    check_shapes("standardize", x=x, valid=valid)
    x, count = jnp.where(valid, x, 0.0), jnp.maximum(valid.sum(), 1)
    away = jnp.where(valid, x - x.sum() / count, 0.0)
    variance = jnp.square(away).sum() / count
    # sqrt has no finite derivative at 0, and meta-gradients through training are computed here
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    return away / (deviation + epsilon)


def policy_gradient(log_prob: Array, advantage: Array) -> Array:
    """-log π(a|s) Â, the loss of REINFORCE.

    Args:
      log_prob, advantage: float `[...]`; the advantage is a constant: stop its gradient.
    Reference: Williams, 1992, eq. 11.

    >>> policy_gradient(jnp.array(-0.5), jnp.array(2.0)).item()
    1.0
    """
    check_shapes("policy_gradient", log_prob=log_prob, advantage=advantage)
    return -log_prob * advantage


def change(log_ratio: Array) -> Array:
    """ρ - 1 = e^{log ρ} - 1 up to log ρ = 20, and its tangent beyond, so that neither it nor its square overflows.

    Every loss in this module uses `change` or `ratio`, so its values and gradients are finite for log ρ up to 10²⁹.
    Args:
      log_ratio: log ρ, float `[...]`.

    >>> change(jnp.array([0.0, -jnp.inf])).tolist()
    [0.0, -1.0]
    """
    near = jnp.expm1(jnp.minimum(log_ratio, 20.0))
    return near + (near + 1) * jnp.maximum(log_ratio - 20.0, 0.0)


def ratio(log_ratio: Array) -> Array:
    """ρ = e^{log ρ} up to log ρ = 20, and its tangent beyond, as in `change`; float `[...]`.

    >>> [x > 0 for x in (ratio(jnp.array(-20.0)).item(), 1e30 - ratio(jnp.array(1e6)).item())]
    [True, True]
    """
    return jnp.exp(jnp.minimum(log_ratio, 20.0)) * (1 + jnp.maximum(log_ratio - 20.0, 0.0))


def ppo_clip(log_ratio: Array, advantage: Array, clip) -> Array:
    """The negative clipped surrogate.

        -min(ρ Â, clip(ρ, 1 - ε, 1 + ε) Â),   ρ = π(a|s) / π_old(a|s)

    Args:
      log_ratio: log ρ, float `[...]`.  advantage: float `[...]`.  clip: ε, a scalar > 0.
    Reference: Schulman et al., 2017, arXiv:1707.06347, eq. 7.

    >>> [round(x.item(), 3) for x in ppo_clip(jnp.log(jnp.array([1.5, 1.5])), jnp.array([1.0, -1.0]), 0.2)]
    [-1.2, 1.5]
    """
    check_shapes("ppo_clip", log_ratio=log_ratio, advantage=advantage)
    rho = ratio(log_ratio)
    return -jnp.minimum(rho * advantage, jnp.clip(rho, 1 - clip, 1 + clip) * advantage)


def squared(prediction: Array, target: Array) -> Array:
    """½ (prediction - target)², float `[...]`; no other function adds a factor of ½.

    >>> squared(jnp.array(3.0), jnp.array(1.0)).item()
    2.0
    """
    check_shapes("squared", prediction=prediction, target=target)
    return 0.5 * jnp.square(prediction - target)


def clipped_value(value: Array, old_value: Array, target: Array, clip) -> Array:
    """PPO's clipped value loss: the maximum of the squared error and the squared error of a clipped value.

        ½ max((V - G)², (V_old + clip(V - V_old, ±ε) - G)²)

    Args:
      value, old_value, target: float `[...]`.  clip: ε in units of the return, so scale it with the reward.

    >>> round(clipped_value(jnp.array(1.0), jnp.array(0.0), jnp.array(1.0), 0.2).item(), 3)
    0.32
    """
    check_shapes("clipped_value", value=value, old_value=old_value, target=target)
    held = old_value + jnp.clip(value - old_value, -clip, clip)
    return jnp.maximum(squared(value, target), squared(held, target))


# --- policies -----------------------------------------------------------------------------------------------------


def kl_penalty(log_ratio: Array, advantage: Array, kl: Array, coefficient) -> Array:
    """PPO's surrogate with a KL penalty in place of clipping.

        -(ρ Â - β KL(π_old ‖ π))

    Args:
      log_ratio: log ρ, float `[...]`.  advantage: float `[...]`.  kl: float `[...]`, exact
        (`Distribution.kl`) or an estimate (`kl_estimates`).  coefficient: β ≥ 0; see `adapt_kl_coefficient`.
    Reference: Schulman et al., 2017, arXiv:1707.06347, eq. 8.

    >>> kl_penalty(jnp.array(0.0), jnp.array(2.0), jnp.array(0.5), 2.0).item()
    -1.0
    """
    check_shapes("kl_penalty", log_ratio=log_ratio, advantage=advantage, kl=kl)
    return -ratio(log_ratio) * advantage + coefficient * kl


def adapt_kl_coefficient(coefficient, kl, target) -> Array:
    """The β of the next update: halved if KL < target / 1.5, doubled if KL > 1.5 target; scalars.

    Reference: Schulman et al., 2017, arXiv:1707.06347, section 4.

    >>> [adapt_kl_coefficient(1.0, kl, 0.01).item() for kl in (0.001, 0.01, 0.1)]
    [0.5, 1.0, 2.0]
    """
    coefficient = jnp.asarray(coefficient, jnp.result_type(float))
    return coefficient * jnp.where(kl < target / 1.5, 0.5, jnp.where(kl > 1.5 * target, 2.0, 1.0))


def dpo_drift(log_ratio: Array, advantage: Array, alpha=2.0, beta=0.6) -> Array:
    """Discovered policy optimisation: the policy gradient with a drift function found by meta-learning.

        -(ρ Â - f),   f = [Â(ρ - 1) - α tanh(Â(ρ - 1)/α)]⁺  for Â ≥ 0
                      f = [Â log ρ - β tanh(Â log ρ/β)]⁺      for Â < 0

    Args:
      log_ratio: log ρ, float `[...]`.  advantage: standardised, float `[...]`.  alpha, beta: > 0.
    Reference: Lu et al., 2022, arXiv:2210.05639, section 5.

    >>> dpo_drift(jnp.array(0.0), jnp.array(3.0)).item()
    -3.0
    """
    check_shapes("dpo_drift", log_ratio=log_ratio, advantage=advantage)
    up, down = advantage * change(log_ratio), advantage * log_ratio
    # ρ Â = Â + up, taken together with the drift: apart, they cancel at large ρ
    rise = jnp.minimum(alpha * jnp.tanh(up / alpha), up)
    fall = jnp.maximum(down - beta * jnp.tanh(down / beta), 0.0)
    return -(advantage + jnp.where(advantage >= 0, rise, up - fall))


def simple_policy(log_ratio: Array, advantage: Array, clip) -> Array:
    """Simple policy optimisation (SPO): a parabola in ρ with its maximum at the edge of the trust region.

        -(ρ Â - |Â| (ρ - 1)² / 2ε)

    Args:
      log_ratio: log ρ, float `[...]`.  advantage: float `[...]`.  clip: ε > 0; the maximum is at ρ = 1 ± ε.
    Reference: Xie et al., 2024, arXiv:2401.16025, section 4.

    >>> import jax
    >>> jax.grad(simple_policy)(jnp.log(1.2), jnp.array(1.0), 0.2).round(4).item()
    0.0
    """
    check_shapes("simple_policy", log_ratio=log_ratio, advantage=advantage)
    moved = change(log_ratio)
    return -((1 + moved) * advantage - jnp.abs(advantage) * jnp.square(moved) / (2 * clip))


def exponential_weights(advantage: Array, temperature, largest=jnp.inf) -> Array:
    """The weights of advantage-weighted regression, min(e^{Â/τ}, largest), `[...]`; constants of a loss.

    Args:
      advantage: float `[...]`.  temperature: τ > 0, in units of the return.  largest: the paper uses 20.
      Without it the weights overflow float32 for Â/τ ≥ 89.
    Reference: Peng et al., 2019, arXiv:1910.00177, eq. 8 and section 5.

    >>> exponential_weights(jnp.array([0.0, 1000.0]), 1.0, 20.0).round(3).tolist()
    [1.0, 20.0]
    """
    return jnp.exp(jnp.minimum(advantage / temperature, jnp.log(largest)))


def mpo_weights(q: Array, temperature, axis: int = 0) -> Array:
    """MPO's improved policy over sampled actions, softmax(Q/η) along `axis`; constants of a loss.

    The policy's loss is then -Σ w log π(a|s) over that axis. η may be as small as 1e-30.
    Reference: Abdolmaleki et al., 2018, arXiv:1806.06920, eq. 7.

    >>> mpo_weights(jnp.array([1.0, 1.0]), 0.5).tolist()
    [0.5, 0.5]
    """
    return jax.nn.softmax((q - q.max(axis, keepdims=True)) / temperature, axis=axis)


def mpo_temperature(q: Array, temperature, epsilon, axis: int = 0) -> Array:
    """The dual of MPO's temperature: at its minimum over η, KL between the improved and the old policy is ε.

        g(η) = ηε + η log (1/K Σ e^{Q/η})      (take the mean over states)

    Args:
      q: Q(s, aₖ) of K actions sampled from the old policy, along `axis`, float.  temperature: η > 0, as small as 1e-30.
      epsilon: ε > 0, in nats.
    Reference: Abdolmaleki et al., 2018, arXiv:1806.06920, eq. 8.

    >>> round(mpo_temperature(jnp.zeros(4), 2.0, 0.1).item(), 4)
    0.2
    """
    soft = soft_value(jnp.moveaxis(q, axis, -1), temperature)
    return soft + temperature * (epsilon - math.log(q.shape[axis]))


def kl_multiplier(kl: Array, multiplier, epsilon) -> Array:
    """MPO's trust region with a Lagrange multiplier α: the penalty of the policy and the dual of α in one loss.

        sg(α) KL + α (ε - sg(KL)),   sg: a constant to the gradient

    Args:
      kl: KL(π_old ‖ π), float `[...]`.  multiplier: α ≥ 0, such as softplus of a parameter.  epsilon: ε > 0, in nats.
    Reference: Abdolmaleki et al., 2018, arXiv:1812.02256, section 4.2.

    >>> round(kl_multiplier(jnp.array(0.5), 2.0, 0.1).item(), 4)
    0.2
    """
    held = jax.lax.stop_gradient
    return held(multiplier) * kl + multiplier * (epsilon - held(kl))


def vmpo_policy(log_prob: Array, advantage: Array, temperature, valid: Array) -> Array:
    """V-MPO's policy loss: weighted maximum likelihood of the actions with the larger half of the advantages.

        -Σ ψ log π(a|s),   ψ = e^{Â/η} / Σ e^{Â/η}   over the elements with the larger half of Â

    Args:
      log_prob, advantage: float `[...]`; the advantage and η are constants to the gradient.  temperature: η > 0.
      valid: bool `[...]`; other elements are ignored.
    Returns:
      Loss, a scalar: the sum over all axes.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Song et al., 2020, arXiv:1909.12238, the policy loss L_π.

    >>> half = jnp.log(jnp.full(4, 0.5))
    >>> vmpo_policy(half, jnp.array([3.0, 3.0, 1.0, 0.0]), 1.0, jnp.ones(4, bool)).item()
    0.693...
    """
    check_shapes("vmpo_policy", log_prob=log_prob, advantage=advantage, valid=valid)
    top = better_half(advantage, valid)
    logits: Any = jnp.where(top, jax.lax.stop_gradient(advantage / temperature), -jnp.inf)
    weight = jnp.where(top, jnp.exp(logits - jax.nn.logsumexp(logits)), 0.0)
    return -(weight * jnp.where(top, log_prob, 0.0)).sum()


def vmpo_temperature(advantage: Array, temperature, epsilon, valid: Array) -> Array:
    """V-MPO's temperature loss: at its minimum, KL between the weights and uniform weights is ε.

        ηε + η log (1/|D̃| Σ e^{Â/η})   over the elements D̃ with the larger half of Â

    `kl_multiplier` bounds the KL of the policy update.
    Args:
      advantage: a constant, float `[...]`.  temperature: η > 0, such as softplus of a parameter; gradients are finite
        from 1e-15 on.  epsilon: ε > 0, in nats.  valid: bool `[...]`.
    Returns:
      Loss, a scalar; 0 if no element is valid.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Song et al., 2020, arXiv:1909.12238, the temperature loss L_η.

    >>> round(vmpo_temperature(jnp.zeros(4), 2.0, 0.1, jnp.ones(4, bool)).item(), 4)
    0.2
    """
    check_shapes("vmpo_temperature", advantage=advantage, valid=valid)
    top = better_half(advantage, valid)
    held = jax.lax.stop_gradient(jnp.where(top, advantage, 0.0))
    largest = jnp.where(top, held, -jnp.inf).max()
    largest = jnp.where(top.any(), largest, 0.0)
    # relative to the largest, so that no temperature causes overflow
    mean = jnp.where(top, jnp.exp(jnp.where(top, held - largest, 0.0) / temperature), 0.0).sum()
    mean = jnp.where(top.any(), mean / jnp.maximum(top.sum(), 1), 1.0)
    return temperature * epsilon + largest + temperature * jnp.log(mean)


def better_half(advantage: Array, valid: Array) -> Array:
    """Which elements have the larger half of the advantages, bool `[...]`: ⌈n/2⌉ of the n valid ones, or more if equal.

    >>> better_half(jnp.array([1.0, 3.0, 2.0, 9.0]), jnp.array([True, True, True, False])).tolist()
    [False, True, True, False]
    """
    check_shapes("better_half", advantage=advantage, valid=valid)
    ordered = jnp.sort(jnp.where(valid, advantage, -jnp.inf).reshape(-1), descending=True)
    last = ordered[jnp.maximum((valid.sum() + 1) // 2 - 1, 0)]
    return valid & (advantage >= last)


def kl_estimates(log_ratio: Array) -> tuple[Array, Array, Array]:
    """Three estimates of KL(μ ‖ π) from actions of μ: k₁ is unbiased, k₂ has low variance, k₃ has both properties.

        k₁ = -log ρ,   k₂ = ½ (log ρ)²,   k₃ = ρ - 1 - log ρ,      log ρ = log π(a|s) - log μ(a|s)

    As losses they differ: for actions sampled from π itself, only the gradient of k₂ is that of KL.
    Args:
      log_ratio: log ρ, float `[...]`.
    Returns:
      (k₁, k₂, k₃), float `[...]` each; k₂ and k₃ are not negative.
    Reference: Schulman, 2020, "Approximating KL divergence".

    >>> [k.item() for k in kl_estimates(jnp.array(0.0))]
    [-0.0, 0.0, 0.0]
    """
    return -log_ratio, 0.5 * jnp.square(log_ratio), change(log_ratio) - log_ratio


# --- values -------------------------------------------------------------------------------------------------------


def huber(prediction: Array, target: Array, delta=1.0) -> Array:
    """Huber loss: ½ e² where |e| ≤ δ, and δ (|e| - ½δ) beyond; e = prediction - target, float `[...]`.

    Reference: Huber, 1964; Mnih et al., 2015.

    >>> huber(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
    """
    check_shapes("huber", prediction=prediction, target=target)
    return _huber(prediction - target, delta)


def _huber(error: Array, delta) -> Array:
    near = jnp.clip(error, -delta, delta)
    return near * (error - 0.5 * near)


def expectile(prediction: Array, target: Array, fraction) -> Array:
    """Expectile regression: at its minimum the prediction is the τ-expectile of the targets, the mean at τ = ½.

        |τ - [u < 0]| u²,   u = target - prediction

    For τ near 1 the expectile tends to the largest target: V in IQL tends to the value of the best action in the data.
    Args:
      prediction, target: float `[...]`.  fraction: τ in (0, 1), scalar or `[...]`.
    Returns:
      Loss, float `[...]`; at τ = ½ it is `squared`.
    Reference: Newey & Powell, 1987; Kostrikov et al., 2022, arXiv:2110.06169, eq. 5.

    >>> expectile(jnp.zeros(2), jnp.array([1.0, -1.0]), 0.75).tolist()
    [0.75, 0.25]
    """
    check_shapes("expectile", prediction=prediction, target=target)
    error = target - prediction
    return jnp.abs(fraction - (error < 0)) * jnp.square(error)


def quantile_huber(quantiles: Array, target: Array, fractions: Array, delta=1.0) -> Array:
    """Quantile regression: at its minimum the fraction fᵢ of the targets is below quantile i.

        Σᵢ 1/J Σⱼ |fᵢ - [uᵢⱼ < 0]| H_δ(uᵢⱼ) / δ,   uᵢⱼ = targetⱼ - quantileᵢ

    Args:
      quantiles: float `[..., K]`.  target: a constant, float `[..., J]`.
      fractions: f in (0, 1), float `[K]` or `[..., K]`; (i + ½)/K in QR-DQN, sampled in IQN.
      delta: δ ≥ 0 of the Huber loss H; 0 gives |u|, whose minimum is the quantile itself. (The division by δ is from
        IQN; QR-DQN does not divide, which is the same at δ = 1.)
    Returns:
      Loss, float `[...]`.
    Reference: Dabney et al., 2018, arXiv:1710.10044, eq. 10; 2018, arXiv:1806.06923, eq. 3.

    >>> quantile_huber(jnp.array([0.0]), jnp.array([1.0, -1.0]), jnp.array([0.5]), 0.0).item()
    0.5
    """
    if jnp.shape(quantiles)[:-1] != jnp.shape(target)[:-1] or jnp.shape(fractions)[-1] != jnp.shape(quantiles)[-1]:
        shapes = f"quantiles {jnp.shape(quantiles)}, target {jnp.shape(target)}, fractions {jnp.shape(fractions)}"
        raise ValueError(f"quantile_huber: leading axes and the number of quantiles must agree, got {shapes}")
    error = target[..., None, :] - quantiles[..., :, None]
    size = jnp.abs(error)
    # the Huber loss over δ, whose limit at δ = 0 is |u|
    safe = jnp.where(delta > 0, delta, 1.0)
    size = jnp.where(delta > 0, _huber(size, safe) / safe, size)
    return (jnp.abs(fractions[..., :, None] - (error < 0)) * size).mean(-1).sum(-1)


def categorical_cross_entropy(logits: Array, target: Array) -> Array:
    """-Σ pᵢ log softmax(ℓ)ᵢ, the loss of C51, two-hot and HL-Gauss values.

    Args:
      logits: ℓ, float `[..., K]`; -inf is allowed where the target is 0.  target: p, a constant, float `[..., K]`.
    Returns:
      Loss, float `[...]`.

    >>> round(categorical_cross_entropy(jnp.zeros(2), jnp.array([0.5, 0.5])).item(), 4)
    0.6931
    """
    check_shapes("categorical_cross_entropy", logits=logits, target=target)
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.where(target == 0, 0.0, target * jnp.where(target == 0, 0.0, log_probs)).sum(-1)


# --- actors whose critic is differentiated ------------------------------------------------------------------------


def deterministic_policy_gradient(q: Array) -> Array:
    """-Q(s, μ(s)), the loss of a deterministic policy; the critic's parameters are constants of the loss.

    Args:
      q: float `[...]`.
    Reference: Silver et al., 2014, eq. 9; Lillicrap et al., 2016, arXiv:1509.02971, eq. 6.

    >>> deterministic_policy_gradient(jnp.array(2.0)).item()
    -2.0
    """
    return -q


def soft_temperature(log_temperature: Array, excess: Array) -> Array:
    """SAC's temperature loss: its minimisation raises τ while the policy's entropy is below its target.

        log τ · (H - H_target)

    The paper uses τ in place of log τ: the gradient has the same sign and zero, but it is nearly 0 for small τ.
    Args:
      log_temperature: the parameter, float `[...]`.  excess: H - H_target in nats, a constant, float `[...]`.
    Returns:
      Loss, float `[...]`.
    Reference: Haarnoja et al., 2018, arXiv:1812.05905, eq. 18.

    >>> soft_temperature(jnp.array(2.0), jnp.array(-1.5)).item()
    -3.0
    """
    check_shapes("soft_temperature", log_temperature=log_temperature, excess=excess)
    return log_temperature * jax.lax.stop_gradient(excess)
