"""Tokens: bytes, characters and byte-pair encoding, saved as the `tokenizer.json` of the tokenizers library.

Bytes and characters need no other package, also when they are loaded again. Everything else, such as the tokenizer of a
Hugging Face folder, is read by the package tokenizers, of the extra `text`. A text that contains the name of the end
token, `<|endoftext|>`, is a text like any other: its characters are encoded, never the end token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

END = "<|endoftext|>"
_ENDS = (END, "</s>")
_FILE = "tokenizer.json"


class Tokenizer(NamedTuple):
    """Texts to token ids 0, …, size - 1 and back, as a set of functions.

    `encode(text) -> list[int]`: the ids of a text, without an end token.
    `decode(ids) -> str`: the text before the first end token; invalid UTF-8 becomes U+FFFD.
    `save(folder)`: writes `folder/tokenizer.json`, which the tokenizers library reads with the same ids.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    size: int  # the number of ids, the end token included
    end: int  # the end token: ends a text, begins one that has no prompt, and pads
    save: Callable[[Path], None]


def pad(sequences: Sequence[Sequence[int]], size: int | None = None, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of unequal length as one array, padded on the right, and their lengths.

    Args:
      sequences: N sequences of ids.  size: the length L of a row; None: that of the longest sequence.
      fill: the id that pads.
    Returns:
      ids, int32 `[N, L]`, and length, int32 `[N]`, as NumPy arrays.
    Raises:
      ValueError: if a sequence is longer than `size`.

    >>> ids, length = pad([[5, 6], [7]], fill=9)
    >>> ids.tolist(), length.tolist()
    ([[5, 6], [7, 9]], [2, 1])
    """
    length = np.array([len(x) for x in sequences], np.int32)
    longest = int(length.max(initial=0))
    if size is None:
        size = longest
    if longest > size:
        raise ValueError(f"pad: sequence {int(length.argmax())} has {longest} tokens; size is {size}")
    ids = np.full((len(length), size), fill, np.int32)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, length


# --- the end and errors -----------------------------------------------------------------------------------------------


def _before_end(ids: Sequence[int], size: int, end: int) -> list[int]:
    """The ids before the first end token, as ints; raises a ValueError that names an id outside of 0, …, size - 1."""
    found = [int(i) for i in ids]
    text = found[: found.index(end)] if end in found else found
    for i in text:
        if not 0 <= i < size:
            raise ValueError(f"decode: there is no token {i}; ids are 0 to {size - 1}")
    return text


def _check_text(text: str) -> None:
    """Raise a ValueError that names the first surrogate, which UTF-8 does not encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"encode: {text[error.start]!r} at position {error.start} is not valid Unicode") from None


def _write(folder: Path, text: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / _FILE).write_text(text, encoding="utf-8")


def _json(end: int, pre_tokenizer: dict[str, Any], decoder: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer of the tokenizers library, with one special token."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": end, "content": END, **special}],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


# --- bytes ------------------------------------------------------------------------------------------------------------


def _names_of_bytes() -> list[str]:
    """The printable characters that name bytes in a byte-level vocabulary: themselves, or else the next from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _bytes_json() -> dict[str, Any]:
    """Byte-level BPE without merges: the id of a byte is its value."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {name: byte for byte, name in enumerate(_names_of_bytes())},
        "merges": [],
    }
    return _json(256, level, level, model)


def byte_tokenizer() -> Tokenizer:
    """Bytes of UTF-8: the id of a byte is its value, and the end token is 256. It encodes any text.

    Raises:
      ValueError: by `encode`, for a lone surrogate; by `decode`, for an id that is not in 0, …, 256.

    >>> tokens = byte_tokenizer()
    >>> tokens.encode("né"), tokens.decode([110, 195, 169, 256, 110]), tokens.size, tokens.end
    ([110, 195, 169], 'né', 257, 256)
    """

    def encode(text: str) -> list[int]:
        _check_text(text)
        return list(text.encode())

    def decode(ids: Sequence[int]) -> str:
        return bytes(_before_end(ids, 257, 256)).decode(errors="replace")

    return Tokenizer(encode, decode, 257, 256, lambda folder: _write(folder, json.dumps(_bytes_json(), indent=1)))


# --- characters -------------------------------------------------------------------------------------------------------


def _characters_json(characters: Sequence[str]) -> dict[str, Any]:
    """A vocabulary of words that are single characters."""
    split = {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False}
    # of no character of the vocabulary, so that the library refuses an unknown one
    model = {"type": "WordLevel", "vocab": {x: i for i, x in enumerate(characters)}, "unk_token": "<unk>"}
    return _json(len(characters), split, {"type": "Fuse"}, model)


def _of_characters(characters: Sequence[str]) -> Tokenizer:
    ids, end = {x: i for i, x in enumerate(characters)}, len(characters)

    def encode(text: str) -> list[int]:
        try:
            return [ids[x] for x in text]
        except KeyError as error:
            raise ValueError(
                f"encode: the character {error.args[0]!r} at position {text.index(error.args[0])} is not among the "
                f"{end} of the vocabulary"
            ) from None

    def decode(given: Sequence[int]) -> str:
        return "".join(characters[i] for i in _before_end(given, end + 1, end))

    def save(folder: Path) -> None:
        _write(folder, json.dumps(_characters_json(characters), indent=1))

    return Tokenizer(encode, decode, end + 1, end, save)


def character_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """The characters of some texts, in the order of their code points; the end token is the last id.

    Args:
      texts: what the vocabulary is taken from, such as all prompts and references.
    Raises:
      ValueError: if the texts have no character or a lone surrogate; by `encode`, for a character that is in none of
        them; by `decode`, for an id that is not in 0, …, size - 1.

    >>> tokens = character_tokenizer(["12+34=46"])
    >>> tokens.encode("1=+"), tokens.decode([1, 6, 0, 7]), tokens.size, tokens.end
    ([1, 6, 0], '1=+', 8, 7)
    """
    if isinstance(texts, str):
        raise ValueError("character_tokenizer: texts is a str; it must be a list of texts")
    characters = sorted({x for text in texts for x in text})
    if not characters:
        raise ValueError("character_tokenizer: the texts have no character")
    _check_text("".join(characters))
    return _of_characters(characters)


# --- the tokenizers library -------------------------------------------------------------------------------------------


def _library() -> Any:
    """The tokenizers library.

    Raises:
      ValueError: if it is not installed; it names the extra.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(f"this tokenizer needs the package tokenizers: pip install 'purerl[text]' ({error})") from None
    return tokenizers


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:200]


@contextmanager
def _readable(problem: str) -> Iterator[None]:
    """Raise a ValueError of one line for whatever the library raises."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain Exceptions, and its panics are none
        raise ValueError(f"{problem}: {_first_line(error)}") from None


def _size(tokenizer: Any) -> int:
    """The number of ids up to the highest one, which counts gaps in a vocabulary too."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _of_library(tokenizer: Any, end: int, text: str) -> Tokenizer:
    """A tokenizer of the library, whose file is `text`."""
    tokenizer.encode_special_tokens = True  # names of special tokens in a text are text
    size = _size(tokenizer)

    def encode(given: str) -> list[int]:
        _check_text(given)
        with _readable("encode"):
            return tokenizer.encode(given, add_special_tokens=False).ids

    def decode(ids: Sequence[int]) -> str:
        known = _before_end(ids, size, end)
        with _readable("decode"):
            return tokenizer.decode(known, skip_special_tokens=False)

    return Tokenizer(encode, decode, size, end, lambda folder: _write(folder, text))


def train_bpe(texts: Iterable[str], size: int) -> Tokenizer:
    """Byte-pair encoding on bytes, trained on some texts; the end token is 0. It encodes any text.

    Starting from the 256 bytes, the most frequent pair of neighbouring tokens in a word becomes a new token, until the
    vocabulary has `size`. It is smaller if the texts have fewer pairs.

    Args:
      texts: list of texts.  size: the number of ids, end token included, an int of at least 257.
    Raises:
      ValueError: for a smaller size, texts without a character, or without the extra `text`.
    Reference: Sennrich, Haddow, Birch, 2016, arXiv:1508.07909, algorithm 1, on words of bytes as in GPT-2.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < 257:
        raise ValueError(f"train_bpe: size is {size!r}; it must be an int of at least 257, all bytes and the end token")
    if isinstance(texts, str):
        raise ValueError("train_bpe: texts is a str; it must be a list of texts")
    texts = [text for text in texts if text]
    if not texts:
        raise ValueError("train_bpe: the texts have no character")
    for text in texts:
        _check_text(text)
    library = _library()
    level = library.pre_tokenizers.ByteLevel
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = level(add_prefix_space=False), library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=level.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _of_library(tokenizer, tokenizer.token_to_id(END), tokenizer.to_str(pretty=True))


# --- loading ----------------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> tuple[dict[str, Any], str]:
    """A JSON object and its text; raises a ValueError that names the file if it is none."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else _first_line(error)
        raise ValueError(f"load: {path} cannot be read as JSON: {reason}") from None
    if not isinstance(found, dict):
        raise ValueError(f"load: {path} must be a JSON object, got {type(found).__name__}")
    return found, text


def _characters_of(found: dict[str, Any]) -> list[str] | None:
    """The characters of a file that `character_tokenizer` wrote, and None of every other."""
    model = found.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not vocabulary or any(len(x) != 1 for x in vocabulary):
        return None
    characters = list(vocabulary)
    return characters if found == _characters_json(characters) else None


def _end_of(tokenizer: Any, path: Path) -> int:
    """The end token: `eos_token_id` of the config.json beside the file, or else the token of a usual name.

    Raises:
      ValueError: if there is neither.
    """
    config = path.with_name("config.json")
    stated = _read_json(config)[0].get("eos_token_id") if config.is_file() else None
    for i in stated if isinstance(stated, list) else [stated]:
        if isinstance(i, int) and not isinstance(i, bool) and 0 <= i < _size(tokenizer):
            return i
    for name in _ENDS:
        if (i := tokenizer.token_to_id(name)) is not None:
            return i
    raise ValueError(
        f"load: {path} has no end token: its vocabulary must have {' or '.join(_ENDS)}, or the config.json beside it "
        "an eos_token_id that is in the vocabulary"
    )


def load(path: Path | str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, or of the folder that contains it, such as any Hugging Face folder.

    Bytes and characters as saved here are read without another package, everything else by the tokenizers library. Its
    end token is the `eos_token_id` of the folder's config.json if the vocabulary has it, or else the token
    `<|endoftext|>` or `</s>`. The file is read as data: nothing in it is executed.

    Raises:
      ValueError: for a file that is missing or is not a tokenizer, that has no end token, or that needs the extra
        `text` where it is not installed.
    """
    path = Path(path)
    path = path / _FILE if path.is_dir() else path
    found, text = _read_json(path)
    if found == _bytes_json():
        return byte_tokenizer()
    if (characters := _characters_of(found)) is not None:
        return _of_characters(characters)
    if not isinstance(found.get("model"), dict):
        raise ValueError(f"load: {path} is no tokenizer: it has no model")
    library = _library()
    with _readable(f"load: {path} is no tokenizer"):
        tokenizer = library.Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return _of_library(tokenizer, _end_of(tokenizer, path), text)
