"""The assembler: names become environments, networks, agents and rewards."""

from dataclasses import make_dataclass
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from own import __file__ as OWN

import purerl
from purerl import arguments, build, distributions, networks, rewards
from purerl.agents.parts.declarations import Choice, Number, Switch, declaration_of, name_of, options_of, parts_of
from purerl.core import Transition, where_ended

TWO, BOX = spaces.Discrete(2), spaces.Box(-1.0, 1.0, (2,))


@pytest.mark.parametrize("name", list(purerl.agents.names()))
def test_every_agent_is_assembled_from_its_name(name):
    """As its family has it, for a space that the family takes; the same network as by hand."""
    make = build.agent_function(name)
    about = declaration_of(make)
    space = BOX if about.family is purerl.ACTOR_CRITIC else TWO
    agent = build.agent(make, space, build.body("mlp", (4,)))(about.hp)
    assert isinstance(agent, purerl.Agent) and purerl.agents.names()[name]
    obs = jax.eval_shape(lambda key: agent.init(key, jnp.zeros((1, 3))), jax.random.key(0)).params
    sizes = [x.shape for x in jax.tree.leaves(obs)]
    hidden = [x for x in sizes if x and x[-1] == 4]
    assert hidden, sizes


def test_rainbow_is_dueling_and_noisy_unless_told_otherwise():
    options = options_of(purerl.rainbow)
    assert options["dueling"].default and options["noise"].default and not options_of(purerl.c51)["noise"].default

    def names(**given):
        agent = build.agent(purerl.rainbow, TWO, build.body("mlp", (4,)), given)(purerl.Rainbow(num_atoms=3))
        state = jax.eval_shape(lambda key: agent.init(key, jnp.zeros((1, 3))), jax.random.key(0))
        return str(jax.tree.structure(state.params))

    assert names() == names(dueling=True, noise=True) != names(dueling=False, noise=True) != names(noise=False)


def test_options_choose_the_parts_of_a_constructor():
    given = {"backup": "munchausen", "temperature": 0.5, "td_loss": "huber", "explore": "boltzmann", "noise": True}
    parts = parts_of(purerl.dqn, given)
    assert parts["perturb"] is networks.noisy and parts["td_loss"] is purerl.losses.huber
    q = jnp.array([0.0, 1.0])
    next = purerl.bellman.Next(q, q_now=q, action_now=0)
    wanted = purerl.bellman.munchausen_backup(0.5)(0.0, 0.9, False, next)
    assert parts["backup"](0.0, 0.9, False, next) == wanted
    assert parts_of(purerl.dqn, {}) == {}  # the constructor's own defaults
    kinds = {name: type(option) for name, option in options_of(purerl.dqn).items()}
    assert kinds["temperature"] is Number and kinds["dueling"] is Switch and kinds["backup"] is Choice
    with pytest.raises(ValueError, match="--noise: pqn has no part"):
        parts_of(purerl.pqn, {"noise": True})


def test_a_partial_constructor_has_the_declaration_of_its_function():
    make = partial(purerl.dqn, td_loss=purerl.losses.huber)
    assert declaration_of(make) is declaration_of(purerl.dqn) and name_of(make) == "dqn"
    assert isinstance(build.agent(make, TWO)(purerl.DQN()), purerl.Agent)
    with pytest.raises(ValueError, match=r"<lambda> must be a function that declares its family, such as @purerl"):
        declaration_of(lambda network: network)


@pytest.mark.parametrize(
    "family, hp, about, said",
    [
        ("policy", purerl.PPO(), {}, "family is 'policy'; it must be a Family"),
        (purerl.POLICY_GRADIENT, 3, {}, "hp is 3; it must be an instance of a purerl.config class"),
        (purerl.POLICY_GRADIENT, purerl.PPO, {}, r"hp is <class .*PPO'>; it must be an instance of a purerl.config"),
        (purerl.POLICY_GRADIENT, purerl.PPO(), {"envs": 4}, "envs is unknown; allowed are num_envs, rollout_length"),
        (purerl.POLICY_GRADIENT, purerl.PPO(), {"switches": {"dueling": True}}, "the family has no switch 'dueling'"),
    ],
)
def test_declarations_that_cannot_be_used(family, hp, about, said):
    with pytest.raises(ValueError, match=said):
        purerl.declare(family, hp, **about)(lambda network, policy, hp: None)


def test_a_q_learner_needs_no_perturbation():
    """As CONTRIBUTING has it: `name(network, hp)`."""
    make = purerl.declare(purerl.Q_LEARNING, purerl.DQN())(lambda network, hp: purerl.dqn(network, hp))
    assert isinstance(build.agent(make, TWO, options={"dueling": False, "noise": False})(purerl.DQN()), purerl.Agent)
    with pytest.raises(ValueError, match=r"--noise: .* has no part"):
        build.agent(make, TWO, options={"dueling": False, "noise": True})


def test_a_network_of_ones_own_is_a_function_of_what_its_outputs_are():
    asked = []

    def network(policy, hp):
        asked.append((policy.num_params, hp.gamma))
        return networks.actor_critic(policy)

    build.agent(purerl.ppo, BOX, network=network)(purerl.PPO(gamma=0.5))
    assert asked == [(4, 0.5)]


@pytest.mark.parametrize(
    "make, space, body, said",
    [
        (purerl.dqn, BOX, {}, "dqn is for discrete actions; the environment has"),
        (purerl.iqn, TWO, {"memory": networks.gru(3)}, "--memory: iqn takes no network with memory"),
        (purerl.sac, BOX, {"memory": networks.gru(3)}, "--memory: sac takes no network with memory"),
    ],
)
def test_what_does_not_fit_is_named(make, space, body, said):
    with pytest.raises(ValueError, match=said):
        build.agent(make, space, build.body(**body))(declaration_of(make).hp)


def test_policies_of_continuous_actions_by_name():
    at = jnp.array([3.0, 0.0, 0.0, 0.0])
    for name, inside in (("normal", False), ("tanh-normal", True), ("beta", True)):
        subject = purerl.POLICY_GRADIENT.subject(purerl.ppo, BOX, {"policy": name})
        assert bool((jnp.abs(subject.mode(at)) <= 1).all()) == inside
    hybrid = purerl.ACTOR_CRITIC.subject(purerl.td3, BOX, {})
    assert hybrid.continuous.num_params == 2  # deterministic: no deviations


def test_memories_by_name():
    assert build.memory("none") is None
    for name in build.MEMORIES[1:]:
        core = build.memory(name, 8, context=4)
        assert jax.tree.leaves(core.memory(3))[0].shape[0] == 3


# --- rewards of a user's file ---------------------------------------------------------------------------------------


def block():
    one = lambda x: jnp.full((2, 3), x)
    ends = one(False)
    return Transition(one(0.0), one(1.0), jnp.arange(6.0).reshape(2, 3), one(0.0), ends, ends, ~ends)


def paid(name, hp=None):
    reward = build.reward(f"{OWN}:{name}")(hp)
    key = jax.random.key(0)
    return np.asarray(reward.apply(key, reward.init(key, jax.tree.map(lambda x: x[0], block())), block())[1])


def test_a_reward_is_told_apart_by_its_signature():
    np.testing.assert_array_equal(paid("doubled"), 2 * block().reward)
    np.testing.assert_array_equal(paid("of_transitions"), block().reward)
    np.testing.assert_array_equal(paid("of_hyperparameters", purerl.PPO(gamma=0.5)), 0.5 * block().reward)


@pytest.mark.parametrize(
    "name, said",
    [
        ("not_a_reward", r"must be FILE.py:name of a purerl Reward, of a function \(hp\).*, or of a function \(tr"),
        ("bandit", "must be FILE.py:name of a purerl Reward"),
        ("of_hyperparameters_wrongly", "that returns a reward for every step; it returns 1.0"),
    ],
)
def test_rewards_that_are_none(name, said):
    with pytest.raises(ValueError, match=said):
        build.reward(f"{OWN}:{name}")(purerl.PPO())


def test_a_mistake_inside_a_reward_is_its_own():
    with pytest.raises(AttributeError, match="no attribute 'rewards'"):
        paid("of_transitions_with_a_mistake")


def test_environments_of_a_users_file(monkeypatch):
    env = SimpleNamespace(step_env=1, action_space=2, observation_space=3, default_params="own")
    monkeypatch.setattr(build, "from_file", lambda name: lambda: made)
    made = env
    assert build.environment("a.py:make") == (env, "own")
    made = env, "other"
    assert build.environment("a.py:make") == (env, "other")
    for wrong, said in (
        ((env, 1, 2), r"it returns .* without step_env, action_space, observation_space"),
        (SimpleNamespace(step_env=1), "without action_space, observation_space"),
    ):
        made = wrong
        with pytest.raises(ValueError, match=rf"a.py:make must be a function without arguments that .*{said}"):
            build.environment("a.py:make")
    monkeypatch.setattr(build, "from_file", lambda name: lambda size: env)
    with pytest.raises(ValueError, match=r"returns a gymnax Environment, or .*: missing a required argument: 'size'"):
        build.environment("a.py:make")
    for made in (3, lambda: 1, lambda tr, hp: 1, type):  # the last has no signature
        monkeypatch.setattr(build, "from_file", lambda name, made=made: made)
        with pytest.raises(ValueError, match=r"--reward is a.py:r; it must be FILE.py:name of a purerl Reward"):
            build.reward("a.py:r")


def test_a_name_that_a_file_lacks(tmp_path):
    for source, there in (("import math\ndef made(): ...\n", "made"), ("x = 3\n", "no functions")):
        (tmp_path / "a.py").write_text(source)
        with pytest.raises(ValueError, match=rf"a.py has no 'make'; it has {there}$"):
            build.from_file(f"{tmp_path}/a.py:make")


# --- small helpers --------------------------------------------------------------------------------------------------


def test_arguments_are_checked_and_named():
    arguments.check_counts("f", n=1)
    arguments.check_range("f", 0, 1, x=jnp.array([0.0, 1.0]))
    arguments.check_whole("f", 0, 9, x=[2.0, 3], y=np.int8(4))  # nothing is lost where they become ints
    arguments.check_positive("f", x=0.1)
    arguments.check_scalars("f", x=jnp.array(1.0))
    arguments.check_arrays("f", x=np.ones(1), y=jnp.ones(1))
    arguments.check_flags("f", on=np.bool_(True))
    jax.eval_shape(lambda x: arguments.check_whole("f", 0, 1, x=x, y=[x, 1]), 2.5)  # traced
    arguments.check_functions("f", g=len)
    Two = make_dataclass("Two", ["x", "y"])
    Three = make_dataclass("Three", ["z"], bases=(Two,))
    arguments.check_one_problem("f", Two, Three(1.0, jnp.ones((1, 2)), np.ones(3)), y=2)
    jax.jit(lambda x: arguments.check_one_problem("f", Two, Two(x, 2)))(1.0)
    for check, said in (
        (lambda: arguments.check_counts("f", n=0), "f: n is 0; it must be a positive int"),
        (lambda: arguments.check_counts("f", n=True), "f: n is True"),
        (lambda: arguments.check_counts("f", n=2**31), "f: n is 2147483648; it must be below 2147483648"),
        (lambda: arguments.check_range("f", 0, 1, x=1.1), r"f: x is 1.1; it must lie in \[0, 1\]"),
        (
            lambda: arguments.check_range("f", 0, 1, x="1"),
            "f: x is '1'; it must be a real number or an array of numbers",
        ),
        (
            lambda: arguments.check_range("f", 0, 1, x=[[1], [1, 2]]),
            r"f: x is \[\[1\], \[1, 2\]\]; it must be a",
        ),
        (lambda: arguments.check_one_problem("f", Two, Two([1.0], 2)), r"f: x has shape \(1,\); it must be one number"),
        (
            lambda: arguments.check_one_problem("f", Two, Two(1, 2), y=2),
            r"f: y has shape \(\); it must be an array of 2",
        ),
        (lambda: arguments.check_range("f", 0, 1, x=1j), "f: x is 1j; it must be a real number"),
        (lambda: arguments.check_range("f", 0, 1, x=2**70), f"f: x is {2**70}; it must lie in"),
        (
            lambda: arguments.check_positive("f", x=None),
            "f: x is None; it must be a real number or an array of numbers",
        ),
        (lambda: arguments.check_positive("f", x=np.inf), "f: x is inf; it must be positive and finite"),
        (lambda: arguments.check_whole("f", 0, 9, x=2.5), "f: x is 2.5; it must be a whole number"),
        (lambda: arguments.check_whole("f", 0, 9, x=np.nan), r"f: x is nan; it must lie in \[0, 9\]"),
        (lambda: arguments.check_scalars("f", x=np.ones(2)), r"f: x has shape \(2,\); it must be one number"),
        (lambda: arguments.check_arrays("f", x=[1.0]), r"f: x is \[1.0\]; it must be an array"),
        (lambda: arguments.check_flags("f", on=1), "f: on is 1; it must be True or False"),
        (lambda: arguments.check_functions("f", g=1), "f: g is 1; it must be a function"),
        (lambda: arguments.check_shapes("f", a=np.ones(2), b=np.ones(3)), r"f: shapes must be equal, got a \(2,\), b"),
    ):
        with pytest.raises(ValueError, match=said):
            check()


POSTPONED = """
from __future__ import annotations
import dataclasses, typing
import jax
from flax import struct
import purerl

@struct.dataclass
class State:
    time: jax.Array

@dataclasses.dataclass
class Plain:
    state: State
    kind: typing.ClassVar[int] = 0

@purerl.config
class Own:
    rate: float = purerl.option(0.5, "step size")
    layers: int = 2
"""


def test_a_file_is_imported_as_by_import(tmp_path):
    """Annotations written as strings are looked up in the file's own module, whatever the file is called."""
    import json
    import sys
    import typing

    file, modules = tmp_path / "json.py", set(sys.modules)
    file.write_text(POSTPONED)
    own, plain = build.from_file(f"{file}:Own"), build.from_file(f"{file}:Plain")
    assert jax.tree.leaves(own(rate=1)) == [1.0]
    assert typing.get_type_hints(plain)["state"] is build.from_file(f"{file}:State")
    assert sys.modules["json"] is json
    file.write_text(POSTPONED.replace("0.5", "0.25"))
    assert build.from_file(f"{file}:Own")().rate == 0.25 and own().rate == 0.5
    for source in ("import purerl\nraise KeyError('me')", "def"):
        modules = set(sys.modules)
        file.write_text(source)
        with pytest.raises(ValueError, match="could not be imported"):
            build.from_file(f"{file}:Own")
        assert set(sys.modules) == modules


def test_a_file_imports_its_neighbours_as_python_would(tmp_path):
    """Modules, packages with and without __init__, and relative imports; later ones, and changed ones."""
    import json
    import sys

    def project(folder, number):
        for name in ("pack", "plain"):
            (folder / name).mkdir(parents=True)
        (folder / "pack" / "__init__.py").write_text("from .inner import one\nfrom . import other")
        (folder / "pack" / "inner.py").write_text("from json import one")
        (folder / "pack" / "other.py").write_text("")
        (folder / "json.py").write_text(f"one = {number}")
        (folder / "plain" / "part.py").write_text("two = 2")
        (folder / "late.py").write_text("three = 3")
        (folder / "unused.py").write_text("raise KeyError")
        source = "import pack, plain.part\ndef total():\n import late\n return pack.one + plain.part.two + late.three"
        (folder / "own.py").write_text(source)
        return f"{folder / 'own.py'}:total"

    total = lambda name: build.called(name, "total")
    a, b = project(tmp_path / "a", 1), project(tmp_path / "b", 10)
    assert [total(a), total(b), total(a)] == [6, 15, 6]
    (tmp_path / "a" / "json.py").write_text("one = 5")
    assert [total(a), total(b)] == [10, 15]
    assert sys.modules["json"] is json and str(tmp_path / "a") not in sys.path
    names = ["json.py", "late.py", "pack/__init__.py", "pack/inner.py", "pack/other.py", "plain/part.py"]
    found = build.neighbours(tmp_path / "a" / "own.py")
    assert [str(path.relative_to(tmp_path / "a")) for path in found] == names
    assert list(tmp_path.rglob("__pycache__")) == []


def test_where_an_episode_ended():
    new, old = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}, {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    got = where_ended(jnp.array([True, False]), new, old)
    assert got["a"].tolist() == [[0.0] * 3, [1.0] * 3] and got["b"].tolist() == [0.0, 1.0]


def test_actions_of_a_box_are_clipped_for_the_environment():
    space = spaces.Dict({"kind": TWO, "x": spaces.Box(-1.0, 1.0, (1,))})
    clipped = distributions.clip_to_space(space, {"kind": jnp.array(1), "x": jnp.array([3.0])})
    assert clipped["kind"] == 1 and clipped["x"].tolist() == [1.0]


def test_a_reward_that_depends_on_a_condition():
    reward = rewards.when(lambda tr: tr.reward > 2, lambda tr: 10 * tr.reward, rewards.environment)
    _, given, _ = reward.apply(jax.random.key(0), reward.init(jax.random.key(0), block()), block())
    np.testing.assert_array_equal(given, np.where(block().reward > 2, 10 * block().reward, block().reward))
