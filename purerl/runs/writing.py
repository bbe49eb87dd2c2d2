"""Completions of prompts by language models on disk: generation, and tables of their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from purerl.runs import files, loading, report
from purerl.runs.evaluation import evaluation_key
from purerl.runs.progress import progress_bar
from purerl.runs.sources import config_of
from purerl.text import assembly, evaluation, generation
from purerl.text.assembly import Settings
from purerl.text.data import Pairs, fitting
from purerl.text.generation import Choice, Filter

ANSWERS = {"exact": "exact", "chrf": "chrF", "perplexity": "perplexity"}  # of tasks, whose answers are one word
QUALITY = {"bleu": "BLEU", "rouge1": "R-1", "rouge2": "R-2", "rougeL": "R-L", "exact": "exact", "perplexity": "ppl"}
DIVERSITY = {
    "self_bleu": "S-BLEU",
    "distinct1": "dist-1",
    "distinct2": "dist-2",
    "repetition": "rep-3",
    "words": "words",
}


def _choice(temperature: float, filters: Sequence[Filter] = ()) -> Choice:
    """Greedy at a temperature of 0, otherwise sampling."""
    return generation.sample(temperature, *filters) if temperature > 0 else generation.greedy


def generate(
    model: Path,
    prompts: Sequence[str],
    prompts_from: Path | None,
    max_tokens: int | None,
    samples: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    beam: int | None,
    length_penalty: float | None,
    seed: int,
) -> None:
    """Print completions of prompts; without a prompt, texts from their beginning.

    Raises:
      ValueError: if there is no model, a prompt does not fit, or options exclude each other.
    """
    named = ((generation.top_k, top_k), (generation.top_p, top_p), (generation.min_p, min_p))
    filters = [make(value) for make, value in named if value is not None]
    if beam and (samples > 1 or filters or temperature is not None):
        raise ValueError("--beam searches for the most probable completion; it excludes --samples, --temperature, "
                         "--top-k, --top-p and --min-p")  # fmt: skip
    if length_penalty is not None and not beam:
        raise ValueError(f"--length-penalty is {length_penalty:g}; it is of beam search, and there is no --beam")
    language_model, params, tokenizer = assembly.load_model(model)
    if prompts_from is not None:
        try:
            lines = prompts_from.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{prompts_from} cannot be read: {error}") from error
        prompts = [*prompts, *(line for line in lines if line.strip())]
        if not prompts:
            raise ValueError(f"{prompts_from} is empty; it must have a prompt a line")
    prompts = list(prompts) or [""]
    between = _separator(model)
    asked = [text + between if text else text for text in prompts for _ in range(samples)]
    if max_tokens is None:
        room = language_model.shape.context - max(len(tokenizer.encode(text)) for text in asked)
        max_tokens = min(64, max(room, 1))
    key = evaluation_key(seed)
    choose = _choice(1.0 if temperature is None else temperature, filters)
    search = {"beam": beam, "length_penalty": 0.6 if length_penalty is None else length_penalty}
    found = generation.write(language_model, params, tokenizer, asked, key, max_tokens, choose, **search)
    for prompt, text in zip(asked, found.texts, strict=True):
        report.say(f"{prompt}{text}")


def _config(model: Path, code: str | None = None) -> dict[str, Any]:
    """The config of a run of `purerl text`; empty for another folder.  code: see `sources.sources`."""
    if code is not None:
        return config_of(model, code)
    try:
        return files.read_config(model)
    except ValueError:
        return {}


def _has_several(config: dict[str, Any]) -> bool:
    """Whether a run of `purerl text train` has several seeds or hyperparameters."""
    values = config.get("hyperparameters", {}).values()
    return "text" in config and (config["seeds"] > 1 or any(isinstance(x, list) and len(x) > 1 for x in values))


def _settings(config: dict[str, Any]) -> Settings | None:
    """The settings of the text task of a run of `purerl text train`; None for another folder."""
    return Settings(**config["text"]) if config.get("text") else None


def _source(config: dict[str, Any]) -> str | None:
    """The data of a run of `purerl text`."""
    settings = _settings(config)
    return settings.data if settings else config.get("data")


def _separator(model: Path) -> str:
    source = _source(_config(model))
    return assembly.separator(source) if source else ""


class Row(NamedTuple):
    """The completions of one model, decoded in one way."""

    name: str
    texts: list[str]
    ended: list[bool]  # by themselves, before the limit
    mean: str = ""  # the name of the mean over seeds that it is a part of; "" for none


class Writer(NamedTuple):
    """A model that completes prompts."""

    name: str
    model: Any
    params: Any
    tokenizer: Any
    mean: str = ""  # as of `Row`


def _trained(directory: Path, several: bool, code: str | None = None) -> list[Writer]:
    """The model of a run or a folder; of a directory of several runs the model of each."""
    one = assembly.load_model(directory)
    if not several:
        return [Writer("after", *one)]
    loaded, found = loading.load(directory, code), []
    seeds = len(loaded.plan.keys)
    for run in sorted({*range(loaded.plan.num_runs)} - {*loaded.broken}):
        params, label = loaded.one(run).state.agent.params["model"], loaded.plan.labels[run // seeds]
        of = f"after, mean of seeds{f', {label}' if label else ''}" if seeds > 1 else ""
        found.append(Writer(f"after, {loaded.plan.name_of(run)}", one[0], params, one[2], of))
    return found


def evaluate(
    model: Path,
    data: str | None = None,
    part: str = "test",
    examples: int = 256,
    max_tokens: int | None = None,
    temperature: tuple[float, ...] | None = None,
    best_of: int | None = None,
    judge: Path | None = None,
    seed: int = 0,
    out: Path | None = None,
    code: str | None = None,
) -> None:
    """Print a table of scores of a model's completions, beside the model before training and copies of the prompts.

    A directory of several runs has rows for each of them, and their means over seeds.

    Raises:
      ValueError: if there is no model or no data, or completions exceed the context.
    """
    config = _config(model, code)
    settings = _settings(config)
    source = data or _source(config)
    if source is None:
        raise ValueError(f"{model} is not a run of `purerl text`, so DATA has to be named")
    temperature = temperature or (0.0, settings.temperature if settings else 1.0)
    if min(temperature) < 0 or not np.isfinite(temperature).all():
        raise ValueError(f"--temperature is {', '.join(f'{x:g}' for x in temperature)}; it must be 0 or above")
    if out is not None:
        report.new_file(out, "--out", [".jsonl"])
    after = _trained(model, _has_several(config), code)
    before = [Writer("before", *assembly.load_model(settings.model))] if settings else []
    if not before:
        after = [writer._replace(name="model") for writer in after]
    judged = assembly.load_model(judge) if judge else (before or after)[0][1:4]
    prompts, references, between, about, limit = _questions(source, part, examples, after[0], settings, max_tokens)
    key, rows, writers = evaluation_key(seed), [], before + after
    if between:
        rows.append(Row("copy of the prompt", [text.removesuffix(between) for text in prompts], [True] * len(prompts)))
    with progress_bar() as bar:
        task = bar.add_task("completions", total=len(writers) * (len(temperature) + bool(best_of)))
        for writer in writers:
            named = lambda how, writer=writer: (f"{writer.name}, {how}", f"{writer.mean}, {how}" if writer.mean else "")

            def write(key, choose, writer=writer):
                return generation.write(*writer[1:4], prompts, key, limit, choose)

            for tau in temperature:
                name, mean = named("greedy" if tau == 0 else f"temperature {tau:g}")
                rows.append(Row(name, *write(key, _choice(tau)), mean))
                bar.advance(task)
            if best_of:
                name, mean = named(f"best of {best_of}")
                choose = _choice(max(temperature) or 1.0)
                tries = [write(jax.random.fold_in(key, i), choose) for i in range(best_of)]
                rows.append(Row(name, *evaluation.best_by_references(tries, references), mean))
                bar.advance(task)
    title = f"{part} part of {assembly.short_name(source)}: {len(prompts)} {about}"
    _show(rows, prompts, references, judged, title, assembly.is_task(source))
    if out is not None:
        lines = [
            json.dumps({"prompt": prompt, "references": known, **{row.name: row.texts[i] for row in rows}})
            for i, (prompt, known) in enumerate(zip(prompts, references, strict=True))
        ]
        files.write(out, "\n".join(lines) + "\n")
        report.note(f"texts: {out}")


def _questions(source: str, part: str, examples: int, writer: Writer, settings: Settings | None, limit: int | None):
    """Prompts with their separator, spread evenly over the data, the references of each, the separator, a note, and
    the longest completion."""
    found, between = assembly.read(source, part), assembly.separator(source)
    tokenizer, context = writer.tokenizer, writer.model.shape.context
    if limit is None:
        limit = settings.max_tokens if settings else min(assembly.longest(found, tokenizer, between)[1], context // 2)
    longest = settings.max_prompt if settings else context - limit
    if longest < 1:
        raise ValueError(f"max_tokens is {limit}; the model's context is {context}")
    if isinstance(found, Pairs):
        fit = fitting(tokenizer, found, longest, limit - 1, between)
        prompts, references = [text + between for text in fit.prompts], fit.references
        fewer = len(prompts) < len(found.prompts)
        about = f"of {len(prompts):,} prompts" + (f" that fit, of {len(found.prompts):,}" if fewer else "")
    else:
        task = assembly.task_of(found, tokenizer, min(longest, 64), limit, between)
        prompts = [tokenizer.decode(row.tolist()) for row in task.prompts]
        references = [[tokenizer.decode(row[0].tolist())] for row in task.references]
        about = f"of {len(prompts):,} pieces"
    chosen = np.unique(np.linspace(0, len(prompts) - 1, min(examples, len(prompts))).round().astype(int))
    if len(chosen) < 2:
        raise ValueError(f"--examples is {examples}, and there are {len(prompts)} prompts; scores need two at least")
    return [prompts[i] for i in chosen], [references[i] for i in chosen], between, about, limit


def _show(rows: list[Row], prompts: list[str], references: Any, judge: Any, title: str, task: bool) -> None:
    judging, params, tokenizer = judge
    scores = [
        {
            **evaluation.quality(row.texts, references),
            **evaluation.diversity(row.texts),
            "perplexity": evaluation.perplexity(judging, params, tokenizer, prompts, row.texts, row.ended),
        }
        for row in rows
    ]
    named = [(row.name, score) for row, score in zip(rows, scores, strict=True)]
    for mean in dict.fromkeys(row.mean for row in rows if row.mean):
        parts = [score for row, score in zip(rows, scores, strict=True) if row.mean == mean]
        named.append((mean, {name: float(np.mean([score[name] for score in parts])) for name in parts[0]}))
    tables = ((title, ANSWERS),) if task else ((title, QUALITY), ("diversity", DIVERSITY))
    for heading, columns in tables:
        out = Table(title=heading, title_justify="left")
        out.add_column("in %", no_wrap=True)
        for name in columns.values():
            out.add_column(name, justify="right", no_wrap=True)
        for name, score in named:
            out.add_row(name, *[f"{score[key]:.{2 if key == 'perplexity' else 1}f}" for key in columns])
        report.console().print(out)
    if not task:
        report.say("R: F of ROUGE; S-BLEU: Self-BLEU, high where texts are alike; dist: distinct n-grams; rep-3: "
                   "repeated trigrams; words: their number")  # fmt: skip
    report.say("perplexity (ppl): a number, under the judge, by default the model before training")
    for row in rows:
        report.say(f"{row.name}: {prompts[0]}{row.texts[0]}")
    report.say(f"reference: {prompts[0]}{references[0][0]}")
