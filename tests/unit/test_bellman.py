"""Backups and value encodings against loops in NumPy, their limits and their bad inputs."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purerl import bellman
from purerl.bellman import Next

SHAPE, A, K = (3, 2), 4, 5


def logsumexp(x):
    largest = x.max()
    return largest + np.log(sum(np.exp(y - largest) for y in x))


def softmax(x):
    return np.exp(x - logsumexp(x))


@cache
def drawn():
    rng = np.random.default_rng(0)
    q, online, q_now = rng.normal(size=(3, *SHAPE, A))
    probs = rng.dirichlet(np.ones(A), SHAPE)
    action, action_now = rng.integers(0, A, (2, *SHAPE))
    reward, terminated = rng.normal(size=SHAPE), rng.random(SHAPE) < 0.3
    return reward, terminated, Next(q, online, probs, action, q_now, action_now)


@pytest.fixture
def data():
    return drawn()


def munchausen(reward, n, at, tau=0.3, alpha=0.8, low=-1.0):
    log_pi = n.q_now[at] / tau - logsumexp(n.q_now[at] / tau)
    bonus = min(max(tau * log_pi[n.action_now[at]], low), 0.0)
    log_next = n.q[at] / tau - logsumexp(n.q[at] / tau)
    # the paper's form, whose sum over actions is the log-sum-exp of ours
    return alpha * bonus, sum(p * (q - tau * lp) for p, q, lp in zip(np.exp(log_next), n.q[at], log_next, strict=True))


def twin(q):
    """A second critic."""
    return q[..., ::-1] - 0.1


def clipped(backup):
    """The clipped backup of Q and its twin, of a `Next` with the first alone."""
    both = lambda n: n._replace(q=jnp.stack([n.q, twin(n.q)]))
    return lambda reward, gamma, end, n: bellman.clipped_double_backup(backup)(reward, gamma, end, both(n))


ONE_STEP = {
    "max": (bellman.max_backup, lambda n, i: max(n.q[i])),
    "double": (bellman.double_backup, lambda n, i: n.q[i][np.argmax(n.online[i])]),
    "expected": (bellman.expected_backup, lambda n, i: sum(n.probs[i] * n.q[i])),
    "sarsa": (bellman.sarsa_backup, lambda n, i: n.q[i][n.action[i]]),
    "softmax": (bellman.softmax_backup(0.7), lambda n, i: sum(softmax(n.q[i] / 0.7) * n.q[i])),
    "soft": (bellman.soft_backup(0.7), lambda n, i: 0.7 * logsumexp(n.q[i] / 0.7)),
    "mellowmax": (bellman.mellowmax_backup(2.0), lambda n, i: np.log(np.mean(np.exp(2 * n.q[i]))) / 2),
    "clipped": (clipped(bellman.max_backup), lambda n, i: max(np.minimum(n.q[i], twin(n.q)[i]))),
    "clipped double": (
        clipped(bellman.double_backup),
        lambda n, i: min(n.q[i][np.argmax(n.online[i])], twin(n.q)[i][np.argmax(n.online[i])]),
    ),
    "td3": (
        clipped(bellman.sarsa_backup),
        lambda n, i: min(n.q[i][n.action[i]], twin(n.q)[i][n.action[i]]),
    ),
}


def in_float64(function, *args):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function)(*args))


MUNCHAUSEN = bellman.munchausen_backup(0.3)


@cache
def backed_up():
    """Of every backup in float64: as it is, under vmap with a γ of each environment, with a γ of each step."""

    def of(reward, gammas, terminated, n):
        three = lambda backup: (
            backup(reward, 0.9, terminated, n),
            jax.vmap(backup)(reward, gammas[:, 0], terminated, n),
            backup(reward, gammas, terminated, n),
        )
        return {name: three(backup) for name, (backup, _) in ONE_STEP.items()}

    reward, terminated, n = drawn()
    return in_float64(of, reward, np.full(SHAPE, 0.9), terminated, n)


@pytest.mark.parametrize("name", ONE_STEP)
def test_backups_against_the_equations(name, data):
    reward, terminated, n = data
    wanted = np.zeros(SHAPE)
    for i in np.ndindex(SHAPE):
        wanted[i] = reward[i] + (0.0 if terminated[i] else 0.9 * ONE_STEP[name][1](n, i))
    for got in backed_up()[name]:
        np.testing.assert_allclose(got, wanted, rtol=1e-10)


def test_munchausen_is_the_papers(data):
    reward, terminated, n = data
    wanted = np.zeros(SHAPE)
    for i in np.ndindex(SHAPE):
        bonus, value = munchausen(reward, n, i)
        wanted[i] = reward[i] + bonus + (0.0 if terminated[i] else 0.9 * value)
    three = bellman.munchausen_backup(0.3, 0.8, -1.0), bellman.munchausen_backup(0.3, 0.0), bellman.soft_backup(0.3)
    got, plain, soft = in_float64(lambda r, e, n: [backup(r, 0.9, e, n) for backup in three], reward, terminated, n)
    np.testing.assert_allclose(got, wanted, rtol=1e-10)
    np.testing.assert_allclose(plain, soft, rtol=1e-12)


@cache
def ended():
    """Of every backup where all has ended, and what follows is NaN."""

    def of(reward, n):
        poisoned = n._replace(q=jnp.full_like(n.q, jnp.nan))
        backups = {name: backup for name, (backup, _) in ONE_STEP.items()} | {"munchausen": MUNCHAUSEN}
        return {name: backup(reward, 0.9, jnp.ones(SHAPE, bool), poisoned) for name, backup in backups.items()}

    reward, _, n = drawn()
    return jax.jit(of)(reward, n)


@pytest.mark.parametrize("name", [*ONE_STEP, "munchausen"])
def test_what_follows_an_end_does_not_count(name, data):
    values = ended()[name]
    assert np.isfinite(values).all()
    if name != "munchausen":
        np.testing.assert_array_equal(values, data[0].astype(np.float32))


@jax.jit
def contracting(qs, reward, terminated, probs):
    """Of the backups that contract, for each of several Q."""
    names = "max", "expected", "soft", "mellowmax", "clipped"
    of = lambda name: lambda q: ONE_STEP[name][0](reward, 0.9, terminated, Next(q, probs=probs))
    return {name: jax.vmap(of(name))(qs) for name in names}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31))
def test_backups_contract_and_are_monotone(seed):
    """max |T Q₁ - T Q₂| ≤ γ max |Q₁ - Q₂|, and Q₁ ≥ Q₂ gives T Q₁ ≥ T Q₂ (but for softmax, which promises neither)."""
    rng = np.random.default_rng(seed)
    q, other = (rng.normal(size=(2, 6, A)) * rng.choice([0.1, 10])).astype(np.float32)
    reward, terminated, probs = rng.normal(size=6), rng.random(6) < 0.3, rng.dirichlet(np.ones(A), 6)
    values = contracting(np.stack([q, other, np.maximum(q, other)]), reward, terminated, probs)
    for of_q, of_other, of_larger in map(np.asarray, values.values()):
        assert np.abs(of_q - of_other).max() <= 0.9 * np.abs(q - other).max() + 1e-4
        assert (of_larger >= of_other - 1e-4).all()


def test_the_softmax_goes_from_the_maximum_to_the_mean():
    q = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, -1.0]], np.float32)
    value = jax.jit(lambda temperature: bellman.softmax_backup(temperature)(0.0 * q[:, 0], 1.0, q[:, 0] > 9, q))
    np.testing.assert_allclose(value(1e-3), q.max(-1), atol=1e-6)
    np.testing.assert_allclose(value(0.0), q.max(-1), atol=1e-6)
    np.testing.assert_allclose(value(1e6), q.mean(-1), atol=1e-4)
    assert (np.diff([value(t) for t in (0.1, 1.0, 10.0)], axis=0) <= 0).all()
    others = jax.jit(lambda x: (bellman.mellowmax(q, x), bellman.soft_value(q, x)))
    np.testing.assert_allclose(others(1e3)[0], q.max(-1), atol=5e-3)
    np.testing.assert_allclose(others(1e-3)[0], q.mean(-1), atol=5e-3)
    np.testing.assert_allclose(others(1e-3)[1], q.max(-1), atol=1e-3)
    # log-sum-exp lies between the maximum and τ log A above it
    soft = np.asarray(others(2.0)[1])
    assert ((soft >= q.max(-1)) & (soft <= q.max(-1) + 2 * np.log(3))).all()


def test_the_softmax_policy():
    q = np.array([[1000.0, 0.0, 1000.0], [-3.0, -3.0, -3.0]], np.float32)
    policy = jax.jit(bellman.softmax_policy)
    np.testing.assert_allclose(policy(q, 0.0), [[0.5, 0, 0.5], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(policy(q, 1e-30), [[0.5, 0, 0.5], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(policy(q, np.float32([1e9, 1.0])), np.full((2, 3), 1 / 3), rtol=1e-5)
    small = np.array([0.3, -0.2, 1.0])
    np.testing.assert_allclose(policy(small, 0.5), softmax(small / 0.5), rtol=1e-6)
    assert np.isfinite(jax.jit(jax.grad(lambda q: bellman.softmax_policy(q, 0.1)[0, 0]))(q)).all()
    # V = Σ π Q: at the softmax over Q it is Q's mean plus what the entropy bonus is short of
    assert jax.jit(lambda q: bellman.state_value(bellman.softmax_policy(q, 2.0), q))(q[1]) == -3.0
    assert bellman.state_value(jnp.array([1.0, 0.0]), jnp.array([2.0, -jnp.inf])) == 2.0
    np.testing.assert_allclose(policy(np.array([0, 1])), softmax(np.array([0.0, 1.0])), rtol=1e-6)
    assert bellman.max_backup(1.0, 0.5, False, [2.0, 4.0]) == 3.0


def test_missing_fields_and_shapes_are_named(data):
    reward, terminated, n = data
    with pytest.raises(ValueError, match=r"double_backup: next\.online is None; this backup needs q, online"):
        bellman.double_backup(reward, 0.9, terminated, Next(n.q))
    with pytest.raises(ValueError, match=r"max_backup: shapes must be equal, .* the value of next \(2,\)"):
        bellman.clipped_double_backup()(reward, 0.9, terminated, n.q)  # its first axis would be of critics
    with pytest.raises(ValueError, match=r"max_backup: shapes must be equal, got reward \(3,\), terminated \(3, 2\)"):
        bellman.max_backup(reward[:, 0], 0.9, terminated, n.q)
    with pytest.raises(ValueError, match=r"categorical_backup: next\.q is \(3, 2, 4\); it must end with \(A, 7\)"):
        bellman.categorical_backup(jnp.arange(7.0))(reward, 0.9, terminated, n.q)


# --- distributional -----------------------------------------------------------------------------------------------


def project(atoms, probs, support):
    """Algorithm 1 of the paper for one distribution, with its two cases of an atom that falls on one of the support."""
    out = np.zeros(len(support))
    for x, p in zip(atoms, probs, strict=True):
        x = min(max(x, support[0]), support[-1])
        b = (x - support[0]) / (support[1] - support[0])
        low, high = int(np.floor(b)), int(np.ceil(b))
        if low == high:
            out[low] += p
        else:
            out[low] += p * (high - b)
            out[high] += p * (b - low)
    return out


def test_c51_against_algorithm_1(data):
    reward, terminated, _ = data
    rng = np.random.default_rng(1)
    support = np.linspace(-2, 2, K)
    q, online = rng.dirichlet(np.ones(K), (2, *SHAPE, A))
    for next, chooser in ((Next(q), q), (Next(q, online=online), online)):
        got = in_float64(bellman.categorical_backup(jnp.asarray(support)), reward, 0.9, terminated, next)
        for i in np.ndindex(SHAPE):
            best = np.argmax((chooser[i] * support).sum(-1))
            atoms = reward[i] + (0.0 if terminated[i] else 0.9) * support
            np.testing.assert_allclose(got[i], project(atoms, q[i][best], support), atol=1e-7)


@jax.jit
def projected(atoms, probs, support):
    """As a CPU computes it, as anything else does, and its mean."""
    out = bellman.categorical_projection(atoms, probs, support)
    return out, bellman._project_at_once(atoms, probs, support), bellman.expectation(out, support)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.booleans())
def test_the_projection_keeps_mass_and_mean(seed, inside):
    rng = np.random.default_rng(seed)
    support = np.float32(np.sort(rng.uniform(-3, 3, 6)) + 0.01 * np.arange(6))  # spaced in any way
    low, high = (support[0], support[-1]) if inside else (-9.0, 9.0)
    atoms, probs = np.float32(rng.uniform(low, high, 7)), np.float32(rng.dirichlet(np.ones(7)))
    out, at_once, mean = map(np.asarray, projected(atoms, probs, support))
    assert (out >= -1e-6).all()
    np.testing.assert_allclose(out, at_once, atol=1e-6)
    np.testing.assert_allclose(out.sum(), 1.0, atol=1e-5)
    np.testing.assert_allclose(mean, (probs * np.clip(atoms, support[0], support[-1])).sum(), atol=1e-4)


def test_quantile_targets(data):
    reward, terminated, _ = data
    q, online = np.random.default_rng(1).normal(size=(2, *SHAPE, A, K))
    for next, chooser in ((Next(q), q), (Next(q, online=online[..., :3]), online[..., :3])):
        got = in_float64(bellman.quantile_backup, reward, 0.9, terminated, next)
        for i in np.ndindex(SHAPE):
            best = np.argmax(chooser[i].mean(-1))
            np.testing.assert_allclose(got[i], reward[i] + (0.0 if terminated[i] else 0.9) * q[i][best], rtol=1e-10)


def test_distributional_backups_ignore_what_follows_an_end():
    nan, yes = np.full((2, A, K), np.nan, np.float32), np.ones(2, bool)
    reward = np.float32([0.0, 1.0])
    backups = bellman.quantile_backup, bellman.categorical_backup(jnp.linspace(-2, 2, K))
    quantiles, probs = jax.jit(lambda *args: [backup(reward, 0.9, *args) for backup in backups])(yes, nan)
    np.testing.assert_array_equal(quantiles, np.tile(reward[:, None], K))
    np.testing.assert_allclose(probs, np.eye(K)[[2, 3]], atol=1e-6)


# --- encodings ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31))
def test_encodings_give_the_number_back(seed):
    rng = np.random.default_rng(seed)
    support = np.sort(rng.uniform(-5, 5, 8)) + 0.01 * np.arange(8)
    x = rng.uniform(support[0], support[-1], 6)
    two = in_float64(bellman.two_hot, x, support)
    assert ((two >= 0) & (two <= 1)).all() and ((two > 0).sum(-1) <= 2).all()
    np.testing.assert_allclose(two.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose((two * support).sum(-1), x, atol=1e-10)


def test_hl_gauss_is_a_normals_mass():
    from statistics import NormalDist

    edges = np.linspace(-2.0, 3.0, 11)
    xs = np.array([-2.0, 0.3, 2.9])
    for x, got in zip(xs, in_float64(bellman.hl_gauss, xs, edges, 0.4), strict=True):
        cdf = [NormalDist(x, 0.4).cdf(e) for e in edges]
        np.testing.assert_allclose(got, np.diff(cdf) / (cdf[-1] - cdf[0]), atol=1e-10)

    @jax.jit
    def of_edges():
        wide = jnp.linspace(-10, 10, 101)
        mean = bellman.expectation(bellman.hl_gauss(jnp.array(0.37), wide, 0.15), bellman.centers(wide))
        return mean, bellman.hl_gauss(jnp.array([-1e6, 1e6]), jnp.linspace(-1, 1, 5), 0.1)

    mean, out = of_edges()
    np.testing.assert_allclose(mean, 0.37, atol=1e-4)  # far from the ends it is the number, but for the bins' width
    # beyond them it is held there, and finite
    out = np.asarray(out)
    assert np.isfinite(out).all() and out[0].argmax() == 0 and out[1].argmax() == 3


@pytest.mark.parametrize("function", [bellman.two_hot, lambda x, e: bellman.hl_gauss(x, e, 0.1)])
def test_a_support_must_increase(function):
    with pytest.raises(ValueError, match="must increase, got"):
        function(jnp.zeros(2), jnp.array([0.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match=r"has shape \(1,\); it must be a vector of at least 2"):
        function(jnp.zeros(2), jnp.zeros(1))
    with pytest.raises(ValueError, match=r"has shape \(2, 3\); it must be a vector of at least 2"):
        function(jnp.zeros(2), jnp.arange(6.0).reshape(2, 3))


def test_transforms_and_their_inverses():
    x = np.concatenate([-np.geomspace(1e-6, 1e6, 50), [0.0], np.geomspace(1e-6, 1e6, 50)])
    h = np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 1e-3 * x
    parabolic = bellman.signed_parabolic
    of = lambda x, h: (
        bellman.signed_hyperbolic(x),
        parabolic(h),
        parabolic(x, 0.0),
        bellman.symlog(x),
        bellman.symexp(bellman.symlog(x)),
    )
    hyperbolic, inverse, without, log, there_and_back = in_float64(of, x, h)
    np.testing.assert_allclose(hyperbolic, h, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(inverse, x, rtol=1e-9, atol=1e-15)
    # the paper's formula for the inverse
    paper = np.sign(h) * (((np.sqrt(1 + 4e-3 * (np.abs(h) + 1 + 1e-3)) - 1) / 2e-3) ** 2 - 1)
    np.testing.assert_allclose(inverse, paper, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(without, np.sign(x) * (x**2 + 2 * abs(x)))
    np.testing.assert_allclose(log, np.sign(x) * np.log(1 + np.abs(x)), rtol=1e-9)
    np.testing.assert_allclose(there_and_back, x, rtol=1e-9, atol=1e-15)
    transforms = bellman.signed_hyperbolic, parabolic, bellman.symlog
    slopes = jax.jit(lambda x: [jax.vmap(jax.grad(f))(x) for f in transforms])(np.float32([-1.0, 0.0, 1e6]))
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_a_transformed_backup_is_the_plain_one_on_another_scale(data):
    reward, terminated, n = data
    h = lambda x: np.sign(x) * np.log1p(np.abs(x))
    scaled = Next(h(n.q), online=h(n.online))
    backup = bellman.transformed_backup(bellman.double_backup, bellman.symlog, bellman.symexp)
    plain = in_float64(bellman.double_backup, reward, 0.9, terminated, n)
    np.testing.assert_allclose(in_float64(backup, reward, 0.9, terminated, scaled), h(plain), rtol=1e-9)


# --- edges of the range, in float32 -------------------------------------------------------------------------------


def test_mellowmax_between_the_mean_and_the_maximum():
    """Exact for any ω, and so is its gradient, the softmax; actions that are not there do not count."""
    q, omega = np.float32([1, 2, 3]), np.float32([1e-30, 1e-8, 1e-5, 1e-2, 1, 30, 1e5])
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(bellman.mellowmax), (None, 0)))(q, omega)
    with np.errstate(over="ignore"):
        w, x = omega.astype(np.float64)[:, None], q.astype(np.float64) - 3
        expected = 3 + np.log1p(np.expm1(w * x).mean(1)) / w[:, 0]
        weight = np.exp(w * x)
    np.testing.assert_allclose(value, expected, rtol=3e-7)
    np.testing.assert_allclose(slope, weight / weight.sum(1, keepdims=True), rtol=1e-5, atol=1e-7)
    masked = np.float32([1, -np.inf, 3])
    of = jax.jit(jax.value_and_grad(bellman.mellowmax))
    value, slope = of(masked, 1e-6)
    assert abs(value - 2) < 1e-6 and np.isfinite(slope).all() and slope[1] == 0
    assert of(np.float32([-np.inf] * 3), 1.0)[0] == -np.inf


@pytest.mark.parametrize("name, at_0", [("symlog", 1), ("symexp", 1), ("signed_parabolic", 2 / 1.002),
                                        ("signed_hyperbolic", 0.501)])  # fmt: skip
def test_scales_have_their_slope_at_0_and_keep_infinities(name, at_0):
    f = getattr(bellman, name)
    x = np.float32([0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 0.5, -0.5, 20, -20, np.inf, -np.inf, np.nan])
    of = jax.jit(jax.vmap(jax.value_and_grad(f)))
    value, slope = map(np.asarray, of(x))
    exact, exact_slope = (y[:-3] for y in in_float64(of, x.astype(np.float64)))
    np.testing.assert_allclose(slope[:4], at_0, rtol=1e-6)
    np.testing.assert_allclose(value[:-3], exact, rtol=1e-6)
    np.testing.assert_allclose(slope[:-3], exact_slope, rtol=1e-6)
    assert value[-3:-1].tolist() == [np.inf, -np.inf] and np.isnan(value[-1])


def test_a_transformed_backup_sees_every_q_untransformed(data):
    """Also those that only some backups need: with all of them transformed, its target is the transformed one."""
    reward, terminated, n = data
    names = ("q", "online", "q_now")
    every = lambda reward, gamma, terminated, next: (
        reward + gamma * sum(k * getattr(next, name).sum(-1) for k, name in enumerate(names, 1))
    )
    inner = n._replace(**{name: bellman.symlog(getattr(n, name)) for name in names})
    got = bellman.transformed_backup(every, bellman.symlog, bellman.symexp)(reward, 0.9, terminated, inner)
    np.testing.assert_allclose(got, bellman.symlog(every(reward, 0.9, terminated, n)), rtol=1e-4)


def test_a_transformed_backup_leaves_out_what_a_mask_rules_out():
    q = jnp.array([1.0, -jnp.inf])
    for forward, inverse in ((bellman.signed_hyperbolic, bellman.signed_parabolic), (bellman.symlog, bellman.symexp)):
        backup = bellman.transformed_backup(bellman.max_backup, forward, inverse)
        np.testing.assert_allclose(backup(0.0, 1.0, False, q), 1.0, rtol=1e-6)


def test_the_share_of_clipped_mass():
    rng = np.random.default_rng(0)
    atoms, probs = rng.normal(size=(5, 7)), rng.dirichlet(np.ones(7), 5)
    support = np.linspace(-0.5, 1.0, 4)
    expected = (probs * ((atoms < -0.5) | (atoms > 1))).sum(1)

    @jax.jit
    def of_reward(reward):
        successors = bellman.categorical_successors(support, reward, 1.0, False, jnp.full((2, 4), 0.25))
        return bellman.clipped_mass(*successors, support)

    np.testing.assert_allclose(jax.jit(bellman.clipped_mass)(atoms, probs, support), expected, rtol=1e-5, atol=1e-7)
    # none is clipped where every return is in the range, γ = 1 included; what is clipped is what the mean loses
    assert of_reward(0.0) == 0 and of_reward(0.75) == 0.5


def test_persistent_backup():
    rng = np.random.default_rng(0)
    q, action, reward = rng.normal(size=(20, 3)), rng.integers(0, 3, 20), rng.normal(size=20)
    terminated = rng.random(20) < 0.3
    next = bellman.Next(q, action_now=action)
    backups = bellman.persistent_backup(0.7), bellman.persistent_backup(0.0), bellman.max_backup
    of = jax.jit(lambda terminated, next: [backup(reward, 0.9, terminated, next) for backup in backups])
    got, at_0, plain = map(np.asarray, of(terminated, next))
    for i in range(20):
        follows = 0.3 * q[i].max() + 0.7 * q[i, action[i]]
        np.testing.assert_allclose(got[i], reward[i] + (0.0 if terminated[i] else 0.9 * follows), rtol=1e-5)
    np.testing.assert_allclose(at_0, plain, rtol=1e-6)
    assert (got <= plain + 1e-6).all()
    # nothing behind an end counts, NaN included
    nan = next._replace(q=np.full((20, 3), np.nan))
    assert np.isfinite(of(np.ones(20, bool), nan)[0]).all()
    with pytest.raises(ValueError, match=r"next\.action_now is None"):
        bellman.persistent_backup()(0.0, 1.0, False, q[0])


def test_expected_quantile_backup():
    rng = np.random.default_rng(0)
    q, probs = rng.normal(size=(6, 3, 8)).astype(np.float32), rng.dirichlet(np.ones(3), 6).astype(np.float32)
    probs[0], probs[1] = [0, 1, 0], [0.5, 0, 0.5]
    backup = jax.jit(bellman.expected_quantile_backup)
    reward, no = np.zeros(6, np.float32), np.zeros(6, bool)
    got = np.asarray(backup(reward, 1.0, no, bellman.Next(q, probs=probs)))
    for i in range(6):
        theta, weight = q[i].reshape(-1), np.repeat(probs[i].astype(np.float64), 8) / 8
        order = np.argsort(theta)
        below = np.cumsum(weight[order])
        # of the mixture: P(below it) < f ≤ P(up to it)
        for k, x in enumerate(got[i]):
            at = np.searchsorted(theta[order], x)
            f = (k + 0.5) / 8
            assert x == theta[order][at] and below[at] >= f - 1e-5 and below[at] - weight[order][at] <= f + 1e-5
    np.testing.assert_array_equal(got[0], np.sort(q[0, 1]))
    # the value of the best action alone is quantile_backup's, but for the order
    best = np.eye(3, dtype=np.float32)[q.mean(-1).argmax(-1)]
    same = np.sort(jax.jit(bellman.quantile_backup)(reward, 1.0, no, q))
    np.testing.assert_array_equal(backup(reward, 1.0, no, bellman.Next(q, probs=best)), same)
    nan = bellman.Next(np.full((6, 3, 8), np.nan, np.float32), probs=probs)
    np.testing.assert_array_equal(backup(reward + 2, 1.0, ~no, nan), np.full((6, 8), 2))
    with pytest.raises(ValueError, match=r"next\.probs is None"):
        bellman.expected_quantile_backup(0.0, 1.0, False, q[0])
    with pytest.raises(ValueError, match="probs must have the shape of q"):
        bellman.expected_quantile_backup(0.0, 1.0, False, bellman.Next(q[0], probs=probs[0, :2]))
