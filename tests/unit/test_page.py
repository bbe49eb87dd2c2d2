"""The page of a policy: its environments step as gymnax's, and it holds the policy."""

import base64
import dataclasses
import json
import shutil
import subprocess

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.export import page

ABOUT = {
    "agent": "ppo", "environment": "CartPole-v1", "env_params": {"gravity": 9.8}, "inputs": [], "outputs": [],
    "versions": {"purerl": "1.0"}, "made": "2026-01-01", "wrappers": {},
    "return": {"mean": 499.0, "low": 490.5, "high": 500.0, "episodes": 100},
}  # fmt: skip
SPREAD = {  # of states, from 0 but for the position of cars
    "CartPole-v1": ([2.6, 9, 0.22, 9], [0, 1]),
    "Pendulum-v1": ([7, 9], [-3, -0.5, 3]),
    "Acrobot-v1": ([3, 3, 12, 27], [0, 1, 2]),
    "MountainCar-v0": ([1.2, 0.08], [0, 1, 2]),
    "MountainCarContinuous-v0": ([1.2, 0.08], [-2, 0.3, 1]),
}
SCRIPT = """
const rows = JSON.parse(require("fs").readFileSync(0));
console.log(JSON.stringify(rows.map(([name, state, action, p]) => {
  const e = ENVIRONMENTS[name], [next, reward] = e.step(state, [action], p);
  return [...e.observe(next), reward, Number(e.terminated(next, p)), e.reset().length];
})));
"""


def given():
    """Random states and actions of every environment, and parameters that are not the usual ones."""
    generator, jobs = np.random.default_rng(0), {}
    for name, (size, actions) in SPREAD.items():
        env, params = gymnax.make(name)
        numbers = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
        own = {k: np.float32(1.1 * float(x)).item() for k, x in numbers.items() if type(x) is float}
        states = np.float32(generator.uniform(-1, 1, (60, len(size))) * size)
        states[:, 0] -= 0.3 * name.startswith("MountainCar")
        jobs[name] = env, params.replace(**own), states, np.resize(np.asarray(actions), 60), own
    return jobs


@pytest.mark.skipif(not shutil.which("node"), reason="node runs the page's environments")
def test_environments_step_as_gymnax_does(key):
    jobs = given()
    assert [*jobs] == page.environments()

    @jax.jit
    def expected(arrays):
        out = {}
        for name, (states, actions) in arrays.items():
            env, params, *_ = jobs[name]
            _, begun = env.reset_env(key, params)
            fields = [f.name for f in dataclasses.fields(begun) if f.name != "time"][: states.shape[1]]

            def one(state, action, env=env, params=params, begun=begun, fields=fields):
                state = begun.replace(**dict(zip(fields, state, strict=True)), time=0)
                obs, after, reward, *_ = env.step_env(key, state, action, params)
                return jnp.stack([*obs, reward, env.is_terminated(after, params)])

            out[name] = jax.vmap(one)(states, actions)
        return out

    found = expected({name: (states, actions) for name, (_, _, states, actions, _) in jobs.items()})
    rows = [
        [name, state.tolist(), action.item(), own]
        for name, (_, _, states, actions, own) in jobs.items()
        for state, action in zip(states, actions, strict=True)
    ]
    script = (page.HERE / "environments.js").read_text() + SCRIPT
    ran = subprocess.run(["node", "-e", script], input=json.dumps(rows), capture_output=True, text=True, check=True)
    steps = json.loads(ran.stdout)
    for at, (name, (_, _, states, _, _)) in enumerate(jobs.items()):
        numbers, want = np.array([row[:-1] for row in steps[60 * at : 60 * at + 60]]), np.asarray(found[name])
        np.testing.assert_allclose(numbers, want, rtol=2e-4, atol=2e-5, err_msg=name)  # float64 and float32
        assert steps[60 * at][-1] == states.shape[1]
        assert name == "Pendulum-v1" or 0 < want[:, -1].sum() < 60


def test_a_page_holds_the_policy_and_nothing_else():
    text = page.page({**ABOUT, "agent": "<b>"}, b"model")
    assert base64.b64encode(b"model").decode() in text and '"gravity": 9.8' in text
    assert "&lt;b&gt; on CartPole-v1" in text and "Return 499.0 [490.5, 500.0] in 100 episodes" in text
    assert "{title}" not in text and "{environments}" not in text and "http" not in text.replace("http.server", "")
    assert page.beside({"more": b"1"})(ABOUT, {"policy.onnx": b"model"}).keys() == {"page.html", "more"}


def test_pages_of_what_cannot_be_played_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no page for Breakout; there are pages for CartPole-v1, Pendulum-v1"):
        page.page({**ABOUT, "environment": "Breakout"}, b"")
    with pytest.raises(ValueError, match="no page for CartPole-v1 with observe: pages play the plain environment"):
        page.check({**ABOUT, "wrappers": {"observe": [0, 2]}})
    with pytest.raises(ValueError, match="it must be the folder of the npm package onnxruntime-web"):
        page.runtime(tmp_path)
    (tmp_path / "dist").mkdir()
    for name in page.RUNTIME:
        (tmp_path / "dist" / name).write_bytes(b"1")
    assert page.runtime(tmp_path) == dict.fromkeys(page.RUNTIME, b"1")
