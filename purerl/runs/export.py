"""Export of runs: the policy of a checkpoint as a folder that needs no part of the package."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import build, statistics, training
from purerl.export import language, onnx, page, programs, saving
from purerl.export.folder import AGENT, PAGE
from purerl.runs import env_parameters, learned, loading, pretraining, report
from purerl.runs.evaluation import AT_ONCE, cap_of, evaluation_key
from purerl.runs.progress import progress_bar
from purerl.runs.record import ENOUGH
from purerl.text import assembly

FORMATS = {"stablehlo": (saving.STABLEHLO,), "onnx": (saving.ONNX,), "both": (saving.STABLEHLO, saving.ONNX)}
OF_ENVIRONMENT = ("observe", "time_limit", "sticky_actions")  # wrappers that the config names


def best(loaded: loading.Loaded) -> int:
    """The run with the largest mean return of its last episodes in training, among those that are not broken.

    The last ones are those before the checkpoint that is loaded, which may be an early one.

    Raises:
      ValueError: if there is none.
    """
    columns = loaded.metrics.columns
    sound = [run for run in range(loaded.plan.num_runs) if run not in loaded.broken]
    if not sound:
        raise ValueError("every run is broken: its state is not finite")
    if "episode_return" not in columns or len(sound) == 1:
        return sound[0]
    before = loaded.metrics.iterations[:, None] <= np.asarray(loaded.state.iteration)
    episodes = np.where(before, columns["episodes"], 0)
    final = statistics.last_returns(episodes, columns["episode_return"], ENOUGH)[sound]
    return sound[0] if np.isnan(final).all() else sound[int(np.nanargmax(final))]


def _runs(loaded: loading.Loaded, seed: str) -> list[int]:
    """The numbers of the runs that `--seed` names."""
    if seed == "best":
        return [best(loaded)]
    if seed == "all":
        return [run for run in range(loaded.plan.num_runs) if run not in loaded.broken]
    if not seed.isdecimal():
        raise ValueError(f"--seed is {seed!r}; it must be best, all, or the number of a run, from 0")
    if int(seed) >= loaded.plan.num_runs:
        raise ValueError(f"--seed is {seed}; there are {loaded.plan.num_runs} runs, from 0")
    if int(seed) in loaded.broken:
        raise ValueError(f"--seed is {seed}; that run is not finite from iteration {loaded.broken[int(seed)]} on")
    return [int(seed)]


def _about(loaded: loading.Loaded) -> dict[str, Any]:
    """What policy.json says about any run."""
    config = loaded.plan.config
    short = lambda name: Path(name).name if build.is_own(name) else name
    return {
        "agent": short(config["agent"]) if "agent" in config else "a language model",
        "environment": short(config["env"]) if "env" in config else Path(config["data"]).name,
    }


def _about_policy(loaded: loading.Loaded, run: int) -> dict[str, Any]:
    """What policy.json says about one run of an agent."""
    plan, config, one = loaded.plan, loaded.plan.config, loaded.one(run)
    plain = lambda x: float(x) if isinstance(x, (jax.Array, np.ndarray, np.floating)) else x
    names = [field.name for field in dataclasses.fields(one.hp)]
    hp = {name: plain(getattr(one.hp, name)) for name in names if not name.startswith(env_parameters.PREFIX)}
    iteration = int(one.state.iteration)
    hashes = {row["run"]: row["sha256"] for row in loaded.manifest["parameters"] if row["iteration"] == iteration}
    return {
        **_about(loaded),
        "env_params": env_parameters.recorded(one.env_params, {}),
        "wrappers": {name: config[name] for name in OF_ENVIRONMENT if config.get(name) is not None},
        "run": {
            "number": run, "name": plan.name_of(run), "iteration": iteration,
            "steps": iteration * plan.steps_per_update, "hyperparameters": hp, "sha256": hashes.get(run),
        },
    }  # fmt: skip


def _policy(
    loaded: loading.Loaded, run: int, out: Path, to: Sequence[saving.Format], choose: Callable, seed: int,
    episodes: int, max_steps: int | None, beside: saving.Beside | None,
) -> dict[str, Any]:  # fmt: skip
    one = loaded.one(run)
    agent, state = one.agent(jax.tree.map(jnp.float32, one.hp)), one.state.agent
    about = _about_policy(loaded, run)
    choose(agent, state, one.env.action_space(one.env_params))  # raises before episodes are played
    if beside:
        page.check(about)
    returns_key, parity_key = jax.random.split(jax.random.fold_in(evaluation_key(seed), run))
    greedy = choose is not programs.sampled
    limit = cap_of(one.env_params, one.plan.config["time_limit"], max_steps)
    play = partial(training.evaluate, one.env, one.env_params, agent, max_steps=limit, greedy=greedy)
    out_of = jax.jit(lambda state, key: play(state, key, num_episodes=episodes, at_once=AT_ONCE))(state, returns_key)
    about["unfinished_episodes"] = int((~out_of.finished).sum())
    files = {AGENT: learned.packed(one.state)}
    where, returns = (one.env, one.env_params), np.asarray(out_of.returns)
    more = {"files": files, **({"beside": beside} if beside else {})}
    return saving.save(out, *where, agent, state, parity_key, choose, to, returns, about, **more)


def _language_model(loaded: loading.Loaded, run: Path, out: Path, to: Sequence[saving.Format], seed: int) -> dict:
    folder = assembly.model_folder(run)
    model, params, tokenizer = assembly.load_model(folder)
    tokenizer_files = {path.name: path.read_bytes() for path in folder.glob("tokenizer*.json")}
    weights = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    about, key = {**_about(loaded), "model": weights}, evaluation_key(seed)
    return language.save(out, model, params, key, tokenizer.end, to=to, about=about, files=tokenizer_files)


def _page(to: str, wanted: bool, runtime: Path | None) -> saving.Beside | None:
    """The files of the page that `--page` asks for; None without one."""
    if not wanted:
        if runtime is not None:
            raise ValueError("--runtime is for --page, and there is none")
        return None
    if saving.ONNX not in FORMATS[to]:
        raise ValueError(f"--to is {to}; a page plays an ONNX model: give --to onnx or both")
    return page.beside(page.runtime(runtime) if runtime else {})


def export(
    run: Path, to: str, seed: str, out: Path | None, choose: Callable, episodes: int, max_steps: int | None,
    episode_seed: int, with_page: bool = False, runtime: Path | None = None, code: str | None = None,
    checkpoint: str | None = None,
) -> list[Path]:  # fmt: skip
    """Export policies of a run; return their folders.

    Args:
      to: a name of `FORMATS`.
      seed: "best", "all", or the number of a run.
      out: the folder, or the folder of folders of all runs; None: RUN/policy, numbered if there is one.
      choose: see `purerl.export.save`.
      episodes, max_steps, episode_seed: of the returns that policy.json notes, and of the comparison.
      code, checkpoint: see `purerl.runs.load`.
      with_page, runtime: write `export.page`, and beside it the files of ONNX Runtime Web that are in this folder.
    Raises:
      ValueError: if the run has no checkpoint, or as `purerl.export.save`.
    """
    beside = _page(to, with_page, runtime)
    if saving.ONNX in FORMATS[to]:
        onnx.check()
    loaded = loading.load(run, code, checkpoint)
    text = "text" in loaded.plan.config or loaded.plan.config.get("kind") == pretraining.KIND
    if text and (seed != "best" or choose is not programs.greedy or beside or checkpoint):
        raise ValueError("a language model is exported as the logits of its next token, and a run holds one: leave out "
                         "--seed, --checkpoint, --sampled, --q-values and --page")  # fmt: skip
    numbers = [0] if text else _runs(loaded, seed)
    out = out or report.unused(run / "policy")
    folders = [out] if seed != "all" else [out / str(number) for number in numbers]
    for folder in folders:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists and is not empty; give another --out, or remove it first")
    written = []
    with progress_bar() as bar:
        task = bar.add_task("exporting", total=len(folders))
        for number, folder in zip(numbers, folders, strict=True):
            if text:
                written.append(_language_model(loaded, run, folder, FORMATS[to], episode_seed))
            else:
                rest = FORMATS[to], choose, episode_seed, episodes, max_steps, beside
                written.append(_policy(loaded, number, folder, *rest))
            bar.advance(task)
    for folder, about in zip(folders, written, strict=True):
        _say(folder, about)
    return folders


def _say(folder: Path, about: dict[str, Any]) -> None:
    """Print what was written, and how far it agrees."""
    for file, measured in about["parity"].items():
        size = about["files"][file]["bytes"]
        report.say(
            f"{folder / file}: {size / 1024:.0f} KiB; the outputs for {measured['observations']} observations are the "
            f"agent's, up to {measured['largest_difference']:.1e}"
            + (f", and {measured['differing_ties']} of ties" if measured["differing_ties"] else "")
        )
    if score := about["return"]:
        cut = about["unfinished_episodes"]
        report.say(f"{about['run']['name']}: return {score['mean']:.1f} [{score['low']:.1f}, {score['high']:.1f}] in "
                   f"{score['episodes']} episodes" + (f", {cut} of them cut short" if cut else ""))  # fmt: skip
    if PAGE in about["files"]:
        report.say(f"the page: python -m http.server -d {folder}, then http://localhost:8000/{PAGE}")
    until = f"readable until {about['readable_until']}; " if saving.STABLEHLO.file in about["files"] else ""
    report.note(f"{until}`purerl.export.load({str(folder)!r})` gives policy(obs)")
