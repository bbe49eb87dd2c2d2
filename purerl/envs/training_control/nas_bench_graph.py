"""NAS-Bench-Graph: 26,206 graph networks with their scores on nine data sets. Qin et al., 2022, arXiv:2206.09166."""

from __future__ import annotations

import importlib.util
import pickle
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LINKS = (
    (0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1), (0, 0, 1, 2), (0, 0, 1, 3), (0, 1, 1, 1), (0, 1, 1, 2), (0, 1, 2, 2),
    (0, 1, 2, 3),
)  # fmt: skip
OPERATIONS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
SKIP = OPERATIONS.index("skip")
PROTEINS = ("gcn", "sage", "arma", "fc", "skip")  # the operations that fit in memory on that data set
DATA_SETS = ("cora", "citeseer", "pubmed", "cs", "physics", "photo", "computers", "arxiv", "proteins")
COLUMNS = ("valid_perf", "perf", "latency", "para")


def operations_of(data_set: str) -> tuple[str, ...]:
    """The operations of a data set: nine, but five of proteins."""
    return PROTEINS if data_set == "proteins" else OPERATIONS


# --- networks ---------------------------------------------------------------------------------------------------------


def codes(inputs: Sequence[int], operations: np.ndarray) -> np.ndarray:
    """Numbers that two descriptions share if and only if the benchmark takes them for one network.

    A network has four nodes. Each applies an operation to one input: the data (0) or an earlier node (1, 2, 3). Nodes
    that are nobody's input are joined for the output. Two descriptions are one network if they differ
    - in the order of their nodes;
    - in skips that are the only use of their input, or an input themselves: they change nothing;
    - in skips of the data to the output, which the benchmark does not count as a connection.
    The other skips, which are branches of their own, remain. In decimal digits a node is its operation from 1 on, the
    nodes that have it as input, sorted, and a 0.

    Args:
      inputs: the input of each node.
      operations: indices into `OPERATIONS`, int `[S, 4]`; all rows have their skips at the same nodes.
    Returns:
      int64 `[S]`.

    >>> codes((0, 1, 2, 3), np.array([[1, 8, 7, 8]])), codes((0, 1, 2, 3), np.array([[8, 8, 1, 7]]))
    (array([2800]), array([2800]))
    >>> codes((0, 1, 1, 1), np.array([[1, 8, 7, 3]]))
    array([24080900])
    """
    uses = [[i for i, source in enumerate(inputs, 1) if source == node] for node in range(len(inputs) + 1)]
    skip = [False, *(operations[0] == SKIP)]

    def made_of(node):
        """The nodes that have this one as input, once those skips are left out that something follows."""
        for user in uses[node]:
            yield from made_of(user) if skip[user] and uses[user] else (user,)

    def below(node):
        """The digits of all that follows a node, and ten to the power of how many they are, int64 `[S]` each."""
        found = list(made_of(node))
        if node == 0 or len(found) == 1:
            found = [i for i in found if not skip[i]]
        digits, scale = np.zeros(len(operations), np.int64), np.ones(len(operations), np.int64)
        if not found:
            return digits, scale
        own, scales = map(np.stack, zip(*map(tree, found), strict=True))
        order = np.argsort(own, 0)
        for x, size in zip(np.take_along_axis(own, order, 0), np.take_along_axis(scales, order, 0), strict=True):
            digits, scale = digits * size + x, scale * size
        return digits, scale

    def tree(node):
        digits, scale = below(node)
        return ((operations[:, node - 1] + 1) * scale + digits) * 10, scale * 100

    return below(0)[0]


def code_of_all(links: np.ndarray, operations: np.ndarray) -> np.ndarray:
    """`codes` of descriptions of any links and skips, int64 `[S]`.

    links: indices into `LINKS`, int `[S]`.  operations: int `[S, 4]`.
    """
    code = np.empty(len(links), np.int64)
    kind = links * 16 + (operations == SKIP) @ [8, 4, 2, 1]
    for k in np.unique(kind):
        code[kind == k] = codes(LINKS[k // 16], operations[kind == k])
    return code


def row_of_choices(numbers: Any, operations: Sequence[str]) -> np.ndarray:
    """The row of each sequence of choices in a table whose rows are networks with these numbers.

    Args:
      numbers: int `[M]`; in decimal digits a link list and four operations.
    Returns:
      int32 `[9, K, K, K, K]` for K operations: a link list, then four operations; -1 where the table has no such row,
      as for four skips.
    """
    described = np.asarray(numbers)[:, None] // 10 ** np.arange(4, -1, -1) % 10
    wanted = code_of_all(described[:, 0], described[:, 1:])
    own = np.array([OPERATIONS.index(name) for name in operations])
    links, *chosen = np.indices((len(LINKS), *[len(own)] * 4))
    code = code_of_all(links.reshape(-1), own[np.stack([x.reshape(-1) for x in chosen], -1)])
    order = np.argsort(wanted)
    at = np.minimum(np.searchsorted(wanted[order], code), len(order) - 1)
    return np.where(wanted[order][at] == code, order[at], -1).astype(np.int32).reshape(links.shape)


# --- files ------------------------------------------------------------------------------------------------------------


class _Float64:
    """In place of `numpy.dtype("<f8")`, of which the files have one."""

    def __init__(self, name, *_):
        if name != "f8":
            raise pickle.UnpicklingError(f"it has numbers of type {name!r}")

    def __setstate__(self, state):
        del state


class _Numbers(pickle.Unpickler):
    """Reads dicts, lists, strings and numbers; a file that names anything else is refused, and nothing is called."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "scalar" and module.endswith("multiarray"):
            return lambda dtype, raw: struct.unpack("<d", raw)[0]
        if (module, name) == ("numpy", "dtype"):
            return _Float64
        raise pickle.UnpicklingError(f"it names {module}.{name}")


class Table(NamedTuple):
    """Rows of a file: numbers of networks (see `row_of_choices`), int32 `[M]`, and columns, float64 `[M]` each."""

    number: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    latency: np.ndarray
    parameters: np.ndarray


def read(path: str | Path) -> Table:
    """Read a `.bench` file, sorted by number. It is a pickle, read without importing or calling what it names.

    Raises:
      ValueError: for a file that cannot be read, or that has other contents.
    """
    try:
        with open(path, "rb") as file:
            rows = _Numbers(file).load()
        numbers = sorted(rows)
        columns = np.array([[rows[n][name] for name in COLUMNS] for n in numbers], np.float64)
        if not numbers or not np.isfinite(columns).all() or not 0 <= numbers[0] <= numbers[-1] < 90_000:
            raise ValueError("it has no rows, or other numbers")
    except Exception as error:  # of a pickle any error may come
        raise ValueError(f"{path} is not a table of NAS-Bench-Graph: {type(error).__name__}: {error}") from None
    return Table(np.array(numbers, np.int32), *columns.T)


def file_of(data_set: str) -> Path:
    """The file of a data set in the installed package, which is not imported.

    Raises:
      ValueError: for an unknown data set, or if the package is missing, naming the extra.
    """
    if data_set not in DATA_SETS:
        raise ValueError(f"data_set is {data_set!r}; allowed are {', '.join(DATA_SETS)}")
    spec = importlib.util.find_spec("nas_bench_graph")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ValueError(f"the table of {data_set} needs the package nas-bench-graph: pip install 'purerl[nas]'")
    return Path(folders[0], "light", f"{data_set}.bench")


@cache
def _table(path: Path, operations: tuple[str, ...]) -> tuple[Table, np.ndarray]:
    found = read(path)
    return found, row_of_choices(found.number, operations)


def table(data_set: str) -> tuple[Table, np.ndarray]:
    """The table of a data set, and the row of each sequence of choices (see `row_of_choices`); read once.

    Raises:
      ValueError: as `file_of` and `read`.
    """
    return _table(file_of(data_set), operations_of(data_set))
