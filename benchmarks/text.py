"""Tokens a second and the time of a GRPO step, against transformers and TRL: same weights, same numbers of tokens.

    pip install 'purerl[text,hf]' trl
    python benchmarks/text.py generate [--rounds 5] [--sizes demo small]
    python benchmarks/text.py step [--rounds 5]

Both sides run in one process, in alternation, without compile time, on all cores. Beside the times stands the least
time that the memory's bandwidth allows: each step of generation reads every parameter and the cache once. A model that
the processor's caches hold may be faster than that. Results are printed and written to benchmarks/results/text/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import jax.numpy as jnp
import numpy as np
from peers import need

import purerl
from purerl import rewards
from purerl.runs.devices import set_up_jax
from purerl.text import data, generation, huggingface, models, tokens
from purerl.text import rewards as text_rewards
from purerl.text.environment import TextGeneration

RESULTS = Path(__file__).parent / "results" / "text"
SIZES = {  # vocabulary, context, width, layers, heads
    "demo": models.GPT2(16, 32, 64, 2, 4),
    "small": models.GPT2(1000, 128, 256, 4, 8),
}
PROMPT = {"demo": 6, "small": 32}
TOKENS = {"demo": 16, "small": 64}


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def alternated(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, in alternation, after one call of each to compile and warm up."""
    for function in sides.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, function in sides.items():
            times[name].append(timed(function))
    return times


def bandwidth() -> float:
    """Bytes a second that a sum over 256 MB reads on all cores."""
    x = jnp.ones(2**26, jnp.float32)
    total = jax.jit(lambda x: x.reshape(2, -1).sum(1))
    total(x).block_until_ready()
    return 4 * x.size / min(timed(lambda: total(x).block_until_ready()) for _ in range(5))


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Median [least, most] of their time over ours, round by round."""
    each = np.array(theirs) / np.array(ours)
    return f"{np.median(each):.1f} [{each.min():.1f}, {each.max():.1f}]"


def record(name: str, rows: list[dict]) -> None:
    """Print the rows as a table, and write them."""
    packages = ("purerl", "jax", "jaxlib", "torch", "transformers", "trl")
    known = {}
    for package in packages:
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            known[package] = None
    RESULTS.mkdir(parents=True, exist_ok=True)
    about = {"versions": known, "cores": os.cpu_count(), "machine": platform.machine(), "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items() if not isinstance(value, list)))


# --- generation -------------------------------------------------------------------------------------------------------


def saved(shape: models.GPT2) -> tuple[Any, Any, str]:
    """A randomly initialised model, its parameters, and a folder that has them."""
    model = models.gpt2(shape)
    params = model.init(jax.random.key(0))
    folder = tempfile.mkdtemp()
    huggingface.save(folder, shape, params)
    return model, params, folder


def generate(sizes: list[str], rounds: int) -> None:
    """Sampling of whole completions, without an end token, for batches of 1 and 64 prompts."""
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(os.cpu_count() or 1)
    rows = []
    speed = bandwidth()
    for name in sizes:
        shape, size, count = SIZES[name], PROMPT[name], TOKENS[name]
        model, params, folder = saved(shape)
        theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
        for batch in (1, 64):
            prompts = np.random.default_rng(0).integers(0, shape.vocab_size, (batch, size))
            length, never = np.full(batch, size), shape.vocab_size  # an end token that cannot be drawn
            write = jax.jit(lambda key, x, n: generation.generate(model, params, key, x, n, count, never).tokens)
            ids, mask = torch.tensor(prompts), torch.ones(batch, size, dtype=torch.long)
            how = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": True, "top_k": 0, "pad_token_id": 0}

            def with_transformers():
                with torch.no_grad():
                    return theirs.generate(ids, attention_mask=mask, **how)

            ours = lambda: write(jax.random.key(0), prompts, length).block_until_ready()
            assert ours().shape == (batch, count) and with_transformers().shape == (batch, size + count)
            times = alternated({"purerl": ours, "transformers": with_transformers}, rounds)
            numbers = sum(x.size for x in jax.tree.leaves(params))
            cache = 2 * shape.num_layers * shape.width * batch * (size + count / 2)
            bound = 4 * count * (numbers + cache) / speed
            rows.append(
                {
                    "size": name, "parameters": numbers, "prompts": batch, "tokens": batch * count,
                    "purerl tokens/s": round(batch * count / np.median(times["purerl"])),
                    "transformers tokens/s": round(batch * count / np.median(times["transformers"])),
                    "times as fast": ratio(times["purerl"], times["transformers"]),
                    "share of the bound": round(bound / np.median(times["purerl"]), 2), **times,
                }
            )  # fmt: skip
    record("generate", rows)


# --- a GRPO step ------------------------------------------------------------------------------------------------------

COMPLETIONS, GROUP = 64, 8


def step(rounds: int) -> None:
    """One GRPO update on sums at the demo's size: 64 completions of 8 prompts, exact match, one gradient step."""
    import torch
    from datasets import Dataset
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = tokens.character_tokenizer(["0123456789+="])
    shape = SIZES["demo"]._replace(vocab_size=tokenizer.size)
    model, params, _ = saved(shape)
    folder = tempfile.mkdtemp()
    huggingface.save(folder, shape, params, tokenizer)
    pairs, length = data.addition(2), 8
    task = data.task(tokenizer, pairs, 6, length - 1)
    env = TextGeneration(task, length, vocab_size=tokenizer.size)
    network, policy = models.policy_network(model, 6 + length, params), models.policy(tokenizer.size)
    reward = rewards.term(text_rewards.exact_match(task))

    def make(hp):
        agent = purerl.grpo(network, policy, hp)
        blocks = {"reward": reward, "info": ("index",), "returns": "training"}
        return purerl.learner(env, env.default_params, agent, COMPLETIONS, length, **blocks)

    hp = purerl.GRPO(learning_rate=1e-4, group_size=GROUP)
    updates, kept = 20, [next(iter(purerl.run(make, hp, jax.random.key(0), 1)))[1]]

    def our_step() -> float:
        """Seconds of one of our steps, a mean over some."""
        begin = time.perf_counter()
        _, kept[0], metrics = next(iter(purerl.run(make, hp, None, updates, every=updates, state=kept[0])))
        jax.block_until_ready(metrics)
        return (time.perf_counter() - begin) / updates

    class Clock(TrainerCallback):
        """Seconds of each step of theirs, and of ours in between; the first one warms up."""

        def __init__(self):
            self.theirs, self.ours, self.begin = [], [], 0.0

        def on_step_begin(self, args, state, control, **kwargs):
            self.ours.append(our_step())
            self.begin = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            self.theirs.append(time.perf_counter() - self.begin)

    fast = PreTrainedTokenizerFast.from_pretrained(folder)
    fast.pad_token = fast.eos_token = "<|endoftext|>"
    rows = Dataset.from_dict({"prompt": pairs.prompts, "answer": [x[0] for x in pairs.references]})
    scored = lambda completions, answer, **_: [float(x == y) for x, y in zip(completions, answer, strict=True)]
    clock = Clock()
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=COMPLETIONS, num_generations=GROUP,
        max_completion_length=length, max_steps=rounds + 1, learning_rate=1e-4, beta=0.0, report_to=[],
        use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, bf16=False, loss_type="grpo",
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=GPT2LMHeadModel.from_pretrained(folder), reward_funcs=scored, args=settings, train_dataset=rows,
        processing_class=fast, callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    ours, theirs = clock.ours[1:], clock.theirs[1:]
    record(
        "step",
        [
            {
                "completions": COMPLETIONS, "purerl ms": round(1e3 * np.median(ours), 2),
                "TRL ms": round(1e3 * np.median(theirs), 1), "times as fast": ratio(ours, theirs),
                "purerl": ours, "TRL": theirs,
            }
        ],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["generate", "step"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES], default=[*SIZES])
    given = parser.parse_args()
    need("'purerl[text,hf]' trl", "torch", "transformers", *(["trl"] if given.what == "step" else []))
    set_up_jax(one_device=True)
    if given.what == "generate":
        generate(given.sizes, given.rounds)
    else:
        step(given.rounds)


if __name__ == "__main__":
    main()
