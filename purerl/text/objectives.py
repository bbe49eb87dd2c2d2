"""Policy gradients of sequences: advantages of groups, token losses and normalisers, KL to a reference, likelihood.

Sequences are `[N, T]` arrays of completion tokens. `mask [N, T]` is True up to and including the first end token
(`until_end`); what stands behind it enters no loss, whatever it is. (0 x NaN is NaN in a gradient: if log-probabilities
behind the end may be infinite or NaN, differentiate `jnp.where(mask, log_prob, 0.0)`.) Rewards are one number a
sequence, and a reward that cannot be scored is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purerl import losses
from purerl.arguments import check_counts, check_range, check_shapes
from purerl.core import Array

# --- advantages ---------------------------------------------------------------------------------------------------


class GroupAdvantage(NamedTuple):
    """Advantages of groups, and the number of groups from which nothing is learned."""

    advantage: Array  # float [..., G]; 0 where the reward cannot be scored
    num_zero_variance: Array  # int scalar: groups whose rewards are all equal


def _scorable(function: str, reward: Array, valid: Array | None) -> Array:
    """Which rewards have a score, bool `[..., G]`."""
    if jnp.ndim(reward) < 1:
        raise ValueError(f"{function}: reward has shape (); it must be [..., G], with the group axis last")
    scored = ~jnp.isnan(reward)
    if valid is None:
        return scored
    check_shapes(function, reward=reward, valid=valid)
    return valid & scored


def zero_variance(reward: Array, valid: Array | None = None) -> Array:
    """Which groups have equal rewards, or fewer than two rewards that can be scored: their advantages are 0.

    Dynamic sampling discards these groups and samples others in their place.
    Args:
      reward: float `[..., G]`, NaN where it cannot be scored.  valid: bool `[..., G]`; None: all.
    Returns:
      bool `[...]`.
    Raises:
      ValueError: at trace time, if the shapes differ or there is no group axis.
    Reference: Yu et al., 2025, arXiv:2503.14476, section 3.2 (dynamic sampling).

    >>> zero_variance(jnp.array([[1.0, 1.0, jnp.nan], [0.0, 1.0, 1.0]])).tolist()
    [True, False]
    """
    scored = _scorable("zero_variance", reward, valid)
    lowest = jnp.where(scored, reward, jnp.inf).min(-1)
    highest = jnp.where(scored, reward, -jnp.inf).max(-1)
    return lowest >= highest


def _centred(reward: Array, scored: Array) -> Array:
    """Rewards minus the mean of their group, float `[..., G]`; exactly 0 in groups of zero variance."""
    used = scored & ~zero_variance(reward, scored)[..., None]
    reward = jnp.where(used, reward, 0.0)
    mean = reward.sum(-1, keepdims=True) / jnp.maximum(used.sum(-1, keepdims=True), 1)
    return jnp.where(used, reward - mean, 0.0)


def rloo_advantage(reward: Array, valid: Array | None = None) -> Array:
    """Leave-one-out advantages: each reward minus the mean of the other rewards of its group.

        Aᵢ = rᵢ - 1/(n-1) Σ_{j≠i} rⱼ = n/(n-1) (rᵢ - mean)      over the n rewards of the group that can be scored

    Args:
      reward: float `[..., G]`, the group axis last; NaN where it cannot be scored.  valid: bool `[..., G]`; None: all.
    Returns:
      Advantages, float `[..., G]`: 0 for rewards that cannot be scored, and in a group with a single one that can.
    Raises:
      ValueError: at trace time, if the shapes differ or there is no group axis.
    Reference: Kool et al., 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al., 2024,
      arXiv:2402.14740.

    >>> rloo_advantage(jnp.array([1.0, 0.0, jnp.nan])).tolist()
    [1.0, -1.0, 0.0]
    """
    scored = _scorable("rloo_advantage", reward, valid)
    count = scored.sum(-1, keepdims=True)
    return _centred(reward, scored) * (count / jnp.maximum(count - 1, 1))


EPSILON = 1e-4  # added to the standard deviation, so that rewards which are nearly equal give no large advantage


def _deviation(reward: Array, scored: Array, axis: int | None) -> Array:
    """Standard deviation with n - 1 over `axis` (None: all), which is kept; 0 for fewer than two rewards."""
    count = scored.sum(axis, keepdims=True)
    mean = jnp.where(scored, reward, 0.0).sum(axis, keepdims=True) / jnp.maximum(count, 1)
    squares = jnp.where(scored, jnp.square(reward - mean), 0.0).sum(axis, keepdims=True)
    variance = squares / jnp.maximum(count - 1, 1)
    # sqrt has no finite derivative at 0
    return jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)


def group_scale(reward: Array, scored: Array) -> Array:
    """std + 1e-4 of each group `[..., 1]`, with n - 1, of the `reward [..., G]` where `scored [..., G]` is True.

    >>> round(group_scale(jnp.array([[0.0, 2.0]]), jnp.ones((1, 2), bool)).item(), 4)
    1.4143
    """
    return _deviation(reward, scored, -1) + EPSILON


def batch_scale(reward: Array, scored: Array) -> Array:
    """std + 1e-4 over all groups together `[..., 1]`, with n - 1, of the `reward [..., G]` where `scored` is True.

    >>> round(batch_scale(jnp.array([[0.0, 0.0], [2.0, 2.0]]), jnp.ones((2, 2), bool)).item(), 4)
    1.1548
    """
    return _deviation(reward, scored, None) + EPSILON


def no_scale(reward: Array, scored: Array) -> Array:
    """1, for advantages in units of the reward.

    >>> no_scale(jnp.zeros(2), jnp.ones(2, bool)).item()
    1.0
    """
    del scored
    return jnp.ones((), jnp.result_type(reward, float))


SCALES = {"group": group_scale, "batch": batch_scale, "none": no_scale}


def group_advantage(
    reward: Array, scale: str | Callable[[Array, Array], Array] = "group", valid: Array | None = None
) -> GroupAdvantage:
    """GRPO's advantages: rewards minus the mean of their group, over a scale.

        Aᵢ = (rᵢ - mean) / (std + 1e-4),   std with n - 1      over the n rewards of the group that can be scored

    Args:
      reward: float `[..., G]`, the group axis last; NaN where it cannot be scored.
      scale: "group": std of the group; "batch": std of all rewards; "none": 1 in place of std + 1e-4; or a function
        `(reward, scored) -> divisor` that broadcasts to `[..., G]`, such as `group_scale`.
      valid: bool `[..., G]`; None: all.
    Returns:
      The advantages, float `[..., G]`: 0 for rewards that cannot be scored, for a group with a single one that can,
      and exactly 0 if the rewards of a group are equal; and the number of such groups (`zero_variance`).
    Raises:
      ValueError: at trace time, if the scale is unknown, the shapes differ or there is no group axis.
    Reference: Shao et al., 2024, arXiv:2402.03300, section 4.1.2; without scale: Liu et al., 2025, arXiv:2503.20783.

    >>> group_advantage(jnp.array([[1.0, 0.0], [3.0, 3.0]]), "none")
    GroupAdvantage(advantage=Array([[ 0.5, -0.5],
           [ 0. ,  0. ]], dtype=float32), num_zero_variance=Array(1, dtype=int32))
    """
    if callable(scale):
        divisor = scale
    elif scale in SCALES:
        divisor = SCALES[scale]
    else:
        raise ValueError(f"group_advantage: scale is {scale!r}; it must be one of {', '.join(SCALES)}, or a function")
    scored = _scorable("group_advantage", reward, valid)
    # NaN stays out of the user's function too
    advantage = _centred(reward, scored) / divisor(jnp.where(scored, reward, 0.0), scored)
    return GroupAdvantage(advantage, zero_variance(reward, scored).sum())


class MovingAverage(NamedTuple):
    """An exponential moving average of rewards."""

    total: Array  # float scalar: the weighted sum of the batches' mean rewards
    weight: Array  # float scalar in [0, 1): the sum of the weights; 0 before the first reward


def moving_average_init() -> MovingAverage:
    """The state of `moving_average_advantage` before the first batch.

    >>> moving_average_init().weight.item()
    0.0
    """
    return MovingAverage(jnp.zeros(()), jnp.zeros(()))


def moving_average_advantage(state: MovingAverage, reward: Array, decay=0.9) -> tuple[Array, MovingAverage]:
    """Rewards minus the moving average of the batches before this one, which leaves the policy gradient unbiased.

        A = r - b,   b = total / weight,   total ← β total + (1-β) mean(r),   weight ← β weight + (1-β)

    Args:
      state: from `moving_average_init` or the previous batch.
      reward: float `[...]`; NaN where it cannot be scored.  decay: β in [0, 1].
    Returns:
      The advantages, float `[...]`, 0 where the reward is NaN; and the next state, the same if all are. Before the
      first reward the baseline is 0.
    Raises:
      ValueError: if decay is out of range.
    Reference: Williams, 1992 (reinforcement comparison); Kingma & Ba, 2015, section 3 (the weight).

    >>> advantage, state = moving_average_advantage(moving_average_init(), jnp.array([1.0, 3.0]))
    >>> moving_average_advantage(state, jnp.array([1.0, 3.0]))[0].tolist()
    [-1.0, 1.0]
    """
    check_range("moving_average_advantage", 0.0, 1.0, decay=decay)
    scored = ~jnp.isnan(reward)
    baseline = jnp.where(state.weight > 0, state.total / jnp.where(state.weight > 0, state.weight, 1.0), 0.0)
    kept = jnp.where(scored.any(), decay, 1.0).astype(state.total.dtype)
    mean = losses.masked_mean(reward, scored)
    state = MovingAverage(kept * state.total + (1 - kept) * mean, kept * state.weight + (1 - kept))
    return jnp.where(scored, jnp.where(scored, reward, 0.0) - baseline, 0.0), state


def self_critical_advantage(reward: Array, greedy_reward: Array) -> Array:
    """The reward of a sampled sequence minus that of the greedy sequence of the same prompt.

    Args:
      reward, greedy_reward: float `[...]`; NaN where it cannot be scored.
    Returns:
      Advantages, float `[...]`; 0 where either reward is NaN.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Rennie et al., 2017, arXiv:1612.00563.

    >>> self_critical_advantage(jnp.array([1.0, jnp.nan]), jnp.array([0.25, 0.25])).tolist()
    [0.75, 0.0]
    """
    check_shapes("self_critical_advantage", reward=reward, greedy_reward=greedy_reward)
    advantage = reward - greedy_reward
    return jnp.where(jnp.isnan(advantage), 0.0, advantage)


# --- normalisers: (loss of each token, mask) -> scalar ------------------------------------------------------------


def _token_sums(function: str, x: Array, mask: Array) -> Array:
    """Σₜ m xₜ of each sequence, float `[N]`."""
    check_shapes(function, tokens=x, mask=mask)
    if jnp.ndim(x) != 2:
        raise ValueError(f"{function}: the shape of tokens and mask is {jnp.shape(x)}; it must be [N, T]")
    return jnp.where(mask, x, 0.0).sum(-1)


def _check_sequences(function: str, mask: Array, **arrays: Array) -> None:
    """Raise a ValueError that names the array unless it is `[N]` for the `mask [N, T]`."""
    for name, x in arrays.items():
        if jnp.ndim(mask) != 2 or jnp.shape(x) != jnp.shape(mask)[:1]:
            raise ValueError(
                f"{function}: {name} must be [N] for a mask [N, T], got {jnp.shape(x)} and mask {jnp.shape(mask)}"
            )


def sequence_log_prob(log_prob: Array, mask: Array) -> Array:
    """log π of sequences: Σₜ m log π(tokenₜ).

    Args:
      log_prob: of each token, float `[N, T]`; where the mask is False it may be NaN.  mask: m, bool `[N, T]`.
    Returns:
      float `[N]`.
    Raises:
      ValueError: at trace time, if the shapes differ or are not [N, T].

    >>> sequence_log_prob(jnp.array([[-1.0, -2.0, -9.0]]), jnp.array([[True, True, False]])).tolist()
    [-3.0]
    """
    return _token_sums("sequence_log_prob", log_prob, mask)


def sequence_sum(loss: Array, mask: Array) -> Array:
    """(1/N) Σᵢ Σₜ ℓ m: the policy gradient of whole sequences, for REINFORCE and RLOO.

    Args:
      loss: ℓ of each token, float `[N, T]`; where the mask is False it may be NaN.  mask: m, bool `[N, T]`.
    Returns:
      Loss, a scalar.
    Raises:
      ValueError: at trace time, if the shapes differ or are not [N, T].
    Reference: Williams, 1992.

    >>> sequence_sum(jnp.array([[1.0, 2.0], [3.0, jnp.nan]]), jnp.array([[True, True], [True, False]])).item()
    3.0
    """
    return _token_sums("sequence_sum", loss, mask).mean()


def grpo(loss: Array, mask: Array) -> Array:
    """(1/N) Σᵢ Σₜ ℓ m / max(Lᵢ, 1), Lᵢ = Σₜ m: the mean over sequences of their mean over tokens.

    A token of a long sequence counts less than one of a short sequence.
    Args:
      loss: ℓ of each token, float `[N, T]`; where the mask is False it may be NaN.  mask: m, bool `[N, T]`.
    Returns:
      Loss, a scalar.
    Raises:
      ValueError: at trace time, if the shapes differ or are not [N, T].
    Reference: Shao et al., 2024, arXiv:2402.03300, eq. 3.

    >>> grpo(jnp.array([[1.0, 2.0], [3.0, jnp.nan]]), jnp.array([[True, True], [True, False]])).item()
    2.25
    """
    return (_token_sums("grpo", loss, mask) / jnp.maximum(mask.sum(-1), 1)).mean()


def dapo(loss: Array, mask: Array, num_tokens=None) -> Array:
    """Σ ℓ m / active tokens of the optimiser step: the mean over tokens, each of which counts the same.

    Args:
      loss: ℓ of each token, float `[N, T]`; where the mask is False it may be NaN.  mask: m, bool `[N, T]`.
      num_tokens: Σ m of the optimiser step, of which this batch may be a part: the losses (and gradients) of the parts
        are then added. None: Σ m of this batch, so that the loss is that of `bnpo`.
    Returns:
      Loss, a scalar; 0 if no token is active.
    Raises:
      ValueError: at trace time, if the shapes differ or are not [N, T].
    Reference: Yu et al., 2025, arXiv:2503.14476, eq. 8.

    >>> tokens, mask = jnp.array([[1.0, 2.0], [3.0, jnp.nan]]), jnp.array([[True, True], [True, False]])
    >>> dapo(tokens, mask).item(), dapo(tokens, mask, 6).item()
    (2.0, 1.0)
    """
    total = _token_sums("dapo", loss, mask).sum()
    return total / jnp.maximum(mask.sum() if num_tokens is None else num_tokens, 1)


def bnpo(loss: Array, mask: Array) -> Array:
    """Σ ℓ m / max(Σ m, 1) over the batch, whatever part of an optimiser step the batch is.

    Args:
      loss: ℓ of each token, float `[N, T]`; where the mask is False it may be NaN.  mask: m, bool `[N, T]`.
    Returns:
      Loss, a scalar; 0 if no token is active.
    Raises:
      ValueError: at trace time, if the shapes differ or are not [N, T].
    Reference: the batch normaliser of TRL's GRPO trainer; Yu et al., 2025, arXiv:2503.14476, eq. 8, for one batch.

    >>> bnpo(jnp.array([[1.0, 2.0], [3.0, jnp.nan]]), jnp.array([[True, True], [True, False]])).item()
    2.0
    """
    return dapo(loss, mask)


def dr_grpo(max_length: int) -> Callable[[Array, Array], Array]:
    """A normaliser with a constant, Σ ℓ m / (N L_max), so that the length of a sequence does not weigh its tokens.

    With advantages of `group_advantage(reward, "none")` the expected gradient is the policy gradient times
    (n-1)/n / L_max for groups of n; with `rloo_advantage` it is the policy gradient over L_max.
    Args:
      max_length: L_max > 0, the longest completion that can be sampled, in tokens.
    Returns:
      A function of ℓ, float `[N, T]`, and the mask, bool `[N, T]`; it returns the loss, a scalar.
    Raises:
      ValueError: if max_length is not a positive int; at trace time, if the shapes differ or are not [N, T].
    Reference: Liu et al., 2025, arXiv:2503.20783, section 3.2.

    >>> dr_grpo(4)(jnp.array([[1.0, 2.0], [3.0, jnp.nan]]), jnp.array([[True, True], [True, False]])).item()
    0.75
    """
    check_counts("dr_grpo", max_length=max_length)
    return lambda loss, mask: sequence_sum(loss, mask) / max_length


# --- losses of tokens ---------------------------------------------------------------------------------------------


def of_tokens(advantage: Array, log_ratio: Array) -> Array:
    """Advantages of sequences `[N]`, or of tokens `[N, T]`, as advantages of tokens `[N, T]`.

    >>> of_tokens(jnp.array([1.0, 2.0]), jnp.zeros((2, 3))).tolist()
    [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    """
    if jnp.ndim(log_ratio) != 2 or jnp.shape(advantage) not in (jnp.shape(log_ratio), jnp.shape(log_ratio)[:1]):
        shapes = f"advantage {jnp.shape(advantage)} and tokens {jnp.shape(log_ratio)}"
        raise ValueError(f"of_tokens: advantage must be [N] or [N, T] for tokens [N, T], got {shapes}")
    return jnp.broadcast_to(advantage if jnp.ndim(advantage) == 2 else advantage[:, None], jnp.shape(log_ratio))


def clipped(log_ratio: Array, advantage: Array, low=0.2, high=0.28) -> Array:
    """The negative clipped surrogate with one clip for each side (clip-higher).

        -min(ρA, clip(ρ, 1 - ε_low, 1 + ε_high) A),   ρ = π(token) / π_old(token)

    Args:
      log_ratio: log ρ of each token, float `[N, T]`.  advantage: float `[N]` or `[N, T]`, a constant.
      low, high: ε_low, ε_high ≥ 0, scalars; equal, the loss is `losses.ppo_clip`.
    Returns:
      ℓ of each token, float `[N, T]`.
    Raises:
      ValueError: if a clip is negative; at trace time, if the shapes do not agree.
    Reference: Yu et al., 2025, arXiv:2503.14476, eq. 8.

    >>> ratio = jnp.array([[1.5, 0.25], [1.5, 0.25]])
    >>> print(clipped(jnp.log(ratio), jnp.array([1.0, -1.0]), 0.5, 0.25).round(2))
    [[-1.25 -0.25]
     [ 1.5   0.5 ]]
    """
    check_range("clipped", 0.0, jnp.inf, low=low, high=high)
    advantage = of_tokens(advantage, log_ratio)
    # the minimum makes the upper clip the only one that binds for A ≥ 0, and the lower one for A < 0
    return losses.ppo_clip(log_ratio, advantage, jnp.where(advantage >= 0, high, low))


def sequence_log_ratio(log_ratio: Array, mask: Array) -> Array:
    """log of GSPO's ratio: the mean of log ρ over the tokens of a sequence.

    Args:
      log_ratio: log ρ of each token, float `[N, T]`.  mask: bool `[N, T]`.
    Returns:
      float `[N]`; 0 for a sequence without tokens.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Zheng et al., 2025, arXiv:2507.18071, eq. 7.

    >>> sequence_log_ratio(jnp.array([[1.0, 3.0, jnp.nan]]), jnp.array([[True, True, False]])).tolist()
    [2.0]
    """
    return _token_sums("sequence_log_ratio", log_ratio, mask) / jnp.maximum(mask.sum(-1), 1)


def gspo(log_ratio: Array, advantage: Array, mask: Array, low=3e-4, high=4e-4) -> Array:
    """The clipped surrogate with one ratio a sequence, the geometric mean of those of its tokens.

        -min(sA, clip(s, 1 - ε_low, 1 + ε_high) A),   s = exp(1/L Σₜ m log ρₜ)

    Each token has the loss of its sequence: with the normaliser `grpo` the loss is the paper's.
    Args:
      log_ratio: log ρ of each token, float `[N, T]`.  advantage: float `[N]`, a constant.  mask: bool `[N, T]`.
      low, high: ε_low, ε_high ≥ 0, scalars.
    Returns:
      ℓ of each token, float `[N, T]`.
    Raises:
      ValueError: if a clip is negative; at trace time, if the shapes do not agree.
    Reference: Zheng et al., 2025, arXiv:2507.18071, eq. 5 and 7.

    >>> gspo(jnp.log(jnp.array([[0.5, 2.0]])), jnp.array([3.0]), jnp.ones((1, 2), bool)).round(4).tolist()
    [[-3.0, -3.0]]
    """
    check_range("gspo", 0.0, jnp.inf, low=low, high=high)
    of_sequence = sequence_log_ratio(log_ratio, mask)
    _check_sequences("gspo", mask, advantage=advantage)
    return of_tokens(clipped(of_sequence[:, None], advantage, low, high)[:, 0], log_ratio)


def cispo(log_prob: Array, log_ratio: Array, advantage: Array, high=5.0) -> Array:
    """REINFORCE with clipped importance weights: clipped tokens keep their gradient.

        -sg(min(ρ, ε_high)) A log π,   sg: a constant to the gradient

    Args:
      log_prob: log π of each token, float `[N, T]`.  log_ratio: log ρ, float `[N, T]`.
      advantage: float `[N]` or `[N, T]`, a constant.  high: ε_high ≥ 0, the largest weight, a scalar.
    Returns:
      ℓ of each token, float `[N, T]`.
    Raises:
      ValueError: if high is negative; at trace time, if the shapes do not agree.
    Reference: MiniMax, 2025, arXiv:2506.13585 (CISPO), without a lower clip.

    >>> cispo(jnp.array([[-1.0, -2.0]]), jnp.log(jnp.array([[1.0, 8.0]])), jnp.array([1.0])).round(4).tolist()
    [[1.0, 10.0]]
    """
    check_range("cispo", 0.0, jnp.inf, high=high)
    check_shapes("cispo", log_prob=log_prob, log_ratio=log_ratio)
    weight = jax.lax.stop_gradient(jnp.minimum(losses.ratio(log_ratio), high))
    return losses.policy_gradient(log_prob, weight * of_tokens(advantage, log_ratio))


# --- completions that are too long --------------------------------------------------------------------------------


def without_truncated(mask: Array, ended: Array) -> Array:
    """The mask without the sequences that were cut off before an end token (overlong filtering).

    Args:
      mask: bool `[N, T]`.  ended: bool `[N]`, whether the sequence has an end token, such as
        `(tokens == end).any(-1)`.
    Returns:
      bool `[N, T]`.
    Raises:
      ValueError: at trace time, if `ended` has not the leading axes of the mask.
    Reference: Yu et al., 2025, arXiv:2503.14476, section 3.4.

    >>> without_truncated(jnp.ones((2, 2), bool), jnp.array([True, False])).tolist()
    [[True, True], [False, False]]
    """
    _check_sequences("without_truncated", mask, ended=ended)
    return mask & ended[:, None]


def overlong_penalty(length: Array, max_length: int, cache: int) -> Array:
    """DAPO's soft punishment of overlong sequences, a term of the reward: linear over the last tokens allowed.

        0                            for L ≤ L_max - L_cache
        (L_max - L_cache - L) / L_cache      up to L_max
        -1                           beyond L_max

    Args:
      length: L in tokens, int `[...]`.  max_length: L_max.  cache: L_cache in 1 ... L_max.
    Returns:
      float `[...]` in [-1, 0].
    Raises:
      ValueError: if max_length or cache is not a positive int, or cache > max_length.
    Reference: Yu et al., 2025, arXiv:2503.14476, eq. 13.

    >>> overlong_penalty(jnp.array([6, 8, 10, 11]), 10, 4).tolist()
    [0.0, -0.5, -1.0, -1.0]
    """
    check_counts("overlong_penalty", max_length=max_length, cache=cache)
    if cache > max_length:
        raise ValueError(f"overlong_penalty: cache is {cache}; it must be at most max_length, which is {max_length}")
    return jnp.clip((max_length - cache - length) / cache, -1.0, 0.0)


# --- KL to a frozen reference -------------------------------------------------------------------------------------

KL_ESTIMATORS = ("k1", "k2", "k3")


def kl_to_reference(log_prob: Array, reference_log_prob: Array, estimator: str) -> Array:
    """An estimate of KL(π ‖ ref) from what π sampled, by name.

        k1 = x,   k2 = ½ x²,   k3 = e⁻ˣ - 1 + x,      x = log π - log ref

    k1 and k3 are unbiased. As a term of the loss, the expected gradient of k1 is 0, so it regularises nothing; that of
    k2 is the gradient of KL(π ‖ ref), and that of k3 the gradient of KL(ref ‖ π). Subtracted from the reward, k1 gives
    the gradient of KL(π ‖ ref). So it is for whole sequences, whose log-probabilities are sums over tokens. For k2 and
    k3 of each token, it is the KL of the next token under the prefixes that were sampled: the gradient leaves out that
    the policy also chooses the prefixes.
    Args:
      log_prob, reference_log_prob: log π and log ref of tokens or of sequences, float `[...]`; the reference is a
        constant to the gradient.  estimator: "k1", "k2" or "k3".
    Returns:
      float `[...]`.
    Raises:
      ValueError: if the estimator is unknown; at trace time, if shapes differ.
    Reference: Schulman, 2020, "Approximating KL divergence"; Tang & Munos, 2025, arXiv:2506.09477 (the gradients).

    >>> round(kl_to_reference(jnp.log(jnp.array(0.5)), jnp.log(jnp.array(0.25)), "k3").item(), 4)
    0.1931
    """
    if estimator not in KL_ESTIMATORS:
        names = ", ".join(KL_ESTIMATORS)
        raise ValueError(f"kl_to_reference: estimator is {estimator!r}; it must be one of {names}")
    check_shapes("kl_to_reference", log_prob=log_prob, reference_log_prob=reference_log_prob)
    log_ratio = jax.lax.stop_gradient(reference_log_prob) - log_prob
    return losses.kl_estimates(log_ratio)[KL_ESTIMATORS.index(estimator)]


def penalized_reward(reward: Array, kl: Array, mask: Array, coefficient) -> Array:
    """The reward of a sequence minus its KL to the reference: r - β Σₜ m klₜ, without a gradient.

    Args:
      reward: float `[N]`.  kl: of each token, such as k1 of `kl_to_reference`, float `[N, T]`.  mask: bool `[N, T]`.
      coefficient: β ≥ 0.
    Returns:
      float `[N]`; NaN where the reward is.
    Raises:
      ValueError: at trace time, if the shapes do not agree.
    Reference: Ahmadian et al., 2024, arXiv:2402.14740; Stiennon et al., 2020, arXiv:2009.01325.

    >>> penalized_reward(jnp.array([1.0]), jnp.array([[0.5, 1.5, 9.0]]), jnp.array([[True, True, False]]), 0.25)
    Array([0.5], dtype=float32)
    """
    total = _token_sums("penalized_reward", kl, mask)
    _check_sequences("penalized_reward", mask, reward=reward)
    return jax.lax.stop_gradient(reward - coefficient * total)


def penalized_token_rewards(reward: Array, kl: Array, mask: Array, coefficient) -> Array:
    """Rewards of tokens for an agent with values: -β klₜ each, and the reward of the sequence at its last token.

    Their sum over a sequence is `penalized_reward`. They have no gradient.
    Args:
      reward: float `[N]`.  kl: of each token, float `[N, T]`.  mask: bool `[N, T]`, True up to the last token.
      coefficient: β ≥ 0.
    Returns:
      float `[N, T]`; 0 where the mask is False. Where a reward is NaN, so is that of its last token.
    Raises:
      ValueError: at trace time, if the shapes do not agree.
    Reference: Ziegler et al., 2019, arXiv:1909.08593, eq. 2; Ouyang et al., 2022, arXiv:2203.02155, eq. 2.

    >>> penalized_token_rewards(jnp.array([1.0]), jnp.array([[1.0, 2.0, 9.0]]), jnp.array([[True, True, False]]), 0.25)
    Array([[-0.25,  0.5 ,  0.  ]], dtype=float32)
    """
    check_shapes("penalized_token_rewards", kl=kl, mask=mask)
    _check_sequences("penalized_token_rewards", mask, reward=reward)
    last = mask & (jnp.cumsum(mask, -1) == mask.sum(-1, keepdims=True))
    score = jnp.where(last, of_tokens(reward, kl), 0.0)
    return jax.lax.stop_gradient(score - coefficient * jnp.where(mask, kl, 0.0))


def proportional_kl_coefficient(coefficient, kl, target, rate=0.1) -> Array:
    """The β of the next update, by a proportional controller; `losses.adapt_kl_coefficient` is PPO's rule.

        β ← β (1 + K clip((KL - target) / target, -0.2, 0.2))

    Args:
      coefficient: β ≥ 0.  kl, target: in nats, target > 0.  rate: K in [0, 5].  All scalars.
    Returns:
      β, a scalar.
    Raises:
      ValueError: if rate is out of range.
    Reference: Ziegler et al., 2019, arXiv:1909.08593, section 2.2.

    >>> [round(proportional_kl_coefficient(1.0, kl, 6.0).item(), 4) for kl in (0.0, 6.0, 6.6, 100.0)]
    [0.98, 1.0, 1.01, 1.02]
    """
    check_range("proportional_kl_coefficient", 0.0, 5.0, rate=rate)
    coefficient = jnp.asarray(coefficient, jnp.result_type(float))
    return coefficient * (1 + rate * jnp.clip((kl - target) / target, -0.2, 0.2))


# --- likelihood ---------------------------------------------------------------------------------------------------


def until_end(tokens: Array, end: int) -> Array:
    """The mask of completion tokens up to and including the first end token; all of them if there is none.

    Args:
      tokens: int `[..., T]`.  end: the id of the end token.
    Returns:
      bool `[..., T]`.
    Raises:
      ValueError: at trace time, if the tokens are not ints or have no time axis.

    >>> until_end(jnp.array([[5, 2, 2, 7], [5, 6, 7, 8]]), 2).tolist()
    [[True, True, False, False], [True, True, True, True]]
    """
    if jnp.ndim(tokens) < 1 or not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
        about = f"{jnp.result_type(tokens)} {jnp.shape(tokens)}"
        raise ValueError(f"until_end: tokens are {about}; they must be ints [..., T]")
    ends = (jnp.asarray(tokens) == end).astype(jnp.int32)
    return jnp.cumsum(ends, -1) - ends == 0


def token_cross_entropy(log_prob: Array, mask: Array) -> Array:
    """-Σ m log p / max(Σ m, 1), the loss of maximum likelihood in nats a token; its exponential is the perplexity.

    Args:
      log_prob: log p of the tokens of the data, float `[N, T]`; where the mask is False it may be NaN.
      mask: bool `[N, T]`, such as `until_end`: the end token is learned, and nothing that follows it.
    Returns:
      Loss, a scalar; 0 if no token counts.
    Raises:
      ValueError: at trace time, if the shapes differ or are not [N, T].

    >>> mask = until_end(jnp.array([[3, 0, 0]]), 0)
    >>> round(token_cross_entropy(jnp.log(jnp.array([[0.5, 0.5, 1e-9]])), mask).item(), 4)
    0.6931
    """
    return bnpo(-log_prob, mask)


def chunked_log_probs(
    features: Array, kernel: Array, bias: Array | None, tokens: Array, chunk: int, temperature=1.0
) -> Array:
    """Log-probabilities of tokens, with the logits of `chunk` time steps in memory at once, in the gradient too.

        log softmax((features · kernel + bias) / temperature)[token]

    The gradient computes the logits of each chunk again. Values and gradients are those of the plain computation.
    Args:
      features: float `[N, T, D]`.  kernel: float `[D, V]`.  bias: float `[V]`, or None.
      tokens: int `[N, T]`, ids in 0 ... V-1.  chunk: time steps a chunk; it need not divide T.  temperature: > 0.
    Returns:
      float `[N, T]`, in float32 if the features have half precision; NaN for an id of V or more.
    Raises:
      ValueError: if chunk is not a positive int; at trace time, if the shapes do not agree.

    >>> print(chunked_log_probs(jnp.ones((1, 3, 2)), jnp.zeros((2, 4)), None, jnp.zeros((1, 3), int), 2).round(4))
    [[-1.3863 -1.3863 -1.3863]]
    """
    check_counts("chunked_log_probs", chunk=chunk)
    shapes = jnp.shape(features), jnp.shape(kernel), None if bias is None else jnp.shape(bias), jnp.shape(tokens)
    agree = (
        len(shapes[0]) == 3 and len(shapes[1]) == 2 and shapes[0][-1] == shapes[1][0] and shapes[3] == shapes[0][:-1]
    )
    if not agree or shapes[2] not in (None, shapes[1][1:]):
        names = "features {}, kernel {}, bias {}, tokens {}".format(*shapes)
        raise ValueError(
            f"chunked_log_probs: shapes must be features [N, T, D], kernel [D, V], bias [V], tokens [N, T], got {names}"
        )
    num, length = jnp.shape(tokens)
    chunk = min(chunk, max(length, 1))
    count = -(-length // chunk)

    def by_chunk(x):
        x = jnp.pad(x, ((0, 0), (0, count * chunk - length), *((0, 0) for _ in x.shape[2:])))
        return jnp.moveaxis(x.reshape(num, count, chunk, *x.shape[2:]), 1, 0)

    @jax.checkpoint  # else the scan keeps the softmax of every chunk for the gradient
    def log_probs(features, tokens):
        logits = features @ kernel if bias is None else features @ kernel + bias
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
        chosen = jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
        return chosen - jax.nn.logsumexp(logits, -1)

    _, out = jax.lax.scan(lambda _, x: (None, log_probs(*x)), None, (by_chunk(features), by_chunk(tokens)))
    return jnp.moveaxis(out, 0, 1).reshape(num, count * chunk)[:, :length]
