"""Exported policies: the same actions, inputs that are checked, and folders that are refused."""

import collections
import datetime
import json
import re
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from gymnax.environments import spaces as gymnax_spaces

import purerl
from purerl import normalize
from purerl.envs.spaces import MultiBinary, MultiDiscrete
from purerl.export import folder, interpreter, language, loading, onnx, parity, programs, saving, spaces
from purerl.text import models

BOX = gymnax_spaces.Box(-9.0, 9.0, (1,))
NAME = "ppo masked"  # a normaliser of observations, a mask, and observations that are a dict


def standardizing():
    """An agent whose action is its observation, standardised by moments of mean 3 and deviation 2."""
    nothing = lambda *_: ()
    greedy = lambda state, memory, obs: (obs, memory)
    values = lambda state, memory, obs: (jnp.concatenate([obs, -obs], -1), memory)
    plain = purerl.Agent(nothing, nothing, nothing, nothing, greedy, nothing, values=values)
    moments = normalize.Moments(jnp.array(2.0), jnp.array([3.0]), jnp.array([8.0]))
    return normalize.observations(plain), normalize.NormalizedState((), moments)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A policy in its folder, written once; tests that change it copy it."""
    directory = tmp_path_factory.mktemp("export") / "policy"
    row, agent, state = zoo.begun(NAME)
    about = {"agent": "ppo", "environment": "MaskedGrid-v0"}
    key = jax.random.key(3)
    purerl.export.save(
        directory, row.env, row.env_params, agent, state, key, returns=[-3.0, -5.0], about=about, steps=4
    )
    return directory


@pytest.fixture
def copied(exported, tmp_path):
    """A copy whose policy.json a test may change: `change(name=value)`."""
    directory = tmp_path / "copy"
    shutil.copytree(exported, directory)

    def change(**changes):
        about = json.loads((directory / folder.ABOUT).read_text())
        (directory / folder.ABOUT).write_text(json.dumps({**about, **changes}))
        return directory

    return change


def test_actions_are_the_agents_with_its_trained_normaliser(exported):
    row, agent, state = zoo.begun(NAME)
    assert state.moments.count > 0 and np.ptp(state.moments.m2["cell"]) > 0
    cells = jnp.arange(16)
    obs = jax.vmap(row.env.see)(cells)
    expected = np.asarray(agent.greedy(state, (), obs)[0])
    policy = purerl.export.load(exported)
    plain = jax.tree.map(np.asarray, obs)
    action = policy(plain)
    assert action.dtype == np.int32
    np.testing.assert_array_equal(action, expected)
    assert obs["action_mask"][cells, action].all()
    one = policy(jax.tree.map(lambda x: x[5], plain))
    assert one.shape == () and one == expected[5]


def test_policy_json_says_what_a_stranger_needs(exported):
    about = json.loads((exported / folder.ABOUT).read_text())
    assert about["return"] == {"mean": -4.0, "low": -5.0, "high": -3.0, "episodes": 2}
    names = [(port["name"], port["shape"], port["dtype"]) for port in about["inputs"]]
    assert names == [("obs.action_mask", ["batch", 4], "bool"), ("obs.cell", ["batch", 16], "float32")]
    assert about["action"] == {"type": "Discrete", "n": 4, "start": 0, "shape": [], "dtype": "int32"}
    assert about["observation"]["parts"]["cell"]["high"] == 1.0
    measured = about["parity"][folder.STABLEHLO]
    assert measured["observations"] == 40 and measured["discrete"] == 40 and measured["batches"] == [1, 2, 7]
    data = (exported / folder.STABLEHLO).read_bytes()
    assert about["files"][folder.STABLEHLO] == {"sha256": folder.sha256(data), "bytes": len(data)}
    days = datetime.date.fromisoformat(about["readable_until"]) - datetime.date.fromisoformat(about["made"])
    assert days.days == 180 and about["versions"]["jax"] == jax.__version__
    assert jax.export.deserialize(bytearray(data)).platforms == ("cpu", "cuda")
    readme = (exported / folder.README).read_text()
    assert "export.deserialize" in readme and "onnxruntime" not in readme


BAD = [
    ({"cell": np.zeros((2, 15), np.float32)}, r"obs.cell is float32 \[2, 15\]; it must be float32 \[batch, 16\]"),
    ({"cell": np.zeros((2, 16))}, r"obs.cell is float64 \[2, 16\]; it must be float32 \[batch, 16\]"),
    ({"cell": np.zeros((3, 16), np.float32)}, r"and batch is 2, as of obs.action_mask"),
    ({"cell": None}, r"obs.cell is object"),
]


@pytest.mark.parametrize("change, message", BAD)
def test_observations_of_another_shape_or_dtype_are_refused(change, message, exported):
    obs = {"action_mask": np.ones((2, 4), bool), "cell": np.zeros((2, 16), np.float32)}
    policy = purerl.export.load(exported)
    with pytest.raises(ValueError, match=message):
        policy({**obs, **change})
    del obs["cell"]
    with pytest.raises(ValueError, match=r"obs.cell is missing: the observation has no 'cell'"):
        policy(obs)
    with pytest.raises(ValueError, match=r"there is no input 'nosuch'; the inputs are obs.action_mask, obs.cell"):
        policy.run({"nosuch": 1})
    obs = {**obs, "cell": np.zeros((2, 16), np.float32)}
    with pytest.raises(ValueError, match="memory or reset is given, and the policy has no memory"):
        policy(obs, reset=np.ones(2, bool))
    port = policy.about["inputs"][0]
    for change, message in (
        ({"inputs": [*policy.about["inputs"], {**port, "name": "obs.more"}]}, "takes 2 inputs; policy.json lists 3"),
        ({"outputs": [*policy.about["outputs"], {**port, "name": "action.x"}]}, "program has 1 outputs"),
    ):
        with pytest.raises(ValueError, match=message):
            loading.Policy({**policy.about, **change}, policy.program)(obs)
    paths = {"outputs": [{**port, "path": path, "name": f"action.{i}"} for i, path in enumerate(([], ["x"]))]}
    with pytest.raises(ValueError, match="is damaged: the path of an input or output ends where"):
        loading.Policy({**policy.about, **paths}, lambda *_: (1, 2))(obs)
    with pytest.raises(ValueError, match=r"the program has 2 outputs; policy.json lists 1"):
        loading.Policy(policy.about, lambda *_: (1, 2))(obs)


def test_folders_that_are_changed_newer_or_expired_are_refused(copied, exported):
    sound = json.loads((exported / folder.ABOUT).read_text())
    port = sound["inputs"][0]
    refused = lambda message, **changes: _refused(copied(**{**sound, **changes}), message)
    refused(r"has format 2; this version reads format 1; a newer version of purerl reads it", format=2)
    refused("readable_until is no date", readable_until="soon")
    refused("could be read until 2020-01-01, and this is", versions={"jax": "0.1"}, readable_until="2020-01-01")
    refused("is damaged: versions is missing or malformed", versions="0.1")
    for change in ({"name": None}, {"path": "x"}, {"path": [[]]}, {"shape": ["batch", -1]}, {"dtype": "O"}):
        refused("is damaged: name, path, shape or dtype of an input", inputs=[{**port, **change}])
    for changes in ({"inputs": []}, {"inputs": [{**port, "name": "x"}]}, {"inputs": [port, port]}, {"outputs": []}):
        refused("is damaged: it has no observation, no output, or two of one name", **changes)
    refused("is damaged: files has no hash of some", files={folder.STABLEHLO: 5})
    refused("it has no program", files={})
    directory = copied(**{**sound, "files": {}})
    with pytest.raises(ValueError, match=r"has no policy.onnx; it has no program"):
        purerl.export.load(directory, folder.ONNX)
    (directory / folder.ABOUT).unlink()
    _refused(directory, "is not an exported policy: it has no policy.json")


def _refused(directory, message):
    with pytest.raises(ValueError, match=message):
        purerl.export.load(directory)


def test_an_expired_program_is_read_by_the_version_that_wrote_it(copied):
    assert purerl.export.load(copied(readable_until="2020-01-01")).about["readable_until"] == "2020-01-01"


def test_a_program_that_was_changed_is_not_run(copied, monkeypatch):
    directory = copied()
    data = bytearray((directory / folder.STABLEHLO).read_bytes())
    data[len(data) // 2] ^= 1
    (directory / folder.STABLEHLO).write_bytes(data)
    monkeypatch.setattr("purerl.export.stablehlo.read", lambda data: pytest.fail("it was read"))
    _refused(directory, "has been changed: its SHA-256 is not that in policy.json; it is not run")


def test_missing_packages_are_named(copied, monkeypatch):
    directory = copied()
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    _refused(directory, "needs packages that are missing: jax and flatbuffers for policy.stablehlo")
    data = b"model"
    (directory / folder.ONNX).write_bytes(data)
    copied(files={folder.ONNX: {"sha256": folder.sha256(data)}})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"ONNX needs the package onnxruntime: pip install 'purerl\[onnx\]'"):
        purerl.export.load(directory, folder.ONNX)


def test_a_full_folder_is_not_overwritten(exported):
    with pytest.raises(ValueError, match="exists and is not empty; give another folder"):
        folder.write(exported, {}, {})


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    about = {"versions": {"purerl": "1"}, "made": "today", "inputs": [], "outputs": []}
    with pytest.raises(OSError, match="new cannot be written"):
        folder.write(tmp_path / "new", {"a": b"1", "b/c": b"2"}, about)
    assert not list(tmp_path.iterdir())
    (tmp_path / "new").mkdir()  # an empty one is taken
    folder.write(tmp_path / "new", {"a": b"1"}, {**about, "format": 9, "files": {"a": {"sha256": "0"}}})
    found = json.loads((tmp_path / "new" / folder.ABOUT).read_text())
    assert found["format"] == folder.FORMAT and found["files"]["a"]["sha256"] == folder.sha256(b"1")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["README.md", "a", "policy.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_readme_begins_an_episode(tmp_path):
    made = lambda name, dtype, *shape: {"name": name, "shape": [*shape], "dtype": dtype}
    inputs = [made("obs", "float32", "batch", 3), made("reset", "bool", "batch"), made("noise", "uint32")]
    about = {"versions": {"purerl": "1"}, "made": "today", "outputs": [], "inputs": inputs, "most_tokens": 7}
    text = folder.readme({**about, "files": {name: {} for name in (folder.ONNX, folder.PAGE, folder.AGENT)}})
    assert "http://localhost:8000/page.html" in text and "goes on from `agent.safetensors`" in text
    (code,) = (part.split("```")[0] for part in text.split("```python\n")[1:])
    (feed,) = re.findall(r"inputs = (\{.*?\})\n", code, re.DOTALL)
    found = eval(feed, {"np": np})
    assert {name: x.shape for name, x in found.items()} == {"obs": (1, 3), "reset": (1,), "noise": ()}
    assert found["reset"].all() and found["noise"].dtype == np.uint32 and "at most 7 tokens" in text


# --- the comparison -------------------------------------------------------------------------------------------------


def episodes_of(outputs, margin):
    return parity.Episodes((), np.ones((1, 10), bool), [], outputs, np.broadcast_to(margin, (1, 10)))


def a_program(*outputs):
    ports = tuple(programs.Port(name, (), (None,), dtype) for name, dtype in outputs)
    return programs.Program(lambda: (), (), ports)


def test_outputs_that_differ_are_refused():
    program, of_agent = a_program(("action", "float32")), np.linspace(-3, 3, 10, dtype=np.float32)[None]
    compare = lambda found: parity.compare(program, [found], episodes_of({"action": of_agent}, np.inf), "it")
    off = np.zeros((1, 10), np.float32)
    off[0, 0] = 2.5e-5  # of an action of size 3: allowed is 3e-5
    assert 5e-6 < compare(of_agent + off)["largest_difference"] <= 1e-5
    off[0, 5] = 2.5e-5  # of an action of size 0.33
    with pytest.raises(ValueError, match=r"it: outputs differ from the agent's by up to 2\.5e-05, and 1e-05"):
        compare(of_agent + off)
    with pytest.raises(ValueError, match=r"by up to inf"):
        compare(np.where(off > 0, np.nan, of_agent).astype(np.float32))
    with pytest.raises(ValueError, match="of the agent is NaN in 10 places"):
        parity.compare(program, [of_agent], episodes_of({"action": of_agent * np.nan}, np.inf), "it")
    with pytest.raises(ValueError, match=r"action is float64 \(1, 10\), of the agent float32"):
        compare(of_agent.astype(np.float64))


def test_a_discrete_action_may_differ_where_the_best_two_are_equal():
    program, chosen = a_program(("action", "int32")), np.zeros((1, 10), np.int32)
    found, margin = chosen.copy(), np.full(10, 1.0)
    found[0, 3], margin[3] = 1, 0.9e-5
    compare = lambda: parity.compare(program, [found], episodes_of({"action": chosen}, margin), "it")
    assert compare()["differing_ties"] == compare()["ties"] == 1 and compare()["discrete"] == 10
    margin[3] = 1.1e-5
    with pytest.raises(
        ValueError, match=r"differs from the agent's in 1 of 10 observations, where the best two are up"
    ):
        compare()


def test_a_comparison_on_no_observation_is_refused(tmp_path):
    """It would find no difference."""
    row, agent, state = zoo.begun(NAME)
    with pytest.raises(ValueError, match="steps is 0; it must be a positive int"):
        purerl.export.save(tmp_path / "new", row.env, row.env_params, agent, state, jax.random.key(3), steps=0)
    with pytest.raises(ValueError, match="steps is 0; it must be a positive int"):
        language.save(tmp_path / "new", *a_language_model(), jax.random.key(1), 2, steps=0)


def test_a_program_whose_normaliser_is_lost_is_refused():
    agent, state = standardizing()
    obs = np.linspace(0, 9, 10, dtype=np.float32)[:, None]
    _, outputs, _ = programs.greedy(agent, state, BOX)(None, (), obs)
    episodes = episodes_of({"action": outputs["action"][None]}, np.inf)._replace(obs=obs[None])
    for moments, right in ((state.moments, True), (jax.tree.map(jnp.zeros_like, state.moments), False)):
        choose = programs.greedy(agent, state._replace(moments=moments), BOX)
        program = programs.program(choose, agent.memory, agent.reset, obs)
        found = parity.run(program, program.function, episodes)
        if right:
            assert parity.compare(program, found, episodes, "it")["largest_difference"] == 0
            continue
        with pytest.raises(ValueError, match="it: outputs differ from the agent's by up to"):
            parity.compare(program, found, episodes, "it")


# --- programs -------------------------------------------------------------------------------------------------------


def test_noise_as_an_input_gives_the_actions_of_the_key(key):
    row, agent, state = zoo.begun("ppo masked")
    obs = jax.vmap(row.env.see)(jnp.arange(16))
    choose = programs.sampled(agent, state, row.env.action_space())
    bits = interpreter.draws(choose)(key, (), obs)
    assert [x.shape for x in bits] == [(16, 4)] and bits[0].dtype == jnp.uint32
    expected = choose(key, (), obs)[1]["action"]
    np.testing.assert_array_equal(interpreter.with_noise(choose)(bits, (), obs)[1]["action"], expected)
    other = interpreter.with_noise(choose)([~x for x in bits], (), obs)[1]["action"]
    assert (other != expected).any()
    with pytest.raises(ValueError, match="the policy reads its key by `scan`"):
        interpreter.with_noise(lambda key: jax.lax.fori_loop(0, 2, lambda i, x: x + jax.random.uniform(key), 0.0))([])


def test_memory_is_an_input_where_it_is_written_and_nowhere_else():
    memory = lambda n: jnp.zeros((n, 2))
    reset = lambda memory, ended: jnp.where(ended[:, None], 0.0, memory)
    obs = jnp.zeros((3, 2))
    remembers = lambda key, memory, obs: ((), {"action": memory + obs, "q": obs}, memory + obs)
    program = programs.program(remembers, memory, reset, obs)
    assert [port.name for port in program.inputs] == ["obs", "memory.0", "reset"]
    assert [port.name for port in program.outputs] == ["action", "q", "next_memory.0"]
    ones, begun = jnp.ones((2, 2)), jnp.array([True, False])
    action, q, after = program.function(ones, ones, begun)
    assert action.tolist() == after.tolist() == [[1, 1], [2, 2]] and q.tolist() == [[1, 1], [1, 1]]
    passes_on = lambda key, memory, obs: ((), {"action": obs}, memory)
    program = programs.program(passes_on, memory, reset, obs)
    assert [port.name for port in program.inputs] == ["obs"] and len(program.outputs) == 1


def test_a_policy_with_memory_or_noise_is_called_by_its_parts():
    ports = [("obs", ["batch", 2], "float32"), ("memory.0", ["batch"], "float32"), ("reset", ["batch"], "bool"),
             ("noise", ["batch", 3], "uint32")]  # fmt: skip
    made = lambda name, shape, dtype: {"name": name, "path": [], "shape": shape, "dtype": dtype}
    outputs = [{**made("action", ["batch"], "float32"), "path": ["x", 0]}, {**made("action.k", ["batch"], "int32"),
               "path": ["k"]}, made("next_memory.0", ["batch"], "float32")]  # fmt: skip
    step = lambda obs, memory, reset, noise: (np.where(reset, 0, memory), noise[:, 0], memory + 1)
    policy = loading.Policy({"inputs": [made(*port) for port in ports], "outputs": outputs}, step)
    noise = policy.noise(np.random.default_rng(0), 2)
    assert noise[0].shape == (2, 3) and noise[0].dtype == np.uint32 and policy.memory(2)[0].tolist() == [0, 0]
    obs = np.zeros((2, 2), np.float32)
    action, memory = policy(obs, noise=noise)
    assert action["x"][0].tolist() == [0, 0] and action["k"].tolist() == noise[0][:, 0].tolist()
    (action, _) = policy(obs, memory, np.array([True, False]), noise)
    assert action["x"][0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="noise is missing, since actions are sampled"):
        policy(obs, memory)
    with pytest.raises(ValueError, match="memory has 0 arrays; the policy takes 1"):
        policy(obs, (), None, noise)
    with pytest.raises(ValueError, match="noise is ndarray; it must be a tuple of 1 arrays"):
        policy(obs, memory, None, noise[0])


def test_observations_may_have_any_names():
    port = {"name": "obs.items", "path": ["items"], "shape": ["batch"], "dtype": "float32"}
    policy = loading.Policy({"inputs": [port], "outputs": [{**port, "name": "action", "path": []}]}, lambda x: (x,))
    obs = np.ones(2, np.float32)
    assert policy({"items": obs}).tolist() == [1, 1] == policy(types.SimpleNamespace(items=obs)).tolist()


def test_discrete_observations_are_choices_of_their_space():
    """A token that does not exist would be another one in silence, or an error in the middle of the program."""
    part = {"type": "Discrete", "n": 3, "start": 1, "shape": [], "dtype": "int32"}
    space = {"type": "Dict", "parts": {"k": {"type": "Tuple", "parts": [part]}}}
    port = {"name": "obs.k.0", "path": ["k", 0], "shape": ["batch"], "dtype": "int32"}
    about = {"inputs": [port], "outputs": [{**port, "name": "action", "path": []}], "observation": space}
    policy = loading.Policy(about, lambda x: (x,))
    assert policy({"k": [np.array([1, 3], np.int32)]}).tolist() == [1, 3]
    for wrong in (0, 4):
        with pytest.raises(ValueError, match=f"obs.k.0 has the value {wrong}; values must be from 1 to 3"):
            policy({"k": [np.array([2, wrong], np.int32)]})
    for other in ({}, {"parts": []}, {"parts": {"k": {"type": "Tuple", "parts": []}}}, None):
        assert loading.Policy({**about, "observation": other}, lambda x: (x,)).run({"obs.k.0": np.ones(1, np.int32)})


def test_q_values_are_of_agents_that_choose_by_them():
    agent, state = standardizing()
    _, outputs, _ = programs.greedy_and_values(agent, state, BOX)(None, (), jnp.array([[3.0], [5.0]]))
    np.testing.assert_allclose(outputs["q"], [[0.0, 0.0], [1.0, -1.0]], atol=1e-6)
    with pytest.raises(ValueError, match="Q-values are of agents that choose by them"):
        programs.greedy_and_values(agent._replace(values=None), state, BOX)


def a_language_model():
    model = models.gpt2(models.GPT2(vocab_size=5, context=4, width=4, num_layers=1, num_heads=2))
    return model, jax.tree.map(lambda x: 20 * x, model.init(jax.random.key(0)))


def test_a_language_model_gives_the_logits_of_its_next_token():
    model, params = a_language_model()
    choose, start = language.next_token(model, params), lambda n: model.cache(n, 3)
    program = programs.program(choose, start, language.reset, jax.ShapeDtypeStruct((1,), jnp.int32))
    step, texts = jax.jit(program.function), np.array([[2, 4, 1], [0, 3, 3]], np.int32)
    memory = [np.full(x.shape, 9, x.dtype) for x in jax.tree.leaves(jax.eval_shape(lambda: start(2)))]  # of other texts
    found = []
    for t in range(3):
        logits, *memory = step(texts[:, t], *memory, np.full(2, t == 0))
        found.append(logits)
    expected = model.logits(params, model.features(params, jnp.asarray(texts)))
    np.testing.assert_allclose(np.stack(found, 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.wide
def test_a_language_model_is_exported(tmp_path):
    model, params = a_language_model()
    files = {"tokenizer.json": b"{}"}
    about = language.save(tmp_path / "model", model, params, jax.random.key(1), 2, 3, files=files, steps=4)
    assert about["most_tokens"] == 3 and about["files"]["tokenizer.json"]["bytes"] == 2
    policy = purerl.export.load(tmp_path / "model")
    texts = np.array([[2, 4, 1], [0, 3, 3]], np.int32)
    expected, memory = model.logits(params, model.features(params, jnp.asarray(texts))), None
    for t in range(3):
        logits, memory = policy(texts[:, t], memory)
        np.testing.assert_allclose(logits, expected[:, t], rtol=1e-5, atol=1e-5)
    episodes = language.write_texts(model, language.next_token(model, params), 3, 2, jax.random.key(1), 4)
    assert episodes.begun[:, 0].tolist() == [True, False, False, True] and (episodes.obs[0] == 2).all()


def test_onnx_runtime_gets_arrays_by_name(monkeypatch):
    """In place of the package, which is an extra."""
    port, given = collections.namedtuple("Port", "name"), {}

    class Session:
        def __init__(self, data, options, providers):
            if data == b"damaged":
                raise RuntimeError("No opset\nof that kind")

        def get_inputs(self):
            return [port("obs"), port("reset")]

        def run(self, names, inputs):
            if inputs["obs"] == 13:
                raise RuntimeError("out of bounds\nat node 36")
            given.update(inputs, names=names)
            return [1, 2]

    fake = types.SimpleNamespace(SessionOptions=types.SimpleNamespace, InferenceSession=Session, __version__="1.0")
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    assert onnx.read(b"", ("action", "next_memory.0"))("o", "r") == (1, 2)
    assert given == {"obs": "o", "reset": "r", "names": ["action", "next_memory.0"]}
    with pytest.raises(ValueError, match=r"cannot run the model on these inputs: out of bounds$"):
        onnx.read(b"", ())(13, "r")
    with pytest.raises(ValueError, match=r"ONNX Runtime 1.0 cannot read the model: No opset$"):
        onnx.read(b"damaged", ())


def test_functions_of_jax_that_the_converter_replaces_are_put_back(monkeypatch):
    """In place of the package, which is an extra."""
    before = jnp.cumsum

    def to_onnx(*_, **__):
        jnp.cumsum = None
        raise TypeError("no rule\nfor it")

    monkeypatch.setitem(sys.modules, "jax2onnx", types.SimpleNamespace(to_onnx=to_onnx))
    monkeypatch.setitem(sys.modules, "onnx", types.SimpleNamespace())
    with pytest.raises(ValueError, match=r"the policy cannot be converted to ONNX: TypeError: no rule$"):
        onnx.write(programs.Program(lambda x: (x,), (programs.Port("obs", (), (None,), "float32"),), ()))
    assert jnp.cumsum is before


def test_spaces_are_described():
    space = gymnax_spaces.Tuple((gymnax_spaces.Box(-jnp.inf, jnp.array([1.0, 2.0]), (2,)), MultiDiscrete([2, 3])))
    box, choices = spaces.describe(space)["parts"]
    assert box == {"type": "Box", "low": None, "high": [1.0, 2.0], "shape": [2], "dtype": "float32"}
    assert choices["nvec"] == [2, 3] and spaces.describe(MultiBinary(2))["shape"] == [2]
    assert json.dumps(spaces.describe(space))


def test_the_score_is_a_mean_with_its_interval():
    score = saving.score(np.arange(10))
    assert score["mean"] == 4.5 and 2 < score["low"] < 4.5 < score["high"] < 7
