from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import losses

DATA = np.random.default_rng(0).normal(size=(4, 5, 3))


@pytest.fixture
def data():
    return list(DATA.astype(np.float32))


def test_against_the_equations(data):
    a, b, c, _d = (np.asarray(x, np.float64) for x in data)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)

    @jax.jit
    def of(a, b, c):
        functions = losses.policy_gradient, losses.squared, lambda a, b: losses.ppo_clip(a, b, 0.2)
        return *(f(a, b) for f in functions), losses.clipped_value(a, b, c, 0.3)

    gradient, squared, ppo, value = map(np.asarray, of(*data[:3]))
    close(gradient, -a * b)
    close(squared, (a - b) ** 2 / 2)
    for x, y, ratio in zip(ppo.flat, b.flat, np.exp(a).flat, strict=True):
        close(x, -min(ratio * y, min(max(ratio, 0.8), 1.2) * y))
    moved = np.array([old + min(max(v - old, -0.3), 0.3) for v, old in zip(a.flat, b.flat, strict=True)])
    expected = [max((v - g) ** 2, (m - g) ** 2) / 2 for v, m, g in zip(a.flat, moved, c.flat, strict=True)]
    close(value.ravel(), expected)


def test_ppo_at_ratio_one_has_the_policy_gradient(data):
    log_prob, advantage = data[:2]
    ppo = jax.grad(lambda x: losses.ppo_clip(x - log_prob, advantage, 0.2).sum())
    plain = jax.grad(lambda x: losses.policy_gradient(x, advantage).sum())
    np.testing.assert_allclose(*jax.jit(lambda x: (ppo(x), plain(x)))(log_prob), rtol=1e-6)


def test_ppo_stops_where_the_ratio_has_moved_far_enough():
    slope = jax.jit(jax.vmap(jax.grad(lambda x, a: losses.ppo_clip(x, a, 0.2))))
    far, advantage = np.log([1.5, 1.5, 0.5, 0.5]), np.array([1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(slope(far, advantage), [0.0, 1.5, -0.5, 0.0], atol=1e-6)


def test_masked_mean_and_standardize(data):
    x, valid = data[0], data[1] > 0
    kept = x[valid]

    @jax.jit
    def of(x, valid):
        slope = jax.grad(lambda x: losses.masked_mean(jnp.where(valid, x, 0) ** 2, valid))(x)
        return losses.masked_mean(x, valid), losses.standardize(x, valid), slope

    mean, standard, slope = of(x, valid)
    np.testing.assert_allclose(mean, kept.mean(), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(standard)[valid], (kept - kept.mean()) / (kept.std() + 1e-8), rtol=1e-4)
    assert of(np.where(valid, x, np.nan), valid)[0] == mean
    assert np.isfinite(slope).all()
    assert of(x, np.zeros_like(valid))[0] == 0


@pytest.mark.parametrize("count", [1, 4])
def test_constant_advantages_are_finite_and_so_is_their_gradient(count):
    x, valid = np.full(count, 3.0, np.float32), np.ones(count, bool)
    total = lambda x: losses.standardize(x, valid).sum()
    standard, slope = jax.jit(lambda x: (losses.standardize(x, valid), jax.grad(total)(x)))(x)
    np.testing.assert_array_equal(standard, np.zeros(count))
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", ["policy_gradient", "squared", "masked_mean"])
def test_shapes_that_would_broadcast_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name}: shapes must be equal, got .*\(3, 1\).*\(3,\)"):
        getattr(losses, name)(np.ones((3, 1)), np.ones(3))


# --- the others, against NumPy ------------------------------------------------------------------------------------

L = losses
AGAINST = {  # name: (ours, NumPy's), of four arrays
    "policy_gradient": (lambda a, b, c, d: L.policy_gradient(a, b), lambda a, b, c, d: -a * b),
    "ppo_clip": (
        lambda a, b, c, d: L.ppo_clip(a, b, 0.2),
        lambda a, b, c, d: -np.minimum(np.exp(a) * b, np.clip(np.exp(a), 0.8, 1.2) * b),
    ),
    "squared": (lambda a, b, c, d: L.squared(a, b), lambda a, b, c, d: (a - b) ** 2 / 2),
    "clipped_value": (
        lambda a, b, c, d: L.clipped_value(a, b, c, 0.3),
        lambda a, b, c, d: np.maximum((a - c) ** 2, (b + np.clip(a - b, -0.3, 0.3) - c) ** 2) / 2,
    ),
    "standardize": (
        lambda a, b, c, d: L.standardize(a, jnp.ones(a.shape, bool)),
        lambda a, b, c, d: (a - a.mean()) / (a.std() + 1e-8),
    ),
    "kl_penalty": (
        lambda a, b, c, d: L.kl_penalty(a, b, jnp.abs(c), 0.3),
        lambda a, b, c, d: -np.exp(a) * b + 0.3 * abs(c),
    ),
    "dpo_drift": (
        lambda a, b, c, d: L.dpo_drift(a, b),
        lambda a, b, c, d: (
            -(
                np.exp(a) * b
                - np.where(
                    b >= 0,
                    np.maximum((np.exp(a) - 1) * b - 2 * np.tanh((np.exp(a) - 1) * b / 2), 0),
                    np.maximum(a * b - 0.6 * np.tanh(a * b / 0.6), 0),
                )
            )
        ),
    ),
    "simple_policy": (
        lambda a, b, c, d: L.simple_policy(a, b, 0.2),
        lambda a, b, c, d: -(np.exp(a) * b - abs(b) / 0.4 * (np.exp(a) - 1) ** 2),
    ),
    "huber": (
        lambda a, b, c, d: L.huber(3 * a, b, 0.7),
        lambda a, b, c, d: np.where(abs(3 * a - b) <= 0.7, (3 * a - b) ** 2 / 2, 0.7 * (abs(3 * a - b) - 0.35)),
    ),
    "exponential_weights": (
        lambda a, b, c, d: L.exponential_weights(3 * a, 0.5, 20.0),
        lambda a, b, c, d: np.minimum(np.exp(3 * a / 0.5), 20.0),
    ),
    "mpo_weights": (
        lambda a, b, c, d: L.mpo_weights(a, 0.5, axis=0),
        lambda a, b, c, d: np.exp(a / 0.5) / np.exp(a / 0.5).sum(0),
    ),
    "mpo_temperature": (
        lambda a, b, c, d: L.mpo_temperature(a, 0.5, 0.1, axis=0),
        lambda a, b, c, d: 0.5 * 0.1 + 0.5 * np.log(np.exp(a / 0.5).mean(0)),
    ),
    "kl_multiplier": (
        lambda a, b, c, d: L.kl_multiplier(a, 0.5, 0.1),
        lambda a, b, c, d: 0.5 * a + 0.5 * (0.1 - a),
    ),
    "k1": (lambda a, b, c, d: L.kl_estimates(a)[0], lambda a, b, c, d: -a),
    "k2": (lambda a, b, c, d: L.kl_estimates(a)[1], lambda a, b, c, d: a**2 / 2),
    "k3": (lambda a, b, c, d: L.kl_estimates(a)[2], lambda a, b, c, d: np.exp(a) - 1 - a),
    "quantile_huber": (
        lambda a, b, c, d: L.quantile_huber(a, b, jnp.array([0.1, 0.5, 0.9]), 0.5),
        lambda a, b, c, d: quantile_huber(a, b, [0.1, 0.5, 0.9], 0.5),
    ),
    "categorical_cross_entropy": (
        lambda a, b, c, d: L.categorical_cross_entropy(a, jax.nn.softmax(b)),
        lambda a, b, c, d: -(softmax(b) * np.log(softmax(a))).sum(-1),
    ),
    "deterministic_policy_gradient": (lambda a, b, c, d: L.deterministic_policy_gradient(a), lambda a, b, c, d: -a),
    "soft_temperature": (lambda a, b, c, d: L.soft_temperature(a, b), lambda a, b, c, d: a * b),
}
CONSTANT = {"soft_temperature": "b", "kl_multiplier": "a"}  # whose gradient is held


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def quantile_huber(quantiles, target, fractions, delta):
    out = np.zeros(quantiles.shape[:-1])
    for i in np.ndindex(out.shape):
        for theta, f in zip(quantiles[i], fractions, strict=True):
            errors = target[i] - theta
            h = np.where(abs(errors) <= delta, errors**2 / 2, delta * (abs(errors) - delta / 2))
            out[i] += np.mean([abs(f - (e < 0)) * x / delta for e, x in zip(errors, h, strict=True)])
    return out


@cache
def values_and_slopes():
    """Of every loss in float64: its values, its gradients, and central differences in two elements of each array."""
    step, elements = 1e-6, ((0, 0), (2, 1))
    bumps = np.zeros((4, 2, 4, 5, 3))  # of an array and an element: all four arrays
    for array, i in np.ndindex(4, 2):
        bumps[array, i, array][elements[i]] = step

    def of(ours, arrays):
        total = lambda arrays: ours(*arrays).sum()
        along = jax.vmap(jax.vmap(lambda bump: (total(arrays + bump) - total(arrays - bump)) / (2 * step)))
        slopes = jax.grad(total)(arrays)
        return ours(*arrays), jnp.stack([slopes[:, *element] for element in elements], 1), along(bumps)

    with jax.enable_x64(True):
        program = jax.jit(lambda arrays: {name: of(ours, arrays) for name, (ours, _) in AGAINST.items()})
        return jax.tree.map(np.asarray, program(DATA))


@pytest.mark.parametrize("name", AGAINST)
def test_losses_against_numpy_and_finite_differences(name):
    values, slopes, numeric = values_and_slopes()[name]
    np.testing.assert_allclose(values, AGAINST[name][1](*DATA), rtol=1e-9, atol=1e-12)
    for letter, slope, wanted in zip("abcd", slopes, numeric, strict=True):
        if letter not in CONSTANT.get(name, ""):
            np.testing.assert_allclose(slope, wanted, atol=1e-6)


@cache
def at_the_edges():
    """Of every loss: its values and gradients where numbers are 0, or ratios as good as 0 or infinite."""

    def of(ours, arrays):
        return ours(*arrays), jax.grad(lambda arrays: ours(*arrays).sum())(arrays)

    zero = np.zeros((5, 3), np.float32)
    edges = np.array([[zero] * 4, [zero - 30, zero, zero, zero], [zero + 30, -zero, zero + 1, zero]])
    return jax.jit(jax.vmap(lambda arrays: {name: of(ours, arrays) for name, (ours, _) in AGAINST.items()}))(edges)


@pytest.mark.parametrize("name", AGAINST)
def test_losses_and_their_gradients_are_finite_at_the_edges(name):
    assert all(np.isfinite(x).all() for x in at_the_edges()[name])


def test_policy_losses_start_from_the_policy_gradient(data):
    """At ratio 1 each surrogate's gradient is REINFORCE's."""
    advantage = data[1]
    surrogates = (
        lambda x: losses.kl_penalty(x, advantage, losses.kl_estimates(x)[1], 1.0),
        lambda x: losses.dpo_drift(x, advantage),
        lambda x: losses.simple_policy(x, advantage, 0.2),
    )
    slopes = jax.jit(lambda x: [jax.grad(lambda x, f=f: f(x).sum())(x) for f in surrogates])
    for slope in slopes(np.zeros_like(advantage)):
        np.testing.assert_allclose(slope, -advantage, rtol=1e-5)


def test_simple_policy_has_its_top_at_the_edge_and_ppo_its_kink():
    slope = jax.jit(jax.vmap(jax.grad(lambda x, a: losses.simple_policy(x, a, 0.2))))
    at = lambda *ratios: slope(np.log(np.float32(ratios)), np.float32([1.0, -1.0]))
    np.testing.assert_allclose(at(1.2, 0.8), 0.0, atol=1e-6)
    beyond = at(1.5, 0.5)
    assert beyond[0] > 0 > beyond[1]  # it pulls back, where the clipped loss lets go


def test_kl_coefficient_follows_the_papers_rule():
    adapt = jax.jit(lambda kl: losses.adapt_kl_coefficient(0.3, kl, 0.01))
    for kl, factor in ((0.0, 0.5), (0.0066, 0.5), (0.0067, 1.0), (0.0149, 1.0), (0.0151, 2.0)):
        assert adapt(kl) == pytest.approx(0.3 * factor)


def test_kl_estimates_have_the_mean_of_kl():
    """Over actions of μ: k₁ and k₃ exactly, by summing over all of them."""
    mu, pi = (np.log(softmax(np.array(x))) for x in ([0.3, -1.0, 2.0], [0.0, 0.5, 1.0]))
    exact = (np.exp(mu) * (mu - pi)).sum()
    k1, _, k3 = map(np.asarray, jax.jit(losses.kl_estimates)(pi - mu))
    np.testing.assert_allclose([(np.exp(mu) * k).sum() for k in (k1, k3)], exact, rtol=1e-5)


def test_mpo_dual_has_its_minimum_where_kl_is_epsilon():
    q = np.random.default_rng(0).normal(size=200).astype(np.float32)
    slope = jax.jit(jax.grad(lambda eta: losses.mpo_temperature(q, eta, 0.1)))
    low, high = 1e-2, 1e2
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    weights = np.asarray(jax.jit(lambda eta: losses.mpo_weights(q, eta))(middle))
    kl = (weights * np.log(weights * 200)).sum()
    assert kl == pytest.approx(0.1, rel=1e-3)
    # and that of the multiplier moves α up while KL is too large
    slopes = jax.jit(jax.grad(lambda kl, a: losses.kl_multiplier(kl, a, 0.1), (0, 1)))
    assert slopes(0.5, 1.0)[1] < 0
    assert slopes(0.5, 2.0)[0] == 2.0


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
def test_quantile_loss_has_the_quantile_as_its_minimum(fraction):
    target = np.sort(np.random.default_rng(0).normal(size=101)).astype(np.float32)
    at = lambda x: losses.quantile_huber(x[None], target, jnp.array([fraction]), 0.0)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(at)))(target)
    assert target[np.argmin(values)] == pytest.approx(np.quantile(target, fraction), abs=0.05)
    assert np.isfinite(slopes).all()


def test_impossible_classes_count_only_where_they_are_wanted():
    logits, target = np.float32([0.0, -np.inf]), np.float32([1.0, 0.0])
    of = jax.jit(jax.value_and_grad(losses.categorical_cross_entropy))
    value, slope = of(logits, target)
    assert value == 0.0 and np.isfinite(slope).all()
    assert of(logits, target[::-1])[0] == np.inf


def test_too_little_entropy_raises_the_temperature():
    slopes = jax.jit(jax.grad(lambda *x: losses.soft_temperature(*x), (0, 1)))(jnp.array(0.0), jnp.array(-0.5))
    assert slopes[0] < 0 and slopes[1] == 0


def test_more_shapes_that_would_broadcast_are_refused():
    a, b = np.ones((3, 1)), np.ones(3)
    for name in ("dpo_drift", "huber", "soft_temperature", "categorical_cross_entropy"):
        with pytest.raises(ValueError, match=rf"{name}: shapes must be equal"):
            getattr(losses, name)(a, b)
    with pytest.raises(ValueError, match=r"quantile_huber: leading axes .* quantiles \(3, 1\), target \(3,\)"):
        losses.quantile_huber(a, b, np.ones(1))
    with pytest.raises(ValueError, match=r"quantile_huber: leading axes and .* target \(3, 2\), fractions \(2,\)"):
        losses.quantile_huber(a, np.ones((3, 2)), np.ones(2))


# --- edges of the range, in float32 -------------------------------------------------------------------------------

SURROGATES = {
    "ppo_clip": lambda x, a: losses.ppo_clip(x, a, 0.2),
    "simple_policy": lambda x, a: losses.simple_policy(x, a, 0.2),
    "dpo_drift": losses.dpo_drift,
    "kl_penalty": lambda x, a: losses.kl_penalty(x, a, 0.0 * a, 1.0),
    "k3": lambda x, a: losses.kl_estimates(x)[2] * a,
}


@pytest.mark.parametrize("name", SURROGATES)
def test_no_ratio_overflows_and_none_cancels(name):
    """Within log ρ = ±20 as in float64; beyond, finite, and the gradient has the sign that it had."""
    f = SURROGATES[name]
    x = np.float32([-1e6, -89, -20, -1, -1e-4, 0, 1e-4, 0.1, 1, 19.9, 30, 45, 89, 1e4, 1e6])
    x, a = (y.reshape(-1) for y in np.meshgrid(x, np.float32([-30, -1, 1, 30])))
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(f)))(x, a)
    with jax.enable_x64(True):
        exact = jax.jit(jax.vmap(jax.value_and_grad(f)))(x.astype(np.float64), a.astype(np.float64))
        exact = [np.asarray(y) for y in exact]
    value, slope = np.asarray(value), np.asarray(slope)
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    near = np.abs(x) < 25
    np.testing.assert_allclose(value[near], exact[0][near], rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(slope[near], exact[1][near], rtol=2e-5, atol=3e-5)
    for sign in (-30, -1, 1, 30):
        last = slope[(a == sign) & (x == np.float32(19.9))]
        assert (np.sign(slope[(a == sign) & (x > 25)]) == np.sign(last)).all()


def test_known_values_far_from_the_old_policy():
    grad = jax.jit(jax.grad(losses.ppo_clip))
    assert grad(89.0, 1.0, 0.2) == 0 and grad(89.0, -1.0, 0.2) > 1e8
    assert jax.jit(losses.dpo_drift)(20.0, 1.0) == -3.0
    assert 1e15 < jax.jit(jax.grad(losses.simple_policy))(89.0, 1.0, 0.2) < np.inf


def test_expectile_is_least_at_the_expectile():
    x, fractions = np.random.default_rng(0).normal(size=2000), np.array([0.1, 0.5, 0.9])
    with jax.enable_x64(True):
        grid = jnp.linspace(-2.0, 2.0, 4001)
        at = lambda v, f: losses.expectile(jnp.full(x.shape, v), jnp.asarray(x), f).mean()
        total = jax.jit(jax.vmap(jax.vmap(at, (0, None)), (None, 0)))(grid, fractions)
    best = np.asarray(grid)[np.asarray(total).argmin(1)]
    for f, v in zip(fractions, best, strict=True):  # f E[(x - v)⁺] = (1 - f) E[(v - x)⁺]
        balance = f * np.maximum(x - v, 0).mean() - (1 - f) * np.maximum(v - x, 0).mean()
        assert abs(balance) < 1e-3
    np.testing.assert_allclose(best[1], x.mean(), atol=1e-3)
    a, b = jnp.array([0.3, -2.0]), jnp.array([1.0, 1.0])
    np.testing.assert_allclose(losses.expectile(a, b, 0.5), losses.squared(a, b), rtol=1e-6)
    with pytest.raises(ValueError, match="expectile: shapes must be equal"):
        losses.expectile(a, b[0], 0.5)


def test_vmpo():
    rng = np.random.default_rng(0)
    log_prob, advantage, valid = -rng.random(11), 3 * rng.normal(size=11), np.arange(11) < 9
    top = np.argsort(-np.where(valid, advantage, -np.inf))[:5]
    weight = np.exp(advantage[top] / 0.5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
    policy = jax.jit(jax.value_and_grad(losses.vmpo_policy))
    value, slope = policy(jnp.asarray(log_prob), jnp.asarray(advantage), 0.5, valid)
    close(value, -(weight / weight.sum() * log_prob[top]).sum())
    close(np.asarray(slope)[top], -weight / weight.sum())
    assert np.count_nonzero(slope) == 5
    dual = jax.jit(jax.vmap(jax.value_and_grad(losses.vmpo_temperature, 1), (None, 0, None, None)))
    eta = np.float32([1e-15, 0.01, 0.5, 3, 1e6])
    value, slope = dual(jnp.asarray(advantage), eta, 0.1, valid)
    e, x = eta.astype(np.float64)[:, None], advantage[top] - advantage[top].max()
    mean = np.exp(x / e).mean(1)
    close(value, 0.1 * eta + advantage[top].max() + eta * np.log(mean))
    # the slope is ε less the KL of the weights to even ones
    w = np.exp(x / e) / np.exp(x / e).sum(1, keepdims=True)
    kl = np.where(w > 0, w * np.log(np.where(w > 0, 5 * w, 1)), 0).sum(1)
    np.testing.assert_allclose(slope, 0.1 - kl, rtol=1e-4, atol=1e-4)
    # NaN next to what is masked, and nothing at all
    nan = np.where(valid, advantage, np.nan)
    np.testing.assert_array_equal(policy(np.where(valid, log_prob, np.nan), nan, 0.5, valid)[1], policy(
        jnp.asarray(log_prob), jnp.asarray(advantage), 0.5, valid)[1])  # fmt: skip
    assert np.isfinite(dual(nan, eta, 0.1, valid)).all()
    assert policy(nan, nan, 0.5, ~valid & valid)[0] == 0
    assert not policy(nan, nan, 0.5, ~valid & valid)[1].any()
    with pytest.raises(ValueError, match="vmpo_policy: shapes must be equal"):
        losses.vmpo_policy(jnp.zeros(3), jnp.zeros(2), 1.0, jnp.ones(3, bool))
    with pytest.raises(ValueError, match="vmpo_temperature: shapes must be equal"):
        losses.vmpo_temperature(jnp.zeros(3), 1.0, 0.1, jnp.ones(2, bool))
