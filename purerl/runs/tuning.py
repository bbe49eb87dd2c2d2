"""Searches for hyperparameters in directories: train, resume, and the winner on fresh seeds.

A search is a population, or consists of generations: more than one only where a sampler learns from results.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from purerl.runs import evolution, execute, files, generations, report, search_report, studies, sweeps
from purerl.runs.generations import FOLDER
from purerl.runs.plans import plan_with
from purerl.runs.search import Search, command_of, config_of, final_of, points_of, read, stored
from purerl.runs.search_report import Winner
from purerl.search.designs import Points

TRIALS, FINAL, JOURNAL = "trials.json", "final", "study.journal"


def _identity(search: Search) -> dict:
    """What all trials of a study have in common, whichever process trains them."""
    kept = {name: x for name, x in search.base.items() if name not in (*search.space, "seed", "chunks")}
    kept["hyperparameters"] = {n: x for n, x in kept["hyperparameters"].items() if n not in search.space}
    return kept


def _study(search: Search, directory: Path) -> studies.Study:
    """Where the trials come from: a design, all at once, or a study of Optuna's."""
    if search.sampler not in studies.SAMPLERS:
        points = points_of(search)
        return studies.Study(lambda generation, count: (list(range(len(points))), points), lambda numbers, scores: None)
    where = search.study or str(directory / JOURNAL)
    return studies.opened(where, search.sampler, search.base["seed"], search.space, _identity(search), search.trials)


def train(search: Search, directory: Path | None, devices: int | None, save_every: float) -> Path:
    """Run a search in a new directory, and return it.

    Raises:
      ValueError: before anything is written, if some of its trials are not valid.
      Stopped: if it was interrupted.
    """
    base = plan_with(config_of(search, {}), {})
    if search.sampler not in studies.SAMPLERS:  # those of a population, too
        generations.planned(search, points_of(search), Path("not", "written"), None, None)
    directory = directory or report.unused(Path("runs") / f"tune-{base.name}")
    files.check_new(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{directory} cannot be made: {error.strerror or error}") from error
    files.write_config(directory, stored(search))
    resume(directory, devices, save_every)
    return directory


def resume(directory: Path, devices: int | None, save_every: float, code: str | None = None) -> None:
    """Go on with a search, to its end.

    code: the user's files to execute instead of the original ones; see `sources.sources`.
    Raises:
      Stopped: if it was interrupted; everything up to there is on disk.
      ValueError: if no trial has a score.
    """
    search = read(directory)
    with files.locked(directory):
        find = evolution.train if search.population else _best
        winner = find(search, directory, devices, save_every, code)
        final = directory / FINAL
        report.note(f"the best trial, on {report.counted(search.final_seeds, 'fresh seed')}: {winner.command}")
        with sweeps.as_one(directory, final):
            if not (final / files.CONFIG).is_file():
                shutil.rmtree(final, ignore_errors=True)  # its creation was cut off: it holds no training
                plan = generations.new_plan(winner.config, generations.existing(directory), code)
                execute.train(plan, final, devices, save_every)
            elif not sweeps.complete(final):
                execute.resume(final, None, None, devices, save_every, code=code)
        search_report.finish(directory, winner, sweeps.panel(final).curves[0].final)


def _best(search: Search, directory: Path, devices: int | None, save_every: float, code: str | None) -> Winner:
    """Train all generations to their end, or go on with them, and return the best trial.

    Raises:
      Stopped: if it was interrupted.
      ValueError: if no trial has a score.
    """
    study, trials = _study(search, directory), []
    for generation in range(search.trials if search.sampler in studies.SAMPLERS else 1):
        folder = directory / f"{FOLDER}{generation:03d}"
        numbers, points = _asked(search, folder) if (folder / TRIALS).is_file() else study.ask(generation, search.batch)
        if not points:
            break
        folder.mkdir(exist_ok=True)
        files.write_json(folder / TRIALS, {"numbers": numbers, "points": points})
        members = generations.planned(search, points, folder, generations.existing(directory), code)
        generations.create(members, devices)
        generations.announce(search, members, generation, len(points))
        found = generations.train(search, directory, points, members, devices, save_every)
        study.tell(numbers, np.array([trial.score for trial in found]))
        trials += found
        search_report.write(directory, search.space, trials)
    if not trials:
        raise ValueError(
            f"{directory}: the study has {search.trials} trials already, so none was left; give more --trials"
        )
    best = trials[search_report.ordered(trials)[0]]
    search_report.check(directory, best)
    search_report.show(search.space, trials)
    search_report.pictures(directory, search.space, trials)
    config = final_of(search, best.values)
    return Winner(best, len(trials), config, command_of(config))


def _asked(search: Search, folder: Path) -> tuple[list[int], Points]:
    """The trials of a generation that has begun; a tuple, such as widths, is a list in its file."""
    found = files.read_json(folder / TRIALS)
    as_tuple = lambda x: tuple(x) if isinstance(x, list) else x
    return found["numbers"], [{name: as_tuple(point[name]) for name in search.space} for point in found["points"]]
