"""One run in several processes: they meet, watch each other, and exchange small arrays.

jax's own coordination service ends a process with a stack trace when a peer is missing, is numbered wrongly or has
ended. So processes meet here first, over plain TCP, and keep the connections: each hears at once that another one has
ended, and after the timeout that it does not answer.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AT_ONCE = 2**28  # bytes of arrays that are gathered together, and for that time are on every device
# seconds that a process has for its own last words, when another one has ended
GRACE = 2.0
GREETING = b'{"process": '  # how the first line of another process begins
PATIENCE = 5.0  # seconds that a connection has for that line
_SIGNS = ("Gloo", "gloo", "NCCL", "nccl", "RCCL", "coordination", "Connection reset", "Connection closed")


class _Group:
    """The processes of a run, as one of them sees them."""

    def __init__(self, process: int, processes: int, timeout: float):
        self.process, self.processes, self.timeout = process, processes, timeout
        self.peers: dict[int, socket.socket] = {}  # of process 0 all others, of the others process 0
        self.lost = threading.Event()
        self.end = threading.Lock()

    def send(self, line: bytes) -> None:
        for peer in list(self.peers.values()):
            with contextlib.suppress(OSError):  # that it is gone is seen where it is read
                peer.sendall(line + b"\n")

    def watch(self) -> None:
        """Read what the peers say until all have taken their leave, or end this process if one is lost."""
        heard, parts = dict.fromkeys(self.peers, time.monotonic()), dict.fromkeys(self.peers, b"")
        select, said = selectors.DefaultSelector(), 0.0
        for number, peer in self.peers.items():
            select.register(peer, selectors.EVENT_READ, number)
        while heard:
            if time.monotonic() - said > self.timeout / 4:
                said = time.monotonic()
                self.send(b"")
            for ready, _ in select.select(self.timeout / 8):
                number = ready.data
                try:
                    data = self.peers[number].recv(4096)
                except OSError:
                    data = b""
                *lines, parts[number] = (parts[number] + data).split(b"\n")
                heard[number] = time.monotonic()
                # "bye", the number of a process that is lost, or in quotes the error with which one ends
                if word := next(filter(None, lines), b""):
                    if word.startswith(b'"'):
                        return self.last(word, json.loads(word), 2)
                    if word != b"bye":
                        return self.lose(int(word), "has ended")
                    select.unregister(self.peers[number])
                    del heard[number]
                elif not data:
                    return self.lose(number, "has ended")
            for number, last in heard.items():
                if time.monotonic() - last > self.timeout:
                    return self.lose(number, f"has not answered for {self.timeout:g} s")
        return None

    def lose(self, number: int, how: str) -> None:
        """End this process, which cannot go on: its next collective would fail or wait for ever."""
        text = f"process {number} of {self.processes} {how}; start all of them again to go on"
        self.last(str(number).encode(), text, 1)

    def last(self, word: bytes, text: str, code: int) -> None:
        """Pass on a word why all end, and end this process."""
        self.send(word)
        self.lost.set()
        time.sleep(GRACE)  # the error of this process itself, if it has one, says more
        self.quit(text, code)

    def quit(self, text: str, code: int) -> None:
        """Say so, and end without waiting for the other processes."""
        with self.end:
            show = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor that a progress bar hides
            print(f"{show}purerl: error: {text}", file=sys.stderr, flush=True)
            os._exit(code)


_group: _Group | None = None


# --- meeting --------------------------------------------------------------------------------------------------------


def parsed(where: str) -> tuple[str, int, int, int]:
    """Host, port, process and processes of "HOST:PORT,PROCESS/PROCESSES".

    Raises:
      ValueError: if it is something else, or there is no such process.

    >>> parsed("10.0.0.1:1234,0/2")
    ('10.0.0.1', 1234, 0, 2)
    """
    address, _, place = where.rpartition(",")
    host, _, port = address.rpartition(":")
    process, _, processes = place.partition("/")
    if not host or not all(part.isdecimal() for part in (port, process, processes)) or not 0 < int(port) < 65536:
        raise ValueError(f"distributed is {where!r}; it must be HOST:PORT,PROCESS/PROCESSES, such as 10.0.0.1:1234,0/2")
    if int(process) >= int(processes):
        raise ValueError(
            f"distributed is {where!r}; of {processes} processes the numbers are 0 to {int(processes) - 1}"
        )
    return host.strip("[]"), int(port), int(process), int(processes)


def _detected(timeout: float) -> tuple[str, int, int, int, Any]:
    """As `parsed`, and the local devices, from a cluster that jax knows."""
    from jax._src.clusters import ClusterEnv  # jax.distributed.initialize has these numbers, and does not give them

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(timeout))
    except Exception as error:
        raise ValueError(f"distributed: the cluster is not usable: {error}") from error
    address, processes, process, local = found
    if address is None or processes is None or process is None:
        raise ValueError(
            "distributed: there is no SLURM, Open MPI or Kubernetes that jax detects; give HOST:PORT,PROCESS/PROCESSES"
        )
    host, port, *_ = parsed(f"{address},{process}/{processes}")
    return host, port, process, processes, local


def _words(text: bytes) -> dict[str, Any]:
    """An object of JSON; an empty dict for anything else."""
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}


def _line(peer: socket.socket) -> dict[str, Any]:
    """One line of JSON; an empty dict for anything else."""
    text = b""
    with contextlib.suppress(OSError):
        while not text.endswith(b"\n") and len(text) < 4096:
            if not (more := peer.recv(1)):
                break
            text += more
    return _words(text)


def _say(peer: socket.socket, **words: Any) -> None:
    with contextlib.suppress(OSError):
        peer.sendall(json.dumps(words).encode() + b"\n")


def _ended(peer: socket.socket) -> bool:
    """Whether a process that only waits, and so says nothing, has closed its connection."""
    before = peer.gettimeout()
    peer.settimeout(0)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        peer.settimeout(before)


def _server(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=both)


def _greetings(server: socket.socket, deadline: float) -> Iterator[tuple[socket.socket, dict[str, Any]]]:
    """Connections, each with the first line that it has sent, until the deadline; none waits for another.

    A stranger is closed: at once if it begins otherwise than `GREETING`, after `PATIENCE` if it sends nothing more.
    """
    sent: dict[Any, tuple[float, bytes]] = {}  # since when connections without a line are open, and their bytes
    with selectors.DefaultSelector() as select:

        def leave(peer: Any) -> None:
            select.unregister(peer)
            del sent[peer]

        def refuse(peer: Any) -> None:
            leave(peer)
            peer.close()

        server.setblocking(False)
        select.register(server, selectors.EVENT_READ)
        try:
            while (now := time.monotonic()) < deadline:
                for ready, _ in select.select(min(deadline - now, PATIENCE / 5)):
                    peer: Any = ready.fileobj
                    if peer is server:
                        with contextlib.suppress(OSError):  # it has closed its connection already
                            peer, _ = server.accept()
                            peer.setblocking(False)
                            select.register(peer, selectors.EVENT_READ)
                            sent[peer] = now, b""
                        continue
                    try:
                        more = peer.recv(100)
                    except OSError:
                        more = b""
                    since, text = sent[peer][0], sent[peer][1] + more
                    if not more or len(text) > 99 or not text.startswith(GREETING[: len(text)]):
                        refuse(peer)
                    elif text.endswith(b"\n"):
                        leave(peer)
                        yield peer, _words(text)
                    else:
                        sent[peer] = since, text
                for peer in [peer for peer, (since, _) in sent.items() if now - since > PATIENCE]:
                    refuse(peer)
        finally:
            for peer in sent:
                peer.close()


def _receive(group: _Group, port: int) -> int:
    """Process 0: wait for all others, and give them the port of jax's coordination service."""
    deadline = time.monotonic() + group.timeout
    try:
        server = _server(port)
    except OSError as error:
        raise ValueError(f"distributed: port {port} cannot be opened: {error.strerror or error}") from error

    def refuse(text: str, *others: socket.socket) -> ValueError:
        for peer in (*group.peers.values(), *others):
            _say(peer, error=text)
        return ValueError(f"distributed: {text}")

    def present() -> dict[int, socket.socket]:
        for number in [number for number, peer in group.peers.items() if _ended(peer)]:
            group.peers.pop(number).close()  # it may be started again
        return group.peers

    with server, contextlib.closing(_greetings(server, deadline)) as greetings:
        while len(present()) < group.processes - 1:
            peer, hello = next(greetings, (None, {}))
            if peer is None:
                missing = sorted({*range(1, group.processes)} - present().keys())
                names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
                raise refuse(
                    f"{len(missing)} of {group.processes} processes did not start within {group.timeout:g} s: {names}"
                )
            peer.settimeout(PATIENCE)
            number, count = hello.get("process"), hello.get("processes")
            if not isinstance(number, int) or not isinstance(count, int) or not 0 <= number < count:
                peer.close()  # a stranger
            elif count != group.processes:
                raise refuse(f"process 0 is one of {group.processes} processes, process {number} one of {count}", peer)
            elif number in present() or number == 0:
                raise refuse(f"two processes are numbered {number}", peer)
            else:
                group.peers[number] = peer
    with _server(0) as free:
        own = free.getsockname()[1]
    for peer in group.peers.values():
        _say(peer, port=own)
    return own


def _join(group: _Group, host: str, port: int) -> int:
    """Any other process: find process 0, and return the port of jax's coordination service."""
    deadline, failed = time.monotonic() + group.timeout, ""
    while True:
        try:
            peer = socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.1))
            break
        except OSError as error:
            failed = error.strerror or str(error)
        if time.monotonic() > deadline - 0.2:
            text = f"no process 0 at {host}:{port} within {group.timeout:g} s: {failed}"
            raise ValueError(f"distributed: {text}") from None
        time.sleep(0.2)
    _say(peer, process=group.process, processes=group.processes)
    peer.settimeout(max(deadline - time.monotonic(), 0) + 5)
    answer = _line(peer)
    if "port" not in answer:
        wrong = answer.get("error", f"process 0 at {host}:{port} has ended or does not answer")
        raise ValueError(f"distributed: {wrong}")
    group.peers[0] = peer
    return int(answer["port"])


def _relayed(host: str, port: int) -> int:
    """A local port whose connections are forwarded to `host:port`, and stay open when the other end is gone.

    jax ends a process with a stack trace in the moment in which its connection to process 0 closes.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def connect(near: socket.socket) -> None:
        while True:
            try:
                far = socket.create_connection((host, port))
                break
            except OSError:  # the service does not listen yet
                time.sleep(0.1)
        threading.Thread(target=copy, args=(near, far), daemon=True).start()
        copy(far, near)

    def accept() -> None:
        while True:
            threading.Thread(target=connect, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return server.getsockname()[1]


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """Nothing is printed here: Gloo, for collectives on CPUs, prints that it is connected."""
    sys.stdout.flush()
    before, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(nothing)


def distributed(where: str | None = None, timeout: float = 60.0) -> None:
    """Make this process one of several that train together; call it in each of them, before jax is used.

    Afterwards `jax.devices()` are the devices of all processes. Each executes the same program: the same `batch(make,
    jax.devices())` and the same `run`, whose metrics `to_host` collects; `is_first` says which one writes. At the end
    each waits for the others; an exception that is not caught ends them all.

    Args:
      where: "HOST:PORT,PROCESS/PROCESSES", such as "10.0.0.1:1234,0/2": the address of process 0, the number of this
        process, and how many there are. None: as jax detects them in a job of SLURM, Open MPI or Kubernetes.
      timeout: seconds that processes wait for each other at the start, and after which one that does not answer is
        lost. One that has ended is lost at once. If one is lost the others end, with exit code 1.
    Raises:
      ValueError: if `where` is malformed, process 0 cannot be reached or others do not start in time, the processes
        disagree about their number, two have the same, or their numbers of devices differ.
    """
    global _group
    if _group is not None:
        raise ValueError("distributed: this process is one of several already")
    if timeout < 1:
        raise ValueError(f"distributed: timeout is {timeout:g}; it must be at least 1 s")
    if where is None:
        host, port, process, processes, local = _detected(timeout)
    else:
        (host, port, process, processes), local = parsed(where), None
    group = _Group(process, processes, timeout)
    own = _receive(group, port) if process == 0 else _relayed(host, _join(group, host, port))
    for peer in group.peers.values():
        peer.settimeout(timeout)
    _group = group
    threading.Thread(target=group.watch, daemon=True).start()
    os.environ.setdefault("no_grpc_proxy", "127.0.0.1")  # a proxy would not find this process
    with contextlib.suppress(AttributeError):
        jax.config.update("jax_check_proxy_envs", False)  # the warning that it might be one
    try:
        # those timeouts never pass: the watch above is faster, and says in one line who is lost
        jax.distributed.initialize(
            f"127.0.0.1:{own}", processes, process, local, "deactivate", initialization_timeout=int(timeout) + 5,
            heartbeat_timeout_seconds=10 * int(timeout) + 60, shutdown_timeout_seconds=86400,
        )  # fmt: skip
    except RuntimeError as error:
        raise ValueError(f"distributed: {str(error).split(chr(10))[0]}") from error
    atexit.register(_leave)
    with _no_output():
        counts = multihost_utils.process_allgather(np.int32(jax.local_device_count())).ravel()
    if len({*counts.tolist()}) > 1:
        raise ValueError(f"distributed: the processes have {', '.join(map(str, counts))} devices; give each as many")


def _leave() -> None:
    """Wait for the others, and take leave; not after an error, which others would wait for in vain."""
    if _group is None:
        return
    if hasattr(sys, "last_value"):
        abandon(1)
    jax.distributed.shutdown()
    _group.send(b"bye")


def abandon(code: int, error: str = "") -> None:
    """End this process with a code, without waiting for the others, which then end too; nothing if it is alone.

    error: of an input, which the others say as well.
    """
    if _group is not None:
        if error:
            _group.send(json.dumps(error).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def settle(error: BaseException) -> None:
    """If an error is that of a collective because another process is lost, say so in one line and end; else nothing."""
    if _group is None or not any(sign in str(error) for sign in _SIGNS):
        return
    if _group.lost.wait(_group.timeout):
        threading.Event().wait()  # for the watch, which ends this process


# --- exchange -------------------------------------------------------------------------------------------------------


def count() -> int:
    """The number of processes."""
    return 1 if _group is None else _group.processes


def is_first() -> bool:
    """Whether this is process 0, which writes to disk and screen; also True of a process that is alone."""
    return _group is None or _group.process == 0


def to_host(tree: Any) -> Any:
    """The arrays of a pytree as NumPy arrays, whole also where they are split over processes.

    Of such arrays every process must ask for the same ones, in the same order, since they are gathered by collectives.
    """

    leaves, structure = jax.tree.flatten(tree)
    here = lambda x: not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
    pending, size = [], 0
    for i, x in enumerate(leaves):
        if not here(x):
            pending, size = [*pending, i], size + x.nbytes
        if pending and (size > AT_ONCE or i + 1 == len(leaves)):
            for at, gathered in zip(pending, _replicate()([leaves[k] for k in pending]), strict=True):
                leaves[at] = np.asarray(gathered)
            pending, size = [], 0
    return jax.tree.unflatten(structure, [np.asarray(x) for x in leaves])


@functools.cache
def _replicate() -> Callable[[Any], Any]:
    """A program that copies arrays which are split over processes to every device."""
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(Mesh(np.array(jax.devices()), ("all",)), P()))


def agreed(values: Any) -> np.ndarray:
    """The numbers that process 0 gives, int32 of the same shape in each process; all wait for each other here."""
    values = np.asarray(values, np.int32)
    return values if count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(values))


def any_of(*flags: bool) -> list[bool]:
    """Of each flag whether it is set in any process."""
    own = np.asarray(flags, np.int32)
    rows = own if count() == 1 else multihost_utils.process_allgather(own)
    return list(map(bool, np.ravel(np.atleast_2d(rows).any(axis=0))))


def by_first(function: Callable, *args: Any) -> None:
    """Call a function in process 0 alone; the others wait until it has returned.

    Raises:
      ValueError: in every other process, if the function has raised one or an OSError.
    """
    error = None
    if is_first():
        try:
            function(*args)
        except (ValueError, OSError) as found:
            error = found
    said = agreed_text("" if error is None else str(error) or type(error).__name__)
    if said or error:
        raise error or ValueError(said)


def in_turn(function: Callable, *args: Any) -> Any:
    """The function's result, of process 0 before all others."""
    found = function(*args) if is_first() else None
    agreed(0)
    return found if is_first() else function(*args)


def _texts(text: str) -> list[str]:
    """The text of every process."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data))).ravel()
    padded = np.zeros(max(1, int(sizes.max())), np.uint8)
    padded[: len(data)] = data
    rows = np.atleast_2d(multihost_utils.process_allgather(padded))
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def agreed_text(text: str) -> str:
    """The text that process 0 gives."""
    return text if count() == 1 else _texts(text)[0]


def check_same(what: str, values: dict[str, Any], show: Callable[[str], str] = str) -> None:
    """Raise a ValueError, in every process, unless all have the same values; it names the first that differs.

    Args:
      what: the values are of, such as "commands".  values: anything that JSON holds, by name.
      show: a name as the user knows it.
    """
    if count() == 1:
        return
    first, *others = (json.loads(text) for text in _texts(json.dumps(values, sort_keys=True, default=str)))
    for number, other in enumerate(others, 1):
        if different := sorted(name for name in {*first, *other} if first.get(name) != other.get(name)):
            name = different[0]
            raise ValueError(
                f"processes have different {what}: {show(name)} is {first.get(name)} in process 0 and "
                f"{other.get(name)} in process {number}"
            )
