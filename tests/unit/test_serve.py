"""The server of exported policies: JSON in and out, and requests that are refused."""

import io
import json
import sys
import types

import numpy as np
import pytest

from purerl.export import loading, serve

ABOUT = {
    "agent": "ppo",
    "inputs": [
        {"name": "obs", "path": [], "shape": ["batch", 2], "dtype": "float32"},
        {"name": "kind", "path": [], "shape": ["batch"], "dtype": "int32"},
        {"name": "reset", "path": [], "shape": ["batch"], "dtype": "bool"},
    ],
    "outputs": [{"name": "action", "path": [], "shape": ["batch"], "dtype": "float32"}],
}
GOOD = {"obs": [[1, 2.5], [3, 4]], "kind": [1, 2], "reset": [True, False]}
ANSWER = serve.application(loading.Policy(ABOUT, lambda obs, kind, reset: (obs.sum(-1) + kind * reset,)), 200)
LARGE = 3e38  # twice it is no float32


def ask(body=None, path="/act", method="POST", length=None):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    said = {}
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "wsgi.input": io.BytesIO(text),
               "CONTENT_LENGTH": str(len(text)) if length is None else length}  # fmt: skip
    (found,) = ANSWER(environ, lambda status, headers: said.update(status=int(status[:3]), **dict(headers)))
    assert said["Content-Length"] == str(len(found)) and said["Content-Type"] == "application/json"
    return said["status"], json.loads(found)


def test_actions_are_answered():
    assert ask(GOOD) == (200, {"action": [4.5, 7.0]})
    assert ask(path="/health", method="GET") == (200, {"status": "ready", "agent": "ppo"})
    assert ask(path="/policy", method="GET") == (200, ABOUT)
    with np.errstate(over="ignore"):
        assert ask({**GOOD, "obs": [[LARGE, LARGE], [3, 4]]}) == (200, {"action": [None, 7.0]})


def test_head_is_answered_without_a_body():
    """A server passes on the body that it is given, and the client would take it for the next answer."""
    for path, status in (("/health", 200), ("/act", 405), ("/nosuch", 404)):
        said = {}
        environ = {"REQUEST_METHOD": "HEAD", "PATH_INFO": path}
        found = ANSWER(environ, lambda status, headers, said=said: said.update(status=status, **dict(headers)))
        assert b"".join(found) == b"" and said["status"].startswith(str(status)) and int(said["Content-Length"]) > 9


REFUSED = [
    ({**GOOD, "obs": [[1, 2], [3]]}, 400, "obs must be nested lists of finite numbers, float32 [batch, 2]"),
    ({**GOOD, "obs": "text"}, 400, "obs must be nested lists"),
    ({**GOOD, "obs": [[1, 2, 3]]}, 400, "obs is float32 [1, 3]; it must be float32 [batch, 2]"),
    ({**GOOD, "kind": [1.5, 2]}, 400, "kind must be nested lists of integers, int32 [batch]"),
    ({**GOOD, "kind": [2**31, 2]}, 400, "kind must be"),
    ({**GOOD, "kind": [10**30, 2]}, 400, "kind must be"),
    ({**GOOD, "reset": [1, 0]}, 400, "reset must be nested lists of true or false, bool [batch]"),
    ({**GOOD, "obs": [[1, float("nan")], [3, 4]]}, 400, "obs must be nested lists of finite numbers"),
    ({**GOOD, "obs": [[1, 1e39], [3, 4]]}, 400, "obs must be nested lists of finite numbers"),
    ({"obs": [[1, 2]], "reset": [True]}, 400, "kind is missing; it must be int32 [batch]"),
    ({**GOOD, "more": 1}, 400, "there is no input 'more'; the inputs are obs, kind, reset"),
    ([1], 400, "the body must be an object"),
    (b"{", 400, "the body is not JSON"),
    (b"[" * 150, 400, "the body is not JSON"),
    ({**GOOD, "obs": [[0.0] * 100]}, 413, "a request has at most 200 bytes"),
]


@pytest.mark.parametrize("body, status, message", REFUSED)
def test_requests_are_refused_with_a_sentence(body, status, message):
    found, said = ask(body)
    assert found == status and message in said["error"]


def test_other_paths_methods_and_lengths_are_refused():
    assert ask(path="/nosuch")[0] == 404
    assert ask(method="GET") == (405, {"error": "/act takes POST, not GET"})
    assert ask(GOOD, length="")[0] == 411
    assert ask(GOOD, length="-1")[0] == 411


def test_bad_input_of_the_server_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        serve.main([str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"purerl: error: {tmp_path} is not an exported policy: it has no policy.json\n"
    for words, message in (
        ("--port 70000", "--port is 70000; it must be from 0 to"),
        ("--threads 0", "it must be from 1 to 100"),
        ("--max-bytes 0", "it must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            serve.main([str(tmp_path), *words.split()])
        assert message in capsys.readouterr().err


def test_an_address_that_is_taken_is_named(monkeypatch, capsys):
    """In place of the package, which is an extra."""

    def taken(*_, **settings):
        assert settings["max_request_body_size"] == 10_000  # up to which those that are too large are refused in JSON
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(serve.loading, "load", lambda *_: loading.Policy(ABOUT, lambda *_: ()))
    monkeypatch.setitem(sys.modules, "waitress", types.SimpleNamespace(create_server=taken))
    with pytest.raises(SystemExit):
        serve.main(["policy", "--port", "80", "--max-bytes", "5000"])
    said = capsys.readouterr().err
    assert said == "purerl: error: --host 127.0.0.1 --port 80 cannot be listened on: Address already in use\n"


def test_batches_are_filled_up_to_a_power_of_two():
    sizes = []
    port = lambda name, *shape: {"name": name, "path": [], "shape": [*shape], "dtype": "float32"}
    about = {"inputs": [port("noise", 2), port("obs", "batch")], "outputs": [port("action", "batch"), port("sum", 2)]}
    policy = loading.Policy(about, lambda noise, obs: sizes.append(len(obs)) or (obs + noise[0], noise))
    for rows in (1, 2, 3, 5, 8):
        obs = np.arange(rows, dtype=np.float32)
        found = serve.padded(policy).run({"noise": np.ones(2, np.float32), "obs": obs})
        assert found["action"].tolist() == (obs + 1).tolist() and found["sum"].tolist() == [1, 1]
    assert sizes == [1, 2, 4, 8, 8]


def test_numbers_have_the_dtype_of_the_program():
    arrays = serve.arrays_of(GOOD, ABOUT)
    assert [x.dtype.name for x in arrays.values()] == ["float32", "int32", "bool"]
    np.testing.assert_array_equal(arrays["obs"], [[1, 2.5], [3, 4]])
