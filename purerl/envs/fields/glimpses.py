"""Recognising digits from a few small glimpses, whose locations are chosen one by one.

Locations are in [-1, 1] along each axis of the image; the reward is 1 for the right class after the last glimpse, so
that the mean return is the accuracy. Parameters: `GlimpsesParams`. No optimum and no bound is known: the reference is
`accuracy_of_whole_images` (nearest neighbours of whole images: 0.961 on the test digits), which a better classifier
would exceed; the baseline is `accuracy_of_fixed_glimpses` at `best_fixed_glimpses`, which do not depend on the image.
By default images are the digits of scikit-learn (extra `data`).

Reference: Mnih et al., 2014, arXiv:1406.6247.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_counts, check_one_problem, check_range, check_whole, is_known
from purerl.core import Array
from purerl.envs.training_control.data import Data, digits, pixels


@struct.dataclass
class GlimpsesParams:
    """images: float `[n, side, side]`.  labels: int `[n]`.  max_steps_in_episode: T, glimpses."""

    images: Any
    labels: Any
    max_steps_in_episode: int


class GlimpsesState(NamedTuple):
    """The image, int32; the location of the glimpse `[2]` in [-1, 1]; and the steps taken."""

    image: Array
    location: Array
    time: Array


class Glimpses(Environment):
    """Look at T glimpses of an image, then name its class.

    A glimpse at a location l in [-1, 1]² (row, column) has the pixel nearest to (l + 1) (side - 1) / 2 in its middle,
    and consists of S patches of g x g numbers: of the g x g pixels there, of the means of pixels in squares of 2 x 2
    over twice the width, and so on. Pixels outside of the image are 0.

    Actions are `{"class": int, "location": float32 [2]}`: where to look next, and a guess of the class, of which the
    last one counts, with a reward of 1 if it is right. The first location is uniform. The episode terminates after T
    guesses. Observations, float32 `[S g² + 3]`, are the patches, the location, and the fraction of the glimpses left
    after this one; past glimpses must be remembered. `info` says whether each guess is `right`.

    Digits are split in the order of the file: `default_params` are the earlier ones for training, `test_params` the
    last. Baselines: `accuracy_of_fixed_glimpses` at `best_fixed_glimpses`; `accuracy_of_whole_images` as a reference.

    Reference: Mnih et al., 2014, arXiv:1406.6247, sections 3 and 4.
    Args:
      data: images `[n, side, side, 1]` and labels, or None for `digits()` of scikit-learn, 8 x 8.
      num_glimpses: T.
      patch: g, odd.
      scales: S.
      test_share: the share of the images that are for test, in (0, 1).
    Raises:
      ValueError: for other data or counts, or if scikit-learn is needed and not installed, and in `reset_env` and
        `step_env` for parameters out of range.
    """

    name: str = "Glimpses-v0"

    def __init__(
        self,
        data: Data | None = None,
        num_glimpses: int = 3,
        patch: int = 3,
        scales: int = 1,
        test_share: float = 0.3,
    ):
        check_counts("Glimpses", num_glimpses=num_glimpses, patch=patch, scales=scales)
        check_range("Glimpses", np.finfo(np.float32).tiny, 1 - 1e-6, test_share=test_share)
        if patch % 2 == 0:
            raise ValueError(f"Glimpses: patch is {patch}; it must be odd, so that it has a middle")
        data = digits() if data is None else data
        x, y = np.asarray(pixels(jnp.asarray(data.x))), np.asarray(data.y)
        if x.ndim != 4 or x.shape[1] != x.shape[2] or x.shape[3] != 1 or y.shape != x.shape[:1] or len(x) < 2:
            raise ValueError(
                f"Glimpses: data has shapes {x.shape} and {y.shape}; it must be [n, side, side, 1] and [n]"
            )
        _check_values(x, y, 2**31)
        split = split_of(len(x), test_share)
        self._images, self._labels, self._split = x[..., 0], y.astype(np.int32), split
        self._num_glimpses, self._patch, self._scales = num_glimpses, patch, scales
        self._side, self._num_classes = x.shape[1], int(y.max()) + 1

    @property
    def num_actions(self) -> int:
        return self._num_classes

    @property
    def default_params(self) -> GlimpsesParams:
        return GlimpsesParams(self._images[: self._split], self._labels[: self._split], self._num_glimpses)

    @property
    def test_params(self) -> GlimpsesParams:
        """The images that are not in `default_params`."""
        return GlimpsesParams(self._images[self._split :], self._labels[self._split :], self._num_glimpses)

    def _check(self, params: GlimpsesParams) -> None:
        check_one_problem("Glimpses", GlimpsesParams, params, images=3, labels=1)
        check_whole("Glimpses", 1, 2**31 - 1, max_steps_in_episode=params.max_steps_in_episode)
        images, labels = np.shape(params.images), np.shape(params.labels)
        if images[1:] != (self._side, self._side) or not images[0] or labels != images[:1]:
            raise ValueError(
                f"Glimpses: images and labels have shapes {images} and {labels}; they must be "
                f"(n, {self._side}, {self._side}) and (n,)"
            )
        if is_known(params.images, params.labels):
            _check_values(np.asarray(params.images), np.asarray(params.labels), self._num_classes)

    def reset_env(self, key, params):
        self._check(params)
        image_key, location_key = jax.random.split(key)
        image = jax.random.randint(image_key, (), 0, len(params.images), jnp.int32)
        location = jax.random.uniform(location_key, (2,), jnp.float32, -1, 1)
        state = GlimpsesState(image, location, jnp.zeros((), jnp.int32))
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        del key
        self._check(params)
        time = state.time + 1
        last = time >= params.max_steps_in_episode
        right = action["class"] == jnp.asarray(params.labels)[state.image]
        location = jnp.clip(jnp.asarray(action["location"], jnp.float32), -1, 1)
        state = GlimpsesState(state.image, location, time)
        return self._see(state, params), state, (last & right).astype(jnp.float32), last, {"right": right}

    def _see(self, state, params):
        seen = glimpse(jnp.asarray(params.images)[state.image], state.location, self._patch, self._scales)
        left = jnp.maximum(1 - (state.time + 1) / params.max_steps_in_episode, 0)
        return jnp.concatenate([seen.reshape(-1), state.location, left[None]]).astype(jnp.float32)

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        location = spaces.Box(-1.0, 1.0, (2,), jnp.float32)
        return spaces.Dict({"class": spaces.Discrete(self._num_classes), "location": location})

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (self._scales * self._patch**2 + 3,), jnp.float32)

    def render(self, state, params):
        """A figure of the image with the squares of the glimpse."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        figure = Figure(figsize=(3, 3), layout="constrained")
        axis = figure.subplots()
        axis.imshow(np.asarray(params.images)[int(state.image)], cmap="gray")
        row, column = np.round((np.asarray(state.location) + 1) * (self._side - 1) / 2)
        for scale in range(self._scales):
            width = self._patch * 2**scale
            # squares of an even width have the middle pixel right of and below their middle
            corner = (column - width // 2 - 0.5, row - width // 2 - 0.5)
            axis.add_patch(Rectangle(corner, width, width, fill=False, color="tab:orange"))
        axis.set(xticks=[], yticks=[], title=f"class {int(np.asarray(params.labels)[int(state.image)])}")
        return figure


def split_of(num: int, share: float) -> int:
    """The index of the first of the last images, which are that share of them, rounded; at least one is on each side.

    >>> split_of(10, 0.3), split_of(10, 1e-6), split_of(10, 0.999)
    (7, 9, 1)
    """
    return min(max(num - round(share * num), 1), num - 1)


def _check_values(images: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    """Raise a ValueError unless images are finite and labels are ints in [0, num_classes)."""
    if not np.isfinite(images).all():
        raise ValueError("Glimpses: images must be finite")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"Glimpses: labels are {labels.dtype}; they must be ints")
    if (wrong := labels[(labels < 0) | (labels >= num_classes)]).size:
        raise ValueError(f"Glimpses: labels has {wrong[0]}; it must lie in [0, {num_classes - 1}]")


def glimpse(image: Array, location: Array, patch: int, scales: int) -> Array:
    """The patches of a glimpse, float `[S, g, g]`, of an image `[side, side]` at a location `[2]` in [-1, 1].

    >>> glimpse(jnp.arange(9.0).reshape(3, 3), jnp.array([-1.0, 0.0]), 3, 1)[0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    """
    side = image.shape[0]
    middle = jnp.round((location + 1) * (side - 1) / 2).astype(jnp.int32)
    margin = patch * 2 ** (scales - 1) // 2
    padded = jnp.pad(image, margin)
    patches = []
    for scale in range(scales):
        width, square = patch * 2**scale, 2**scale
        begin = middle + margin - width // 2
        seen = jax.lax.dynamic_slice(padded, (begin[0], begin[1]), (width, width))
        patches.append(seen.reshape(patch, square, patch, square).mean((1, 3)))
    return jnp.stack(patches)


# --- baselines --------------------------------------------------------------------------------------------------------


def _distances(train: Any, test: Any) -> np.ndarray:
    """The squared distances of features `[n, ...]` and `[m, ...]`, `[m, n]`."""
    train, test = (np.asarray(x, float).reshape(len(x), -1) for x in (train, test))
    square = (test**2).sum(1)[:, None] - 2 * test @ train.T + (train**2).sum(1)
    return square.astype(np.float32)


def _accuracy(distances: np.ndarray, train: GlimpsesParams, test: GlimpsesParams) -> float:
    """The share of right answers of the nearest neighbour, of distances `[m, n]`."""
    return float((np.asarray(train.labels)[distances.argmin(1)] == np.asarray(test.labels)).mean())


def accuracy_of_whole_images(train: GlimpsesParams, test: GlimpsesParams) -> float:
    """The accuracy of the nearest neighbour of whole images, which no glimpses restrict."""
    return _accuracy(_distances(train.images, test.images), train, test)


def every_location(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The location of every pixel, `[side², 2]`, and the probability that a uniform location is nearest to it.

    >>> locations, probability = every_location(3)
    >>> locations[:4].tolist(), probability[:4].tolist()
    ([[-1.0, -1.0], [-1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]], [0.0625, 0.125, 0.0625, 0.125])
    """
    axis, along = np.linspace(-1, 1, side, dtype=np.float32), np.ones(side)
    along[[0, -1]] = 0.5
    along /= along.sum()
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2), np.outer(along, along).reshape(-1)


def _distances_at(locations: Any, train: GlimpsesParams, test: GlimpsesParams, patch: int, scales: int) -> list:
    """The squared distances `[m, n]` of the glimpses at each of the locations `[T, 2]`."""
    one = lambda image: jax.vmap(lambda at: glimpse(image, at, patch, scales))(jnp.asarray(locations))
    seen = [np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(of.images))) for of in (train, test)]
    return [_distances(seen[0][:, i], seen[1][:, i]) for i in range(len(locations))]


def accuracy_of_fixed_glimpses(
    train: GlimpsesParams,
    test: GlimpsesParams,
    locations: Any,
    patch: int = 3,
    scales: int = 1,
    uniform_first: bool = False,
) -> float:
    """The accuracy of the nearest neighbour of glimpses at the same locations `[T, 2]` in all images.

    Args:
      uniform_first: one more glimpse precedes them, at a uniform location, as in an episode: the mean over it.
    Raises:
      ValueError: for locations of another shape or outside of [-1, 1].
    """
    locations = np.asarray(locations, np.float32)
    if locations.ndim != 2 or locations.shape[1] != 2 or not len(locations):
        raise ValueError(f"accuracy_of_fixed_glimpses: locations has shape {locations.shape}; it must be [T, 2]")
    check_range("accuracy_of_fixed_glimpses", -1, 1, locations=locations)
    distances = sum(_distances_at(locations, train, test, patch, scales))
    if not uniform_first:
        return _accuracy(distances, train, test)
    every, probability = every_location(np.shape(train.images)[1])
    firsts = _distances_at(every, train, test, patch, scales)
    return float(probability @ [_accuracy(first + distances, train, test) for first in firsts])


def best_fixed_glimpses(
    train: GlimpsesParams,
    num_glimpses: int,
    patch: int = 3,
    scales: int = 1,
    uniform_first: bool = False,
    validation_share: float = 0.3,
) -> np.ndarray:
    """Locations `[num_glimpses, 2]`, each of which in its turn is best after those before, of all pixels.

    The best has the highest accuracy of the nearest neighbour on the last images of `train`, among the earlier ones; of
    equal ones the first.
    Args:
      uniform_first: as for `accuracy_of_fixed_glimpses`.
      validation_share: the share of the images on which accuracies are measured, in (0, 1).
    Raises:
      ValueError: for a count below 1, or a share out of range.
    """
    check_counts("best_fixed_glimpses", num_glimpses=num_glimpses)
    check_range("best_fixed_glimpses", np.finfo(np.float32).tiny, 1 - 1e-6, validation_share=validation_share)
    split = split_of(len(train.images), validation_share)
    part = lambda of: GlimpsesParams(train.images[of], train.labels[of], train.max_steps_in_episode)
    fit, judged = part(slice(split)), part(slice(split, None))
    every, probability = every_location(np.shape(train.images)[1])
    at = _distances_at(every, fit, judged, patch, scales)
    before = list(zip(probability, at, strict=True)) if uniform_first else [(1.0, np.zeros_like(at[0]))]
    chosen = []
    for _ in range(num_glimpses):
        accuracy = [sum(p * _accuracy(seen + new, fit, judged) for p, seen in before) for new in at]
        chosen.append(int(np.argmax(accuracy)))
        before = [(p, seen + at[chosen[-1]]) for p, seen in before]
    return every[chosen]
