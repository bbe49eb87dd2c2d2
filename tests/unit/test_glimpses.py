"""Glimpses on digits against a loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.envs.fields import glimpses
from purerl.envs.fields.glimpses import Glimpses
from purerl.envs.training_control.data import Data
from purerl.runs.render import painter
from purerl.testing import check_env


def squares(num=40, side=6, seed=0):
    """Images of noise, of class 1 where the upper left is bright."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 3, num)
    x = draw.uniform(0, 0.2, (num, side, side, 1)).astype(np.float32)
    for i, label in enumerate(y):
        x[i, 2 * label : 2 * label + 2, :2] += 0.7
    return Data(x, y.astype(np.int32))


ENV = Glimpses(squares(), num_glimpses=3, patch=3, scales=2)


def pixel(image, row, column):
    return image[row, column] if 0 <= row < len(image) and 0 <= column < len(image) else 0.0


@pytest.mark.parametrize(("patch", "scales"), [(3, 1), (3, 2), (1, 3), (5, 2)])
def test_a_glimpse_against_a_loop(patch, scales):
    image = np.random.default_rng(1).random((6, 6)).astype(np.float32)
    locations = np.random.default_rng(2).uniform(-1, 1, (20, 2)).astype(np.float32)
    locations[:4] = [[-1, -1], [1, 1], [-1, 1], [0.2, -1]]
    seen = jax.jit(jax.vmap(lambda at: glimpses.glimpse(jnp.asarray(image), at, patch, scales)))(locations)
    for at, found in zip(locations, seen, strict=True):
        row, column = np.round((at + 1) * 5 / 2).astype(int)
        for s in range(scales):
            k = 2**s
            first = patch * k // 2
            for i in range(patch):
                for j in range(patch):
                    cells = [(row - first + i * k + a, column - first + j * k + b) for a in range(k) for b in range(k)]
                    assert found[s, i, j] == pytest.approx(np.mean([pixel(image, *cell) for cell in cells]), abs=1e-6)


def test_an_episode(key):
    """Only the last guess counts, and each glimpse is at the location that was chosen before."""
    params = ENV.default_params
    step = jax.jit(ENV.step_env)
    obs, state = ENV.reset_env(key, params)
    label, image = int(params.labels[state.image]), jnp.asarray(params.images[state.image])
    for right_until in (2, 3):
        now, seen = state, obs
        for t in range(3):
            patches = glimpses.glimpse(image, now.location, 3, 2)
            np.testing.assert_allclose(seen, [*np.ravel(patches), *now.location, 1 - (t + 1) / 3], atol=1e-6)
            guess = label if t < right_until else (label + 1) % 3
            action = {"class": guess, "location": jnp.array([0.4 * t - 0.5, 3.0])}
            seen, now, reward, terminated, info = step(key, now, action, params)
            assert bool(info["right"]) == (guess == label)
            assert bool(terminated) == (t == 2)
            assert float(reward) == (right_until == 3 and t == 2)
            np.testing.assert_allclose(now.location, [0.4 * t - 0.5, 1.0], atol=1e-6)
            seen = np.where(np.arange(len(seen)) == len(seen) - 1, max(1 - (t + 2) / 3, 0), seen)


def test_baselines():
    """The class is in the first two columns: a glimpse there is enough, one at the right edge tells nothing."""
    env = Glimpses(squares(400), test_share=0.5)
    train, test = env.default_params, env.test_params
    assert len(train.images) == len(test.images) == 200
    assert glimpses.accuracy_of_whole_images(train, test) > 0.99
    left, right = [[-0.8, -0.8], [0.2, -0.8]], [[-0.8, 1.0], [0.2, 1.0]]
    assert glimpses.accuracy_of_fixed_glimpses(train, test, left) > 0.99
    assert glimpses.accuracy_of_fixed_glimpses(train, test, right) < 0.5


@pytest.mark.parametrize("uniform_first", [False, True])
def test_the_best_fixed_glimpses_against_a_loop(uniform_first):
    """Every pixel in turn, from images of which each is compared with all the earlier ones."""
    train = Glimpses(squares(60, side=4)).default_params
    split = len(train.images) - round(0.3 * len(train.images))
    axis, probability = np.linspace(-1, 1, 4), np.array([1, 2, 2, 1]) / 6

    def seen(image, at):
        row, column = np.round((np.asarray(at) + 1) * 3 / 2).astype(int)
        return np.array([pixel(image, row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)])

    def accuracy(locations):
        of = [np.concatenate([seen(image, at) for at in locations]) for image in train.images]
        nearest = [np.argmin([((a - b) ** 2).sum() for b in of[:split]]) for a in of[split:]]
        return np.mean(train.labels[nearest] == train.labels[split:])

    def mean_accuracy(locations):
        if not uniform_first:
            return accuracy(locations)
        of = [[accuracy([(a, b), *locations]) for b in axis] for a in axis]
        return probability @ of @ probability

    every, best = [(a, b) for a in axis for b in axis], []
    for _ in range(3):
        best.append(every[int(np.argmax([round(mean_accuracy([*best, at]), 9) for at in every]))])
    found = glimpses.best_fixed_glimpses(train, 3, uniform_first=uniform_first)
    np.testing.assert_allclose(found, best, atol=1e-6)
    fit, judged = (train.replace(images=train.images[i], labels=train.labels[i])
                   for i in (slice(split), slice(split, None)))  # fmt: skip
    of = glimpses.accuracy_of_fixed_glimpses(fit, judged, found, uniform_first=uniform_first)
    assert of == pytest.approx(mean_accuracy(best), abs=1e-6)


def test_digits():
    """Nearest neighbours of scikit-learn's digits, recorded."""
    pytest.importorskip("sklearn")
    env, params = purerl.make("Glimpses-v0")
    assert params.images.shape == (1258, 8, 8) and env.test_params.images.shape == (539, 8, 8) and env.num_actions == 10
    two = [[-0.14, 0.14], [0.71, -0.14]]
    whole = glimpses.accuracy_of_whole_images(params, env.test_params)
    fixed = glimpses.accuracy_of_fixed_glimpses(params, env.test_params, two)
    np.testing.assert_allclose([whole, fixed], [0.9610, 0.9072], atol=1e-4)
    three = glimpses.best_fixed_glimpses(params, 3)
    np.testing.assert_array_equal(np.round((three + 1) * 3.5), [[4, 3], [1, 4], [7, 4]])
    assert glimpses.accuracy_of_fixed_glimpses(params, env.test_params, three) == pytest.approx(0.9536, abs=1e-4)


def test_the_contract_and_the_picture(key):
    check_env(ENV, ENV.default_params, key)
    draw, _ = painter(ENV, ENV.default_params)
    _, state = ENV.reset_env(key, ENV.default_params)
    assert draw(state).shape[-1] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_glimpses": 0}, "num_glimpses is 0"),
        ({"patch": 4}, "patch is 4; it must be odd"),
        ({"scales": -1}, "scales is -1"),
        ({"test_share": 1.5}, "test_share is 1.5"),
        ({"data": Data(np.zeros((3, 4, 5, 1)), np.zeros(3, int))}, r"shapes \(3, 4, 5, 1\)"),
        ({"data": Data(np.zeros((0, 4, 4, 1)), np.zeros(0, int))}, r"shapes \(0, 4, 4, 1\)"),
        ({"data": Data(np.full((3, 4, 4, 1), np.nan), np.zeros(3, int))}, "images must be finite"),
        ({"data": Data(np.zeros((3, 4, 4, 1)), np.array([0, -1, 2]))}, "labels has -1; it must lie in"),
        ({"data": Data(np.zeros((3, 4, 4, 1)), np.array([0, 0.5, 2]))}, "labels are float64; they must be ints"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Glimpses(**{"data": squares(), **options})


def test_bad_locations():
    params = ENV.default_params
    for locations, message in (([0.0, 0.0], "shape"), (np.zeros((0, 2)), "shape"), ([[0.0, 1.5]], "must lie in")):
        with pytest.raises(ValueError, match=message):
            glimpses.accuracy_of_fixed_glimpses(params, params, locations)


def test_bad_shares():
    params = ENV.default_params
    with pytest.raises(ValueError, match="num_glimpses is 0"):
        glimpses.best_fixed_glimpses(params, 0)
    with pytest.raises(ValueError, match=r"validation_share is 1\.0; it must lie in"):
        glimpses.best_fixed_glimpses(params, 1, validation_share=1.0)


def test_bad_parameters(key):
    env = ENV
    _, state = env.reset_env(key, env.default_params)
    for changed, said in (
        ({"max_steps_in_episode": 0}, r"Glimpses: max_steps_in_episode is 0; it must lie in \[1, "),
        (
            {"images": np.zeros((0, 6, 6))},
            r"images and labels have shapes \(0, 6, 6\) and \(28,\); they must be \(n, 6, 6\)",
        ),
        ({"max_steps_in_episode": 2.5}, "Glimpses: max_steps_in_episode is 2.5; it must be a whole number"),
        ({"images": np.full((28, 6, 6), np.nan)}, "Glimpses: images must be finite"),
        ({"labels": np.full(28, 3)}, r"Glimpses: labels has 3; it must lie in \[0, 2\]"),
        ({"labels": np.zeros(28)}, "Glimpses: labels are float64; they must be ints"),
        ({"labels": np.zeros(3, int)}, r"images and labels have shapes \(28, 6, 6\) and \(3,\)"),
    ):
        params = env.default_params.replace(**changed)
        for call in (
            lambda: env.reset_env(key, params),
            lambda: env.step_env(key, state, {"class": 0, "location": jnp.zeros(2)}, params),
        ):
            with pytest.raises(ValueError, match=said):
                call()
