"""A language model as a program: the logits of the next token, with its cache of keys and values as memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from purerl.arguments import check_counts
from purerl.core import Array, Key
from purerl.export import parity, programs, saving
from purerl.text.models import LanguageModel


def next_token(model: LanguageModel, params: Any) -> programs.Choose:
    """The logits `[B, V]` after one more token, int32 `[B]`; a text is given token by token, its prompt too."""

    def choose(key, cache, token):
        del key  # not used
        features, cache = model.step(params, cache, token)
        return token, {"logits": model.logits(params, features)}, cache

    return choose


def reset(cache: Any, ended: Array) -> Any:
    """The cache, empty where a text ended, bool `[N]`."""
    return cache._replace(length=jnp.where(ended, 0, cache.length))


def write_texts(model: LanguageModel, choose: programs.Choose, slots: int, first: int, key: Key, steps: int) -> Any:
    """`parity.Episodes` of texts that the model samples, each of at most `slots` tokens; a pure function.

    first: the token that texts start with.
    """
    num = sum(parity.BATCHES)

    def step(carry, now):
        cache, token = carry
        key, time = now
        begun = jnp.full(num, time % slots == 0)
        token = jnp.where(begun, first, token)
        _, outputs, cache = choose(key, reset(cache, begun), token)
        margin = jnp.full(num, jnp.inf)
        chosen = jax.random.categorical(key, outputs["logits"]).astype(jnp.int32)
        return (cache, chosen), parity.Episodes(token, begun, [], outputs, margin)

    begin = model.cache(num, slots), jnp.full(num, first, jnp.int32)
    return jax.lax.scan(step, begin, (jax.random.split(key, steps), jnp.arange(steps)))[1]


def save(
    directory: Path,
    model: LanguageModel,
    params: Any,
    key: Key,
    first: int,
    slots: int | None = None,
    to: Sequence[saving.Format] = (saving.STABLEHLO,),
    about: Mapping[str, Any] = {},
    files: Mapping[str, bytes] = {},
    steps: int = saving.STEPS,
) -> dict[str, Any]:
    """Export a language model as the program `(token [B], memory, reset [B]) -> (logits [B, V], next_memory)`.

    Its logits are compared with the model's on texts that it samples; see `purerl.export.save`.

    Args:
      first: the token that texts start with, such as the end token.
      slots: the most tokens of a text; None: the model's context.
      files: further files of the folder, such as the tokenizer.
    Returns:
      The contents of policy.json.
    """
    slots = model.shape.context if slots is None else slots
    check_counts("export.language.save", slots=slots, steps=steps)
    choose, start = next_token(model, params), lambda n: model.cache(n, slots)
    program = programs.program(choose, start, reset, jax.ShapeDtypeStruct((1,), jnp.int32))
    episodes = jax.jit(lambda key: write_texts(model, choose, slots, first, key, steps))(key)
    tokens = {"type": "Discrete", "n": model.shape.vocab_size, "start": 0, "shape": [], "dtype": "int32"}
    known = {"environment": "text", **about, "actions": "logits of the next token", "observation": tokens,
             "action": tokens, "return": None, "most_tokens": slots}  # fmt: skip
    return saving.write(directory, program, episodes, to, known, files)
