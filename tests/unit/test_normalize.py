import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from purerl import normalize
from purerl.core import Agent, Rollout, Transition
from purerl.testing import check_reward


def block(reward, ended, truncated=None, valid=None):
    reward = np.asarray(reward, np.float32)
    no = np.zeros(reward.shape, bool)
    return Transition(
        (), (), reward, (), ended, no if truncated is None else truncated, ~no if valid is None else valid
    )


merge, deviation, standardize = map(jax.jit, (normalize.merge, normalize.deviation, normalize.standardize))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from([1, 2, 9]), min_size=1, max_size=4))
def test_merging_equals_two_passes_over_everything(seed, sizes):
    rng = np.random.default_rng(seed)
    blocks = [rng.normal(3, 2, (size, 2, 3)).astype(np.float32) for size in sizes]
    valid = [rng.random((size, 2)) < 0.7 for size in sizes]
    state = normalize.moments(np.zeros((2, 3), np.float32))
    for x, mask in zip(blocks, valid, strict=True):
        state = merge(state, x, mask)
    seen = np.concatenate([x[mask] for x, mask in zip(blocks, valid, strict=True)]).astype(np.float64)
    assert state.count == len(seen)
    if len(seen):
        np.testing.assert_allclose(state.mean, seen.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(deviation(state), seen.std(0), rtol=1e-3, atol=1e-3)


def test_a_far_mean_does_not_eat_the_variance():
    x = 1e4 + np.random.default_rng(0).normal(size=(500, 4, 1)).astype(np.float32)
    state = normalize.moments(np.zeros((4, 1), np.float32))
    for part in np.split(x, 10):
        state = merge(state, part, np.ones(part.shape[:2], bool))
    np.testing.assert_allclose(deviation(state), x.astype(np.float64).std((0, 1)), rtol=0.02)


def test_nothing_seen_changes_nothing_and_clip_holds():
    state, x = normalize.moments(np.zeros((1, 2), np.float32)), np.float32([[3.0, -4.0]])
    np.testing.assert_array_equal(standardize(state, x), x)
    np.testing.assert_array_equal(standardize(state, 100 * x), [[10.0, -10.0]])
    constant = merge(state, np.ones((5, 2), np.float32), np.ones(5, bool))
    assert np.isfinite(standardize(constant, x)).all()


def test_observations_may_be_a_tree():
    obs = {"a": np.ones((4, 2), np.float32), "b": np.arange(4, dtype=np.int32)}
    state = merge(normalize.moments(obs), obs, np.ones(4, bool))
    assert state.mean["b"] == 1.5 and state.mean["a"].shape == (2,)
    assert jax.tree.structure(jax.eval_shape(normalize.standardize, state, obs)) == jax.tree.structure(obs)


def test_a_block_is_learned_from_as_it_was_acted_in(key):
    """All that acts and learns sees observations by the same moments; those of the block are merged afterwards."""
    inner = Agent(
        init=lambda key, obs: (),
        memory=lambda n: (),
        reset=lambda memory, ended: memory,
        act=lambda key, state, memory, obs: (obs[:, 0], memory, obs),
        greedy=lambda state, memory, obs: (obs, memory),
        update=lambda key, state, rollout: (rollout.transitions, {}),
        collect=lambda key, state, memory, obs: (obs[:, 0], memory, obs),
    )
    agent = normalize.observations(inner, clip=3.0)
    obs, next_obs = np.float32(2 + 5 * np.random.default_rng(0).normal(size=(2, 3, 4, 2, 1)))  # [two, blocks, T, N, 1]
    state, no = agent.init(key, obs[0, 0]), np.zeros((4, 2), bool)

    @jax.jit
    def learn(state, obs, next_obs):
        acted, collected = (jax.vmap(lambda x, f=f: f(key, state, (), x)[2])(obs) for f in (agent.act, agent.collect))
        greedy = jax.vmap(lambda x: agent.greedy(state, (), x)[0])(obs)
        tr = Transition(obs, (), jnp.zeros((4, 2)), next_obs, no, no, ~no, acted)
        return agent.update(key, state, Rollout(tr, ()))[0], acted, collected, greedy

    for b in range(3):
        state, *seen = learn(state, obs[b], next_obs[b])
        mean, std = (np.mean(obs[:b]), np.std(obs[:b])) if b else (0.0, 1.0)
        standard = lambda x, mean=mean, std=std: np.clip((np.asarray(x) - mean) / std, -3, 3)
        for got, wanted in (*((x, obs) for x in (*seen, state.agent.obs)), (state.agent.next_obs, next_obs)):
            np.testing.assert_allclose(got, standard(wanted[b]), rtol=1e-4, atol=1e-4)


def test_the_six_step_example():
    """Two episodes of rewards 1, 1, 10: the last reward counts in its own episode and not in the next."""
    reward, ended = np.array([1, 1, 10, 1, 1, 10.0]), np.array([0, 0, 1, 0, 0, 1], bool)
    so_far = jax.jit(lambda tr: normalize.discounted_so_far(jnp.zeros(1), tr, 0.99))
    returns = np.asarray(so_far(block(reward[:, None], ended[:, None]))[1])
    np.testing.assert_allclose(returns[:, 0], [1, 1.99, 11.9701, 1, 1.99, 11.9701], rtol=1e-5)
    np.testing.assert_allclose(returns[:, 0], reference.reward_returns(reward, ended, 0.99), rtol=1e-5)


SCALE = normalize.rewards(0.9)
scaled_by = jax.jit(SCALE.apply)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_reward_scale_against_the_whole_history(end, key):
    rng = np.random.default_rng(0)
    reward, ended = rng.normal(1, 3, (12, 2)), rng.random((12, 2)) < 0.3
    no = np.zeros((4, 2), bool)
    state = SCALE.init(key, jax.tree.map(lambda x: x[0], block(reward, ended)))
    for k in range(3):
        rows = slice(4 * k, 4 * k + 4)
        part = block(reward[rows], ended[rows])
        if end == "truncated":
            part = part._replace(terminated=no, truncated=part.terminated)
        state, scaled, _ = scaled_by(key, state, part)
        columns = zip(reward[: rows.stop].T, ended[: rows.stop].T, strict=True)
        history = np.array([reference.reward_returns(r, e, 0.9) for r, e in columns])
        expected = np.clip(reward[rows] / history.std(), -10, 10)
        np.testing.assert_allclose(scaled, expected, rtol=1e-4)


def test_reward_contract(key):
    rng = np.random.default_rng(0)
    tr = jax.tree.map(jnp.asarray, block(rng.normal(size=(6, 3)), rng.random((6, 3)) < 0.3))
    check_reward(SCALE, tr, key)


def test_popart_keeps_outputs_and_follows_the_moments():
    rng = np.random.default_rng(0)
    state, mean, square = normalize.popart((2,)), np.zeros(2), np.ones(2)
    kernel, bias, hidden = map(np.float32, (rng.normal(size=(2, 3)), np.ones(2), np.ones((4, 3))))

    @jax.jit
    def step(state, kernel, bias, dirty, valid, target):
        value = lambda state, kernel, bias: normalize.popart_value(state, hidden @ kernel.T + bias)
        new = normalize.popart_update(state, dirty, valid, 0.3)
        rescaled = normalize.popart_rescale(kernel, bias, state, new)
        values = value(state, kernel, bias), value(new, *rescaled)
        return new, rescaled, values, normalize.popart_value(new, normalize.popart_normalize(new, target))

    for scale in (1.0, 100.0, 1e-3):
        target, valid = 5 + scale * rng.normal(size=(7, 4, 2)), rng.random((7, 4)) < 0.8
        dirty = np.where(valid[..., None], target, np.nan)
        state, (kernel, bias), (before, after), back = step(state, kernel, bias, dirty, valid, target)
        mean += 0.3 * (target[valid].mean(0) - mean)
        square += 0.3 * (np.square(target[valid]).mean(0) - square)
        np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
        np.testing.assert_allclose(state.variance, square - mean**2, rtol=1e-4)
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(back, target, rtol=1e-4, atol=1e-4)
    nothing = np.full((1, 2), np.nan, np.float32), np.zeros(1, bool)
    same = jax.jit(normalize.popart_update)(state, *nothing, 0.5)
    np.testing.assert_array_equal(same.mean, state.mean)
    np.testing.assert_array_equal(same.variance, state.variance)


def test_popart_of_targets_that_are_far_and_close_together():
    """E[G²] - E[G]² of them is 0 or negative in float32."""
    target = 1e4 + np.random.default_rng(0).normal(size=500).astype(np.float32)

    @jax.jit
    def of(state, target):
        state = normalize.popart_update(state, target, jnp.ones(500, bool), 1.0)
        slope = jax.grad(lambda x: normalize.popart_value(state._replace(variance=x), 1.0))(jnp.zeros(()))
        return state, normalize.popart_deviation(state), slope

    state, deviation, _ = of(normalize.popart(), target)
    np.testing.assert_allclose(deviation, target.astype(np.float64).std(), rtol=1e-2)
    _, deviation, slope = of(state, np.full(500, 1e4, np.float32))
    assert deviation == np.float32(1e-4) and np.isfinite(slope)
    with pytest.raises(ValueError, match="popart_update: target must have the axes of valid"):
        normalize.popart_update(state, jnp.zeros((3, 2)), jnp.ones(3, bool), 0.5)
    with pytest.raises(ValueError, match="rate is 2"):
        normalize.popart_update(state, jnp.zeros(3), jnp.ones(3, bool), 2.0)
    two = jax.tree.map(lambda x: jnp.ones(2), state)
    for kernel, bias, old in (((4, 3), (3, 3), state), ((4, 2), (3,), state), ((3,), (3,), state), ((4, 3), (3,), two)):
        with pytest.raises(ValueError, match="popart_rescale: "):
            normalize.popart_rescale(jnp.ones(kernel), jnp.ones(bias), old, state)
