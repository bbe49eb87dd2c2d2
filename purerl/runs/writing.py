"""Completions of prompts by language models on disk: generation, and tables of their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from purerl.runs import files, report
from purerl.runs.evaluation import evaluation_key
from purerl.runs.progress import progress_bar
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
    max_tokens: int,
    samples: int,
    temperature: float,
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
    if beam and (samples > 1 or filters):
        raise ValueError("--beam searches for the most probable completion; it excludes --samples, --top-k, --top-p "
                         "and --min-p")  # fmt: skip
    if length_penalty is not None and not beam:
        raise ValueError(f"--length-penalty is {length_penalty:g}; it is of beam search, and there is no --beam")
    language_model, params, tokenizer = assembly.load_model(model)
    if prompts_from is not None:
        try:
            lines = prompts_from.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{prompts_from} cannot be read: {error}") from error
        prompts = [*prompts, *(line for line in lines if line.strip())]
    prompts = list(prompts) or [""]
    between = _separator(model)
    asked = [text + between if text else text for text in prompts for _ in range(samples)]
    key = evaluation_key(seed)
    choose = _choice(temperature, filters)
    search = {"beam": beam, "length_penalty": 0.6 if length_penalty is None else length_penalty}
    found = generation.write(language_model, params, tokenizer, asked, key, max_tokens, choose, **search)
    for prompt, text in zip(asked, found.texts, strict=True):
        report.say(f"{prompt}{text}")


def _config(model: Path) -> dict[str, Any]:
    """The config of a run of `purerl text`; empty for another folder."""
    try:
        return files.read_config(model)
    except ValueError:
        return {}


def _settings(model: Path) -> Settings | None:
    """The settings of the text task of a run of `purerl text train`; None for another folder."""
    text = _config(model).get("text")
    return Settings(**text) if text else None


def _source(model: Path) -> str | None:
    """The data of a run of `purerl text`."""
    settings = _settings(model)
    return settings.data if settings else _config(model).get("data")


def _separator(model: Path) -> str:
    source = _source(model)
    return assembly.separator(source) if source else ""


class Row(NamedTuple):
    """The completions of one model, decoded in one way."""

    name: str
    texts: list[str]
    ended: list[bool]  # by themselves, before the limit


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
) -> None:
    """Print a table of scores of a model's completions, beside the model before training and copies of the prompts.

    Raises:
      ValueError: if there is no model or no data, or completions exceed the context.
    """
    settings = _settings(model)
    source = data or _source(model)
    if source is None:
        raise ValueError(f"{model} is not a run of `purerl text`, so DATA has to be named")
    temperature = temperature or (0.0, settings.temperature if settings else 1.0)
    limit = max_tokens or (settings.max_tokens if settings else 64)
    if out is not None:
        report.new_file(out, "--out", [".jsonl"])
    after = assembly.load_model(model)
    before = assembly.load_model(settings.model) if settings else None
    judged = assembly.load_model(judge) if judge else before or after
    prompts, references, between, about = _questions(source, part, examples, after, settings, limit)
    key, rows = evaluation_key(seed), []
    if between:
        rows.append(Row("copy of the prompt", [text.removesuffix(between) for text in prompts], [True] * len(prompts)))
    models = ([("before", before)] if before else []) + [("after" if before else "model", after)]
    with progress_bar() as bar:
        task = bar.add_task("completions", total=len(models) * (len(temperature) + bool(best_of)))
        for name, (language_model, params, tokenizer) in models:
            for tau in temperature:
                label = f"{name}, greedy" if tau == 0 else f"{name}, temperature {tau:g}"
                write = lambda key, tau=tau: generation.write(
                    language_model, params, tokenizer, prompts, key, limit, _choice(tau)
                )
                rows.append(Row(label, *write(key)))
                bar.advance(task)
            if best_of:
                choose = _choice(max(temperature) or 1.0)
                again = lambda key: generation.write(language_model, params, tokenizer, prompts, key, limit, choose)
                tries = [again(jax.random.fold_in(key, i)) for i in range(best_of)]
                rows.append(Row(f"{name}, best of {best_of}", *evaluation.best_by_references(tries, references)))
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


def _questions(source: str, part: str, examples: int, model: Any, settings: Settings | None, limit: int):
    """Prompts with their separator, spread evenly over the data, the references of each, the separator, and a note."""
    found, between = assembly.read(source, part), assembly.separator(source)
    language_model, _, tokenizer = model
    longest = settings.max_prompt if settings else language_model.shape.context - limit
    if longest < 1:
        raise ValueError(f"max_tokens is {limit}; the model's context is {language_model.shape.context}")
    if isinstance(found, Pairs):
        fit = fitting(tokenizer, found, longest, limit - 1, between)
        prompts, references = [text + between for text in fit.prompts], fit.references
        about = f"of {len(prompts):,} prompts that fit, of {len(found.prompts):,}"
    else:
        task = assembly.task_of(found, tokenizer, min(longest, 64), limit, between)
        prompts = [tokenizer.decode(row.tolist()) for row in task.prompts]
        references = [[tokenizer.decode(row[0].tolist())] for row in task.references]
        about = f"of {len(prompts):,} pieces"
    chosen = np.unique(np.linspace(0, len(prompts) - 1, min(examples, len(prompts))).round().astype(int))
    return [prompts[i] for i in chosen], [references[i] for i in chosen], between, about


def _show(rows: list[Row], prompts: list[str], references: Any, judge: Any, title: str, task: bool) -> None:
    judging, params, tokenizer = judge
    scores = [
        {
            **evaluation.quality(row.texts, references),
            **evaluation.diversity(row.texts),
            "perplexity": evaluation.perplexity(judging, params, tokenizer, prompts, *row[1:]),
        }
        for row in rows
    ]
    tables = ((title, ANSWERS),) if task else ((title, QUALITY), ("diversity", DIVERSITY))
    for heading, columns in tables:
        out = Table(title=heading, title_justify="left")
        out.add_column("in %", no_wrap=True)
        for name in columns.values():
            out.add_column(name, justify="right", no_wrap=True)
        for row, score in zip(rows, scores, strict=True):
            out.add_row(row.name, *[f"{score[name]:.{2 if name == 'perplexity' else 1}f}" for name in columns])
        report.console().print(out)
    if not task:
        report.say("R: F of ROUGE; S-BLEU: Self-BLEU, high where texts are alike; dist: distinct n-grams; rep-3: "
                   "repeated trigrams; words: their number")  # fmt: skip
    report.say("perplexity (ppl): a number, under the judge, by default the model before training")
    for row in rows:
        report.say(f"{row.name}: {prompts[0]}{row.texts[0]}")
    report.say(f"reference: {prompts[0]}{references[0][0]}")
