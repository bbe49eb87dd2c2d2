"""Every equation over the edges of its range: values and slopes in float32 against float64 at the same numbers.

A row is a function of arrays, and for each array the numbers that it takes; the row is computed for all combinations,
or for as many as MOST. Where float64 gives what float32 can hold, float32 must give it within a few roundings of the
largest input or of the result; where it overflows float32, float32 must not be NaN.
"""

import itertools
from functools import cache
from inspect import isfunction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import bellman, distributions, exploration, losses, normalize, returns, rewards, schedules, statistics
from purerl.bellman import Next

INF, NAN = np.inf, np.nan
MOST = 512
LARGEST = float(np.finfo(np.float32).max)

# numbers at the edges: of anything, of what is squared, of log-probabilities and ratios, of weights, of probabilities
ANY = (0.0, -0.0, 1.0, -1.0, 1e-30, -1e-7, 3e4, -1e15, 1e30)
MIDDLE = (0.0, 1.0, -1.0, 1e-20, 0.3, 1e4, -3e8, 1e15)
LOGS = (0.0, -1e-6, -0.5, -20.0, -88.0, -104.0, -1e4)
RATIOS = (0.0, 1e-6, -1e-6, 0.5, -0.5, 19.0, -19.0, -88.0, -1e4)
UNIT = (0.0, 1e-7, 0.5, 0.99, 1.0)
TEMPERATURES = (1e-15, 1e-6, 0.03, 1.0, 1e6, 1e30)
VECTORS = (
    (0.0, 0.0, 0.0),
    (1.0, 2.0, 3.0),
    (-1e15, 0.0, 1e15),
    (1e-30, -1e-30, 0.0),
    (1e4, 1e4 + 1, 1e4),
    (-1e8, 5.0, 5.0),
)
MASKED = (*VECTORS, (0.0, -INF, 1.0), (-INF, -INF, -3e4), (-104.0, 0.0, -INF))
BOOLS = (False, True)


class Row(NamedTuple):
    f: object  # arrays -> array
    numbers: tuple  # of each array, what it may be
    power: int = 1  # an absolute error of some roundings of (the largest input)^power is allowed, of slopes one less
    roundings: float = 5.0  # that many
    slopes: object = True  # False, or of which arrays


def with_next(backup, **fields):
    """A backup as a function of (reward, γ, terminated, fields in order)."""
    return lambda r, gamma, end, *values: backup(r, gamma, end, Next(**dict(zip(fields, values, strict=True))))


SUPPORT = np.float32([-10, -1, 0, 0.5, 8])
no = jnp.zeros(3, bool)


def of_block(f):
    """A function of a block, of (reward, value, next value [3], ends [3], γ, λ)."""
    return lambda r, v, w, end, gamma, lam: f(r, v, w, end > 0.5, end < -0.5, gamma, lam)


BLOCK = (VECTORS[:4], VECTORS[:4], VECTORS[:4], ((0.0, 0.0, 0.0), (1.0, 0.0, -1.0), (-1.0, -1.0, 1.0)), UNIT, UNIT)
LOG_RATIOS = ((0.0, 0.0, 0.0), (-104.0, 3.0, -1e4), (89.0, -0.5, 1e4))


def off_policy(f):
    return lambda ratio, r, v, w, end, gamma, lam: f(ratio, r, v, w, end > 0.5, end < -0.5, gamma, lam)


def parameters(pi, *sizes):
    """All vectors of parameters with these numbers in these places."""
    return tuple(itertools.product(*sizes))


TANH = distributions.tanh_normal(-2.0, 6.0)
NORMAL = distributions.normal(-2.0, 6.0)
FREE = distributions.normal()
BETA = distributions.beta(-2.0, 6.0)
BITS = distributions.bernoulli((2,))
CHOICE = distributions.categorical(3)
SEVERAL = distributions.multi_categorical([2, 1])
KINDS = distributions.parameterised((NORMAL, distributions.deterministic(0.0, 1.0)))
MEANS, LOG_STDS = (0.0, 1e-6, -0.3, 3.0, -10.0), (-20.0, -5.0, 0.0, 2.0, 4.0)
SHAPES = (-100.0, -15.0, -1.0, 0.0, 3.0, 50.0)
OF_NORMAL = parameters(NORMAL, MEANS, LOG_STDS)
OF_BETA = parameters(BETA, SHAPES, SHAPES)
OF_BITS = parameters(BITS, (0.0, 1e-6, -30.0, 104.0, -1e4, INF), (-0.5, -INF, 1e30))
OF_KINDS = tuple(
    (*x, *y) for x in ((0.0, 0.0), (200.0, 0.0), (-INF, 1.0)) for y in ((0.0, 0.0, 0.0), (3.0, -5.0, -20.0))
)
ACTIONS = ((-2.0,), (-1.999,), (2.0,), (5.9,), (6.0,))

ROWS = {
    # --- bellman ---
    "softmax_policy": Row(bellman.softmax_policy, (MASKED, TEMPERATURES)),
    "softmax_policy, tiny τ": Row(bellman.softmax_policy, (MASKED, (0.0, 1e-37, 1e-30)), slopes=(0,)),
    "state_value": Row(bellman.state_value, (((0.0, 0.5, 0.5), (1.0, 0.0, 0.0)), MASKED[:-2])),
    "soft_value": Row(bellman.soft_value, (MASKED, TEMPERATURES)),
    "soft_value, tiny τ": Row(bellman.soft_value, (MASKED, (1e-30, 1e-20)), slopes=(0,)),
    "mellowmax": Row(bellman.mellowmax, (MASKED, (1e-30, 1e-8, 1e-3, 1.0, 1e4)), slopes=(0,)),
    "max_backup": Row(with_next(bellman.max_backup, q=0), (MIDDLE, UNIT, BOOLS, MASKED)),
    "double_backup": Row(with_next(bellman.double_backup, q=0, online=0), (MIDDLE, UNIT, BOOLS, VECTORS, MASKED)),
    "expected_backup": Row(
        with_next(bellman.expected_backup, q=0, probs=0),
        (MIDDLE, UNIT, BOOLS, VECTORS, ((0.0, 0.5, 0.5), (1.0, 0.0, 0.0))),
    ),
    "sarsa_backup": Row(with_next(bellman.sarsa_backup, q=0), (MIDDLE, UNIT, BOOLS, ANY)),
    "softmax_backup": Row(
        lambda r, g, end, q, t: bellman.softmax_backup(t)(r, g, end, q), (MIDDLE, UNIT, BOOLS, MASKED, TEMPERATURES)
    ),
    "soft_backup": Row(
        lambda r, g, end, q, t: bellman.soft_backup(t)(r, g, end, q), (MIDDLE, UNIT, BOOLS, MASKED, TEMPERATURES)
    ),
    "mellowmax_backup": Row(
        lambda r, g, end, q, t: bellman.mellowmax_backup(t)(r, g, end, q),
        (MIDDLE, UNIT, BOOLS, MASKED, (1e-8, 1.0, 1e4)),
        slopes=(0, 1, 3),
    ),
    "munchausen_backup": Row(
        lambda r, g, end, q, now, t: bellman.munchausen_backup(t)(r, g, end, Next(q, q_now=now, action_now=1)),
        (MIDDLE, UNIT, BOOLS, VECTORS, VECTORS, TEMPERATURES),
    ),
    "clipped_double_backup": Row(
        lambda r, g, end, x, y: bellman.clipped_double_backup()(r, g, end, jnp.stack([x, y])),
        (MIDDLE, UNIT, BOOLS, MASKED, MASKED),
    ),
    "persistent_backup": Row(
        lambda r, g, end, q, a: bellman.persistent_backup(a)(r, g, end, Next(q, action_now=2)),
        (MIDDLE, UNIT, BOOLS, VECTORS, UNIT),
    ),
    "transformed_backup": Row(
        with_next(
            bellman.transformed_backup(bellman.max_backup, bellman.signed_hyperbolic, bellman.signed_parabolic), q=0
        ),
        ((0.0, 1.0, -1e4), UNIT, BOOLS, ((0.0, 0.0, 0.0), (1e-30, -30.0, 1e4), (0.0, -INF, -1.0))),
    ),
    "expectation": Row(bellman.expectation, (((0.0, 0.5, 0.5), (1.0, 0.0, 0.0)), VECTORS)),
    "categorical_projection": Row(
        lambda x, p: bellman.categorical_projection(x, p, SUPPORT),
        (((-10.0, 0.0, 8.0), (-1e30, 0.25, 1e30), (-9.9999, 1e-30, 7.9999)), ((0.0, 0.5, 0.5), (1.0, 0.0, 0.0))),
        slopes=False,
    ),
    "clipped_mass": Row(
        lambda x, p: bellman.clipped_mass(x, p, SUPPORT),
        (((-10.0, 0.0, 8.0), (-1e30, 0.25, 1e30), (-10.1, 1e-30, 7.9999)), ((0.0, 0.5, 0.5), (1.0, 0.0, 0.0))),
    ),
    "quantile_backup": Row(
        lambda r, g, end, x, y: bellman.quantile_backup(r, g, end, jnp.stack([x, y])),
        (MIDDLE, UNIT, BOOLS, VECTORS, VECTORS),
    ),
    "expected_quantile_backup": Row(
        lambda r, g, end, x, y, p: bellman.expected_quantile_backup(
            r, g, end, Next(jnp.stack([x, y]), probs=jnp.stack([p, 1 - p]))
        ),
        (MIDDLE, UNIT, BOOLS, VECTORS, VECTORS, UNIT),
        slopes=False,
    ),
    "two_hot": Row(lambda x: bellman.two_hot(x, SUPPORT), ((*ANY, -10.0, 8.0, 7.9999, 0.25, INF, -INF),), slopes=False),
    "hl_gauss": Row(
        lambda x, s: bellman.hl_gauss(x, SUPPORT, s),
        ((*ANY, -10.0, 8.0, INF), (1e-4, 0.3, 1.0, 100.0, 1e4)),
        slopes=False,
    ),
    "signed_hyperbolic": Row(bellman.signed_hyperbolic, ((*ANY, INF, -INF),)),
    "signed_parabolic": Row(bellman.signed_parabolic, ((*ANY[:-2], INF, -INF),)),
    "symlog": Row(bellman.symlog, ((*ANY, INF, -INF),)),
    "symexp": Row(bellman.symexp, ((0.0, -0.0, 1e-30, -1e-7, 1.0, -20.0, 88.0, INF, -INF),)),
    # --- returns ---
    "gae": Row(of_block(returns.gae), BLOCK),
    "lambda_returns": Row(of_block(lambda r, v, w, *rest: returns.lambda_returns(r, w, *rest)), BLOCK),
    "monte_carlo": Row(of_block(lambda r, v, w, t, u, g, lam: returns.monte_carlo(r, w, t, u, g)), BLOCK),
    "n_step": Row(of_block(lambda r, v, w, t, u, g, lam: returns.n_step(r, w, t, u, g, 2, lam)), BLOCK),
    "q_lambda": Row(
        of_block(
            lambda r, v, w, t, u, g, lam: returns.q_lambda(r, jnp.stack([v, w], -1), t, u, g, lam, no.astype(int))
        ),
        BLOCK,
    ),
    "eligibility_traces": Row(
        of_block(lambda r, v, w, t, u, g, lam: returns.eligibility_traces(r[:, None], t, u, g, lam)), BLOCK
    ),
    "retrace": Row(off_policy(returns.retrace), (LOG_RATIOS, *BLOCK)),
    "vtrace": Row(off_policy(lambda *args: jnp.stack(returns.vtrace(*args))), (LOG_RATIOS, *BLOCK)),
    "tree_backup": Row(
        off_policy(lambda x, *args: returns.tree_backup(jax.nn.sigmoid(x), *args)), (LOG_RATIOS, *BLOCK)
    ),
    # --- losses ---
    "policy_gradient": Row(losses.policy_gradient, (LOGS, MIDDLE)),
    "ppo_clip": Row(lambda x, a: losses.ppo_clip(x, a, 0.2), (RATIOS, MIDDLE[:-1])),
    "kl_penalty": Row(lambda x, a: losses.kl_penalty(x, a, 0.0 * a, 1.0), (RATIOS, MIDDLE[:-1])),
    "dpo_drift": Row(losses.dpo_drift, (RATIOS, (0.0, 1.0, -1.0, 1e-20, 1e4, -1e4))),
    "simple_policy": Row(lambda x, a: losses.simple_policy(x, a, 0.2), ((0.0, 1e-6, -0.5, 3.0, -1e4), MIDDLE[:-1])),
    "squared": Row(losses.squared, (MIDDLE, MIDDLE), power=2),
    "clipped_value": Row(lambda v, w, t: losses.clipped_value(v, w, t, 0.25), (MIDDLE[:5], MIDDLE[:5], MIDDLE[:5])),
    "standardize": Row(
        lambda x: losses.standardize(x, jnp.array([True, True, True, False])),
        (
            (
                (0.0, 0.0, 0.0, NAN),
                (1.0, 2.0, 4.0, INF),
                (1e15, -1e15, 0.0, 0.0),
                (5.0, 5.0, 5.0, 1e30),
                (1e-3, 2e-3, 0.0, -INF),
            ),
        ),
    ),
    "scorable_mean": Row(
        lambda x: losses.scorable_mean(x[:, None], jnp.array([[True], [True], [False]])),
        (((1.0, 3.0, NAN), (1e30, -1e30, INF)),),
    ),
    "masked_mean": Row(
        lambda x: losses.masked_mean(x, jnp.array([True, True, False])), (((1.0, 3.0, NAN), (1e30, -1e30, INF)),)
    ),
    "exponential_weights": Row(lambda a, t: losses.exponential_weights(a, t, 20.0), (MIDDLE, (1e-6, 0.05, 1.0, 1e6))),
    "mpo_weights": Row(losses.mpo_weights, (VECTORS, TEMPERATURES)),
    "mpo_temperature": Row(lambda q, t: losses.mpo_temperature(q, t, 0.1), (VECTORS, TEMPERATURES)),
    "kl_multiplier": Row(lambda kl, a: losses.kl_multiplier(kl, a, 0.1), ((0.0, 1e-8, 1e4), (0.0, 1e-6, 1e4))),
    "vmpo_policy": Row(
        lambda x, a, t: losses.vmpo_policy(-jnp.abs(x), a, t, jnp.array([True, True, False])),
        (VECTORS, VECTORS, TEMPERATURES),
    ),
    "vmpo_temperature": Row(
        lambda a, t: losses.vmpo_temperature(a, t, 0.1, jnp.array([True, True, False])),
        (VECTORS, (1e-15, 1e-6, 0.03, 1.0, 1e6)),
    ),
    "kl_estimates": Row(lambda x: jnp.stack(losses.kl_estimates(x)), (RATIOS,)),
    "huber": Row(losses.huber, (MIDDLE, MIDDLE)),
    "expectile": Row(losses.expectile, (MIDDLE, MIDDLE, UNIT), power=2),
    "quantile_huber": Row(
        lambda x, y, d: losses.quantile_huber(x, y, jnp.asarray([0.1, 0.5, 0.9], x.dtype), d),
        (VECTORS, VECTORS, (0.0, 1e-6, 1.0, 1e6)),
        slopes=(0, 1),
    ),
    "categorical_cross_entropy": Row(
        losses.categorical_cross_entropy, (MASKED, ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1e-30, 1.0)))
    ),
    "soft_temperature": Row(losses.soft_temperature, ((-100.0, -5.0, 0.0, 5.0), (*LOGS, 1e-6, 9.0))),
    "preference_loss": Row(rewards.preference_loss, (VECTORS, VECTORS, (0.0, 0.5, 1.0))),
    # --- exploration, schedules, normalisers ---
    "greedy_probs": Row(exploration.greedy_probs, (MASKED,)),
    "epsilon_greedy_probs": Row(exploration.epsilon_greedy_probs, (MASKED, UNIT)),
    "ucb1": Row(
        lambda v, n: exploration.ucb1(v, n), (VECTORS, ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1e8, 1.0, 3.0))), slopes=(0,)
    ),
    "with_temperature": Row(exploration.with_temperature, (MASKED, TEMPERATURES)),
    "top_p": Row(exploration.top_p, (MASKED, (0.0, 0.3, 1.0)), slopes=False),
    "min_p": Row(exploration.min_p, (MASKED, (0.0, 1e-30, 1.0)), slopes=False),
    "adapt_sigma": Row(lambda s, d: exploration.adapt_sigma(s, d, 0.1), ((0.0, 1e-30, 1e30), (0.0, 0.11, INF))),
    "linear": Row(lambda s, a, b: schedules.linear(s, a, b, 10), ((0.0, 1.0, 10.0, 1e30), ANY, ANY)),
    "cosine": Row(lambda s, a, b: schedules.cosine(s, a, b, 10), ((0.0, 1.0, 10.0, 1e30), ANY, ANY)),
    "exponential": Row(
        lambda s, a, b: schedules.exponential(s, a, b, 10),
        ((0.0, 1.0, 10.0, 1e30), (1e-15, 1.0, 1e15), (1e-15, 1.0, 1e15)),
    ),
    "popart_value": Row(
        lambda m, v, x: normalize.popart_value(normalize.PopArt(m, v), x), (MIDDLE, (0.0, 1e-30, 1.0, 1e30), MIDDLE)
    ),
    "popart_normalize": Row(
        lambda m, v, x: normalize.popart_normalize(normalize.PopArt(m, v), x), (MIDDLE, (0.0, 1e-30, 1.0, 1e30), MIDDLE)
    ),
    # --- distributions ---
    "categorical.log_prob": Row(lambda p: CHOICE.log_prob(p, 2), (MASKED[:-1],)),
    "categorical.entropy": Row(CHOICE.entropy, (MASKED,)),
    "categorical.kl": Row(CHOICE.kl, (MASKED[:-2], VECTORS)),
    "multi_categorical.entropy": Row(SEVERAL.entropy, (MASKED[:-2],)),
    "multi_categorical.log_prob": Row(lambda p: SEVERAL.log_prob(p, jnp.array([0, 0])), (MASKED[:-2],)),
    "bernoulli.log_prob": Row(lambda p: BITS.log_prob(p, jnp.array([1, 0])), (OF_BITS,)),
    "bernoulli.entropy": Row(BITS.entropy, (OF_BITS,)),
    "bernoulli.kl": Row(BITS.kl, (OF_BITS, ((0.0, 0.0), (50.0, -50.0)))),
    "normal.log_prob": Row(lambda p, a: NORMAL.log_prob(p, a), (OF_NORMAL[5:], ACTIONS)),
    "normal.entropy": Row(NORMAL.entropy, (OF_NORMAL,)),
    "normal.kl": Row(NORMAL.kl, (OF_NORMAL, ((0.0, 0.0), (1.0, -5.0), (-3.0, 4.0)))),
    "tanh_normal.log_prob": Row(lambda p, a: TANH.log_prob(p, a), (parameters(TANH, MEANS, LOG_STDS[1:]), ACTIONS)),
    "tanh_normal.entropy": Row(TANH.entropy, (OF_NORMAL,)),
    "beta.log_prob": Row(lambda p, a: BETA.log_prob(p, a), (OF_BETA, ACTIONS), roundings=200),
    "beta.entropy": Row(BETA.entropy, (OF_BETA,), roundings=200),
    "beta.kl": Row(BETA.kl, (OF_BETA, OF_BETA[::5]), roundings=200),
    "deterministic.mode": Row(distributions.deterministic(-2.0, 6.0).mode, (((0.0,), (1e-30,), (100.0,), (-INF,)),)),
    "parameterised.entropy": Row(KINDS.entropy, (tuple((*x, 0.0) for x in OF_KINDS),)),
}


WITHOUT_ROW = {
    "over_temperature": "part of softmax_policy, soft_value and with_temperature",
    "categorical_backup": "categorical_successors and categorical_projection, swept by themselves",
    "categorical_successors": "a backup of atoms, whose kernel is that of quantile_backup",
    "centers": "two additions",
    "discounted_sums": "part of every return",
    "corrections": "part of every return",
    "change": "part of the surrogates",
    "ratio": "part of the surrogates",
    "adapt_kl_coefficient": "doubles or halves",
    "better_half": "a choice, no number",
    "deterministic_policy_gradient": "a sign",
    "times_due": "of whole numbers",
}


@pytest.mark.parametrize("module", [bellman, returns, losses, schedules])
def test_every_equation_is_swept(module):
    public = {n for n, f in vars(module).items() if isfunction(f) and f.__module__ == module.__name__ and n[0] != "_"}
    assert public - set(ROWS) - set(WITHOUT_ROW) == set()


def combinations(numbers):
    """All combinations, or MOST of them drawn without replacement, as arrays `[cases, ...]`."""
    sizes = [len(x) for x in numbers]
    index = np.arange(np.prod(sizes))
    if index.size > MOST:
        index = np.random.default_rng(0).choice(index, MOST, replace=False)
    return [np.asarray(x)[i] for x, i in zip(numbers, np.unravel_index(index, sizes), strict=True)]


@cache
def computed(precision):
    """Values and slopes of all rows, in one program."""
    dtype = {"float32": np.float32, "float64": np.float64}[precision]
    cast = lambda x: x if x.dtype == bool else x.astype(np.float32).astype(dtype)
    cases = {name: [cast(x) for x in combinations(row.numbers)] for name, row in ROWS.items()}

    def of(row, args):
        real = [i for i, x in enumerate(args) if x.dtype != bool and (row.slopes is True or i in (row.slopes or ()))]

        def total(*floats):
            out = row.f(*(floats[real.index(i)] if i in real else x for i, x in enumerate(args)))
            return (out * np.cos(np.arange(out.size)).reshape(out.shape)).sum()  # a plain sum of a softmax has no slope

        return [row.f(*args), *(jax.grad(total, tuple(range(len(real))))(*(args[i] for i in real)) if real else ())]

    def program(cases):
        return {name: jax.vmap(lambda *args, row=row: of(row, args))(*cases[name]) for name, row in ROWS.items()}

    with jax.enable_x64(precision == "float64"):
        out = jax.jit(program)(cases)
        return cases, jax.tree.map(lambda x: np.asarray(x, np.float64), out)


def size(x):
    """The largest finite number of each case, at least 1."""
    flat = np.abs(np.asarray(x, np.float64)).reshape(len(x), -1)
    return np.maximum(np.where(np.isfinite(flat), flat, 0).max(1), 1.0)


@pytest.mark.parametrize("name", ROWS)
def test_float32_is_float64_rounded(name):
    row, (cases, ours), (_, exact) = ROWS[name], computed("float32"), computed("float64")
    largest = np.max([size(x) for x in cases[name] if x.dtype != bool], axis=0)
    for slope, (mine, right) in enumerate(zip(ours[name], exact[name], strict=True)):
        assert not np.isnan(right).any(), f"{name}: NaN in float64"
        scale = largest ** (max(row.power - 1, 1) if slope else row.power)
        allowed = 3e-6 * np.abs(right) + row.roundings * 2.0**-24 * scale.reshape(-1, *[1] * (right.ndim - 1))
        holds = np.abs(right) < LARGEST
        with np.errstate(invalid="ignore"):
            good = np.where(holds, np.abs(mine - right) <= allowed, ~np.isnan(mine)).reshape(len(mine), -1).all(1)
        what = f"slope {slope}" if slope else "value"
        lines = [
            f"{name}{tuple(x[i].tolist() for x in cases[name])}: {what} {mine[i]}, not {right[i]}"
            for i in np.flatnonzero(~good)[:8]
        ]
        assert good.all(), f"{(~good).sum()} of {len(good)}:\n" + "\n".join(lines)


@pytest.mark.parametrize("size", [1e-300, 1e-15, 1.0, 1e15, 1e300])
def test_statistics_at_any_scale(size):
    """Of scores times a power of two the statistics are that much larger, and none overflows."""
    factor = 2.0 ** np.round(np.log2(size))
    x = np.random.default_rng(0).normal(size=(6, 3))
    for f in (statistics.iqm, statistics.mean, statistics.median):
        np.testing.assert_allclose(f(x * factor), f(x) * factor, rtol=1e-14)
        np.testing.assert_allclose(
            statistics.interval(x * factor, f, num_resamples=50),
            np.array(statistics.interval(x, f, num_resamples=50)) * factor,
            rtol=1e-12,
        )
        np.testing.assert_allclose(statistics.interval(np.full((3, 2), factor), f, num_resamples=50), factor)
    assert statistics.probability_of_improvement(x * factor, -x * factor) == statistics.probability_of_improvement(
        x, -x
    )
    np.testing.assert_allclose(
        statistics.optimality_gap(x * factor, target=factor),
        statistics.optimality_gap(x, target=1.0) * factor,
        rtol=1e-14,
    )
    taus = np.linspace(-2, 2, 9)
    np.testing.assert_array_equal(
        statistics.performance_profile(x * factor, taus * factor), statistics.performance_profile(x, taus)
    )
