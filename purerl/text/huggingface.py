"""Folders of GPT-2 models in Hugging Face's format. Reading one executes no code; writing replaces whole files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from purerl.text.models import GPT2, LanguageModel, gpt2

if TYPE_CHECKING:
    from purerl.text.tokens import Tokenizer

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREFIX, HEAD, TOKENS = "transformer.", "lm_head.weight", "wte.weight"
MASKS = (".attn.bias", ".attn.masked_bias")  # older files hold the causal mask
DTYPES = ("F16", "BF16", "F32")

# sizes by their names in a config, with the value of one that does not give them
SIZES: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", 50257),
    "context": ("n_positions", 1024),
    "width": ("n_embd", 768),
    "num_layers": ("n_layer", 12),
    "num_heads": ("n_head", 12),
    "inner": ("n_inner", None),
    "epsilon": ("layer_norm_epsilon", 1e-5),
}
# what else changes the outputs, with the only value that is supported, which a config may leave out
FIXED: dict[str, Any] = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}


def load(folder: str | Path) -> tuple[LanguageModel, Any]:
    """A GPT-2 model and its parameters, from `config.json` and `model.safetensors` in a folder.

    Names of tensors may start with "transformer." or not; float16 and bfloat16 become float32. If the config does not
    tie the head to the token embedding, the parameters have an own `lm_head`.
    Raises:
      ValueError: if a file is missing or damaged, the config needs a feature that `gpt2` does not have, or tensors
        are missing, unexpected, of another shape or dtype, or not finite; the message names them.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    model = gpt2(_shape_of(config, folder / CONFIG))
    tied = config.get("tie_word_embeddings", True)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}{_hint(folder)}")
    try:
        with safetensors.safe_open(path, "flax") as file:
            return model, _read_params(file, path, model, bool(tied))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or is damaged: {error}") from None


def save(folder: str | Path, shape: GPT2, params: Any, tokenizer: Tokenizer | None = None) -> None:
    """Write a folder that `load` and Hugging Face's transformers read. Each file is complete or not there.

    Args:
      folder: is made if it does not exist; files of the same names are replaced.
      shape, params: of a model from `gpt2`.
      tokenizer: writes `tokenizer.json`, with a `tokenizer_config.json` for transformers, and its end token into the
        config.
    Raises:
      ValueError: if the parameters are not those of the shape, or the tokenizer has more tokens than the model.
      OSError: if a file cannot be written; the message names the folder.
    """
    folder, model = Path(folder), gpt2(shape)
    tensors = {name: np.asarray(x, np.float32, order="C") for name, x in _named(params).items()}
    wrong = _differences(
        {name: (x.shape, "F32") for name, x in tensors.items()}, _expected(model, tied=HEAD not in tensors)
    )
    if wrong:
        raise ValueError(f"save: params are not those of {shape}: {wrong}")
    if tokenizer is not None and tokenizer.size > shape.vocab_size:
        raise ValueError(f"save: the tokenizer has {tokenizer.size} tokens, and the model {shape.vocab_size}")
    end = None if tokenizer is None else tokenizer.end
    config = {theirs: getattr(shape, ours) for ours, (theirs, _) in SIZES.items()} | FIXED
    config |= {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "tie_word_embeddings": HEAD not in tensors}
    config |= {"bos_token_id": end, "eos_token_id": end}
    tensors = {name if name == HEAD else PREFIX + name: x for name, x in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if tokenizer is not None:
            tokenizer.save(folder)
            _replace_text(folder / "tokenizer_config.json", json.dumps(_tokenizer_config(folder, shape, tokenizer.end)))
        _replace(folder / WEIGHTS, lambda part: safetensors.numpy.save_file(tensors, part, metadata={"format": "pt"}))
        _replace_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    except (safetensors.SafetensorError, OSError) as error:
        raise OSError(f"{folder} cannot be written: {error}") from error


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Replace `path` by what `write` writes to a temporary file, atomically."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _replace_text(path: Path, text: str) -> None:
    _replace(path, lambda part: part.write_text(text, encoding="utf-8"))


def _tokenizer_config(folder: Path, shape: GPT2, end: int) -> dict[str, Any]:
    """What makes transformers use `tokenizer.json` as it is: by itself it would take GPT-2's own pre-tokenizer."""
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens", [])
    names = {name: x["content"] for x in tokens if x["id"] == end for name in ("bos_token", "eos_token")}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape.context, **names}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent} has no {path.name}: it must be a folder of a Hugging Face model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return config


def _shape_of(config: dict[str, Any], path: Path) -> GPT2:
    if config.get("model_type") != "gpt2":
        raise ValueError(f"{path}: model_type is {config.get('model_type')!r}; only 'gpt2' is supported")
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise ValueError(f"{path}: {name} is {config.get(name)!r}; only {value!r} is supported")
    shape = GPT2(**{ours: config.get(theirs, default) for ours, (theirs, default) in SIZES.items()})
    if not isinstance(shape.epsilon, float) or not 0 < shape.epsilon < 1:
        raise ValueError(f"{path}: layer_norm_epsilon is {shape.epsilon!r}; it must be a number in (0, 1)")
    try:
        gpt2(shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return shape


def _hint(folder: Path) -> str:
    if (folder / (WEIGHTS + ".index.json")).is_file():
        return "; weights in several files are not supported: save them again with a larger max_shard_size"
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return (
            "; pickled weights such as pytorch_model.bin are not read, because reading them can execute code: if you "
            "trust them, load them in transformers and save them with model.save_pretrained(folder)"
        )
    return ""


def _named(params: Any) -> dict[str, Any]:
    """Leaves by the names of Hugging Face's tensors, without "transformer."."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def _example(model: LanguageModel, tied: bool) -> Any:
    """The parameters' tree, with shapes for leaves."""
    params = jax.eval_shape(model.init, jax.eval_shape(jax.random.key, 0))
    return params if tied else params | {"lm_head": {"weight": params["wte"]["weight"]}}


def _expected(model: LanguageModel, tied: bool) -> dict[str, tuple[int, ...]]:
    return {name: x.shape for name, x in _named(_example(model, tied)).items()}


def _differences(found: dict[str, tuple[Any, str]], expected: dict[str, tuple[int, ...]]) -> str:
    """What is wrong with the (shape, dtype) of tensors, in words; "" if nothing is."""
    both = [name for name in expected if name in found]
    parts = {
        "missing": [name for name in expected if name not in found],
        "not expected": [name for name in found if name not in expected],
        "wrong shape": [
            f"{name} {tuple(found[name][0])}, not {expected[name]}"
            for name in both
            if tuple(found[name][0]) != expected[name]
        ],
        "wrong dtype": [
            f"{name} {found[name][1]}, not one of {', '.join(DTYPES)}" for name in both if found[name][1] not in DTYPES
        ],
    }
    listed = lambda names: ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return "; ".join(f"{what}: {listed(names)}" for what, names in parts.items() if names)


def _read_params(file: Any, path: Path, model: LanguageModel, tied: bool) -> Any:
    stored = [name for name in file.keys() if not name.endswith(MASKS)]  # noqa: SIM118 (no mapping)
    names = {name.removeprefix(PREFIX): name for name in stored}
    if len(names) < len(stored):
        raise ValueError(f"{path} has tensors of the same name with and without {PREFIX!r}")
    if model.shape.num_layers > len(names):  # do not make a tree of a damaged config's size
        raise ValueError(f"{path} has {len(names)} tensors; the config's n_layer is {model.shape.num_layers}")
    slices = {ours: file.get_slice(theirs) for ours, theirs in names.items()}
    found = {name: (tuple(x.get_shape()), x.get_dtype()) for name, x in slices.items()}
    expected = _expected(model, tied)
    own_head = tied and HEAD in found
    wrong = _differences(found, expected | ({HEAD: expected[TOKENS]} if own_head else {}))
    if wrong:
        raise ValueError(f"{path} does not fit the config: {wrong}")
    tensors = {name: jnp.asarray(file.get_tensor(names[name]), jnp.float32) for name in found}
    for name, x in tensors.items():
        if not jnp.isfinite(x).all():
            raise ValueError(f"{path}: {name} is not finite")
    if own_head and not jnp.array_equal(tensors[HEAD], tensors[TOKENS]):
        raise ValueError(f"{path}: {HEAD} differs from {TOKENS}, but tie_word_embeddings of the config is true")
    structure = jax.tree.structure(_example(model, tied))
    return structure.unflatten([tensors[name] for name in expected])
