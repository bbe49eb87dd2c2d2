"""Maximum-likelihood training of language models as runs: plans, validation, early stopping and the model on disk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np

from purerl.runs import loggers
from purerl.runs.arguments import Count, Seed
from purerl.runs.devices import check_memory
from purerl.runs.options import hyperparameter_options
from purerl.runs.plan import Plan, Watch, grid_of, keys_of, updates_per_chunk
from purerl.text import assembly, data, huggingface, models
from purerl.text.generation import generate
from purerl.text.likelihood import Likelihood, likelihood_learner, perplexity

KIND = "pretraining"
SAMPLES = 5  # texts shown during a run of 20 chunks


def parameters() -> tuple[list[click.Parameter], list[click.Option]]:
    """The options of `purerl text pretrain`: those of the run, and the hyperparameters."""
    say = partial(click.Option, show_default=True)
    run: list[click.Parameter] = [
        click.Argument(["data"], metavar="DATA"),
        say(["--tokenizer"], default="bpe:1000", metavar="KIND", help="bytes, characters, bpe:SIZE (trained on the "
            "data), or the folder or tokenizer.json of one"),
        click.Option(["--model"], metavar="FOLDER", help="a model to start from, with its tokenizer  [default: a new "
                     "one]"),
        say(["--layers"], type=Count(), default=4, help="of a new model"),
        say(["--heads"], type=Count(), default=4, help="of a new model; they divide --width"),
        say(["--width"], type=Count(), default=128, help="of a new model"),
        say(["--context"], type=Count(), default=128, help="tokens that the model sees at once"),
        say(["--tokens", "steps"], type=Count(total=True), default="2e6", help="tokens to train on, "
            "repetitions included"),
        say(["--batch"], type=Count(), default=16, help="sequences of each update"),
        say(["--validation"], type=click.FloatRange(0, 0.5, min_open=True), default=0.05,
            help="share of the data that is held out for the validation perplexity"),
        say(["--patience"], type=Count(), default=10, help="stop after so many points of the curve without a better "
            "validation perplexity"),
        say(["--seeds"], type=Count(), default=1, help="number of seeds, each a model of its own"),
        say(["--seed"], type=Seed(), default=0, help="of all random numbers"),
        say(["--chunks"], type=Count(), default=20, help="points of the learning curve; validation, saving and "
            "stopping take place at these"),
        say(["--tensorboard/--no-tensorboard"], default=False, help="write TensorBoard files into the directory"),
        click.Option(["--wandb"], metavar="PROJECT", help="log to a project of Weights & Biases"),
        click.Option(["--mlflow"], metavar="EXPERIMENT", help="log to an experiment of MLflow"),
    ]  # fmt: skip
    return run, hyperparameter_options(Likelihood)


def defaults(data: str) -> dict[str, Any]:
    """The config of a run on data with all options at their defaults, but for tasks: these need less."""
    run, own = parameters()
    words = ["--tokenizer", "characters", "--layers", "2", "--width", "64", "--tokens", "4e5"]
    task = assembly.is_task(data)
    context = click.Command("defaults", params=[*run, *own]).make_context("defaults", [data, *(words if task else ())])
    values = {p.name: context.params[p.name] for p in run}
    return {**values, "hyperparameters": {p.name: context.params[p.name] for p in own}}


def _watch(model: Any, tokenizer: Any, held_out: assembly.Examples, num_runs: int, patience: int) -> Watch:
    """Validation, early stopping, the best model on disk and samples of text."""
    begin = tokenizer.end * jnp.ones((1, 1), jnp.int32)
    prompt, length = begin, jnp.ones(1, jnp.int32)
    if not held_out.mask[0, 0]:  # the first example begins with a prompt
        size = int(np.argmax(held_out.mask[0])) + 1
        prompt, length = jnp.asarray(held_out.tokens[:1, :size]), jnp.full(1, size)
    longest = min(48, model.shape.context - prompt.shape[1])

    @jax.jit
    def validate(params):
        one = lambda params: perplexity(model, params, held_out.tokens, held_out.mask)
        return jax.lax.map(one, jax.tree.map(lambda x: x[:num_runs], params))

    @jax.jit
    def write(params, run, key):
        params = jax.tree.map(lambda x: x[run], params)
        return generate(model, params, key, prompt, length, longest, tokenizer.end)

    def after(directory: Path, rows: list[dict[str, np.ndarray]], state: Any, last: bool) -> Iterator[str]:
        scores = np.stack([row["validation_perplexity"] for row in rows])
        scores = np.where(np.isnan(scores), np.inf, scores)
        if scores[-1].min() <= scores.min():
            best = int(scores[-1].argmin())
            params = jax.tree.map(lambda x: x[best], state.agent.params)
            huggingface.save(directory / assembly.MODEL, model.shape, params, tokenizer)
        if last or len(rows) % max(1, 20 // SAMPLES) == 0:
            run = int(scores[-1].argmin())
            text = write(state.agent.params, run, jax.random.key(len(rows)))
            begun = tokenizer.decode(prompt[0].tolist()) if prompt[0, 0] != tokenizer.end else ""
            yield f"sample: {begun}{tokenizer.decode(text.tokens[0, : int(text.length[0])].tolist())}"
            yield ""

    def ends(rows: list[dict[str, np.ndarray]]) -> np.ndarray:
        scores = np.stack([row["validation_perplexity"] for row in rows])
        return len(rows) - 1 - np.nanargmin(np.where(np.isnan(scores), np.inf, scores), axis=0) >= patience

    measure = lambda state: {"validation_perplexity": np.asarray(validate(state.agent.params))}
    return Watch(measure, ends, after)


def plan_of(config: dict[str, Any]) -> Plan:
    """Check every argument, read the text and assemble the learner; nothing is compiled.

    Args:
      config: values by the names of `parameters`, the hyperparameters under "hyperparameters".
    Raises:
      ValueError: if one is invalid; the message names the argument, the given value and the allowed ones.
    """
    config = {**config, "kind": KIND, "hyperparameters": dict(config["hyperparameters"])}
    config["horizons"] = config.get("horizons", [])
    loggers.check(config)
    source, seeds, batch, length = config["data"], config["seeds"], config["batch"], config["context"]
    between = assembly.separator(source)
    found = assembly.read(source)
    train, held_out = data.split(found, config["validation"])
    if config["model"]:
        config["model"] = str(assembly.model_folder(config["model"]))
        model, params, tokenizer = assembly.load_model(config["model"])
        length = min(length, model.shape.context)
    else:
        tokenizer, params = assembly.tokenizer_of(config["tokenizer"], assembly.all_texts(found, between)), None
        sizes = (config[name] for name in ("context", "width", "layers", "heads"))
        model = models.gpt2(models.GPT2(tokenizer.size, *sizes))
    num_updates = config["steps"] // (batch * length)
    if num_updates < 1:
        raise ValueError(
            f"--tokens is {config['steps']}; one update is batch x context = {batch} x {length} = {batch * length} "
            "tokens, and there must be at least one"
        )
    values = config["hyperparameters"]
    if values["anneal_updates"] is None:
        values["anneal_updates"] = (float(num_updates),)
    grid, swept, labels = grid_of(Likelihood, values)
    title = assembly.short_name(source)
    if isinstance(train, data.Pairs):
        rows, count = assembly.of_pairs(tokenizer, train, length, between), sum(map(len, train.references))
        batches = assembly.drawn(rows, batch)
        if len(rows.tokens) < count:
            title += f", the {len(rows.tokens):,} of {count:,} pairs that have at most {length + 1} tokens"
    else:
        batches = assembly.batches(tokenizer, train, length, between, batch)
    held_out = assembly.examples(tokenizer, held_out, length, between)

    def make(hp):
        return likelihood_learner(model, batches, hp, params)

    keys = keys_of(config["seed"], seeds)
    state = jax.eval_shape(lambda key: make(grid[0]).init(key), keys[0])
    jax.eval_shape(lambda state: make(grid[0]).step(state), state)
    check_memory(state, seeds * len(grid))
    config["updates_per_chunk"] = updates_per_chunk(config, num_updates, 0)
    files = assembly.files_of(source) + (assembly.files_of(config["model"]) if config["model"] else [])
    config["data"] = assembly.absolute(source)
    size = sum(x.size for x in jax.tree.leaves(state.agent.params))
    return Plan(
        config=config,
        title=f"a model of {size:,} parameters on {title}",
        name=f"pretrain-{assembly.short_name(source)}",
        env=None,
        env_params=None,
        agent=lambda hp: None,
        make=make,
        grid=grid,
        swept=swept,
        labels=labels,
        keys=keys,
        num_updates=num_updates,
        every=config["updates_per_chunk"],
        steps_per_update=batch * length,
        files={path: path for path in files},
        metric="validation_perplexity",
        unit="tokens",
        watch=_watch(model, tokenizer, held_out, seeds * len(grid), config["patience"]),
    )
