"""Assemble text tasks from names: data, tokenizer, environment, policy network and training reward.

>>> settings = Settings(model="runs/pretrain-pydoc", data="pydoc", reward="rouge-l")
>>> settings._replace(max_tokens=16).max_tokens
16
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from purerl import rewards
from purerl.core import Array, Distribution, Key, MemoryNetwork, Reward
from purerl.text import data, huggingface, models, tokens
from purerl.text import rewards as terms
from purerl.text.data import Pairs, Task
from purerl.text.environment import TextGeneration
from purerl.text.models import LanguageModel
from purerl.text.tokens import Tokenizer

# --- data -------------------------------------------------------------------------------------------------------------

# problems with known answers, of one number; and the largest one of which all problems are made
TASKS: Mapping[str, tuple[Callable[[int], Pairs], int]] = {"addition": (data.addition, 3), "sorting": (data.sorting, 8)}
MODEL = "model"  # the folder of a run that holds its language model
MAX_PROMPT, MAX_TOKENS = 64, 64  # that prompts and completions have by default, if the data has so many
HELD_OUT = 0.1  # the share of a source without a test part of its own
MAX_PADDING = 255  # rows that vocabularies padded to a multiple of 8 have beyond their tokenizer
LOGITS = 2**25  # of a run that are in memory at once in the losses, 128 MiB; more are computed in chunks


def is_task(source: str) -> bool:
    """Whether a source is a task with known answers."""
    return source.partition(":")[0] in TASKS


def is_pairs(source: str) -> bool:
    """Whether a source has prompts with references: a task, two versions of the Bible, a CSV or a JSONL file."""
    if is_task(source) or Path(source).suffix in (".csv", ".jsonl"):
        return True
    return source.startswith("bible-") and len(source.removesuffix("-test").split("-")) > 2


def _all(source: str) -> Pairs | list[str]:
    name, _, size = source.partition(":")
    if name in TASKS:
        make, most = TASKS[name]
        if not size.isdecimal() or not 1 <= int(size) <= most:
            raise ValueError(f"{source}: it must be {name}:N with a whole number from 1 to {most}, such as {name}:2")
        return make(int(size))
    return data.pairs(source) if is_pairs(source) else data.documents(source)


def read(source: str, part: str = "train") -> Pairs | list[str]:
    """The training or the test part of a source: texts, or prompts with references.

    Versions of the Bible have test books of their own. Of any other source a tenth of the texts, pairs or problems is
    held out for the test; a single text is cut.

    Args:
      source: `addition:DIGITS`, `sorting:LENGTH`, or a source of `data.pairs` or `data.documents`.
      part: "train" or "test".
    Raises:
      ValueError: for an unknown source or part, or data that cannot be read.

    >>> len(read("addition:1").prompts), len(read("addition:1", "test").prompts)
    (90, 10)
    """
    if part not in ("train", "test"):
        raise ValueError(f"part is {part!r}; it must be 'train' or 'test'")
    if source.startswith("bible-"):
        return _all(source + "-test" if part == "test" and not source.endswith("-test") else source)
    return held_out(source, _all(source), HELD_OUT)[part == "test"]


Found = TypeVar("Found", list[str], Pairs)


def held_out(source: str, found: Found, share: float) -> tuple[Found, Found]:
    """What is left of the texts or pairs of a source, and the share that is held out: drawn, the same every time.

    Evenly spaced ones might be alike: every tenth sum has the same last digit.

    Raises:
      ValueError: that names the source, if it is too small.
    """
    try:
        return data.split(found, share, generator=np.random.default_rng(0))
    except ValueError as error:
        raise ValueError(f"{source} is too small for a part of it to be held out: {error}") from None


def separator(source: str) -> str:
    """What stands between a prompt and its reference: nothing in tasks, whose prompts end in "=", else a line end."""
    return "\n" if is_pairs(source) and not is_task(source) else ""


def short_name(source: str) -> str:
    """A source as a part of a file's name.

    >>> short_name("addition:2"), short_name("texts/notes.txt")
    ('addition-2', 'notes')
    """
    return Path(source).stem.replace(":", "-")


def files_of(source: str) -> list[str]:
    """The absolute paths of the files of a source or of a model's folder; none for the name of a source."""
    path = Path(source).resolve()
    if path.is_file():
        return [str(path)]
    return sorted(str(file) for file in path.iterdir() if file.is_file()) if path.is_dir() else []


def absolute(source: str) -> str:
    """A source with the absolute path of its file or folder; any other name unchanged.

    >>> absolute("addition:2")
    'addition:2'
    """
    return str(Path(source).resolve()) if files_of(source) else source


# --- models and tokenizers --------------------------------------------------------------------------------------------


def model_folder(path: str | Path) -> Path:
    """The folder of a language model: the given one, or the folder `model` of a run.

    Raises:
      ValueError: if there is no model.
    """
    for folder in (Path(path) / MODEL, Path(path)):
        if (folder / "model.safetensors").is_file():
            return folder.resolve()
    if (Path(path) / "config.json").is_file() and (Path(path) / "manifest.json").is_file():
        raise ValueError(f"{path} has no model yet: the run is not finished; `purerl resume {path}` continues it")
    raise ValueError(f"{path} has no model: there is no model.safetensors in it, nor in its folder {MODEL}")


def load_model(path: str | Path) -> tuple[LanguageModel, Any, Tokenizer]:
    """A model, its parameters and its tokenizer, from a folder or the run that made it.

    A vocabulary padded to a multiple of 8, with at most 255 rows beyond those of the tokenizer, is cut to the size of
    the tokenizer: no text has these ids, and the softmax is over those that have a text.

    Raises:
      ValueError: if something is missing or damaged, or tokenizer and model have different numbers of tokens.
    """
    folder = model_folder(path)
    model, params = huggingface.load(folder)
    tokenizer = tokens.load(folder)
    size, rows = tokenizer.size, model.shape.vocab_size
    if rows % 8 == 0 and 0 < rows - size <= MAX_PADDING:
        cut = {name: {"weight": params[name]["weight"][:size]} for name in ("wte", "lm_head") if name in params}
        model, params = models.gpt2(model.shape._replace(vocab_size=size)), {**params, **cut}
    elif rows != size:
        raise ValueError(f"{folder}: the tokenizer has {size} tokens and the model {rows}; they do not belong together")
    return model, params, tokenizer


def tokenizer_of(kind: str, texts: Sequence[str]) -> Tokenizer:
    """A tokenizer: "bytes", "characters" (of the texts), "bpe:SIZE" (trained on the texts), or a path.

    Raises:
      ValueError: for an unknown kind, or a file that is none.
    """
    name, _, size = kind.partition(":")
    if kind == "bytes":
        return tokens.byte_tokenizer()
    if kind == "characters":
        return tokens.character_tokenizer(texts)
    if name == "bpe":
        if not size.isdecimal():
            raise ValueError(f"tokenizer is {kind!r}; it must be bpe:SIZE, such as bpe:1000")
        return tokens.train_bpe(texts, int(size))
    if not Path(kind).exists():
        raise ValueError(f"tokenizer is {kind!r}; it must be bytes, characters, bpe:SIZE, or a path that exists")
    return tokens.load(kind)


def all_texts(found: Pairs | list[str], between: str) -> list[str]:
    """The texts of a source as a tokenizer is trained on them."""
    if isinstance(found, Pairs):
        rows = zip(found.prompts, found.references, strict=True)
        return [prompt + between + reference for prompt, references in rows for reference in references]
    return found


# --- maximum likelihood -----------------------------------------------------------------------------------------------


class Examples(NamedTuple):
    """Sequences of text: tokens `[M, L + 1]`, and which of `tokens[:, 1:]` are learned, bool `[M, L]`."""

    tokens: np.ndarray
    mask: np.ndarray


def of_pairs(tokenizer: Tokenizer, found: Pairs, length: int, between: str) -> Examples:
    """Prompts followed by their references and the end token; the prompts are read and not learned.

    Raises:
      ValueError: if none has at most `length + 1` tokens; longer ones are left out.
    """
    rows = [
        (tokenizer.encode(prompt + between), [*tokenizer.encode(reference), tokenizer.end])
        for prompt, references in zip(found.prompts, found.references, strict=True)
        for reference in references
    ]
    rows = [(a or [tokenizer.end], b) for a, b in rows if len(a or [0]) + len(b) <= length + 1]
    if not rows:
        raise ValueError(f"no prompt has at most {length + 1} tokens with its reference; raise --context")
    ids, size = tokens.pad([a + b for a, b in rows], fill=tokenizer.end)
    begin = np.array([len(a) for a, _ in rows])
    at = np.arange(1, ids.shape[1])
    return Examples(ids, (at >= begin[:, None]) & (at < size[:, None]))


def of_texts(tokenizer: Tokenizer, found: list[str], length: int) -> Examples:
    """Texts one after another, cut into sequences; the last one may be shorter."""
    ids = data.stream(tokenizer, found)
    count = -(-(len(ids) - 1) // length)
    padded = np.full(count * length + 1, tokenizer.end, np.int32)
    padded[: len(ids)] = ids
    rows = np.stack([padded[i * length : (i + 1) * length + 1] for i in range(count)])
    return Examples(rows, (np.arange(1, count * length + 1) < len(ids)).reshape(count, length))


def examples(tokenizer: Tokenizer, found: Pairs | list[str], length: int, between: str) -> Examples:
    """Sequences of at most `length + 1` tokens, in order; see `of_pairs` and `of_texts`."""
    if isinstance(found, Pairs):
        return of_pairs(tokenizer, found, length, between)
    return of_texts(tokenizer, found, length)


def drawn(rows: Examples, size: int) -> Callable[[Key], tuple[Array, Array]]:
    """Batches of `size` examples drawn uniformly: `key -> (tokens [B, L + 1], mask [B, L])`."""

    def of(key):
        at = jax.random.randint(key, (size,), 0, len(rows.tokens))
        return jnp.asarray(rows.tokens)[at], jnp.asarray(rows.mask)[at]

    return of


def batches(
    tokenizer: Tokenizer, found: Pairs | list[str], length: int, between: str, size: int
) -> Callable[[Key], tuple[Array, Array]]:
    """Batches drawn uniformly, of pairs or of windows of texts: `key -> (tokens [B, L + 1], mask [B, L])`.

    Raises:
      ValueError: if no pair is short enough, or the texts are too short.
    """
    if isinstance(found, Pairs):
        return drawn(of_pairs(tokenizer, found, length, between), size)
    ids = data.stream(tokenizer, found)
    if len(ids) <= length:
        raise ValueError(f"the text has {len(ids)} tokens; a sequence needs {length + 1}: lower --context")
    return lambda key: (data.windows(ids, key, size, length), jnp.ones((size, length), bool))


# --- reinforcement ----------------------------------------------------------------------------------------------------


class Settings(NamedTuple):
    """The settings of a text task, with which a run can build it again."""

    model: str  # the folder of a language model, or of a run
    data: str  # see `read`
    reward: str = "exact"  # terms of the training reward: NAME or NAME:WEIGHT, separated by commas
    max_prompt: int = MAX_PROMPT  # tokens; longer prompts are left out
    max_tokens: int = MAX_TOKENS  # of a completion
    temperature: float = 1.0  # of the softmax that is sampled and trained


class Parts(NamedTuple):
    """The parts of a learner on a text task."""

    env: TextGeneration
    network: MemoryNetwork  # (Head, value) of observations
    policy: Distribution
    reward: Reward
    task: Task
    tokenizer: Tokenizer
    model: LanguageModel
    params: Any  # of the language model, before training
    left_out: int  # pairs of the data that are too long


def task_of(found: Pairs | list[str], tokenizer: Tokenizer, max_prompt: int, max_tokens: int, between: str) -> Task:
    """The prompts that are short enough; of texts, pieces of `max_prompt` tokens and as references what follows.

    A piece is of one text, so that there is no end token in it; the reference of the last may be shorter.

    Raises:
      ValueError: if none is short enough, or the texts are too short.
    """
    if isinstance(found, Pairs):
        return data.task(tokenizer, found, max_prompt, max_tokens - 1, between, drop_long=True)
    ids, size = [tokenizer.encode(text) for text in found], max_prompt + max_tokens
    pieces = [text[at : at + size] for text in ids for at in range(0, len(text) - max_prompt, size)]
    if not pieces:
        longest = max(map(len, ids))
        raise ValueError(f"the longest text has {longest} tokens; a prompt and what follows need {max_prompt + 1} at "
                         "least: lower max_prompt")  # fmt: skip
    prompts, length = tokens.pad([piece[:max_prompt] for piece in pieces], max_prompt, tokenizer.end)
    after, ends = tokens.pad([piece[max_prompt:] for piece in pieces], max_tokens, tokenizer.end)
    there = np.ones((len(pieces), 1), bool)
    return Task(prompts, length, after[:, None], ends[:, None], there, tokenizer.end)


def longest(found: Pairs | list[str], tokenizer: Tokenizer, between: str) -> tuple[int, int]:
    """The most tokens of a prompt and of a completion with its end, but at most 64 each; of texts 64 and 64.

    >>> longest(read("addition:1"), tokens.byte_tokenizer(), "")
    (4, 3)
    """
    if not isinstance(found, Pairs):
        return MAX_PROMPT, MAX_TOKENS
    prompt = max(len(tokenizer.encode(text + between)) for text in found.prompts)
    reference = max(len(tokenizer.encode(text)) for texts in found.references for text in texts)
    return min(max(prompt, 1), MAX_PROMPT), min(reference + 1, MAX_TOKENS)


Term = Callable[[Any], Array]
TERMS: Mapping[str, Callable[[Task, Tokenizer, int, LanguageModel, Any], Term]] = {
    "exact": lambda task, *_: terms.exact_match(task),
    "bleu": lambda task, *_: terms.bleu(task),
    "bleu-1": lambda task, *_: terms.bleu(task, 1),
    "bleu-2": lambda task, *_: terms.bleu(task, 2),
    "rouge-1": lambda task, *_: terms.rouge_1(task),
    "rouge-2": lambda task, *_: terms.rouge_2(task),
    "rouge-l": lambda task, *_: terms.rouge_l(task),
    "chrf": lambda task, *_: terms.chrf(task),
    "sentiment": lambda task, tokenizer, *_: terms.sentiment(tokenizer, terms.vader_lexicon()),
    "fluency": lambda task, tokenizer, size, model, params: terms.fluency(model, params, task),
    "perplexity": lambda task, tokenizer, size, model, params: terms.perplexity(model, params, task),
    "repetition": lambda task, *_: terms.repetition_penalty(task.end),
    "distinct": lambda task, *_: terms.distinct(task.end),
    "overlong": lambda task, tokenizer, size, *_: terms.overlong_penalty(task.end, size, max(size // 4, 1)),
}


def reward_of(names: str, task: Task, tokenizer: Tokenizer, size: int, model: LanguageModel, params: Any) -> Reward:
    """The weighted sum of terms, each logged before and after weighting as a mean over completions.

    Args:
      names: NAME or NAME:WEIGHT, separated by commas; the names are those of `TERMS`.
    Raises:
      ValueError: for an unknown name or a weight that is not a number.
    """
    weights: dict[str, float] = {}
    for part in names.split(","):
        name, _, weight = part.strip().partition(":")
        if name in weights:
            raise ValueError(f"reward is {names!r}; {name} is there twice")
        try:
            weights[name] = float(weight or 1.0)
        except ValueError:
            raise ValueError(f"reward is {names!r}; {weight!r} is not a number: the form is NAME:WEIGHT,...") from None
        if not np.isfinite(weights[name]):
            raise ValueError(f"reward is {names!r}; the weight {weight} is not finite")
        if name not in TERMS:
            raise ValueError(f"reward is {names!r}; allowed are {', '.join(TERMS)}, each with :WEIGHT, or FILE.py:name")
    built = {name: TERMS[name](task, tokenizer, size, model, params) for name in weights}
    return rewards.weighted(built, weights, mean=rewards.mean_over_episodes)


def assemble(settings: Settings) -> Parts:
    """The parts of a learner on a text task.

    Raises:
      ValueError: if a setting is not allowed, a file cannot be read, or prompts and completions exceed the context.
    """
    model, params, tokenizer = load_model(settings.model)
    size = settings.max_prompt + settings.max_tokens
    if size > model.shape.context:
        raise ValueError(
            f"max_prompt + max_tokens is {settings.max_prompt} + {settings.max_tokens} = {size}; it must be at most "
            f"{model.shape.context}, the model's context"
        )
    found, between = read(settings.data), separator(settings.data)
    task = task_of(found, tokenizer, settings.max_prompt, settings.max_tokens, between)
    network = models.policy_network(model, size, params, settings.temperature)
    vocab_size, there = model.shape.vocab_size, len(task.prompts)
    reward = reward_of(settings.reward, task, tokenizer, settings.max_tokens, model, params)
    env = TextGeneration(task, settings.max_tokens, vocab_size=vocab_size)
    policy = models.policy(vocab_size, max(1, LOGITS // vocab_size))
    left_out = len(found.prompts) - there if isinstance(found, Pairs) else 0
    return Parts(env, network, policy, reward, task, tokenizer, model, params, left_out)
