import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.hyperparameters import config, option


@config
class Example:
    rate: float = option(0.1, "a rate", low=0.0, open_low=True)
    limit: float | None = option(None, "a limit", low=0.0)
    count: int = option(4, "a count", low=1)
    on: bool = option(False, "a switch")


def test_floats_are_leaves_and_everything_else_is_structure():
    assert jax.tree.leaves(Example()) == [0.1]
    assert jax.tree.leaves(Example(limit=2)) == [0.1, 2.0]
    assert jax.tree.structure(Example(rate=0.2)) == jax.tree.structure(Example())
    for other in (Example(count=5), Example(on=True), Example(limit=1.0)):
        assert jax.tree.structure(other) != jax.tree.structure(Example())


def test_int_given_for_a_float_becomes_one():
    assert type(Example(rate=1).rate) is float


def test_vmap_and_grad_pass_through():
    swept = jax.vmap(lambda hp: hp.rate * hp.count)(Example(rate=jnp.array([1.0, 2.0])))
    np.testing.assert_array_equal(swept, [4.0, 8.0])
    gradient = jax.grad(lambda hp: hp.rate**2)(Example(rate=3.0))
    assert isinstance(gradient, Example) and gradient.rate == 6.0
    assert jax.eval_shape(lambda rate: Example(rate=rate).rate, 0.1).shape == ()  # a traced value is not looked at


def test_replace_checks_again():
    assert dataclasses.replace(Example(), count=2).count == 2
    with pytest.raises(ValueError, match="count"):
        dataclasses.replace(Example(), count=0)


@pytest.mark.parametrize(
    "bad",
    [
        dict(rate=0.0), dict(rate=-1), dict(rate="1"), dict(rate=True), dict(rate=None), dict(rate=float("nan")),
        dict(rate=jnp.array([0.1, -0.1])), dict(limit=-1.0), dict(count=0), dict(count=2.0), dict(count=True),
        dict(on=1),
    ],
)  # fmt: skip
def test_bad_values_name_field_value_and_what_is_allowed(bad):
    name = next(iter(bad))
    with pytest.raises(ValueError, match=rf"Example\.{name} is .*; it must be "):
        Example(**bad)


def test_choices_are_checked():
    with pytest.raises(ValueError, match="normalize_advantage is 'all'; it must be one of minibatch, batch, none"):
        purerl.PPO(normalize_advantage="all")


def test_a_float_does_not_recompile_and_an_int_does():
    traces = []

    @jax.jit
    def f(hp):
        traces.append(1)
        return hp.rate * hp.count

    for hp in (Example(rate=1.0), Example(rate=2.0)):
        f(hp)
    assert len(traces) == 1
    f(Example(count=5))
    assert len(traces) == 2
