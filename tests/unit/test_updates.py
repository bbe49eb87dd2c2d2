import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purerl import gradients, schedules


def test_every_row_once_an_epoch_in_a_new_order(key):
    spy = lambda state, batch, learning_rate: (jnp.append(state[batch.size :], batch), {"rows": batch})
    improve = jax.jit(lambda key, state, data: gradients.epochs(spy, 3, 4)(key, state, data, 0.1))
    rows, metrics = improve(key, np.zeros(36, np.int32), np.arange(12)[None])
    epochs = np.asarray(rows).reshape(3, 12).tolist()
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert metrics["rows"].shape == (1, 3)


def test_minibatches_keep_time_and_what_belongs_together(key):
    """Rows are axis 1 of every leaf, whatever its first axis is."""
    data = {"a": np.arange(24).reshape(4, 6), "b": 10 * np.arange(6)[None]}

    def step(state, batch, learning_rate):
        assert batch["a"].shape == (4, 3) and batch["b"].shape == (1, 3)
        return state + 1, {"same": (batch["a"] % 6 * 10 == batch["b"]).all(), "time": jnp.diff(batch["a"], axis=0) == 6}

    count, metrics = jax.jit(lambda key, data: gradients.epochs(step, 2, 2)(key, 0, data, 0.1))(key, data)
    assert count == 4 and metrics["same"] == 1 and (np.asarray(metrics["time"]) == 1).all()


def test_shuffling_is_uniform():
    """Where each row ends up, over many keys, is as if drawn from all places."""
    spy = lambda state, batch, _: (jnp.append(state[1:], batch[0]), {})
    shuffle = lambda key: gradients.epochs(spy, 1, 6)(key, jnp.zeros(6, jnp.int32), jnp.arange(6)[None], 0.0)[0]
    orders = np.asarray(jax.jit(jax.vmap(shuffle))(jax.random.split(jax.random.key(1), 6000)))
    counts = np.array([[np.sum(orders[:, place] == row) for place in range(6)] for row in range(6)])
    assert ((counts - 1000) ** 2 / 1000).sum() < 60  # chi-square, 25 degrees of freedom: p < 1e-4


def test_batches_that_do_not_divide_are_refused(key):
    with pytest.raises(ValueError, match="num_minibatches is 5; it must divide 12: num_envs x rollout_length"):
        gradients.epochs(lambda *a: a, 1, 5)(key, 0, jnp.arange(12)[None], 0.1)


def test_sgd_is_a_step_of_the_learning_rate_along_optax():
    loss = lambda params, x: (jnp.sum(params["w"] * x) ** 2, {"x": x.sum()})
    params, x = {"w": np.float32([1, 2, 3])}, np.float32([1.0, -2.0, 0.5])
    step = gradients.sgd(loss, gradients.adam(0.5))
    reference = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.01, eps=1e-5))

    @jax.jit
    def both(params):
        def three(step, state):
            return jax.lax.scan(lambda state, _: step(state), state, length=3)

        def theirs(carry):
            params, opt_state = carry
            grads = jax.grad(lambda p: loss(p, x)[0])(params)
            direction, opt_state = reference.update(grads, opt_state)
            return (optax.apply_updates(params, direction), opt_state), ()

        state = gradients.Trained(params, gradients.adam(0.5).init(params), jnp.zeros((), jnp.int32))
        state, metrics = three(lambda state: step(state, x, 0.01), state)
        return state.params["w"], three(theirs, (params, reference.init(params)))[0][0]["w"], metrics["x"]

    ours, wanted, seen = both(params)
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)
    np.testing.assert_array_equal(seen, -0.5)


@jax.jit
def clipped_twice(grads):
    """By the package, and by optax."""
    clips = gradients.clip_by_global_norm(0.5), optax.clip_by_global_norm(0.5)
    return [clip.update(grads, clip.init(grads))[0] for clip in clips]


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_gradients_are_clipped_to_a_global_norm(size):
    rng = np.random.default_rng(0)
    grads = [np.float32(size * rng.normal(size=shape)) for shape in ((), (3,), (4, 2), (2, 3, 5))]
    clipped, expected = clipped_twice(grads)
    for ours, theirs in zip(clipped, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    norm = np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in clipped))
    assert norm <= 0.5 * (1 + 1e-6) and (norm > 0.49 if size >= 1 else norm < 0.49)


def test_optimizers_stay_finite_at_zero():
    grads = {"a": np.zeros(3, np.float32), "b": np.zeros((4, 2), np.float32)}
    optimizers = gradients.adam(0.5), gradients.rmsprop(0.5)
    directions = jax.jit(lambda grads: [o.update(grads, o.init(grads))[0] for o in optimizers])(grads)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(directions))


def test_annealing_counts_environment_steps_and_ends_at_zero():
    rate = jax.jit(lambda n: gradients.annealed(0.1, 1000.0, n, 100))
    np.testing.assert_allclose([rate(n) for n in (0, 1, 5, 10, 20)], [0.1, 0.09, 0.05, 0.0, 0.0], atol=1e-8)
    assert gradients.annealed(0.1, None, jnp.asarray(3), 100) == 0.1


@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine, schedules.exponential])
def test_schedules_start_end_and_hold(schedule):
    values = jax.jit(lambda steps: schedule(steps, 2.0, 0.5, 10))(np.array([-5, 0, 5, 10, 50]))
    np.testing.assert_allclose([values[0], values[1], values[3], values[4]], [2.0, 2.0, 0.5, 0.5], rtol=1e-6)
    middle = {"linear": 1.25, "cosine": 1.25, "exponential": 1.0}[schedule.__name__]
    np.testing.assert_allclose(values[2], middle, rtol=1e-6)
    swept = jax.jit(jax.vmap(lambda n: schedule(5, 2.0, 0.5, n)))(np.array([5.0, 10.0]))
    np.testing.assert_allclose(swept, [0.5, middle], rtol=1e-6)


def test_permutation_is_one_for_every_length(key):
    lengths = [1, 2, 3, 5, 64, 100, 511, 512, 513, 4096, 65536, 65537]
    keys = key, jax.random.fold_in(key, 1)
    one, other = map(jax.jit(lambda key: [gradients.permutation(key, n) for n in lengths]), keys)
    for n, order in zip(lengths, map(np.asarray, one), strict=True):
        assert order.dtype == np.int32 and (np.sort(order) == np.arange(n)).all()
    assert (np.asarray(one[7]) != np.asarray(other[7])).any()


def test_permutations_are_all_as_likely(key):
    """24,000 permutations of four: each of the 24 about 1,000 times; of 512: every entry is everywhere."""
    many = lambda n, size: jax.vmap(lambda k: gradients.permutation(k, n))(jax.random.split(key, size))
    draw = lambda n, size: np.asarray(jax.jit(lambda: many(n, size))())
    _, counts = np.unique(draw(4, 24_000), axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 57.1  # chi-square of 23 degrees, 1 in 10,000
    places = draw(512, 4000)
    mean = places.mean(axis=0)  # deviation of a mean: 512 / sqrt(12 · 4000) = 2.34
    assert abs(mean - 255.5).max() < 5 * 2.34
    fixed = (places == np.arange(512)).sum(axis=1)  # Poisson of mean 1
    assert abs(fixed.mean() - 1) < 5 / np.sqrt(4000)
    assert abs(np.corrcoef(places[:, 0], places[:, 1])[0, 1]) < 5 / np.sqrt(4000)
