"""Every agent's policy, exported and compared; programs in processes with nothing but their runtime; server, page."""

import http.client
import http.server
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path

import browser
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import purerl
from purerl.export import folder, loading, page, programs, saving, serve
from purerl.runs import env_parameters

SAMPLED = ("ppo tanh-normal", "a2c gru", "dqn", "sac", "td3", "ddpg")  # one for each way of drawing an action


def exported(directory, name, choose, **settings):
    row, agent, state = zoo.begun(name)
    where = row.env, row.env_params, agent, state, jax.random.key(2)
    return purerl.export.save(directory, *where, choose, **settings)


CASES = [(name, programs.greedy) for name in zoo.ROWS] + [(name, programs.sampled) for name in SAMPLED]


@pytest.mark.parametrize("name, choose", CASES, ids=lambda x: getattr(x, "__name__", x))
def test_actions_are_those_of_the_agent(name, choose, tmp_path):
    """`save` raises where they differ."""
    about = exported(tmp_path / "policy", name, choose, steps=12)
    measured = about["parity"][folder.STABLEHLO]
    assert measured["observations"] == 120 and measured["differing_ties"] <= 1
    noise = [port for port in about["inputs"] if port["name"].startswith("noise")]
    assert bool(noise) == (choose is programs.sampled)


ONNX = ["ppo masked", "ppo tanh-normal", "a2c gru", "reinforce min-gru", "ppo transformer", "ppo stack", "pqn gru",
        "sac", "c51", "iqn"]  # fmt: skip


@pytest.mark.parametrize("name", ONNX)
def test_onnx_models_act_as_the_agent(name, tmp_path):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    about = exported(tmp_path / "policy", name, programs.greedy, to=(saving.ONNX,), steps=12)
    assert about["parity"][folder.ONNX]["observations"] == 120
    assert {p["shape"][0] for p in about["inputs"]} == {"batch"}


def alone(directory, banned, code):
    """Run Python in a process in which some packages cannot be imported."""
    start = f"import sys; sys.modules |= dict.fromkeys({banned!r})\n"
    run = [sys.executable, "-c", start + textwrap.dedent(code)]
    out = subprocess.run(run, cwd=directory, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


def test_a_program_runs_without_flax_and_without_the_package(tmp_path):
    directory = tmp_path / "policy"
    exported(directory, "ppo tanh-normal", programs.greedy, steps=2)
    code = """
    import json
    import numpy as np
    from jax import export
    program = export.deserialize(bytearray(open("policy.stablehlo", "rb").read()))
    (action,) = program.call(np.ones((2, 3), np.float32))
    print(json.dumps(np.asarray(action).tolist()))
    """
    found = alone(directory, ("flax", "purerl", "gymnax", "optax"), code)
    _, agent, state = zoo.begun("ppo tanh-normal")
    np.testing.assert_allclose(found, agent.greedy(state, (), jnp.ones((2, 3)))[0], rtol=1e-5)
    readme = (directory / folder.README).read_text()
    (lines,) = (part.split("```")[0] for part in readme.split("```python\n")[1:])
    assert len(lines.strip().split("\n")) <= 10
    quiet = lines.replace(
        "print(dict(zip(['action'], outputs)))", "import json; print(json.dumps(outputs[0].tolist()))"
    )
    assert np.shape(alone(directory, ("flax", "purerl", "gymnax", "optax"), quiet)) == (1, 1)


def test_the_server_answers_on_the_loopback(tmp_path):
    waitress = pytest.importorskip("waitress")
    directory = tmp_path / "policy"
    exported(directory, "ppo tanh-normal", programs.greedy, steps=2)
    policy = loading.load(directory)
    application = serve.application(policy, 1000)
    server = waitress.create_server(application, host="127.0.0.1", port=0, max_request_body_size=2000)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.effective_port, timeout=60)

        def ask(method, path, body=None):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

        assert ask("GET", "/health")[0] == 200
        obs = np.ones((2, 3), np.float32)
        status, text = ask("POST", "/act", json.dumps({"obs": obs.tolist()}))
        assert status == 200
        np.testing.assert_allclose(json.loads(text)["action"], policy(obs), rtol=1e-6)
        assert ask("POST", "/act", "x" * 1500)[0] == 413 and ask("POST", "/act", "x" * 9000)[0] == 413
    finally:
        server.close()


# --- in a browser -----------------------------------------------------------------------------------------------------


@browser.needed
@pytest.mark.skipif(
    "ONNXRUNTIME_WEB" not in os.environ, reason="needs the npm package onnxruntime-web in the folder $ONNXRUNTIME_WEB"
)
def test_the_page_plays_as_python_does(tmp_path):
    """A recurrent policy, in a real browser."""
    pytest.importorskip("jax2onnx")
    row, agent, state = zoo.begun("a2c gru")
    about = {"agent": "a2c", "env_params": env_parameters.recorded(row.env_params, {})}
    files = page.beside(page.runtime(Path(os.environ["ONNXRUNTIME_WEB"])))
    where = row.env, row.env_params, agent, state, jax.random.key(2)
    saving.save(tmp_path / "policy", *where, to=(saving.ONNX,), about=about, steps=12, beside=files)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "policy")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/page.html#state=0.01,0.02,0.03,0.04&steps=200"
        shown = browser.shown(address, tmp_path / "user")
        server.shutdown()
    rows = json.loads(re.search(r'<pre id="trajectory">(.*?)</pre>', shown)[1])
    env, env_params = gymnax.make("CartPole-v1")
    policy, memory, step = purerl.export.load(tmp_path / "policy", folder.ONNX), None, jax.jit(env.step_env)
    numbers = dict(zip(("x", "x_dot", "theta", "theta_dot"), jnp.array([0.01, 0.02, 0.03, 0.04]), strict=True))
    now = env.reset_env(jax.random.key(0), env_params)[1].replace(**numbers)
    for shown_state, shown_action, reward in rows:
        obs = np.asarray(env.get_obs(now))
        np.testing.assert_allclose(shown_state, obs, rtol=1e-4, atol=1e-5)
        action, memory = policy(obs, memory)
        assert shown_action == [action] and reward == 1
        _, now, *_ = step(jax.random.key(0), now, jnp.asarray(action), env_params)
    assert len(rows) > 5 and env.is_terminated(now, env_params)
