"""Numbers of one seed stay what they are, up to rounding of other processors and versions of XLA; so do programs."""

import dataclasses
import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.testing import checks


@pytest.mark.smoke
@pytest.mark.parametrize("name", golden.NAMES)
def test_first_metrics(name):
    expected = json.loads((golden.FOLDER / f"{name}.json").read_text())
    measured = golden.measure(name)
    assert measured.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(measured[key], values, rtol=2e-3, atol=2e-4, err_msg=f"{name}: {key}")


@pytest.mark.smoke
@pytest.mark.parametrize("name", golden.NAMES)
def test_programs_do_not_grow_unseen(name):
    recorded = json.loads(golden.PROGRAMS.read_text())
    if name not in recorded.get(golden.version(), {}):
        pytest.skip(f"no size of {name} is recorded for jax {golden.version()}: python tests/golden.py")
    before, now = recorded[golden.version()][name], golden.size(name)
    assert now <= before, f"{name}'s step has grown from {before} to {now} equations: see tests/golden.py"
    assert now > 0.9 * before, f"{name}'s step has shrunk from {before} to {now} equations: python tests/golden.py"


@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce", "dqn", "pqn"])
def test_an_agent_is_compiled_once(name, key):
    """Two programs for a run: its first state and its step; other lengths, seeds and floats add none."""
    make, hp = golden.learner_of(name)
    keys = [key, jax.random.fold_in(key, 1)]
    other = dataclasses.replace(hp, learning_rate=hp.learning_rate / 2)
    purerl.training._as_arrays((hp, other)), jnp.int32(3)  # what is small and shared is compiled before
    with checks._Compilations() as compiled:
        for _ in purerl.run(make, hp, keys[0], 3, every=2):
            pass
        first = compiled.count
        for _ in purerl.run(make, other, keys[1], 5, every=3):
            pass
    assert first <= 2 and compiled.count == first
