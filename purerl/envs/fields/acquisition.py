"""Choosing which lines of k-space to acquire of a medical image, beside the exact best order of each image.

A step acquires one line; the reward is its share of the energy of the image, without unit, so that the return is 1
minus the relative squared error of the zero-filled inverse. Parameters: `AcquisitionParams`. `oracle_lines` is the
optimum for each image, which needs the image itself; `best_fixed_order` the best order that is the same for all. A
policy that adapts lies between them. Baselines: `low_to_high`, `equispaced`, and random lines, `random_error`. By
default images are slices of one head, `mni_slices`, from the package nilearn (extra `data`).

Reference: Pineda et al., 2020, arXiv:2007.10469.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_counts, check_functions, check_one_problem, check_whole, is_known, on_one_line
from purerl.core import Array
from purerl.envs.training_control.data import file_of_package

DTYPES = {2: "<u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8"}  # of NIfTI-1, by code
FLOOR = 1e-8  # relative energy below which a line is seen as empty

Observe = Callable[[Array, Array, Array], Array]  # (k-space [n, n, 2], energy [n], acquired [n]) -> what is seen


@cache
def mni_slices() -> np.ndarray:
    """Axial slices of the MNI-ICBM 152 T1 template, of nilearn, from low to high, 1 mm apart, uint8 `[134, 197, 233]`.

    It is one head, the average of 152: slices are alike, and results on them say nothing about other heads. Slices
    with less than a tenth of the largest energy, above and below the head, are left out.

    Raises:
      ValueError: if nilearn is not installed, naming the extra, or if its file is not an image.
    """
    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    volume = read_nifti(file_of_package("mni-slices", "nilearn", "nilearn", "datasets", "data", name))
    return slices_of(volume, "mni-slices")


def slices_of(volume: Any, what: str = "slices_of: volume") -> np.ndarray:
    """Slices `[M, x, y]` along the last axis of a volume `[x, y, z]` that have a tenth of the largest energy."""
    volume = np.asarray(volume)
    if volume.ndim != 3 or volume.size == 0:
        raise ValueError(f"{what} has shape {volume.shape}; it must be [x, y, z], none of them 0")
    slices = np.moveaxis(volume, -1, 0)
    energy = (slices.astype(float) ** 2).sum((1, 2))
    return slices[energy >= 0.1 * energy.max()]


def read_nifti(path: str | Path) -> np.ndarray:
    """The numbers of a NIfTI-1 file with one volume, little-endian, compressed if it ends in .gz, `[x, y, z]`.

    Raises:
      ValueError: for a file that cannot be read, or has another format.
    Reference: the header nifti1.h of the Neuroimaging Informatics Technology Initiative.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        number = lambda dtype, at, count=1: np.frombuffer(raw, dtype, count, at)
        if number("<i4", 0)[0] != 348 or raw[344:347] != b"n+1":
            raise ValueError("it has another header")
        rank, *shape = number("<i2", 40, 8).tolist()
        if rank < 3 or any(size != 1 for size in shape[3:rank]) or min(shape[:3]) < 1:
            raise ValueError(f"it has the shape {shape[:rank]}, and must have one volume")
        if (code := int(number("<i2", 70)[0])) not in DTYPES:
            raise ValueError(f"it has numbers of type {code}; allowed are {', '.join(map(str, DTYPES))}")
        values = number(DTYPES[code], int(number("<f4", 108)[0]), int(np.prod(shape[:3])))
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise ValueError(f"{path} is not a NIfTI-1 image: {error}") from None
    return values.reshape(shape[:3], order="F")


def kspace_of(images: Any, size: int) -> np.ndarray:
    """The middle of the discrete Fourier transforms of images, real and imaginary, float32 `[M, n, n, 2]`.

    Images are made square with zeros. Lines are the first of both axes: line n // 2 has frequency 0. Values are scaled
    so that the mean energy of an image is 1.

    Args:
      images: `[M, height, width]`.  size: n, the resolution.
    Raises:
      ValueError: for images that are not finite, smaller than n in both directions, or without any energy.
    """
    check_counts("kspace_of", size=size)
    images = np.asarray(images, float)
    if images.ndim != 3 or images.size == 0 or not np.isfinite(images).all():
        raise ValueError(f"kspace_of: images has shape {images.shape}; it must be [M, height, width] and finite")
    side = max(images.shape[1:])
    if size > side:
        raise ValueError(f"kspace_of: size is {size}; it must be at most {side}, the larger side of the images")
    ends = [(0, 0), *((0, side - length) for length in images.shape[1:])]
    begin = side // 2 - size // 2
    middle = slice(begin, begin + size)
    kspace = np.fft.fftshift(np.fft.fft2(np.pad(images, ends)), (1, 2))[:, middle, middle]
    energy = (np.abs(kspace) ** 2).sum((1, 2))
    if (energy == 0).any():
        raise ValueError(f"kspace_of: images has an empty image, number {int(energy.argmin())}")
    kspace = kspace / np.sqrt(energy.mean())
    return np.stack([kspace.real, kspace.imag], -1).astype(np.float32)


def blocks(num: int, length: int = 10, gap: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and of test among `num` slices: every third block of `length` slices is for test.

    Neighbouring slices are nearly equal; hence whole blocks, and `gap` slices at each end of a test block, but at the
    ends of the image, are in neither.

    >>> [x.tolist() for x in blocks(14, 4, 1)]
    [[0, 1, 2, 3, 4, 5, 6, 7, 12, 13], [9, 10]]
    """
    check_counts("blocks", num=num, length=length)
    check_whole("blocks", 0, length, gap=gap)
    index = np.arange(num)
    is_test = index // length % 3 == 2
    inner = index % length
    last = (index // length + 1) * length >= num
    edge = (inner < gap) | ((inner >= length - gap) & ~last)
    return index[~is_test], index[is_test & ~edge]


# --- what the agent sees ----------------------------------------------------------------------------------------------


def energies_seen(kspace: Array, energy: Array, acquired: Array) -> Array:
    """Whether each line is acquired, and the logarithm of its energy, from 0 to about 1, float32 `[2 n]`."""
    del kspace
    logarithm = 1 + jnp.log10(jnp.maximum(energy, FLOOR)) / -np.log10(FLOOR)
    return jnp.concatenate([acquired, jnp.where(acquired, logarithm, 0)]).astype(jnp.float32)


def zero_filled(kspace: Array, energy: Array, acquired: Array) -> Array:
    """The zero-filled inverse's magnitude, and the acquired lines, float32 `[n, n, 2]`: an image for a convolution."""
    del energy
    lines = jnp.where(acquired[:, None], kspace[..., 0] + 1j * kspace[..., 1], 0)
    image = jnp.abs(jnp.fft.ifft2(jnp.fft.ifftshift(lines), norm="ortho")) * len(acquired)
    return jnp.stack([image, jnp.broadcast_to(acquired[:, None], image.shape)], -1).astype(jnp.float32)


@struct.dataclass
class AcquisitionParams:
    """kspace: float `[M, n, n, 2]`, from which episodes draw an image.  energy: of its lines, Σ_x |F(k, x)|², `[M, n]`,
    computed once, by `of_kspace`.  max_steps_in_episode: K, lines to acquire.
    """

    kspace: Any
    energy: Any
    max_steps_in_episode: int


def of_kspace(kspace: Any, num_lines: int) -> AcquisitionParams:
    """The parameters of images by their k-space `[..., M, n, n, 2]`."""
    return AcquisitionParams(kspace, energy_of(kspace), num_lines)


class AcquisitionState(NamedTuple):
    """The image, int32; the acquired lines, bool `[n]`; and the steps taken."""

    image: Array
    acquired: Array
    time: Array


class Acquisition(Environment):
    """Acquire K of the n lines of an image's k-space, one by one, for the smallest error of the zero-filled inverse.

    With F the discrete Fourier transform of an image f, A the acquired lines, and f_A the inverse of F restricted to A,

        error = ‖f_A - f‖² / ‖f‖² = Σ_{k ∉ A} e_k,   e_k = Σ_x |F(k, x)|² / ‖F‖²       (Parseval)
        reward = e_k of the new line k, 0 if it was acquired before

    so that the return is 1 - error, and the best lines of each image are those of the largest e_k: `oracle_lines`. The
    best order that is the same for all images is by the mean e_k, `best_fixed_order`. A policy that adapts is between
    both. The images are real, so that lines k and -k have the same energy; the zero-filled inverse needs both.

    Actions are lines, from 0 to n - 1; line n // 2 has frequency 0. Episodes terminate after K. Observations are
    `{"seen": observe(k-space, energy of lines, acquired), "action_mask": bool [n]}`: the scale of the energies is the
    same for all images, so that they do not show an image's total. `info` has the `error`.

    Slices are split in blocks, see `blocks`: `default_params` are for training and `test_params` for test.

    Reference: Pineda et al., 2020, arXiv:2007.10469 (acquisition as a decision process).
    Args:
      images: consecutive slices `[M, height, width]`, or None for `mni_slices()`.
      size: n.
      num_lines: K.
      observe: `energies_seen` or `zero_filled`, or a function of one's own.
      block, gap: slices, see `blocks`.
    Raises:
      ValueError: for other images, counts or functions; if no slice is left for test; if nilearn is needed and missing;
        and in `reset_env` and `step_env` for parameters out of range.
    """

    name: str = "Acquisition-v0"

    def __init__(
        self,
        images: Any = None,
        size: int = 64,
        num_lines: int = 12,
        observe: Observe = energies_seen,
        block: int = 10,
        gap: int = 2,
    ):
        _check_lines("Acquisition", size, num_lines)
        check_functions("Acquisition", observe=observe)
        kspace = kspace_of(mni_slices() if images is None else images, size)
        train, test = blocks(len(kspace), block, gap)
        if not len(train) or not len(test):
            raise ValueError(
                f"Acquisition: images has {len(kspace)} slices; in blocks of {block} none is left for test"
            )
        scale = np.sqrt((kspace[train] ** 2).sum((1, 2, 3)).mean())  # of training alone
        self._train, self._test = (of_kspace(kspace[index] / scale, num_lines) for index in (train, test))
        self._size, self._observe = size, observe

    @property
    def num_actions(self) -> int:
        return self._size

    @property
    def default_params(self) -> AcquisitionParams:
        return self._train

    @property
    def test_params(self) -> AcquisitionParams:
        """The slices that are not in `default_params`."""
        return self._test

    def _check(self, params: AcquisitionParams) -> None:
        check_one_problem("Acquisition", AcquisitionParams, params, kspace=4, energy=2)
        check_whole("Acquisition", 1, self._size, max_steps_in_episode=params.max_steps_in_episode)
        shape = np.shape(params.kspace)
        if len(shape) != 4 or not shape[0] or shape[1:] != (self._size, self._size, 2):
            raise ValueError(
                f"Acquisition: kspace has shape {shape}; it must be (M, {self._size}, {self._size}, 2), M images"
            )
        if np.shape(params.energy) != shape[:2]:
            raise ValueError(f"Acquisition: energy has shape {np.shape(params.energy)}; it must be {shape[:2]}")
        if not is_known(params.kspace, params.energy):
            return
        energy = np.asarray(params.energy)
        if not (np.isfinite(energy) & (energy >= 0)).all() or not energy.any(-1).all():
            raise ValueError("Acquisition: energy must be finite and not negative, and no image empty")
        if not np.allclose(energy, energy_of(np.asarray(params.kspace)), rtol=1e-4, atol=1e-6):
            raise ValueError("Acquisition: energy is not that of the lines of kspace; of_kspace computes it")

    def reset_env(self, key, params):
        self._check(params)
        image = jax.random.randint(key, (), 0, len(params.kspace), jnp.int32)
        return self.begin(image, params)

    def begin(self, image, params):
        """The first observation and state of the image of an index."""
        state = AcquisitionState(image, jnp.zeros(self._size, bool), jnp.zeros((), jnp.int32))
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        del key
        self._check(params)
        energy = jnp.asarray(params.energy)[state.image]
        energy = energy / energy.sum()
        reward = jnp.where(state.acquired[action], 0.0, energy[action])
        state = AcquisitionState(state.image, state.acquired.at[action].set(True), state.time + 1)
        info = {"error": jnp.sum(energy * ~state.acquired)}
        return self._see(state, params), state, reward, state.time >= params.max_steps_in_episode, info

    def _see(self, state, params):
        kspace, energy = (jnp.asarray(x)[state.image] for x in (params.kspace, params.energy))
        return {"seen": self._observe(kspace, energy, state.acquired), "action_mask": ~state.acquired}

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return spaces.Discrete(self._size)

    def observation_space(self, params):
        line = jax.ShapeDtypeStruct((self._size,), jnp.bool_)
        energy = jax.ShapeDtypeStruct((self._size,), jnp.float32)
        kspace = jax.ShapeDtypeStruct((self._size, self._size, 2), jnp.float32)
        seen = jax.eval_shape(self._observe, kspace, energy, line)
        box = spaces.Box(-jnp.inf, jnp.inf, seen.shape, seen.dtype)
        return spaces.Dict({"seen": box, "action_mask": spaces.Box(0, 1, (self._size,), jnp.bool_)})

    def render(self, state, params):
        """A figure of the acquired lines, the zero-filled inverse, and the image."""
        from matplotlib.figure import Figure

        kspace, acquired = jnp.asarray(params.kspace)[state.image], jnp.asarray(state.acquired)
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        axes = figure.subplots(1, 3)
        lines = np.log10(np.asarray((kspace**2).sum(-1)) + FLOOR)
        energy = jnp.asarray(params.energy)[state.image]
        whole = zero_filled(kspace, energy, jnp.ones_like(acquired))[..., 0]
        error = float(jnp.sum(energy * ~acquired) / energy.sum())
        titles = f"k-space, {int(acquired.sum())} lines", f"zero-filled, error {error:.3f}", "image"
        gray = {"cmap": "gray", "vmin": 0, "vmax": float(whole.max())}
        styles = {"vmin": np.log10(FLOOR), "vmax": lines.max()}, gray, gray
        shown = (
            np.where(np.asarray(acquired)[:, None], lines, np.nan),
            zero_filled(kspace, energy, acquired)[..., 0],
            whole,
        )
        for axis, picture, title, style in zip(axes, shown, titles, styles, strict=True):
            axis.imshow(np.asarray(picture), **style)
            axis.set(title=title, xticks=[], yticks=[])
        return figure


# --- orders of lines --------------------------------------------------------------------------------------------------


def energy_of(kspace: Any) -> Any:
    """Σ_x |F(k, x)|², the energy of each line, `[..., n]`, of k-space `[..., n, n, 2]`."""
    return (kspace**2).sum((-2, -1))


def line_energies(kspace: Any) -> Any:
    """e_k, the share of each line in the energy of its image, `[..., n]`, of k-space `[..., n, n, 2]`."""
    energy = energy_of(kspace)
    return energy / energy.sum(-1, keepdims=True)


def oracle_lines(energies: Any, num_lines: int) -> np.ndarray:
    """The best lines of each image, by falling energy, int `[M, K]`, of e_k `[M, n]`.

    >>> oracle_lines(np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]), 2).tolist()
    [[1, 2], [0, 2]]
    """
    energies = _check_energies("oracle_lines", energies, num_lines)
    return np.argsort(-energies, -1, kind="stable")[:, :num_lines]


def best_fixed_order(energies: Any, num_lines: int) -> np.ndarray:
    """The order with the least mean error of all that are the same for all images, at every number of lines, int `[K]`.

    By falling mean energy: the mean error is 1 minus the sum of the mean energies of the lines.

    >>> best_fixed_order(np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]), 2).tolist()
    [1, 0]
    """
    return oracle_lines(_check_energies("best_fixed_order", energies, num_lines).mean(0, keepdims=True), num_lines)[0]


def low_to_high(size: int, num_lines: int) -> np.ndarray:
    """Lines by rising frequency, int `[K]`.

    >>> low_to_high(6, 4).tolist()
    [3, 2, 4, 1]
    """
    _check_lines("low_to_high", size, num_lines)
    return np.argsort(np.abs(np.arange(size) - size // 2), kind="stable")[:num_lines]


def equispaced(size: int, num_lines: int) -> np.ndarray:
    """Lines at equal distances, frequency 0 among them, int `[K]`.

    >>> equispaced(8, 4).tolist()
    [0, 2, 4, 6]
    """
    _check_lines("equispaced", size, num_lines)
    return np.sort((size // 2 + np.arange(num_lines) * size // num_lines) % size)


def random_error(size: int, num_lines: int) -> float:
    """The mean error of K lines drawn without replacement: 1 - K / n, for any image.

    >>> random_error(64, 16)
    0.75
    """
    _check_lines("random_error", size, num_lines)
    return 1 - num_lines / size


def error_of(lines: Any, energies: Any) -> np.ndarray:
    """The error after each of the lines, `[M, K]`, of lines `[K]` or `[M, K]`, each at most once, and e_k `[M, n]`."""
    energies = _check_energies("error_of", energies, 1)
    lines = np.broadcast_to(np.asarray(lines), (len(energies), np.shape(lines)[-1]))
    ordered = np.sort(lines, -1)
    inside = lines.dtype.kind in "iu" and ((ordered >= 0) & (ordered < energies.shape[1])).all()
    if not inside or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError(
            f"error_of: lines is {on_one_line(lines)}; it must be different ints below {energies.shape[1]}"
        )
    return 1 - np.cumsum(np.take_along_axis(energies, lines, 1), 1)


def _check_lines(function: str, size: int, num_lines: int) -> None:
    check_counts(function, size=size, num_lines=num_lines)
    if num_lines > size:
        raise ValueError(f"{function}: num_lines is {num_lines}; it must be at most {size}, the lines there are")


def _check_energies(function: str, energies: Any, num_lines: int) -> np.ndarray:
    check_counts(function, num_lines=num_lines)
    energies = np.asarray(energies, float)
    if energies.ndim != 2 or energies.size == 0 or num_lines > energies.shape[1] or not np.isfinite(energies).all():
        raise ValueError(f"{function}: energies has shape {energies.shape}; it must be [M, n], finite, n ≥ {num_lines}")
    return energies
