"""Maximum-likelihood training of language models as runs: plans, validation, early stopping and the model on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np

from purerl.runs import loggers
from purerl.runs.arguments import Count, Range, Seed
from purerl.runs.devices import check_memory
from purerl.runs.options import hyperparameter_options
from purerl.runs.plan import Plan, Rows, Watch, check_updates, grid_of, keys_of, updates_per_chunk
from purerl.text import assembly, data, huggingface, models
from purerl.text.generation import generate
from purerl.text.likelihood import Likelihood, likelihood_learner, perplexity

KIND = "pretraining"
# what is not given, and for tasks with known answers, whose texts are short
USUAL = {"tokenizer": "bpe:1000", "layers": 4, "heads": 4, "width": 128, "context": 128}
USUAL |= {"batch": 16, "steps": 2_000_000, "chunks": 20, "patience": 10}
OF_TASKS = {**USUAL, "tokenizer": "characters", "layers": 2, "width": 64, "context": 32}
OF_TASKS |= {"batch": 64, "chunks": 100, "patience": 30}
OF_MODEL = ("tokenizer", "layers", "heads", "width")  # a model to start from has these
FLUENT = 1.1  # a validation perplexity at which more than half of the sampled answers of a task are right
SAMPLES = 5  # texts shown during a run


def _short(value: int | str) -> str:
    """A value of an option in a few characters.

    >>> _short(2_000_000), _short(64), _short("bytes")
    ('2e6', '64', 'bytes')
    """
    return f"{value:g}".replace("e+0", "e") if isinstance(value, int) else value


def _usual(name: str) -> str:
    """The words of a help text about an option that is not given."""
    usual, of_tasks = (_short(x) for x in (USUAL[name], OF_TASKS[name]))
    return f"[default: {usual}" + (f"; of a task with known answers {of_tasks}]" if of_tasks != usual else "]")


def parameters() -> tuple[list[click.Parameter], list[click.Option]]:
    """The options of `purerl text pretrain`: those of the run, and the hyperparameters."""
    say = partial(click.Option, show_default=True)
    run: list[click.Parameter] = [
        click.Argument(["data"], metavar="DATA"),
        click.Option(["--tokenizer"], metavar="KIND", help="bytes, characters, bpe:SIZE (trained on the data), or the "
                     f"folder or tokenizer.json of one  {_usual('tokenizer')}"),
        click.Option(["--model"], metavar="FOLDER", help="a model to start from, with its tokenizer  [default: a new "
                     "one]"),
        click.Option(["--layers"], type=Count(), help=f"of a new model  {_usual('layers')}"),
        click.Option(["--heads"], type=Count(), help=f"of a new model; they divide --width  {_usual('heads')}"),
        click.Option(["--width"], type=Count(), help=f"of a new model  {_usual('width')}"),
        click.Option(["--context"], type=Count(), help=f"tokens that the model sees at once  {_usual('context')}"),
        click.Option(["--tokens", "steps"], type=Count(total=True), help="tokens to train on, repetitions included, "
                     f"and of pairs what fills up shorter ones  {_usual('steps')}"),
        click.Option(["--batch"], type=Count(), help=f"sequences of each update  {_usual('batch')}"),
        say(["--validation"], type=Range(0, 0.5, min_open=True), default=0.05,
            help="share of the data that is held out for the validation perplexity"),
        click.Option(["--patience"], type=Count(), help="stop after so many points of the curve without a better "
                     f"validation perplexity  {_usual('patience')}"),
        click.Option(["--until"], type=Range(1), metavar="PERPLEXITY", help="stop where the validation perplexity is "
                     "at most this"),
        say(["--seeds"], type=Count(), default=1, help="number of seeds, each a model of its own"),
        say(["--seed"], type=Seed(), default=0, help="of all random numbers"),
        click.Option(["--chunks"], type=Count(), help="points of the learning curve; validation, saving and stopping "
                     f"take place at these  {_usual('chunks')}"),
        say(["--tensorboard/--no-tensorboard"], default=False, help="write TensorBoard files into the directory"),
        click.Option(["--wandb"], metavar="PROJECT", help="log to a project of Weights & Biases"),
        click.Option(["--mlflow"], metavar="EXPERIMENT", help="log to an experiment of MLflow"),
    ]  # fmt: skip
    return run, hyperparameter_options(Likelihood)


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """A config with a value for every option that was not given.

    Raises:
      ValueError: for an option of a new model beside a model to start from.
    """
    usual = OF_TASKS if assembly.is_task(given["data"]) else USUAL
    if given["model"]:
        for name in OF_MODEL:
            if given[name] is not None:
                raise ValueError(f"--{name} is {given[name]}; it is of a new model: leave it out, as --model is given")
        usual = {name: x for name, x in usual.items() if name not in OF_MODEL}
    return {**given, **{name: x for name, x in usual.items() if given[name] is None}}


def defaults(data: str) -> dict[str, Any]:
    """The config of a run on data with all options at their defaults; of a task it ends before a model is perfect."""
    run, own = parameters()
    until = ["--until", str(FLUENT)] if assembly.is_task(data) else []
    context = click.Command("defaults", params=[*run, *own]).make_context("defaults", [data, *until])
    values = {p.name: context.params[p.name] for p in run}
    return complete({**values, "hyperparameters": {p.name: context.params[p.name] for p in own}})


def _watch(model: Any, tokenizer: Any, held_out: assembly.Examples, num_runs: int, config: Mapping[str, Any]) -> Watch:
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

    def after(directory: Path, rows: Rows, state: Callable[[], Any], last: bool) -> Iterator[str]:
        scores = np.stack([row["validation_perplexity"] for row in rows])
        scores = np.where(np.isnan(scores), np.inf, scores)
        if scores[-1].min() <= scores.min():
            best = int(scores[-1].argmin())
            params = jax.tree.map(lambda x: x[best], state().agent.params)
            huggingface.save(directory / assembly.MODEL, model.shape, params, tokenizer)
        if last or len(rows) % max(1, config["chunks"] // SAMPLES) == 0:
            run = int(scores[-1].argmin())
            text = write(state().agent.params, run, jax.random.key(len(rows)))
            begun = tokenizer.decode(prompt[0].tolist()) if prompt[0, 0] != tokenizer.end else ""
            yield f"sample: {begun}{tokenizer.decode(text.tokens[0, : int(text.length[0])].tolist())}"
            yield ""

    def ends(rows: Rows) -> np.ndarray:
        scores = np.stack([row["validation_perplexity"] for row in rows])
        scores = np.where(np.isnan(scores), np.inf, scores)
        worse = len(rows) - 1 - scores.argmin(axis=0) >= config["patience"]
        return worse | (scores[-1] <= (config["until"] or 0.0))

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
    train, held_out = assembly.held_out(source, found, config["validation"])
    if config["model"]:
        config["model"] = str(assembly.model_folder(config["model"]))
        model, params, tokenizer = assembly.load_model(config["model"])
        length = min(length, model.shape.context)
    else:
        tokenizer, params = assembly.tokenizer_of(config["tokenizer"], assembly.all_texts(found, between)), None
        sizes = (config[name] for name in ("context", "width", "layers", "heads"))
        model = models.gpt2(models.GPT2(tokenizer.size, *sizes))
    title = assembly.short_name(source)
    if isinstance(train, data.Pairs):
        rows, count = assembly.of_pairs(tokenizer, train, length, between), sum(map(len, train.references))
        batches, size = assembly.drawn(rows, batch), rows.mask.shape[1]
        if len(rows.tokens) < count:
            title += f", the {len(rows.tokens):,} of {count:,} pairs that have at most {length + 1} tokens"
    else:
        batches, size = assembly.batches(tokenizer, train, length, between, batch), length
    num_updates = check_updates("--tokens", config["steps"], batch * size)
    if num_updates < 1:
        raise ValueError(
            f"--tokens is {config['steps']}; one update is {batch} x {size} = {batch * size} tokens, and there must be "
            "at least one"
        )
    values = config["hyperparameters"]
    if values["anneal_updates"] is None:
        values["anneal_updates"] = (float(num_updates),)
    grid, swept, labels = grid_of(Likelihood, values)
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
    count = sum(x.size for x in jax.tree.leaves(state.agent.params))
    return Plan(
        config=config,
        title=f"a model of {count:,} parameters on {title}",
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
        steps_per_update=batch * size,
        files={path: path for path in files},
        metric="validation_perplexity",
        unit="tokens",
        watch=_watch(model, tokenizer, held_out, seeds * len(grid), config),
    )
