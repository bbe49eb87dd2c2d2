"""Samplers of Optuna by batched ask and tell: many processes may work on one study."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purerl.search.spaces import Choice, Space, to_json

IDENTITY = "purerl"  # the attribute of a study that says what its trials are
NAME = "purerl"  # of the study in its storage
SAMPLERS: Mapping[str, Callable[[Any, int], Any]] = {
    # trials that are being trained count as bad ones, so that those of a batch differ
    "tpe": lambda optuna, seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "cma-es": lambda optuna, seed: optuna.samplers.CmaEsSampler(seed=seed),
    "gp": lambda optuna, seed: optuna.samplers.GPSampler(seed=seed),
    "nsga-ii": lambda optuna, seed: optuna.samplers.NSGAIISampler(seed=seed),
}


class Study(NamedTuple):
    """Two functions that each access the storage a few times for a whole batch of trials."""

    ask: Callable[[int], tuple[list[int], list[dict[str, Any]]]]  # most trials -> their numbers, and values
    tell: Callable[[Sequence[int], np.ndarray], None]  # numbers, scores; again without effect


def _import() -> Any:
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("this sampler needs Optuna: pip install 'purerl[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def check(sampler: str) -> None:
    """Raise a ValueError unless Optuna is installed; some samplers need a package more, which they name."""
    try:
        SAMPLERS[sampler](_import(), 0)
    except ImportError as error:
        raise ValueError(f"--sampler is {sampler}; {' '.join(str(error).split())}") from error


def _storage(optuna: Any, where: str) -> Any:
    """A database for a URL, otherwise a journal in a file."""
    try:
        if "://" in where:
            return optuna.storages.RDBStorage(where)
        from optuna.storages.journal import JournalFileBackend  # pyright: ignore[reportMissingImports]

        if not Path(where).parent.is_dir():
            raise ValueError(f"there is no directory {Path(where).parent}")
        return optuna.storages.JournalStorage(JournalFileBackend(where))
    except Exception as error:  # each database has its own
        raise ValueError(f"--study is {where}; it cannot be opened: {error}") from error


def _distribution(optuna: Any, dimension: Any) -> Any:
    """Values of a choice by their numbers: widths are no values of Optuna's."""
    if isinstance(dimension, Choice):
        return optuna.distributions.CategoricalDistribution(range(len(dimension.values)))
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def opened(where: str, sampler: str, seed: int, space: Space, identity: Mapping[str, Any], trials: int) -> Study:
    """Open a study, or create it.

    Args:
      where: a file of Optuna's journal, or the URL of a database.
      identity: what every trial of the study has in common, such as agent, environment and steps.
      trials: how many are to finish, those of other processes included; a batch that each of these has begun may exceed
        it. Trials of a process that was killed and not resumed stay unfinished in the study, and do not count.
    Raises:
      ValueError: if Optuna is missing, the storage cannot be opened, or the study is of another identity or space.
    """
    optuna = _import()
    states = optuna.trial.TrialState
    study = optuna.create_study(
        storage=_storage(optuna, where), study_name=NAME, direction="maximize", load_if_exists=True,
        sampler=SAMPLERS[sampler](optuna, seed),
    )  # fmt: skip
    wanted = json.loads(json.dumps({**identity, "space": to_json(space)}))
    found = study.user_attrs.get(IDENTITY)
    if found is None:
        study.set_user_attr(IDENTITY, wanted)
    elif found != wanted:
        name = next(n for n in [*wanted, *found] if found.get(n) != wanted.get(n))
        raise ValueError(f"--study is {where}; its {name} is {found.get(name)}, here it is {wanted.get(name)}")
    distributions = {name: _distribution(optuna, x) for name, x in space.items()}

    def value(name: str, given: Any) -> Any:
        dimension = space[name]
        return dimension.values[given] if isinstance(dimension, Choice) else given

    def ask(count: int) -> tuple[list[int], list[dict[str, Any]]]:
        finished = (states.COMPLETE, states.FAIL)
        left = trials - len(study.get_trials(deepcopy=False, states=finished))
        asked = [study.ask(distributions) for _ in range(min(count, max(left, 0)))]
        return [t.number for t in asked], [{name: value(name, x) for name, x in t.params.items()} for t in asked]

    def tell(numbers: Sequence[int], scores: np.ndarray) -> None:
        for number, score in zip(numbers, scores.tolist(), strict=True):
            broken = {"state": states.FAIL} if np.isnan(score) else {"values": score}
            study.tell(number, **broken, skip_if_finished=True)

    return Study(ask, tell)
