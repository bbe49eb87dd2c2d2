"""How processes of one run meet and watch each other, with threads in their place."""

import concurrent.futures
import contextlib
import socket
import threading
import time

import numpy as np
import pytest

from purerl.training import processes


@pytest.mark.parametrize(
    "where, said",
    [
        ("host:1", "must be HOST:PORT,PROCESS/PROCESSES"),
        ("host,0/2", "must be HOST:PORT"),
        (":1,0/2", "must be HOST:PORT"),
        ("host:1,a/2", "must be HOST:PORT"),
        ("host:70000,0/2", "must be HOST:PORT"),
        ("host:1,-1/2", "must be HOST:PORT"),
        ("host:1,2/2", "of 2 processes the numbers are 0 to 1"),
    ],
)
def test_a_place_that_is_none(where, said):
    with pytest.raises(ValueError, match=f"distributed is '{where}'; .*{said}"):
        processes.distributed(where)
    assert processes.parsed("[::1]:5,1/3") == ("::1", 5, 1, 3)


def test_without_a_cluster_or_time():
    with pytest.raises(ValueError, match="no SLURM, Open MPI or Kubernetes that jax detects"):
        processes.distributed()
    with pytest.raises(ValueError, match=r"timeout is 0\.5; it must be at least 1 s"):
        processes.distributed("localhost:1,0/2", timeout=0.5)


def test_a_job_of_slurm_is_detected(monkeypatch):
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[003-007]", "SLURM_NTASKS": "64", "SLURM_PROCID": "9"}
    for name, value in {**job, "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "1234")
    assert processes._detected(1) == ("node003", 1234, 9, 64, [1])


def meet(port, *places, timeout=2.0):
    """What processes with these (number, count) find: the port they agree on, or the error of each."""

    def one(place):
        group = processes._Group(*place, timeout)
        try:
            found = (processes._receive if place[0] == 0 else processes._join)(group, *arguments(place))
        except ValueError as error:
            found = str(error)
        return found, group

    arguments = lambda place: (port,) if place[0] == 0 else ("localhost", port)
    with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
        results = list(pool.map(one, places))
    for _, group in results:
        for peer in group.peers.values():
            peer.close()
    return [found for found, _ in results]


@pytest.fixture
def free():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def connected(port):
    """A connection to process 0, which another thread starts meanwhile."""
    while True:
        try:
            return socket.create_connection(("localhost", port), timeout=20)
        except OSError:
            time.sleep(0.05)


def test_processes_meet(free):
    a, b, c = meet(free, (0, 3), (1, 3), (2, 3))
    assert isinstance(a, int) and a == b == c


@pytest.mark.parametrize(
    "places, said",
    [
        (((0, 2), (1, 3)), "process 0 is one of 2 processes, process 1 one of 3"),
        (((0, 3), (1, 3), (1, 3)), "two processes are numbered 1"),
        (((0, 3), (1, 3)), "1 of 3 processes did not start within 2 s: 2"),
    ],
)
def test_all_hear_what_does_not_fit(places, said, free):
    for found in meet(free, *places):
        assert found == f"distributed: {said}"


def test_a_process_that_has_ended_before_all_are_there_may_be_started_again(free):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(meet, free, (0, 3), timeout=20.0)
        with connected(free) as ended:
            processes._say(ended, process=1, processes=3)
        one, two = meet(free, (1, 3), (2, 3), timeout=20.0)
        assert isinstance(one, int) and [one] == [two] == first.result()


def test_a_process_that_has_ended_counts_as_missing(free):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(meet, free, (0, 3), timeout=2.0)
        with connected(free) as ended:
            processes._say(ended, process=1, processes=3)
        assert first.result() == ["distributed: 2 of 3 processes did not start within 2 s: 1, 2"]


STRANGERS = [
    b"",  # says nothing
    processes.GREETING,  # nor goes on
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00",  # of TLS, without a line's end
    b"{}\n",
    b'{"process": 5, "processes": 3}\n',
    b'{"process": -1, "processes": 3}\n',
    b'{"process": [\n',
    processes.GREETING + 5000 * b"[" + b"\n",
]


def test_strangers_are_refused_and_delay_nobody(free, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 20.0)  # so that a loaded machine is not taken for a delay
    with concurrent.futures.ThreadPoolExecutor() as pool, contextlib.ExitStack() as open_:
        first = pool.submit(meet, free, (0, 3), timeout=30.0)
        strangers = [open_.enter_context(connected(free)) for _ in STRANGERS]
        for stranger, text in zip(strangers, STRANGERS, strict=True):
            stranger.sendall(text)
        begin = time.monotonic()
        for stranger in strangers[2:]:  # while others are waited for
            with contextlib.suppress(ConnectionResetError):  # by what it has sent and nobody has read
                assert stranger.recv(1) == b""
        for stranger in strangers[:2]:
            stranger.settimeout(0)
            with pytest.raises(BlockingIOError):
                stranger.recv(1)
        one, two = meet(free, (1, 3), (2, 3), timeout=30.0)
        assert isinstance(one, int) and [one] == [two] == first.result()
        assert time.monotonic() - begin < processes.PATIENCE / 2


def test_a_connection_that_is_silent_is_closed_in_the_end(free, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(meet, free, (0, 2), timeout=20.0)
        with connected(free) as stranger:
            assert stranger.recv(1) == b""
        (one,) = meet(free, (1, 2), timeout=20.0)
        assert [one] == first.result()


@pytest.mark.parametrize("error", [OSError("no place"), ValueError("no place")])
@pytest.mark.parametrize("process", [0, 1])
def test_an_error_of_the_first_process_is_raised_in_all(monkeypatch, process, error):
    heard, group = [], processes._Group(process, 2, 60.0)
    monkeypatch.setattr(processes, "_group", group)
    monkeypatch.setattr(processes, "_texts", lambda text: heard.append(text) or ["no place", ""])

    def fail():
        raise error

    with pytest.raises((OSError, ValueError), match="no place") as caught:
        processes.by_first(fail)
    assert heard == [["no place", ""][process]] and (caught.value is error) == (process == 0)


def test_a_first_process_that_is_missing_or_another_program(free):
    (found,) = meet(free, (1, 2), timeout=1)
    assert found.startswith(f"distributed: no process 0 at localhost:{free} within 1 s: ")
    with socket.create_server(("localhost", free)) as server:
        (found,) = meet(free, (0, 2), timeout=1)
        assert found.startswith(f"distributed: port {free} cannot be opened: ")
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        (found,) = meet(free, (1, 2), timeout=1)
        assert found == f"distributed: process 0 at localhost:{free} has ended or does not answer"


class Watched(processes._Group):
    """Of two processes, that notes how it would have ended."""

    def __init__(self, process, peer, timeout=60.0):
        super().__init__(process, 2, timeout)
        self.peers[1 - process], self.said = peer, None

    def quit(self, text, code):
        self.said, self.code = text, code


@pytest.fixture
def pair(monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.0)
    one, other = socket.socketpair()
    with one, other:
        other.settimeout(20.0)  # a word that never comes fails a test, which would wait for ever
        yield Watched(0, one), other


def test_a_peer_that_ends_is_lost_and_one_that_takes_leave_is_not(pair):
    group, other = pair
    other.sendall(b"\nby")
    other.sendall(b"e\n")
    other.close()
    group.watch()
    assert group.said is None and not group.lost.is_set()


def test_a_peer_that_ends_is_lost(pair):
    group, other = pair
    other.close()
    group.watch()
    assert group.said == "process 1 of 2 has ended; start all of them again to go on" and group.lost.is_set()
    assert group.code == 1


def test_the_error_of_a_peer_is_that_of_all(pair):
    group, other = pair
    other.sendall(b'\n"--seeds is \\u03b3"\n')
    other.close()
    group.watch()
    assert (group.said, group.code) == ("--seeds is γ", 2) and group.lost.is_set()


def test_a_process_that_ends_by_an_error_says_it(pair, monkeypatch):
    group, other = pair
    monkeypatch.setattr(processes, "_group", group)
    monkeypatch.setattr(processes.os, "_exit", lambda code: None)
    processes.abandon(2, "two\nlines")
    assert other.recv(99) == b'"two\\nlines"\n'
    processes.abandon(1)
    other.settimeout(0)
    with pytest.raises(BlockingIOError):
        other.recv(1)


def test_a_peer_says_who_is_lost(pair):
    group, other = pair
    group.processes = 5
    other.sendall(b"\n\n4\n")
    group.watch()
    assert group.said.startswith("process 4 of 5 has ended")


def test_signs_of_life(pair):
    """A peer that is silent is lost after the timeout, and one that speaks is not."""
    group, other = pair
    group.timeout, begin = 1.0, time.monotonic()
    watching = threading.Thread(target=group.watch, daemon=True)
    watching.start()
    for _ in range(6):
        time.sleep(0.25)
        other.sendall(b"\n")
    spoke = time.monotonic() - begin
    watching.join(5)
    assert group.said.startswith("process 1 of 2 has not answered for 1 s")
    assert time.monotonic() - begin > spoke + 0.9
    assert other.recv(4096).count(b"\n") >= 6  # it was told that this one lives


def test_an_error_of_a_collective_waits_for_the_watch(pair, monkeypatch):
    group, _ = pair
    group.timeout = 0.1
    monkeypatch.setattr(processes, "_group", group)
    begin = time.monotonic()
    processes.settle(ValueError("--seeds is 3"))
    assert time.monotonic() - begin < 0.1
    processes.settle(ValueError("UNKNOWN: Gloo AllGather failed"))
    assert time.monotonic() - begin > 0.1  # nobody was lost: the error is its own


def test_one_process_agrees_with_itself():
    assert processes.is_first() and processes.count() == 1
    assert processes.any_of(True, False) == [True, False] and processes.agreed_text("a") == "a"
    np.testing.assert_array_equal(processes.agreed([1, 2]), [1, 2])
    processes.check_same("commands", {"a": 1})
    calls = []
    processes.by_first(calls.append, 1)
    processes.in_turn(calls.append, 2)
    assert calls == [1, 2]
    processes.abandon(1)  # nothing: there are no others
