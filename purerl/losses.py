"""Losses, one number an element: `[...] -> [...]`. Take the mean over `valid` yourself, with `masked_mean`."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from purerl.bellman import soft_value
from purerl.core import Array, check_shapes


def masked_mean(x: Array, valid: Array) -> Array:
    """Mean of `x [...]` where `valid [...]` is True; 0 where nothing is, and no NaN from what is masked.

    >>> masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False])).item()
    2.0
    """
    check_shapes("masked_mean", x=x, valid=valid)
    return jnp.where(valid, x, 0.0).sum() / jnp.maximum(valid.sum(), 1)


def standardize(x: Array, valid: Array, epsilon: float = 1e-8) -> Array:
    """(x - mean) / (std + ε), mean and population deviation over `valid`; 0 for constant x, and for what is masked.

    >>> standardize(jnp.array([1.0, 3.0]), jnp.ones(2, bool)).round(3).tolist()
    [-1.0, 1.0]
    """
    away = jnp.where(valid, x - masked_mean(x, valid), 0.0)
    variance = masked_mean(jnp.square(away), valid)
    # sqrt has no finite slope at 0, and differentiation through training passes here
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    return away / (deviation + epsilon)


def policy_gradient(log_prob: Array, advantage: Array) -> Array:
    """-log π(a|s) Â, whose gradient is REINFORCE's.

    Args:
      log_prob, advantage: float `[...]`; the advantage is a constant: stop its gradient.
    Reference: Williams, 1992, eq. 11.

    >>> policy_gradient(jnp.array(-0.5), jnp.array(2.0)).item()
    1.0
    """
    check_shapes("policy_gradient", log_prob=log_prob, advantage=advantage)
    return -log_prob * advantage


def change(log_ratio: Array) -> Array:
    """ρ - 1 = e^{log ρ} - 1 up to log ρ = 20; beyond it its tangent, so that neither it nor its square overflows.

    Every loss here takes its ratios from this, or from `ratio`: values and gradients are finite for log ρ up to 10²⁹.

    >>> change(jnp.array([0.0, -jnp.inf])).tolist()
    [0.0, -1.0]
    """
    near = jnp.expm1(jnp.minimum(log_ratio, 20.0))
    return near + (near + 1) * jnp.maximum(log_ratio - 20.0, 0.0)


def ratio(log_ratio: Array) -> Array:
    """ρ = e^{log ρ}, and beyond log ρ = 20 its tangent, as in `change`.

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
    """½ (prediction - target)²: the ½ is here and nowhere else.

    >>> squared(jnp.array(3.0), jnp.array(1.0)).item()
    2.0
    """
    check_shapes("squared", prediction=prediction, target=target)
    return 0.5 * jnp.square(prediction - target)


def clipped_value(value: Array, old_value: Array, target: Array, clip) -> Array:
    """PPO's pessimistic value loss: the larger of the plain one and one whose change is clipped.

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
    """PPO's other surrogate: the policy gradient, with a price on leaving the old policy.

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
    """The β of the next update: halved where KL < target / 1.5, doubled where KL > 1.5 target.

    Reference: Schulman et al., 2017, arXiv:1707.06347, section 4.

    >>> [adapt_kl_coefficient(1.0, kl, 0.01).item() for kl in (0.001, 0.01, 0.1)]
    [0.5, 1.0, 2.0]
    """
    coefficient = jnp.asarray(coefficient, jnp.result_type(float))
    return coefficient * jnp.where(kl < target / 1.5, 0.5, jnp.where(kl > 1.5 * target, 2.0, 1.0))


def dpo_drift(log_ratio: Array, advantage: Array, alpha=2.0, beta=0.6) -> Array:
    """Discovered policy optimisation: the policy gradient less a drift that a meta-learner found.

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
    """Simple policy optimisation (SPO): a parabola in ρ with its top at the edge of the trust region, no clipping.

        -(ρ Â - |Â| (ρ - 1)² / 2ε)

    Args:
      log_ratio: log ρ, float `[...]`.  advantage: float `[...]`.  clip: ε > 0, where the top is: ρ = 1 ± ε.
    Reference: Xie et al., 2024, arXiv:2401.16025, section 4.

    >>> import jax
    >>> jax.grad(simple_policy)(jnp.log(1.2), jnp.array(1.0), 0.2).round(4).item()
    0.0
    """
    check_shapes("simple_policy", log_ratio=log_ratio, advantage=advantage)
    moved = change(log_ratio)
    return -((1 + moved) * advantage - jnp.abs(advantage) * jnp.square(moved) / (2 * clip))


def actor_critic(log_prob, entropy, value, advantage, target, value_cost=0.5, entropy_cost=0.01) -> Array:
    """The loss of A2C, one number an element; with `returns.vtrace`'s targets and advantages, IMPALA's.

        -log π(a|s) Â + c_v ½ (V - G)² - c_e H(π)

    Args:
      log_prob, entropy, value: float `[...]`.  advantage, target: constants, float `[...]`.
      value_cost, entropy_cost: weights ≥ 0.
    Reference: Mnih et al., 2016, arXiv:1602.01783, section 4; Espeholt et al., 2018, arXiv:1802.01561, section 4.2.

    >>> one = jnp.array(1.0)
    >>> actor_critic(-one, one, 0 * one, one, 2 * one, value_cost=0.5, entropy_cost=0.5).item()
    1.5
    """
    check_shapes("actor_critic", log_prob=log_prob, entropy=entropy, value=value, advantage=advantage, target=target)
    return policy_gradient(log_prob, advantage) + value_cost * squared(value, target) - entropy_cost * entropy


def exponential_weights(advantage: Array, temperature, largest=jnp.inf) -> Array:
    """Advantage-weighted regression's weights of log π(a|s), min(e^{Â/τ}, largest); constants of a loss.

    Args:
      advantage: float `[...]`.  temperature: τ > 0, in units of the return.  largest: 20 is the paper's.
      Without it the weights overflow float32 from Â/τ = 89 on.
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
    """The dual whose minimum over η makes the improved policy lie ε from the old one, in KL.

        g(η) = ηε + η log (1/K Σ e^{Q/η})      (take the mean over states)

    Args:
      q: Q(s, aₖ) of K actions that the old policy drew, along `axis`.  temperature: η > 0, as small as 1e-30.
      epsilon: ε > 0, in nats.
    Reference: Abdolmaleki et al., 2018, arXiv:1806.06920, eq. 8.

    >>> round(mpo_temperature(jnp.zeros(4), 2.0, 0.1).item(), 4)
    0.2
    """
    soft = soft_value(jnp.moveaxis(q, axis, -1), temperature)
    return soft + temperature * (epsilon - math.log(q.shape[axis]))


def kl_multiplier(kl: Array, multiplier, epsilon) -> Array:
    """MPO's trust region by a Lagrange multiplier α: `kl` for the policy, and for α its dual, in one loss.

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
    """V-MPO's policy loss: weighted maximum likelihood of the better half of the actions.

        -Σ ψ log π(a|s),   ψ = e^{Â/η} / Σ e^{Â/η}   over the elements with the larger half of Â

    Args:
      log_prob, advantage: float `[...]`; the advantage and η are constants to the gradient.  temperature: η > 0.
      valid: bool `[...]`; the others have no part.
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
    logits = jnp.where(top, jax.lax.stop_gradient(advantage / temperature), -jnp.inf)
    weight = jnp.where(top, jnp.exp(logits - jax.nn.logsumexp(logits)), 0.0)
    return -(weight * jnp.where(top, log_prob, 0.0)).sum()


def vmpo_temperature(advantage: Array, temperature, epsilon, valid: Array) -> Array:
    """V-MPO's loss of its temperature: at its minimum the better half's weights lie ε from even ones, in KL.

        ηε + η log (1/|D̃| Σ e^{Â/η})   over the elements D̃ with the larger half of Â

    The bound on the policy's own KL is `kl_multiplier`'s.
    Args:
      advantage: a constant, float `[...]`.  temperature: η > 0, such as softplus of a parameter; gradients are finite
        from 1e-15 on.  epsilon: ε > 0, in nats.  valid: bool `[...]`.
    Returns:
      Loss, a scalar; 0 where nothing is valid.
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
    # from the largest, so that no temperature overflows
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
    """Three estimates of KL(μ ‖ π) from actions of μ: unbiased, of little variance, and both.

        k₁ = -log ρ,   k₂ = ½ (log ρ)²,   k₃ = ρ - 1 - log ρ,      log ρ = log π(a|s) - log μ(a|s)

    As losses they differ: of actions drawn from π itself, only k₂'s gradient is KL's.
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
    """½ e² where |e| ≤ δ, and δ (|e| - ½δ) beyond; e = prediction - target.

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
    """Asymmetric squares: at its minimum the prediction is the targets' expectile, the mean at τ = ½.

        |τ - [u < 0]| u²,   u = target - prediction

    At τ near 1 it tends to the largest target: IQL's V learns the best of the actions in the data.
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
    """Quantile regression: at its minimum each quantile has its fraction of the targets below it.

        Σᵢ 1/J Σⱼ |fᵢ - [uᵢⱼ < 0]| H_δ(uᵢⱼ) / δ,   uᵢⱼ = targetⱼ - quantileᵢ

    Args:
      quantiles: float `[..., K]`.  target: a constant, float `[..., J]`.
      fractions: f in (0, 1), float `[K]` or `[..., K]`; (i + ½)/K in QR-DQN, drawn in IQN.
      delta: δ ≥ 0 of the Huber loss H; 0 gives |u|, whose minimum is the quantile itself. (Over δ as IQN has it; QR-DQN
        does not divide, which is the same at 1.)
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
    """-Q(s, μ(s)), of whose gradient only the way through the action is wanted: hold the critic's parameters.

    Args:
      q: float `[...]`.
    Reference: Silver et al., 2014, eq. 9; Lillicrap et al., 2016, arXiv:1509.02971, eq. 6.

    >>> deterministic_policy_gradient(jnp.array(2.0)).item()
    -2.0
    """
    return -q


def soft_actor(log_prob: Array, q: Array, temperature) -> Array:
    """SAC's actor: τ log π(a|s) - Q(s,a), a drawn so that gradients pass (reparametrised).

    Args:
      log_prob, q: float `[...]`; q is the smaller of the twins.  temperature: τ, a constant.
    Reference: Haarnoja et al., 2018, arXiv:1812.05905, eq. 7.

    >>> soft_actor(jnp.array(-1.0), jnp.array(2.0), 0.5).item()
    -2.5
    """
    check_shapes("soft_actor", log_prob=log_prob, q=q)
    return temperature * log_prob - q


def soft_critic(q: Array, reward, gamma, terminated, next_q: Array, next_log_prob: Array, temperature) -> Array:
    """SAC's critic: ½ (Q(s,a) - [r + γ (1 - terminated) (Q(s',a') - τ log π(a'|s'))])².

    Args:
      q: float `[...]`.  next_q: the smaller of the target twins at a' ~ π(·|s'), float `[...]`; it, next_log_prob
        and the temperature are constants to the gradient.
    Reference: Haarnoja et al., 2018, arXiv:1812.05905, eq. 5.

    >>> soft_critic(jnp.array(0.0), jnp.array(1.0), 0.5, jnp.array(False), jnp.array(1.0), jnp.array(-2.0), 0.5).item()
    2.0
    """
    check_shapes("soft_critic", q=q, reward=reward, terminated=terminated, next_q=next_q, next_log_prob=next_log_prob)
    value = jnp.where(terminated, 0.0, next_q - temperature * next_log_prob)
    return squared(q, jax.lax.stop_gradient(reward + gamma * value))


def soft_temperature(log_temperature: Array, log_prob: Array, target_entropy) -> Array:
    """SAC's temperature, raised while the policy's entropy is below the one wanted.

        -τ (log π(a|s) + H_target),   τ = e^{log τ}

    Args:
      log_temperature: the parameter, a scalar.  log_prob: a constant to the gradient, float `[...]`.
      target_entropy: in nats; minus the number of action dimensions is customary.
    Returns:
      Loss, float `[...]`.
    Reference: Haarnoja et al., 2018, arXiv:1812.05905, eq. 18.

    >>> soft_temperature(jnp.array(0.0), jnp.array(-2.0), 1.0).item()
    1.0
    """
    return -jnp.exp(log_temperature) * jax.lax.stop_gradient(log_prob + target_entropy)
