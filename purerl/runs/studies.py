"""Samplers of Optuna by batched ask and tell: many processes may work on one study."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from purerl.runs.files import CONFIG
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


OPENINGS = 5  # attempts, each after another process has created some of the tables
# seconds until a server counts as unreachable, and milliseconds until a connection that is silent counts as lost
PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 30_000}


class Study(NamedTuple):
    """Two functions that each access the storage a few times for a whole batch of trials."""

    # a generation, and its most trials -> their numbers, and values
    ask: Callable[[int, int], tuple[list[int], list[dict[str, Any]]]]
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


def _database(optuna: Any, url: str) -> Any:
    """A database; a connection that was lost while a batch was trained is opened again."""
    how: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("postgresql"):
        url = re.sub("^postgresql:", "postgresql+psycopg:", url)  # which driver is the default depends on SQLAlchemy
        how["connect_args"] = PATIENCE
    for _ in range(OPENINGS - 1):
        with contextlib.suppress(*_errors("ProgrammingError", "IntegrityError")):  # others create the same tables
            return optuna.storages.RDBStorage(url, engine_kwargs=how)
    return optuna.storages.RDBStorage(url, engine_kwargs=how)


def _storage(optuna: Any, where: str) -> Any:
    """A database for a URL, otherwise a journal in a file."""
    try:
        if "://" in where:
            return _database(optuna, where)
        from optuna.storages.journal import JournalFileBackend  # pyright: ignore[reportMissingImports]

        if not Path(where).parent.is_dir():
            raise ValueError(f"there is no directory {Path(where).parent}")
        return optuna.storages.JournalStorage(JournalFileBackend(where))
    except Exception as error:  # each database has its own
        cause = _cause(error)
        if getattr(cause, "name", None) == "psycopg":
            cause = "PostgreSQL needs a driver: pip install 'purerl[postgresql]'"
        raise ValueError(f"--study is {_shown(where)}; it cannot be opened: {cause}") from error


def _errors(*names: str) -> tuple[type[Exception], ...]:
    """Exceptions of SQLAlchemy's, which Optuna requires."""
    try:
        from sqlalchemy import exc  # pyright: ignore[reportMissingImports]
    except ImportError:
        return ()
    return tuple(getattr(exc, name) for name in names)


def _cause(error: BaseException) -> BaseException:
    """The first of the errors that an error was raised from: the driver's own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _shown(where: str) -> str:
    """A URL without its password."""
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1***", re.sub(r"(://[^:/@]*):.*@", r"\1:***@", where))


def check_location(where: str) -> None:
    """Raise a ValueError for a URL with a password, which would be readable in the directory of the search."""
    if "://" in where and _shown(where) != where:
        instead = "PGPASSWORD or ~/.pgpass" if where.startswith("postgresql") else "a file of the driver's"
        raise ValueError(f"--study is {_shown(where)}; its password would be written into {CONFIG}: leave it out, and "
                         f"give it in {instead}")  # fmt: skip


@contextlib.contextmanager
def _reached(optuna: Any, where: str) -> Iterator[None]:
    """Turn the error of a database that is lost during a search into a ValueError."""
    try:
        yield
    except (*_errors("SQLAlchemyError"), optuna.exceptions.StorageInternalError) as error:
        raise ValueError(f"--study is {_shown(where)}; it is lost, and purerl resume goes on when it is back: "
                         f"{_cause(error)}") from error  # fmt: skip


def _distribution(optuna: Any, dimension: Any) -> Any:
    """Values of a choice by their numbers: widths are no values of Optuna's."""
    if isinstance(dimension, Choice):
        return optuna.distributions.CategoricalDistribution(range(len(dimension.values)))
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _seed_of(seed: int, generation: int, count: int, first: int) -> int:
    """The seed of a batch's sampler: it depends on the generation, so that trials after a resume are what they would
    have been, and on the number of its first trial unless that is generation · count, as in a study of one process."""
    others = first != generation * count
    return int(np.random.SeedSequence([seed, generation, *([first] if others else [])]).generate_state(1)[0])


def opened(where: str, sampler: str, seed: int, space: Space, identity: Mapping[str, Any], trials: int) -> Study:
    """Open a study, or create it.

    Args:
      where: a file of Optuna's journal, or the URL of a database, such as postgresql://user@host/name.
      identity: what every trial of the study has in common, such as agent, environment and steps.
      trials: how many are to finish, those of other processes included; a batch that each of these has begun may exceed
        it. Trials of a process that was killed and not resumed stay unfinished in the study, and do not count.
    Raises:
      ValueError: if Optuna, a driver or what the sampler needs is missing, the storage cannot be opened, or the study
        is of another identity or space; by ask and tell, if the database is lost.
    """
    check(sampler)
    optuna = _import()
    states = optuna.trial.TrialState
    storage = _storage(optuna, where)
    wanted = json.loads(json.dumps({**identity, "space": to_json(space)}))
    with _reached(optuna, where):
        study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize", load_if_exists=True)
        found = study.user_attrs.get(IDENTITY)
        if found is None:
            study.set_user_attr(IDENTITY, wanted)
    if found not in (None, wanted):
        name = next(n for n in [*wanted, *found] if found.get(n) != wanted.get(n))
        raise ValueError(f"--study is {_shown(where)}; its {name} is {found.get(name)}, here it is {wanted.get(name)}")
    distributions = {name: _distribution(optuna, x) for name, x in space.items()}

    def value(name: str, given: Any) -> Any:
        dimension = space[name]
        return dimension.values[given] if isinstance(dimension, Choice) else given

    def ask(generation: int, count: int) -> tuple[list[int], list[dict[str, Any]]]:
        finished = (states.COMPLETE, states.FAIL)

        def begin(of: Any, first: Any) -> None:
            """Set the sampler of a batch when its first trial has its number, which no other process can have."""
            study.sampler = SAMPLERS[sampler](optuna, _seed_of(seed, generation, count, first.number))
            study.sampler.before_trial(of, first)

        study.sampler = SimpleNamespace(before_trial=begin)
        with _reached(optuna, where):
            left = trials - len(study.get_trials(deepcopy=False, states=finished))
            asked = [study.ask(distributions) for _ in range(min(count, max(left, 0)))]
        return [t.number for t in asked], [{name: value(name, x) for name, x in t.params.items()} for t in asked]

    def tell(numbers: Sequence[int], scores: np.ndarray) -> None:
        with _reached(optuna, where):
            for number, score in zip(numbers, scores.tolist(), strict=True):
                broken = {"state": states.FAIL} if np.isnan(score) else {"values": score}
                study.tell(number, **broken, skip_if_finished=True)

    return Study(ask, tell)
