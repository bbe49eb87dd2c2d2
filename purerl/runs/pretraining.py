"""Maximum-likelihood training of language models as runs: plans, validation, early stopping and the model on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np

from purerl.runs import loggers
from purerl.runs.arguments import Count, Seed
from purerl.runs.devices import check_memory
from purerl.runs.options import hyperparameter_options
from purerl.runs.plan import Plan, Watch, grid_of, keys_of, updates_per_chunk
from purerl.text import assembly, generation, likelihood, models, tokens
from purerl.text.likelihood import Likelihood

KIND = "pretraining"
MODEL = "model"  # the folder of a run that holds the model with the best validation perplexity


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
        say(["--tokens", "steps"], type=Count(), default="2e6", help="tokens to train on, repetitions included"),
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


class Examples(NamedTuple):
    """Sequences of text: tokens `[M, L + 1]`, and which of `tokens[:, 1:]` are learned, bool `[M, L]`."""

    tokens: np.ndarray
    mask: np.ndarray


def plan_of(config: dict[str, Any]) -> Plan:
    """Check every argument, read the text and assemble the learner; nothing is compiled.

    Args:
      config: values by the names of `parameters`, the hyperparameters under "hyperparameters".
    Raises:
      ValueError: if one is invalid; the message names the argument, the given value and the allowed ones.
    """
    config = {"kind": KIND, **config, "hyperparameters": dict(config["hyperparameters"]), "stop_when": None}
    config["horizons"] = config.get("horizons", [])
    loggers.check(config)
    seeds, batch, length = config["seeds"], config["batch"], config["context"]
    start = assembly.model_folder(config["model"]) if config["model"] else None
    texts = assembly.texts_of(config["data"])
    if start is None:
        tokenizer = assembly.tokenizer_of(config["tokenizer"], texts.all())
        shape = models.GPT2(tokenizer.size, config["context"], config["width"], config["layers"], config["heads"])
        model, params = models.gpt2(shape), None
    else:
        tokenizer = tokens.load(start)
        model, params = models.load(start, tokenizer)
        length = min(length, model.shape.context)
    train, held_out = assembly.examples(texts, tokenizer, length, config["validation"])
    step_size = batch * length
    num_updates = config["steps"] // step_size
    if num_updates < 1:
        raise ValueError(
            f"--tokens is {config['steps']}; one update is batch x context = {batch} x {length} = {step_size} tokens, "
            "and there must be at least one"
        )
    values = config["hyperparameters"]
    if values["anneal_updates"] is None:
        values["anneal_updates"] = (float(num_updates),)
    grid, swept, labels = grid_of(Likelihood, values)
    batches = assembly.batches(train, batch, length)

    def make(hp):
        return likelihood.likelihood_learner(model, batches, hp, params)

    keys = keys_of(config["seed"], seeds)
    state = jax.eval_shape(lambda key: make(grid[0]).init(key), keys[0])
    jax.eval_shape(lambda state: make(grid[0]).step(state), state)
    check_memory(state, seeds * len(grid))
    config["updates_per_chunk"] = updates_per_chunk(config, num_updates, 0)
    config["data"] = assembly.absolute(config["data"])
    return Plan(
        config=config,
        title=f"{model.size(state.agent.params):,} parameters on {assembly.name_of(config['data'])}",
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
        steps_per_update=step_size,
        files=assembly.files_of(config["data"]) + (assembly.files_of(start) if start else []),
        metric="validation_perplexity",
        unit="tokens",
        watch=watch(model, tokenizer, held_out, seeds * len(grid), config["patience"]),
    )
