"""Objectives of sequences: NumPy loops, golden numbers, masks, and exact gradients by enumeration of all sequences."""

import itertools
import math
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import ALL, END, LENGTH, MASK, PAIRS, STATE, close, exact, in_float64, log_probs, tables
from golden import inside_of

from purerl import losses
from purerl.text import objectives

NAN = np.nan
N, T = 6, 7


@cache
def sequences():
    """Tokens with an end token 0 here and there, their mask by a loop, and random numbers for each token."""
    random = np.random.default_rng(0)
    tokens = random.integers(1, 9, size=(N, T))
    tokens[0, 3] = tokens[0, 5] = tokens[1, 0] = tokens[2, T - 1] = tokens[4, 2] = 0  # 3 and 5 have no end token
    mask = np.zeros((N, T), bool)
    for i in range(N):
        for t in range(T):
            mask[i, t] = True
            if tokens[i, t] == 0:
                break
    return tokens, mask, random.normal(size=(5, N, T)).astype(np.float32)


# --- advantages -------------------------------------------------------------------------------------------------------

REWARDS = np.float32(
    [
        [1.0, 0.0, 0.0, 0.5],
        [0.1, 0.1, 0.1, 0.1],
        [2.0, NAN, -1.0, 4.0],
        [3.0, NAN, NAN, NAN],  # a single one that can be scored
        [NAN, NAN, NAN, NAN],
        [0.9, 0.9, NAN, 0.9],  # their mean in float32 is another number
    ]
)


def scored(group):
    return [r for r in group if not math.isnan(r)]


def std(rewards):
    mean = sum(rewards) / len(rewards)
    return math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))


def test_rloo_is_the_reward_minus_the_mean_of_the_others():
    expected = np.zeros(REWARDS.shape)
    for g, group in enumerate(REWARDS.astype(float)):
        for i, r in enumerate(group):
            others = scored([*group[:i], *group[i + 1 :]])
            if not math.isnan(r) and others:
                expected[g, i] = r - sum(others) / len(others)
    advantage, masked, transposed = jax.jit(
        lambda r: (
            objectives.rloo_advantage(r),
            objectives.rloo_advantage(jnp.nan_to_num(r, nan=99.0), ~jnp.isnan(r)),
            objectives.rloo_advantage(r.reshape(2, 3, 4)),
        )
    )(REWARDS)
    np.testing.assert_allclose(advantage, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(advantage, masked)
    np.testing.assert_array_equal(advantage, transposed.reshape(6, 4))
    assert not advantage[1].any() and not advantage[5].any()  # exactly


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages_against_a_loop(scale):
    expected = np.zeros(REWARDS.shape)
    everything = scored(REWARDS.astype(float).ravel())
    for g, group in enumerate(REWARDS.astype(float)):
        kept = scored(group)
        if len(kept) < 2:
            continue
        divisor = {"group": std(kept) + 1e-4, "batch": std(everything) + 1e-4, "none": 1.0}[scale]
        for i, r in enumerate(group):
            if not math.isnan(r):
                expected[g, i] = (r - sum(kept) / len(kept)) / divisor
    function = {"group": objectives.group_scale, "batch": objectives.batch_scale, "none": objectives.no_scale}[scale]
    by_name, by_function, masked = jax.jit(
        lambda r: (
            objectives.group_advantage(r, scale),
            objectives.group_advantage(r, function),
            objectives.group_advantage(jnp.nan_to_num(r, nan=-50.0), scale, ~jnp.isnan(r)),
        )
    )(REWARDS)
    np.testing.assert_allclose(by_name.advantage, expected, rtol=1e-5, atol=1e-6)
    for other in (by_function, masked):
        np.testing.assert_array_equal(by_name.advantage, other.advantage)
    # equal rewards give exactly 0: a rounding of their mean over 1e-4 would be learned from
    assert not np.asarray(by_name.advantage)[[1, 3, 4, 5]].any()
    assert by_name.num_zero_variance == 4 and masked.num_zero_variance == 4
    np.testing.assert_array_equal(objectives.zero_variance(REWARDS), [False, True, False, True, True, True])


def test_equal_rewards_give_exactly_nothing():
    rewards = np.random.default_rng(2).normal(size=(50, 1)).astype(np.float32).repeat(7, 1)
    assert (np.abs(rewards.mean(-1) - rewards[:, 0]) > 0).any()
    advantage, count = objectives.group_advantage(rewards)
    assert not np.asarray(advantage).any() and count == 50
    assert not np.asarray(objectives.rloo_advantage(rewards)).any()


def test_group_advantages_do_not_change_with_the_order_and_the_origin_of_rewards():
    order = [2, 0, 3, 1]
    for scale in ("group", "none"):
        a, b, c = jax.jit(
            lambda r, scale=scale: tuple(
                objectives.group_advantage(x, scale).advantage for x in (r, r[:, order], r + 16.0)
            )
        )(REWARDS)
        np.testing.assert_allclose(a[:, order], b, rtol=1e-6)
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-6)
    of = lambda x: objectives.group_advantage(x).advantage.sum(where=~jnp.isnan(x)) + objectives.rloo_advantage(x)[0, 0]
    assert np.isfinite(jax.jit(jax.grad(of))(REWARDS)).all()


def test_a_scale_of_ones_own_sees_no_nan():
    own = lambda reward, scored: jnp.abs(reward).max(-1, keepdims=True, where=scored, initial=1.0)
    advantage = objectives.group_advantage(REWARDS, own).advantage
    np.testing.assert_allclose(advantage[2], np.float32([1 / 3, 0, -8 / 3, 7 / 3]) / 4, rtol=1e-6)


def test_the_moving_average_knows_only_earlier_batches():
    batches = np.float32([[1.0, 3.0, NAN], [NAN, NAN, NAN], [4.0, 0.0, 5.0], [2.0, 2.0, NAN]])
    _, advantages = jax.jit(
        lambda x: jax.lax.scan(
            lambda state, r: objectives.moving_average_advantage(state, r, 0.75)[::-1],
            objectives.moving_average_init(),
            x,
        )
    )(batches)
    past = []
    for batch, advantage in zip(batches, advantages, strict=True):
        weights = [0.75**k for k in range(len(past))][::-1]
        baseline = np.average(past, weights=weights) if past else 0.0
        np.testing.assert_allclose(advantage, np.where(np.isnan(batch), 0.0, batch - baseline), rtol=1e-6)
        if scored(batch):
            past.append(np.nanmean(batch))


def test_the_self_critical_advantage_is_zero_where_either_cannot_be_scored():
    a = objectives.self_critical_advantage(np.float32([1, NAN, 2]), np.float32([3, 1, NAN]))
    np.testing.assert_array_equal(a, [-2, 0, 0])


# --- normalisers and surrogates ---------------------------------------------------------------------------------------

GOLDEN = np.float32([1, 0, 0, 0.5])
LENGTHS, LONGEST = np.array([2, 4, 4, 6]), 8


@pytest.mark.parametrize(
    ("scale", "normaliser", "coefficients"),
    [
        ("group", objectives.grpo, (0.163164, -0.048949, -0.048949, 0.010878)),
        ("group", objectives.bnpo, (0.081582, -0.048949, -0.048949, 0.016316)),
        ("group", objectives.dapo, (0.081582, -0.048949, -0.048949, 0.016316)),
        ("none", objectives.dr_grpo(LONGEST), (0.019531, -0.011719, -0.011719, 0.003906)),
    ],
    ids=["grpo", "bnpo", "dapo", "dr_grpo"],
)
def test_the_weight_of_each_token(scale, normaliser, coefficients):
    mask = np.arange(LONGEST) < LENGTHS[:, None]

    @jax.jit
    @jax.grad
    def slope(log_prob):
        advantage = objectives.group_advantage(GOLDEN, scale).advantage
        return normaliser(objectives.clipped(log_prob - jax.lax.stop_gradient(log_prob), advantage), mask)

    found = -np.asarray(slope(np.full(mask.shape, -1.5, np.float32)))
    assert not found[~mask].any()
    for row, length, coefficient in zip(found, LENGTHS, coefficients, strict=True):
        np.testing.assert_allclose(row[:length], coefficient, atol=5.1e-7)


def test_the_advantages_of_the_same_rewards():
    advantage = objectives.group_advantage(GOLDEN).advantage
    np.testing.assert_allclose(advantage, (1.305310, -0.783186, -0.783186, 0.261062), atol=5.1e-7)
    np.testing.assert_allclose(objectives.rloo_advantage(GOLDEN), (0.833333, -0.5, -0.5, 0.166667), atol=5.1e-7)


NORMALISERS = {
    "sequence_sum": objectives.sequence_sum,
    "grpo": objectives.grpo,
    "bnpo": objectives.bnpo,
    "dapo": objectives.dapo,
    "dr_grpo": objectives.dr_grpo(LONGEST),
}


def by_loop(name, loss, mask):
    total, tokens = 0.0, 0
    for row, valid in zip(loss.astype(float), mask, strict=True):
        kept = [x for x, m in zip(row, valid, strict=True) if m]
        total += sum(kept) / max(len(kept), 1) if name == "grpo" else sum(kept)
        tokens += len(kept)
    return total / {"grpo": len(loss), "sequence_sum": len(loss), "dr_grpo": len(loss) * LONGEST}.get(
        name, max(tokens, 1)
    )


@pytest.mark.parametrize("name", NORMALISERS)
def test_normalisers_against_a_loop(name):
    _, mask, (loss, *_) = sequences()
    of = jax.jit(jax.value_and_grad(NORMALISERS[name]))
    left_out = np.where(np.arange(N)[:, None] == 3, False, mask)
    for m in (mask, left_out):
        value, slope = of(loss, m)
        np.testing.assert_allclose(value, by_loop(name, loss, m), rtol=1e-5)
        again, same = of(np.where(m, loss, NAN), m)  # what the mask leaves out may be anything
        assert again == value
        np.testing.assert_array_equal(slope, same)
        assert not np.asarray(slope)[~m].any()
    assert of(loss, np.zeros_like(mask))[0] == 0


def test_parts_of_an_optimiser_step_add_up():
    _, mask, (loss, *_) = sequences()
    whole = objectives.dapo(loss, mask)
    parts = [objectives.dapo(loss[i : i + 2], mask[i : i + 2], mask.sum()) for i in (0, 2, 4)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)
    other = np.mean([objectives.bnpo(loss[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4)])
    assert abs(other - whole) > 1e-3  # the mean of means over parts is another loss


def test_surrogates_against_loops():
    _, mask, (log_prob, log_ratio, per_token, _, noise) = sequences()
    advantage = noise[:, 0]

    @jax.jit
    def of(log_prob, log_ratio):
        return (
            objectives.clipped(log_ratio, advantage, 0.2, 0.5),
            objectives.clipped(log_ratio, per_token, 0.3, 0.1),
            objectives.gspo(log_ratio, advantage, mask, 0.1, 0.2),
            objectives.cispo(log_prob, log_ratio, advantage, 1.5),
            objectives.cispo(log_prob, log_ratio, per_token, 1.5),
        )

    clip = lambda rho, a, low, high: -min(rho * a, min(max(rho, 1 - low), 1 + high) * a)
    expected = np.zeros((5, N, T))
    for i in range(N):
        kept = [float(x) for x, m in zip(log_ratio[i], mask[i], strict=True) if m]
        s = math.exp(sum(kept) / len(kept))
        for t in range(T):
            rho, a, b = math.exp(log_ratio[i, t]), float(advantage[i]), float(per_token[i, t])
            logp = float(log_prob[i, t])
            expected[:, i, t] = (
                clip(rho, a, 0.2, 0.5),
                clip(rho, b, 0.3, 0.1),
                clip(s, a, 0.1, 0.2),
                -min(rho, 1.5) * a * logp,
                -min(rho, 1.5) * b * logp,
            )
    np.testing.assert_allclose(np.stack(of(log_prob, log_ratio)), expected, rtol=2e-5, atol=1e-6)


def test_equal_clips_are_ppos_and_each_side_has_its_own():
    _, _, (_, log_ratio, advantage, *_) = sequences()
    of = lambda f: jax.jit(jax.value_and_grad(lambda x: f(x).sum()))(log_ratio)
    for a, b in zip(
        of(lambda x: objectives.clipped(x, advantage, 0.2, 0.2)),
        of(lambda x: losses.ppo_clip(x, advantage, 0.2)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    ratio = np.float32([[1.25, 1.35, 0.75, 0.85], [1.25, 1.35, 0.75, 0.85]])
    a = np.float32([1.0, -1.0])
    slope = jax.jit(jax.grad(lambda x: objectives.clipped(x, a, 0.2, 0.28).sum()))(np.log(ratio))
    # a good token may rise to 1.28, a bad one may fall to 0.8
    np.testing.assert_allclose(slope, [[-1.25, 0, -0.75, -0.85], [1.25, 1.35, 0, 0.85]], rtol=1e-6)


def test_before_the_first_step_every_surrogate_has_the_policy_gradient():
    _, mask, (log_prob, _, _, _, noise) = sequences()
    advantage = noise[:, 0]
    ratio = lambda x: x - log_prob

    def slope(surrogate, normaliser=objectives.grpo):
        return jax.grad(lambda x: normaliser(surrogate(x), mask))(log_prob)

    plain, *others = jax.jit(
        lambda: (
            slope(lambda x: losses.policy_gradient(x, objectives.of_tokens(advantage, x))),
            slope(lambda x: objectives.clipped(ratio(x), advantage)),
            slope(lambda x: objectives.gspo(ratio(x), advantage, mask)),
            slope(lambda x: objectives.cispo(x, ratio(x), advantage)),
        )
    )()
    for other in others:
        np.testing.assert_allclose(other, plain, rtol=1e-6)


def test_clipped_weights_keep_their_gradient():
    slope = jax.grad(lambda x: objectives.cispo(x, x, np.float32([1.0]), 2.0).sum())(np.float32([[3.0, -1.0]]))
    np.testing.assert_allclose(slope, [[-2.0, -math.exp(-1)]], rtol=1e-6)


# --- masks ------------------------------------------------------------------------------------------------------------


def test_the_end_token_counts_and_nothing_after_it():
    tokens, mask, _ = sequences()
    np.testing.assert_array_equal(jax.jit(lambda x: objectives.until_end(x, 0))(tokens), mask)
    np.testing.assert_array_equal(objectives.until_end(tokens.reshape(2, 3, T), 0).reshape(N, T), mask)
    ended = (tokens == 0).any(-1)
    kept = objectives.without_truncated(mask, ended)
    np.testing.assert_array_equal(kept, mask & ended[:, None])
    assert ended.tolist() == [True, True, True, False, True, False]


def everything(tokens, log_prob, old, reference, reward, lengths=None):
    """Losses and statistics of completions `[N, T]`, and the gradients of the log-probabilities."""
    mask = objectives.until_end(tokens, 0)
    kl = objectives.kl_to_reference(log_prob, reference, "k3")
    total = objectives.penalized_reward(reward, objectives.kl_to_reference(log_prob, reference, "k1"), mask, 0.1)
    advantage = objectives.rloo_advantage(total.reshape(-1, 2)).reshape(-1)

    def scalars(log_prob):
        ratio = log_prob - old
        out = [f(objectives.clipped(ratio, advantage) + 0.1 * kl, mask) for f in NORMALISERS.values()]
        out += [objectives.grpo(objectives.gspo(ratio, advantage, mask), mask)]
        out += [objectives.grpo(objectives.cispo(log_prob, ratio, advantage), mask)]
        return jnp.stack([*out, objectives.token_cross_entropy(log_prob, mask)])

    rewards = objectives.penalized_token_rewards(reward, kl, mask, 0.1)
    of_sequences = objectives.sequence_log_prob(log_prob, mask), total, advantage, rewards.sum(-1)
    return scalars(log_prob), jax.jacrev(scalars)(log_prob), of_sequences


def test_what_stands_behind_the_end_has_no_effect_bit_for_bit():
    tokens, mask, (log_prob, old, reference, other, noise) = sequences()
    reward, of = noise[:, 0], jax.jit(everything)
    order = np.random.default_rng(1).permutation(9)

    def changed(x, pad):
        return np.where(mask, x, pad)

    plain = of(tokens, log_prob, old, reference, reward)
    versions = [
        (order[tokens], *(x[:, ::-1] for x in (log_prob, old, reference))),
        (np.full_like(tokens, 7), other, -other, 3 * other),
        (np.zeros_like(tokens), *[np.full_like(other, -1e4)] * 3),
    ]
    for pads in versions:
        new = [changed(x, pad) for x, pad in zip((tokens, log_prob, old, reference), pads, strict=True)]
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(of(*new, reward)), strict=True):
            np.testing.assert_array_equal(a, b)
    # not even NaN changes a value; for the gradient, in which 0 x NaN is NaN, log-probabilities are cleared first
    numbers = [changed(x, NAN) for x in (log_prob, old, reference)]
    values, _, of_sequences = of(tokens, *numbers, reward)
    for a, b in zip(jax.tree.leaves((plain[0], plain[2])), jax.tree.leaves((values, of_sequences)), strict=True):
        np.testing.assert_array_equal(a, b)
    cleared = of(tokens, *(np.where(mask, x, 0.0) for x in numbers), reward)
    np.testing.assert_array_equal(plain[1], cleared[1])
    assert not np.asarray(plain[1])[:, ~mask].any() and np.asarray(plain[1])[1:, mask].all(-1).any()


def test_a_padded_batch_is_its_unpadded_members():
    tokens, mask, (log_prob, old, _, _, noise) = sequences()
    advantage = noise[:, 0]

    @jax.jit
    def of(tokens, log_prob, old, advantage):
        mask, ratio = objectives.until_end(tokens, 0), log_prob - old
        clipped = objectives.clipped(ratio, advantage)
        return [f(clipped, mask) for f in NORMALISERS.values()] + [
            objectives.grpo(objectives.gspo(ratio, advantage, mask), mask),
            objectives.token_cross_entropy(log_prob, mask),
        ]

    whole = np.array(of(tokens, log_prob, old, advantage))
    lengths = mask.sum(-1)
    singles = []
    for i, length in enumerate(lengths):
        cut = (x[i : i + 1, :length] for x in (tokens, log_prob, old))
        singles.append(of(*cut, advantage[i : i + 1]))
    singles = np.array(singles)
    by_sequence, by_token = singles.mean(0), (singles * lengths[:, None]).sum(0) / lengths.sum()
    # in the order of NORMALISERS, then gspo and the cross-entropy
    expected = [by_token[i] if i in (2, 3, 6) else by_sequence[i] for i in range(7)]
    np.testing.assert_allclose(whole, expected, rtol=1e-5)


def test_the_penalty_of_length_against_the_cases():
    lengths = np.arange(13)
    expected = [0.0 if n <= 6 else -1.0 if n > 10 else (6 - n) / 4 for n in lengths]
    np.testing.assert_allclose(objectives.overlong_penalty(lengths, 10, 4), expected, rtol=1e-6)


# --- KL ---------------------------------------------------------------------------------------------------------------


def test_kl_estimates_are_those_of_losses():
    _, mask, (log_prob, reference, *_, noise) = sequences()
    x = log_prob.astype(float) - reference
    expected = {"k1": x, "k2": x**2 / 2, "k3": np.exp(-x) - 1 + x}
    of = jax.jit(lambda a, b: [objectives.kl_to_reference(a, b, name) for name in expected])
    for found, right, ours in zip(
        of(log_prob, reference), expected.values(), losses.kl_estimates(reference - log_prob), strict=True
    ):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found, ours, rtol=1e-4, atol=1e-5)
    slope = jax.grad(lambda b: objectives.kl_to_reference(log_prob, b, "k3").sum())(reference)
    assert not np.asarray(slope).any()  # the reference is frozen
    reward = noise[:, 0]
    total = objectives.penalized_reward(reward, x, mask, 0.3)
    np.testing.assert_allclose(total, reward - 0.3 * (x * mask).sum(-1), rtol=1e-5)
    tokens = np.asarray(objectives.penalized_token_rewards(reward, x, mask, 0.3))
    np.testing.assert_allclose(tokens.sum(-1), total, rtol=1e-4, atol=1e-6)
    for i, length in enumerate(mask.sum(-1)):
        np.testing.assert_allclose(tokens[i, : length - 1], -0.3 * x[i, : length - 1], rtol=1e-5)
        np.testing.assert_allclose(tokens[i, length - 1], reward[i] - 0.3 * x[i, length - 1], rtol=1e-5)
        assert not tokens[i, length:].any()
    for f in (objectives.penalized_reward, objectives.penalized_token_rewards):
        assert not np.asarray(jax.grad(lambda kl, f=f: f(reward, kl, mask, 0.3).sum())(x.astype(np.float32))).any()


def test_the_coefficient_moves_towards_the_target():
    of = objectives.proportional_kl_coefficient
    kls = np.float32([0, 4, 4.9, 5, 5.1, 6, 100])
    expected = [2 * (1 + 0.1 * min(max((kl - 5) / 5, -0.2), 0.2)) for kl in kls.astype(float)]
    np.testing.assert_allclose([of(2.0, kl, 5.0) for kl in kls], expected, rtol=1e-6)
    assert of(2.0, 5.0, 5.0) == 2 and of(2.0, 9.0, 5.0, 0.0) == 2
    for kl in (0.1, 100.0):  # in the direction of PPO's rule
        assert (of(1.0, kl, 5.0) > 1) == (losses.adapt_kl_coefficient(1.0, kl, 5.0) > 1)


# --- exact gradients --------------------------------------------------------------------------------------------------


def expected_over_pairs(loss):
    """The gradient of the expected loss of a group of two: E of ∇ loss(log π [2, 4], reward [2], mask [2, 4])."""

    def f(logits):
        log_prob = log_probs(logits)
        chance = jax.lax.stop_gradient(jnp.exp(log_prob.sum(-1)))[PAIRS].prod(-1)
        each = jax.vmap(loss)(log_prob[PAIRS], tables()[2][PAIRS], MASK[PAIRS])
        return -(chance * each).sum()

    return in_float64(jax.grad(f))


def reinforce(log_prob, advantage):
    return losses.policy_gradient(log_prob, objectives.of_tokens(advantage, log_prob))


def old(log_prob):
    return log_prob - jax.lax.stop_gradient(log_prob)


def test_the_enumeration_is_complete():
    chance = in_float64(lambda x: jnp.exp(log_probs(x).sum(-1)))
    assert len(ALL) == 81 and abs(chance.sum() - 1) < 1e-14
    np.testing.assert_array_equal(objectives.until_end(ALL, END), MASK)
    assert set(MASK.sum(-1)) == {1, 2, 3, 4}


BASELINES = {
    "none": lambda r: r,
    "rloo": objectives.rloo_advantage,
    "self-critical": lambda r: objectives.self_critical_advantage(r, jnp.full_like(r, 0.7)),
    "moving average": lambda r: objectives.moving_average_advantage(
        objectives.MovingAverage(jnp.array(0.3), jnp.array(0.5)), r
    )[0],
}


@pytest.mark.parametrize("name", BASELINES)
def test_expected_gradients_are_the_policy_gradient(name):
    advantage = BASELINES[name]
    found = expected_over_pairs(lambda lp, r, m: objectives.sequence_sum(reinforce(lp, advantage(r)), m))
    close(found, exact(tables()[2]))


def test_leave_one_out_is_unbiased_in_groups_of_three():
    """Two positions of two tokens: 4 sequences, 64 groups; the mean of all three gives 2/3 of the gradient."""
    logits, reward = np.array([[0.3, -0.4], [1.0, 0.2], [-0.7, 0.1]]), np.array([1.0, -0.5, 0.25, 2.0])
    two = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    groups = np.array(list(itertools.product(range(4), repeat=3)))

    def of(x):
        log_prob = jax.nn.log_softmax(x)[np.array([[0, 1], [0, 1], [0, 2], [0, 2]]), two]
        exactly = (jnp.exp(log_prob.sum(-1)) * reward).sum()
        chance = jax.lax.stop_gradient(jnp.exp(log_prob.sum(-1)))[groups].prod(-1)

        def expected(advantage):
            loss = lambda lp, r: objectives.sequence_sum(reinforce(lp, advantage(r)), jnp.ones((3, 2), bool))
            return -(chance * jax.vmap(loss)(log_prob[groups], reward[groups])).sum()

        grpo = expected(lambda r: objectives.group_advantage(r, "none").advantage)
        return jnp.stack([exactly, expected(objectives.rloo_advantage), grpo])

    with jax.enable_x64(True):
        exactly, rloo, grpo = np.asarray(jax.jit(jax.jacrev(of))(jnp.asarray(logits)))
    close(rloo, exactly)
    close(grpo, exactly * 2 / 3)


@pytest.mark.parametrize("surrogate", ["clipped", "cispo"])
def test_dr_grpo_is_unbiased_up_to_a_factor(surrogate):
    """(n-1)/n of the policy gradient over L_max, for groups of n = 2; with leave-one-out the factor is 1."""

    def loss(advantage):
        def f(lp, r, m):
            a = advantage(r)
            tokens = objectives.clipped(old(lp), a) if surrogate == "clipped" else objectives.cispo(lp, old(lp), a)
            return objectives.dr_grpo(LENGTH)(tokens, m)

        return f

    gradient = exact(tables()[2])
    close(expected_over_pairs(loss(lambda r: objectives.group_advantage(r, "none").advantage)), gradient / 2 / LENGTH)
    close(expected_over_pairs(loss(objectives.rloo_advantage)), gradient / LENGTH)


@pytest.mark.parametrize("surrogate", ["clipped", "gspo"])
def test_the_mean_over_tokens_is_biased_by_length(surrogate):
    """grpo without scale: Σ p(y) (r(y) - J) / L(y) ∇log p(y), times (n-1)/n: short sequences weigh more."""

    def loss(lp, r, m):
        a = objectives.group_advantage(r, "none").advantage
        tokens = objectives.clipped(old(lp), a) if surrogate == "clipped" else objectives.gspo(old(lp), a, m)
        return objectives.grpo(tokens, m)

    reward, lengths = tables()[2], MASK.sum(-1)
    chance = in_float64(lambda x: jnp.exp(log_probs(x).sum(-1)))
    weight = (reward - (chance * reward).sum()) / lengths / 2
    found = expected_over_pairs(loss)
    # tokens after the end have score 0 in expectation, so that the gradient of p(y) may include them
    close(found, exact(weight))
    assert np.abs(found - exact(reward) / 2 / lengths.mean()).max() > 1e-3


@pytest.mark.parametrize("normaliser", ["bnpo", "grpo"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_biased_gradients_are_those_of_a_loop_over_groups(normaliser, scale):
    logits, _, reward = tables()
    probs = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    score = np.zeros((81, *logits.shape))  # of the completion
    chance = np.ones(81)
    for k in range(81):
        for t in range(LENGTH):
            chance[k] *= probs[STATE[k, t], ALL[k, t]]
            if MASK[k, t]:
                score[k, STATE[k, t]] -= probs[STATE[k, t]]
                score[k, STATE[k, t], ALL[k, t]] += 1
    weight = np.zeros(81)
    lengths = MASK.sum(-1)
    for i in range(81):
        for j in range(81):
            away = (reward[i] - reward[j]) / 2
            deviation = abs(away) * math.sqrt(2)
            a = away if scale == "none" else away / (deviation + 1e-4)
            tokens = lengths[i] + lengths[j]
            for k, advantage in ((i, a), (j, -a)):
                each = 1 / (2 * lengths[k]) if normaliser == "grpo" else 1 / tokens
                weight[k] += chance[i] * chance[j] * advantage * each
    found = expected_over_pairs(
        lambda lp, r, m: NORMALISERS[normaliser](
            objectives.clipped(old(lp), objectives.group_advantage(r, scale).advantage), m
        )
    )
    close(found, (weight[:, None, None] * score).sum(0))


def test_the_gradients_of_kl_estimates():
    """Of whole sequences: k1 in the loss 0, k2 ∇KL(π ‖ ref), k3 ∇KL(ref ‖ π), and k1 in the reward ∇KL(π ‖ ref)."""

    def of(logits):
        reference = jax.lax.stop_gradient(log_probs(tables()[1]).sum(-1))

        def term(name):
            def f(x):
                log_prob = log_probs(x).sum(-1)
                chance = jax.lax.stop_gradient(jnp.exp(log_prob))
                return (chance * objectives.kl_to_reference(log_prob, reference, name)).sum()

            return jax.value_and_grad(f)(logits)

        def penalty(x):
            log_prob, all_tokens = log_probs(x), jnp.ones(ALL.shape, bool)
            chance = jax.lax.stop_gradient(jnp.exp(log_prob.sum(-1)))
            k1 = objectives.kl_to_reference(log_prob, log_probs(tables()[1]), "k1")
            reward = objectives.penalized_reward(jnp.zeros(81), k1, all_tokens, 1.0)
            return (chance * losses.policy_gradient(log_prob.sum(-1), -reward)).sum()

        def forward(x):
            log_prob = log_probs(x).sum(-1)
            return (jnp.exp(log_prob) * (log_prob - reference)).sum()

        def backward(x):
            return (jnp.exp(reference) * (reference - log_probs(x).sum(-1))).sum()

        exactly = jax.value_and_grad(forward)(logits), jax.value_and_grad(backward)(logits)
        return {name: term(name) for name in objectives.KL_ESTIMATORS}, -jax.grad(penalty)(logits), exactly

    terms, penalty, ((kl, forward), (_, backward)) = in_float64(of)
    assert np.abs(terms["k1"][1]).max() < 1e-12
    close(terms["k2"][1], forward)
    close(terms["k3"][1], backward)
    close(penalty, forward)
    assert abs(terms["k1"][0] - kl) < 1e-12 and abs(terms["k3"][0] - kl) < 1e-12
    assert abs(terms["k2"][0] - kl) > 1e-2  # k2 is biased
    assert np.abs(forward - backward).max() > 1e-2


def test_estimates_of_tokens_leave_out_the_choice_of_prefixes():
    """k2 and k3 of tokens: the gradients of Σ p(prefix) KL of the next token, with p(prefix) a constant."""

    def of(logits):
        reference = log_probs(tables()[1])

        def term(name):
            def f(x):
                log_prob = log_probs(x)
                chance = jax.lax.stop_gradient(jnp.exp(log_prob.sum(-1)))
                kl = objectives.kl_to_reference(log_prob, reference, name)
                return (chance * objectives.sequence_log_prob(kl, jnp.ones(ALL.shape, bool))).sum()

            return jax.grad(f)(logits)

        def next_token(flip):
            def f(x):
                p, q = jax.nn.log_softmax(x), jax.nn.log_softmax(tables()[1])
                p, q = (q, p) if flip else (p, q)
                chance = jax.lax.stop_gradient(jnp.exp(log_probs(x).sum(-1)))
                return (chance[:, None] * (jnp.exp(p) * (p - q)).sum(-1)[STATE]).sum()

            return jax.grad(f)(logits)

        return term("k2"), next_token(False), term("k3"), next_token(True)

    k2, forward, k3, backward = in_float64(of)
    close(k2, forward)
    close(k3, backward)


# --- likelihood -------------------------------------------------------------------------------------------------------


def test_cross_entropy_learns_the_end_token_and_no_tail():
    tokens, mask, _ = sequences()
    logits = np.random.default_rng(5).normal(size=(N, T, 9)).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def of(logits):
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]
        return objectives.token_cross_entropy(log_prob, objectives.until_end(tokens, 0))

    loss, slope = of(logits)
    total = 0.0
    for i in range(N):
        for t in range(T):
            if mask[i, t]:
                total += math.log(np.exp(logits[i, t].astype(float)).sum()) - float(logits[i, t, tokens[i, t]])
    np.testing.assert_allclose(loss, total / mask.sum(), rtol=1e-5)
    np.testing.assert_array_equal((np.asarray(slope) != 0).all(-1), mask)


def head(num=3, length=7, width=5, vocabulary=11, dtype=np.float32):
    random = np.random.default_rng(7)
    features, kernel, bias, weight = (
        random.normal(size=size).astype(dtype)
        for size in ((num, length, width), (width, vocabulary), (vocabulary,), (num, length))
    )
    return features, kernel, bias, random.integers(vocabulary, size=(num, length)), weight


def plainly(features, kernel, bias, tokens, temperature=1.0):
    logits = (features @ kernel + (0.0 if bias is None else bias)) / temperature
    return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_give_the_plain_log_probabilities_and_gradients(chunk):
    with jax.enable_x64(True):
        features, kernel, bias, tokens, weight = head(dtype=np.float64)

        def both(f):
            loss = lambda x, k, b, t: (weight * f(x, k, b, tokens, t)).sum()
            without = lambda x, k: (weight * f(x, k, None, tokens, 0.5)).sum()
            given = features, kernel, bias, 0.7
            return (
                f(*given[:3], tokens, 0.7),
                jax.grad(loss, (0, 1, 2, 3))(*given),
                jax.grad(without, (0, 1))(*given[:2]),
            )

        in_chunks = lambda x, k, b, tokens, t: objectives.chunked_log_probs(x, k, b, tokens, chunk, t)
        ours, plain = jax.jit(lambda: (both(in_chunks), both(plainly)))()
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
        by_hand = np.zeros(tokens.shape)
        for i, t in np.ndindex(tokens.shape):
            logits = [(features[i, t] @ kernel[:, v] + bias[v]) / 0.7 for v in range(len(bias))]
            by_hand[i, t] = logits[tokens[i, t]] - math.log(sum(map(math.exp, logits)))
        np.testing.assert_allclose(ours[0], by_hand, rtol=1e-12)


def test_chunks_in_single_and_half_precision():
    features, kernel, bias, tokens, _ = head()
    of = jax.jit(objectives.chunked_log_probs, static_argnums=4)
    np.testing.assert_allclose(
        of(features, kernel, bias, tokens, 2), plainly(features, kernel, bias, tokens), rtol=1e-5, atol=1e-6
    )
    half = of(*(x.astype(jnp.bfloat16) for x in (features, kernel, bias)), tokens, 2)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, of(features, kernel, bias, tokens, 2), atol=0.15)
    assert of(features[:, :0], kernel, bias, tokens[:, :0], 2).shape == (3, 0)


def test_the_head_learns_nothing_from_the_tail():
    tokens, mask, _ = sequences()
    features, kernel, bias, *_ = head(N, T)

    def loss(parameters, features, tokens):
        log_prob = objectives.chunked_log_probs(features, *parameters, tokens, 2)
        return objectives.token_cross_entropy(log_prob, objectives.until_end(tokens, 0))

    of = jax.jit(jax.value_and_grad(loss, (0, 1)))
    plain = of((kernel, bias), features, tokens)
    for pad in (0, 7):
        new = np.where(mask[..., None], features, 100.0 * features[::-1]), np.where(mask, tokens, pad)
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(of((kernel, bias), *new)), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal((np.asarray(plain[1][1]) != 0).any(-1), mask)


def largest(jaxpr):
    """The number of elements of the largest array in a program and in the programs inside it."""
    found = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
    inside = [largest(inner) for eqn in jaxpr.eqns for inner in inside_of(eqn.params)]
    return max(found + inside, default=0)


@pytest.mark.parametrize("chunk", [2, 8])
def test_the_logits_never_exist_at_once(chunk):
    """Neither forwards nor in the gradient is there an array as large as the logits of two chunks."""
    num, length, width, vocabulary = 3, 32, 4, 50
    features, kernel, bias, tokens, weight = head(num, length, width, vocabulary)
    ours = lambda x, k, b: (weight * objectives.chunked_log_probs(x, k, b, tokens, chunk)).sum()
    plain = lambda x, k, b: (weight * plainly(x, k, b, tokens)).sum()
    sizes = [largest(jax.make_jaxpr(jax.grad(f, (0, 1, 2)))(features, kernel, bias).jaxpr) for f in (ours, plain)]
    assert sizes == [max(num * chunk * vocabulary, features.size), num * length * vocabulary]


# --- bad input --------------------------------------------------------------------------------------------------------

ROW, GRID, TRUE = np.ones(2, np.float32), np.ones((2, 3), np.float32), np.ones((2, 3), bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: objectives.rloo_advantage(1.0), r"rloo_advantage: reward has shape \(\); it must be \[..., G\]"),
        (lambda: objectives.rloo_advantage(ROW, TRUE), r"rloo_advantage: shapes must be equal, got .*\(2,\).*\(2, 3\)"),
        (lambda: objectives.zero_variance(np.float32(1)), r"zero_variance: reward has shape \(\)"),
        (lambda: objectives.group_advantage(ROW, "std"), "scale is 'std'; it must be one of group, batch, none, or a"),
        (lambda: objectives.group_advantage(ROW, "none", TRUE), "group_advantage: shapes must be equal"),
        (lambda: objectives.group_advantage(np.float32(1)), r"group_advantage: reward has shape \(\)"),
        (
            lambda: objectives.moving_average_advantage(objectives.moving_average_init(), ROW, 1.5),
            r"moving_average_advantage: decay is 1.5; it must lie in \[0.0, 1.0\]",
        ),
        (lambda: objectives.self_critical_advantage(ROW, GRID), "self_critical_advantage: shapes must be equal"),
        *[
            (lambda f=f: f(GRID, TRUE[:, :2]), rf"{name}: shapes must be equal, got .*\(2, 3\).*\(2, 2\)")
            for name, f in (
                ("sequence_sum", NORMALISERS["dr_grpo"]),
                ("dapo", objectives.bnpo),
                ("grpo", objectives.grpo),
            )
        ],
        (lambda: objectives.grpo(ROW, ROW > 0), r"grpo: the shape of tokens and mask is \(2,\); it must be \[N, T\]"),
        (lambda: objectives.dr_grpo(0), "dr_grpo: max_length is 0; it must be a positive int"),
        (lambda: objectives.dr_grpo(2.5), "dr_grpo: max_length is 2.5; it must be a positive int"),
        (lambda: objectives.clipped(GRID, np.ones(3)), r"advantage must be \[N\] or \[N, T\].*\(3,\).*\(2, 3\)"),
        (lambda: objectives.clipped(GRID, ROW, -0.1, 0.2), r"clipped: low is -0.1; it must lie in \[0.0, inf\]"),
        (lambda: objectives.clipped(GRID, ROW, 0.1, -0.2), r"clipped: high is -0.2; it must lie in \[0.0, inf\]"),
        (lambda: objectives.gspo(GRID, ROW, TRUE, -1.0), "gspo: low is -1.0"),
        (lambda: objectives.gspo(GRID, GRID, TRUE), r"gspo: advantage must be \[N\] for a mask \[N, T\], got \(2, 3\)"),
        (lambda: objectives.cispo(GRID, GRID, ROW, -1.0), "cispo: high is -1.0"),
        (lambda: objectives.cispo(GRID, GRID[:1], ROW), "cispo: shapes must be equal"),
        (lambda: objectives.without_truncated(TRUE, TRUE), r"without_truncated: ended must be \[N\]"),
        (
            lambda: objectives.without_truncated(ROW > 0, ROW > 0),
            r"ended must be \[N\] for a mask \[N, T\].* mask \(2,\)",
        ),
        (
            lambda: objectives.of_tokens(ROW, ROW),
            r"of_tokens: advantage must be \[N\] or \[N, T\] for tokens \[N, T\], got",
        ),
        *[
            (
                lambda x=x, kernel=kernel: objectives.chunked_log_probs(x, kernel, None, np.ones((2, 3), int), 2),
                rf"kernel \[D, V\].*got features {re.escape(str(x.shape))}, kernel {re.escape(str(kernel.shape))}",
            )
            for x, kernel in ((np.ones((2, 4)), np.ones((4, 6))), (np.ones((2, 3, 4)), np.ones(4)))
        ],
        (lambda: objectives.overlong_penalty(ROW, 4, 5), "cache is 5; it must be at most max_length, which is 4"),
        (lambda: objectives.overlong_penalty(ROW, 4, 0), "overlong_penalty: cache is 0; it must be a positive int"),
        (lambda: objectives.kl_to_reference(ROW, ROW, "k4"), "estimator is 'k4'; it must be one of k1, k2, k3"),
        (lambda: objectives.kl_to_reference(ROW, GRID, "k1"), "kl_to_reference: shapes must be equal"),
        (lambda: objectives.penalized_reward(GRID, GRID, TRUE, 1.0), r"penalized_reward: reward must be \[N\]"),
        (lambda: objectives.penalized_token_rewards(GRID, GRID, TRUE, 1.0), r"token_rewards: reward must be \[N\]"),
        (lambda: objectives.proportional_kl_coefficient(1.0, 1.0, 1.0, 6.0), r"rate is 6.0; it must lie in \[0.0, 5.0"),
        (
            lambda: objectives.until_end(GRID, 0),
            r"until_end: tokens are float32 \(2, 3\); they must be ints \[..., T\]",
        ),
        (lambda: objectives.until_end(3, 0), r"until_end: tokens are int32 \(\)"),
        (lambda: objectives.token_cross_entropy(GRID, TRUE[:1]), "shapes must be equal"),
        (
            lambda: objectives.chunked_log_probs(np.ones((2, 3, 4)), np.ones((5, 6)), None, np.ones((2, 3), int), 2),
            r"kernel \[D, V\].*got features \(2, 3, 4\), kernel \(5, 6\), bias None, tokens \(2, 3\)",
        ),
        (
            lambda: objectives.chunked_log_probs(np.ones((2, 3, 4)), np.ones((4, 6)), ROW, np.ones((2, 3), int), 2),
            r"got features .*bias \(2,\)",
        ),
        (
            lambda: objectives.chunked_log_probs(np.ones((2, 3, 4)), np.ones((4, 6)), None, np.ones((2, 2), int), 2),
            r"got features .*tokens \(2, 2\)",
        ),
        (
            lambda: objectives.chunked_log_probs(np.ones((2, 3, 4)), np.ones((4, 6)), None, np.ones((2, 3), int), 0),
            "chunked_log_probs: chunk is 0; it must be a positive int",
        ),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
