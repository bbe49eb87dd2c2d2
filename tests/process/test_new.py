"""What `purerl new` writes passes the checks that its own last lines make."""

import dataclasses
import runpy

import jax
import pytest
from commands import finished
from jax.interpreters.partial_eval import dce_jaxpr

import purerl
from purerl.cli.commands.new import KINDS, TEMPLATES, example
from purerl.testing import checks


@pytest.mark.parametrize("kind", KINDS)
def test_examples_pass_their_checks(kind, tmp_path):
    # without the flags of the tests, by which two programs of the same loop may differ in rounding
    code, _, error = finished(code=example(kind, tmp_path / "own.py"), XLA_FLAGS="")
    assert code == 0, error


def test_every_option_of_the_agent_has_an_effect(key):
    """Of those that it inherits too: a float is used by the update, anything else changes the program."""
    own = runpy.run_path(str(TEMPLATES / "agent.py"))
    env, env_params = purerl.make("CartPole-v1")
    policy = purerl.distributions.for_space(env.action_space(env_params))
    agent = lambda hp: own["my_agent"](purerl.networks.actor_critic(policy), policy, hp)
    make = lambda hp: purerl.learner(env, env_params, agent(hp), 2, 3)

    def traced(**changed):
        return checks.trace(make, own["MyAgent"](**{"anneal_steps": 100.0, **changed}), key)

    floats = [x.name for x in dataclasses.fields(own["MyAgent"]) if "float" in str(x.type)]
    plain = traced()
    learned = len(jax.tree.leaves(plain.end))
    _, used = dce_jaxpr(plain.step, [i < learned for i in range(len(plain.step.outvars))])
    assert [name for name, x in zip(floats, used, strict=False) if not x] == []
    for changed in ({"normalize_obs": True}, {"anneal_steps": None}):
        assert str(traced(**changed).step) != str(plain.step), changed
    assert len(floats) + 1 == len(dataclasses.fields(own["MyAgent"]))
