"""Answer observations with actions over HTTP, in JSON: `python -m purerl.export.serve FOLDER`.

A small server for a demonstration or a laboratory: one process, without encryption and authentication, on the loopback
address unless another is given. It is no production cluster: it has 100 connections, and a client that sends nothing
holds one of them for up to a minute.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from purerl.export import loading

MOST_BYTES = 2**20  # of a request
MOST_THREADS = 100  # as many as connections
_JSON = [("Content-Type", "application/json")]
_VALUES = {"b": "true or false", "i": "integers", "u": "integers", "f": "finite numbers"}  # by the kind of a dtype


class Refused(Exception):
    """A request that is refused: the status, and a sentence."""

    def __init__(self, status: str, text: str):
        super().__init__(text)
        self.status = status


def arrays_of(given: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs of a program from lists of numbers by their names, of the dtypes that it takes.

    A number of an int or bool input must be one; floats are rounded to the dtype, in which they must be finite.

    Raises:
      ValueError: if a value is no such list; the message names it.
    """
    ports, arrays = {port["name"]: port for port in about["inputs"]}, {}
    for name, value in given.items():
        if name not in ports:
            raise ValueError(f"there is no input {name!r}; the inputs are {', '.join(ports)}")
        dtype = np.dtype(ports[name]["dtype"])
        try:
            x = np.asarray(value)
            kinds = {"b": "b", "i": "i", "u": "iu", "f": "iuf"}[dtype.kind]
            if x.dtype.kind not in kinds:
                raise ValueError
            with np.errstate(over="ignore"):
                converted = x.astype(dtype)
            if dtype.kind in "iu" and (converted.astype(object) != x.astype(object)).any():
                raise ValueError
            if dtype.kind == "f" and not np.isfinite(converted).all():
                raise ValueError
        except (ValueError, TypeError, OverflowError):
            wanted = f"{dtype.name} [{', '.join(map(str, ports[name]['shape']))}]"
            raise ValueError(f"{name} must be nested lists of {_VALUES[dtype.kind]}, {wanted}") from None
        arrays[name] = converted
    return arrays


def _plain(x: Any) -> Any:
    """Nested lists for JSON, in which numbers that are not finite, such as Q of an illegal action, are None."""
    if isinstance(x, list):
        return [_plain(part) for part in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def padded(policy: loading.Policy) -> loading.Policy:
    """The policy on batches filled up to a power of two by their last row, so that few programs are compiled."""
    of_rows = lambda ports: [port["shape"][:1] == ["batch"] for port in ports]
    given, returned = of_rows(policy.about["inputs"]), of_rows(policy.about["outputs"])

    def program(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = len(arrays[given.index(True)])
        more = (1 << (rows - 1).bit_length()) - rows
        fill = lambda x: np.concatenate([x, np.repeat(x[-1:], more, axis=0)]) if more else x
        outputs = policy.program(*(fill(x) if batch else x for x, batch in zip(arrays, given, strict=True)))
        return tuple(x[:rows] if batch else x for x, batch in zip(outputs, returned, strict=True))

    return loading.Policy(policy.about, program)


def application(policy: loading.Policy, most_bytes: int = MOST_BYTES) -> Callable[..., Iterable[bytes]]:
    """A WSGI application of a policy.

    `GET /health` says that it is ready, `GET /policy` returns policy.json, and `POST /act` takes the inputs of the
    program as a JSON object of lists by name, such as {"obs": [[0.0, 0.1, 0.0, 0.2]]}, and returns its outputs alike,
    with null for numbers that are not finite. HEAD is answered where GET is. Errors are {"error": "..."}: 400 for
    inputs that are not those of the program, 404, 405, 411 without a length, 413 for more than `most_bytes`.
    """

    def act(environ: Mapping[str, Any]) -> dict[str, Any]:
        text = environ.get("CONTENT_LENGTH") or ""
        if not text.isdecimal():
            raise Refused("411 Length Required", "Content-Length is missing")
        if int(text) > most_bytes:
            raise Refused("413 Content Too Large", f"a request has at most {most_bytes} bytes, this one has {text}")
        try:
            given = json.loads(environ["wsgi.input"].read(int(text)))
        except (ValueError, RecursionError):
            raise Refused("400 Bad Request", "the body is not JSON") from None
        if not isinstance(given, dict):
            raise Refused("400 Bad Request", "the body must be an object of lists by the names of inputs")
        try:
            outputs = policy.run(arrays_of(given, policy.about))
        except ValueError as error:
            raise Refused("400 Bad Request", str(error)) from None
        return {name: x.tolist() if np.isfinite(x).all() else _plain(x.tolist()) for name, x in outputs.items()}

    routes = {
        ("GET", "/health"): lambda environ: {"status": "ready", "agent": policy.about.get("agent")},
        ("GET", "/policy"): lambda environ: policy.about,
        ("POST", "/act"): act,
    }

    def answer(environ: Mapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        asked, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        method = "GET" if asked == "HEAD" else asked
        allowed = [method for method, known in routes if known == path]
        try:
            if not allowed:
                paths = ", ".join(known for _, known in routes)
                raise Refused("404 Not Found", f"there is no {path}; there are {paths}")
            if method not in allowed:
                raise Refused("405 Method Not Allowed", f"{path} takes {allowed[0]}, not {asked}")
            status, found = "200 OK", routes[method, path](environ)
        except Refused as refused:
            status, found = refused.status, {"error": str(refused)}
        body = json.dumps(found).encode()
        allow = [("Allow", allowed[0])] if allowed else []
        start(status, [*_JSON, *allow, ("Content-Length", str(len(body)))])
        return [b"" if asked == "HEAD" else body]

    return answer


def main(arguments: list[str] | None = None) -> None:
    """Serve an exported policy until the process is interrupted; exit code 2 for invalid input."""
    parser = argparse.ArgumentParser(prog="python -m purerl.export.serve", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", help="an exported policy")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on  [default: %(default)s]")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free  [default: %(default)s]")
    parser.add_argument("--threads", type=int, default=4, help="requests answered at once  [default: %(default)s]")
    parser.add_argument(
        "--max-bytes", type=int, default=MOST_BYTES,
        help="of a request, which holds the memory of a recurrent policy  [default: %(default)s]",
    )  # fmt: skip
    parser.add_argument("--file", help="policy.stablehlo or policy.onnx  [default: the first that can be run]")
    given = parser.parse_args(arguments)
    try:
        if not 0 <= given.port < 2**16:
            raise ValueError(f"--port is {given.port}; it must be from 0 to {2**16 - 1}")
        if not 1 <= given.threads <= MOST_THREADS:
            raise ValueError(f"--threads is {given.threads}; it must be from 1 to {MOST_THREADS}")
        if given.max_bytes < 1:
            raise ValueError(f"--max-bytes is {given.max_bytes}; it must be at least 1")
        policy = loading.load(given.folder, given.file)
        try:
            waitress: Any = importlib.import_module("waitress")
        except ImportError:
            raise ValueError("serving needs the package waitress: pip install 'purerl[serve]'") from None
        # waitress refuses larger requests itself, without JSON and before it has read them
        most = {"max_request_body_size": 2 * given.max_bytes, "max_request_header_size": 2**14}
        settings = {"host": given.host, "port": given.port, "threads": given.threads, "channel_timeout": 30}
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # requests that wait are no event
        try:
            answers = application(padded(policy), given.max_bytes)
            server = waitress.create_server(answers, **settings, **most)
        except (ValueError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"--host {given.host} --port {given.port} cannot be listened on: {reason}") from None
    except (ValueError, OSError) as error:
        sys.exit(_refuse(error))
    print(f"{given.folder} answers at http://{given.host}:{server.effective_port}/act; Ctrl-C ends it", flush=True)
    server.run()


def _refuse(error: Exception) -> int:
    print(f"purerl: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
