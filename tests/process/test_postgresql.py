"""One study of Optuna's in a PostgreSQL server, for several processes; the server is started here."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from commands import OWN, command, numbers_of, searched_together

from purerl.runs import studies
from purerl.search.spaces import choice, log_uniform

optuna = pytest.importorskip("optuna")
psycopg = pytest.importorskip("psycopg")
event, Engine = pytest.importorskip("sqlalchemy.event"), pytest.importorskip("sqlalchemy.engine").Engine

COMPLETE = optuna.trial.TrialState.COMPLETE
SPACE = {"rate": log_uniform(0.01, 1), "hidden": choice((4,), (8, 8))}
DEBIAN = "/usr/lib/postgresql"


def program(name):
    """The path of one of PostgreSQL's programs: on the search path, or where Debian has its versions; None."""
    versions = sorted(Path(DEBIAN).glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return shutil.which(name) or (str(versions[-1]) if versions else None)


class Server:
    """A PostgreSQL server on a socket in a directory of its own; as root it is another user's, as it demands."""

    def __init__(self, folder):
        self.folder = folder
        self.user = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
        self.user = self.user if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(folder, "nobody")
        self.call("initdb", "-U", "purerl", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")

    def call(self, name, *words):
        out = self.folder / "out"  # a server that starts keeps the pipes of its parent open
        given = [program(name), "-D", self.folder / "data", *words]
        with out.open("w") as file:
            ended = subprocess.run(given, stdout=file, stderr=file, cwd=self.folder, timeout=60, **self.user)
        assert ended.returncode == 0, out.read_text()

    def start(self):
        options = f"-c listen_addresses='' -c fsync=off -k {self.folder}"
        self.call("pg_ctl", "start", "-w", "-o", options, "-l", self.folder / "log")

    def stop(self):
        self.call("pg_ctl", "stop", "-w", "-m", "immediate")

    def database(self, name):
        """The URL of a new database."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name):
        return f"postgresql://purerl@/{name}?host={self.folder}"


@pytest.fixture(scope="module")
def server():
    for name in ("initdb", "pg_ctl"):
        if program(name) is None:
            pytest.skip(f"PostgreSQL's {name} is not installed: neither on the search path nor in {DEBIAN}")
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:  # a socket's path is short
        running = Server(Path(folder))
        running.start()
        try:
            yield running
        finally:
            running.stop()


def opened(url, space=SPACE, agent="a", trials=5, seed=0):
    return studies.opened(url, "tpe", seed, space, {"agent": agent}, trials)


@contextlib.contextmanager
def statements():
    """The statements that this process sends to databases."""
    sent = []
    note = lambda connection, cursor, statement, *_: sent.append(statement)
    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def words(directory, *arguments, steps=320):
    block = ["--num-envs", 4, "--rollout-length", 8, "--hidden", 4, "--steps", steps, "--final-seeds", 1]
    own = ["tune", f"{OWN}:mine", f"{OWN}:bandit", *block, "--rate", "log_uniform:0.01:10", "--sampler", "tpe"]
    return [*own, "--batch", 2, "--dir", directory, *arguments]


def trials_of(url):
    storage = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    return optuna.load_study(study_name=studies.NAME, storage=storage).trials


def said(capsys):
    """The one line of an error."""
    error = capsys.readouterr().err
    assert error.startswith("purerl: error: --study is postgresql://") and error.count("\n") == 1, error
    return error


@pytest.mark.wide  # two processes that compile
def test_two_processes_share_a_study(server, tmp_path, capsys):
    """Both start on a database without tables, and find each other's trials."""
    url, directories = server.database("shared"), [tmp_path / "a", tmp_path / "b"]
    searched_together(words, url, directories)
    numbers, trials = [numbers_of(directory) for directory in directories], trials_of(url)
    assert sorted([*numbers[0], *numbers[1]]) == [t.number for t in trials] == [*range(len(trials))]
    assert min(map(len, numbers)) > 0 and 6 <= len(trials) <= 8 and {t.state for t in trials} == {COMPLETE}
    assert command(*words(tmp_path / "c", "--study", url, "--trials", 9, steps=640)) == 2
    assert "its steps is 320, here it is 640" in said(capsys)


def test_the_database_is_not_used_while_trials_are_trained(server, tmp_path):
    """As many statements for a search of many chunks as for one of few."""
    counts = []
    for chunks in (1, 10):
        url = server.database(f"chunks_{chunks}")
        with statements() as sent:
            assert command(*words(tmp_path / str(chunks), "--study", url, "--trials", 4, "--chunks", chunks)) == 0
        assert len(trials_of(url)) == 4
        counts.append(len(sent))
    assert counts[0] == counts[1] > 4


def test_many_open_an_empty_database_at_once_and_no_trial_is_asked_twice(server):
    """The tables are created once; the others find them."""
    url = server.database("empty")

    def work(seed):
        study = opened(url, trials=12, seed=seed)
        numbers, _ = study.ask(0, 3)
        study.tell(numbers, np.full(3, float(seed)))
        return numbers

    with ThreadPoolExecutor(4) as pool:
        asked = [*pool.map(work, range(4))]
    values = {t.number: t.value for t in trials_of(url)}
    assert sorted(number for numbers in asked for number in numbers) == [*values] == [*range(12)]
    assert all(values[number] == seed for seed, numbers in enumerate(asked) for number in numbers)


def test_a_study_is_asked_and_told_by_batch_and_is_of_one_kind(server):
    url = server.database("batches")
    one, other = opened(url), opened(url)
    with statements() as sent:
        first, points = one.ask(0, 2)
        second, _ = other.ask(0, 2)
        one.tell(first, np.array([1.0, np.nan]))
        other.tell(second, np.array([2.0, 3.0]))
    assert sorted([*first, *second]) == [0, 1, 2, 3] and len(sent) < 4 * 60  # so many for each trial
    assert all(p["hidden"] in ((4,), (8, 8)) and 0.01 <= p["rate"] <= 1 for p in points)
    one.tell(first, np.array([9.0, 9.0]))  # again, such as after a resume: without effect
    values = {t.number: t.value for t in trials_of(url)}
    assert [values[n] for n in (*first, *second)] == [1.0, None, 2.0, 3.0]
    assert len(other.ask(1, 3)[0]) == 1  # of 5 trials, 4 have ended
    with pytest.raises(ValueError, match="its agent is a, here it is b"):
        opened(url, agent="b")
    with pytest.raises(ValueError, match=r"its space is .*, here it is "):
        opened(url, {"rate": log_uniform(0.01, 2)})


def test_a_server_that_is_lost_is_one_line_and_the_search_goes_on_later(server):
    study = opened(server.database("lost"))
    numbers, _ = study.ask(0, 2)
    server.stop()
    try:
        with pytest.raises(ValueError, match=r"--study is postgresql://.*; it is lost, and purerl resume goes on"):
            study.tell(numbers, np.array([1.0, 2.0]))
    finally:
        server.start()
    study.tell(numbers, np.array([1.0, 2.0]))
    assert [t.value for t in trials_of(server.url("lost"))] == [1.0, 2.0]


def test_a_server_that_cannot_be_reached_is_one_line_in_bounded_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(studies.PATIENCE, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begin = time.monotonic()
        given = ["--study", f"postgresql://me@127.0.0.1:{port}/x", "--trials", 2]
        assert command(*words(tmp_path / "silent", *given)) == 2
        assert "cannot be opened: " in (error := said(capsys)) and "timeout" in error
        assert time.monotonic() - begin < 30
    assert command(*words(tmp_path / "refused", *given)) == 2  # nobody listens any more
    assert "cannot be opened: " in (error := said(capsys)) and "refused" in error


def test_a_driver_that_is_missing_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert command(*words(tmp_path / "a", "--study", "postgresql://me@127.0.0.1:1/x", "--trials", 2)) == 2
    assert "PostgreSQL needs a driver: pip install 'purerl[postgresql]'" in said(capsys)
