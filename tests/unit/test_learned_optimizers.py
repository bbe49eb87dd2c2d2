"""Learned optimisers against NumPy, and their two gradients against those that are known; hypergradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import networks
from purerl.envs.training_control import actions, learned, models, optimizers
from purerl.envs.training_control.data import Data
from purerl.envs.training_control.environment import TrainingControl
from purerl.envs.training_control.optimizers import InnerOptimizer, Settings


def test_preprocessed_gradients_against_the_formula():
    g = np.array([3.0, -2.0, 1e-3, -np.exp(-9.9), np.exp(-10.1), -1e-7, 0.0])
    large = np.abs(g) >= np.exp(-10)
    with np.errstate(divide="ignore"):
        wanted = np.where(large[:, None], np.stack([np.log(np.abs(g)) / 10, np.sign(g)], 1),
                          np.stack([-np.ones(7), np.exp(10) * g], 1))  # fmt: skip
    np.testing.assert_allclose(learned.preprocess(jnp.asarray(g, jnp.float32)), wanted, rtol=2e-5)
    assert large.sum() == 4


def test_a_coordinatewise_network_against_a_loop_over_coordinates(key):
    """An LSTM by its equations, for every coordinate alone."""
    optimizer = learned.coordinatewise(networks.lstm(3), scale=0.2)
    weights = jax.tree.map(lambda x: x + 0.1, optimizer.init(key))
    inner = optimizer.optimizer(weights)
    core, head, bias = (jax.tree.map(np.asarray, weights[name]) for name in ("core", "head", "bias"))
    params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(())}
    memory, sigmoid, update = inner.init(params), lambda x: 1 / (1 + np.exp(-x)), jax.jit(inner.update)
    slow = np.zeros((5, 2, 3))  # of each coordinate c and h
    for i in range(2):
        grads = {"a": jnp.array([[0.5, -1e-6], [2.0, 0.1 * i]]), "b": jnp.array(-0.3)}
        change, memory = update(grads, memory, params, Settings(learning_rate=0.5))
        flat = np.append(np.asarray(grads["a"]).ravel(), grads["b"])
        wanted = []
        for at, g in enumerate(flat):
            x = [np.log(abs(g)) / 10, np.sign(g)] if abs(g) >= np.exp(-10) else [-1, np.exp(10) * g]
            c, h = slow[at]
            i_, f, new, o = np.split(np.array(x) @ core["input"] + core["bias"] + h @ core["recurrent"], 4)
            c = sigmoid(f) * c + sigmoid(i_) * np.tanh(new)
            slow[at] = c, sigmoid(o) * np.tanh(c)
            wanted.append(0.5 * 0.2 * (slow[at][1] @ head + bias))
        ours = np.append(np.asarray(change["a"]).ravel(), change["b"])
        np.testing.assert_allclose(ours, wanted, rtol=2e-4, atol=1e-6)


def test_a_learned_optimiser_trains_a_network_in_the_environment(key):
    """As `unroll` does, with minibatches that are the whole training part; an agent sets its rate."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(12, 3)).astype(np.float32), generator.integers(0, 2, 12).astype(np.int32)
    model, optimizer = models.with_head(networks.MLP((3,)), 2), learned.coordinatewise(networks.lstm(3))

    @jax.jit
    def train(key):
        inner = optimizer.optimizer(optimizer.init(key))
        env = TrainingControl(
            model, Data(x, y), 6, 3, 3, updates_per_step=2, batch_size=6, actions=actions.change(), optimizer=inner
        )
        params = env.default_params.replace(settings=Settings(learning_rate=0.5))
        begin = state = env.reset_env(key, params)[1]
        for action in (1.0, 0.0):  # the rate becomes 1, that of `unroll`, and stays
            state = env.step_env(None, state, jnp.array([action]), params)[1]
        x_, y_ = (jnp.asarray(part)[begin.parts.train] for part in (x, y))
        loss = lambda params: models.cross_entropy(model.apply(params, x_), y_).mean()
        return begin.params, state.params, learned.unroll(key, inner, loss, begin.params, begin.opt_state, 4).params

    begin, ours, wanted = train(key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, wanted)
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), begin, ours))) > 0.01


def shift(weight):
    """An optimiser that adds its weight to every coordinate, and half of the gradient's negative."""
    update = lambda grads, state, params, settings: (jax.tree.map(lambda g: weight - 0.5 * g, grads), state + 1)
    return InnerOptimizer(lambda params: jnp.zeros(()), update)


def test_the_gradient_of_an_unrolled_training_takes_gradients_as_constants(key):
    """f(θ) = ½θ², θ ← θ + w - ½g, with g a constant: dθₜ/dw = t, so that d Σ f(θₜ) / dw = Σ t θₜ."""

    def total(weight):
        out = learned.unroll(key, shift(weight), lambda x: 0.5 * x**2, jnp.array(2.0), jnp.zeros(()), 3)
        return learned.unrolled_loss(out.losses[:, None]), out

    (value, out), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(0.25)
    path = [2.0]
    for _ in range(3):
        path.append(path[-1] + 0.25 - 0.5 * path[-1])
    np.testing.assert_allclose(out.losses, 0.5 * np.square(path), rtol=1e-6)
    np.testing.assert_allclose(value, 0.5 * np.square(path[1:]).sum(), rtol=1e-6)
    np.testing.assert_allclose(slope, sum(t * x for t, x in enumerate(path)), rtol=1e-6)
    assert out.params == pytest.approx(path[-1]) and out.state == 3 and not out.log_prob.any()


def test_the_policy_gradient_of_updates_is_that_of_the_expected_fall(key):
    """log f(θ) = ½θ², θ' = θ/2 + w + σε: Eθ₂ = θ₀/4 + 3/2 w, and the variance does not depend on w.

    The slope of E log f(θ₂) is that of ½ (Eθ₂)², which is 3/2 Eθ₂.
    """
    noise, num = 0.3, 40_000

    def estimate(weight, keys):
        f = lambda x: jnp.exp(0.5 * x**2)
        update = lambda grads, state, params, settings: (weight - 0.5 * params, state)  # not through f's own gradient
        optimizer = InnerOptimizer(lambda params: (), update)
        run = lambda key: learned.unroll(key, optimizer, f, jnp.array(0.8), (), 2, noise)
        out = jax.vmap(run)(keys)
        return learned.reinforce_loss(out.losses.T, out.log_prob.T), out

    slope, out = jax.jit(jax.grad(estimate, has_aux=True))(0.2, jax.random.split(key, num))
    np.testing.assert_allclose(out.params.mean(), 0.8 / 4 + 0.2 * 1.5, atol=5 * noise * 1.2 / num**0.5)
    np.testing.assert_allclose(out.params.var(), noise**2 * 1.25, rtol=0.05)
    np.testing.assert_allclose(slope, 1.5 * (0.8 / 4 + 0.2 * 1.5), atol=0.03)


def test_hypergradient_descent_against_a_loop():
    """On a quadratic, with momentum; without a step it is momentum."""
    curvature, rate, direction, x = np.array([1.0, 0.3]), 0.05, np.zeros(2), np.array([1.0, -2.0])
    optimizer = optimizers.hypergradient(0.05, 0.02, momentum=0.5)
    ours = {"x": jnp.asarray(x, jnp.float32)}
    state, rates = optimizer.init(ours), []
    for _ in range(4):
        g = curvature * x
        rate = rate + 0.02 * g @ direction
        direction = 0.5 * direction + g
        x = x - rate * direction
        change, state = optimizer.update({"x": curvature * ours["x"]}, state, ours, Settings(learning_rate=1.0))
        ours = jax.tree.map(jnp.add, ours, change)
        rates.append(rate)
        np.testing.assert_allclose(ours["x"], x, rtol=1e-5)
        np.testing.assert_allclose(state.rate, rate, rtol=1e-5)
    assert rates[-1] > rates[0] == 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: learned.coordinatewise(networks.lstm(2), scale=0.0), "scale is 0.0"),
        (lambda: learned.unroll(None, shift(0.0), jnp.sum, jnp.zeros(1), (), 1, -1.0), "noise is -1.0"),
        (lambda: optimizers.hypergradient(0.1, -1.0), "step is -1.0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
