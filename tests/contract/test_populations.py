"""Populations of every agent: members alone, copies of whole states, and broken members."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import purerl
from purerl import training
from purerl.search import pbt
from purerl.testing import checks

EVERY = 2  # updates of a generation
AGENTS = pytest.mark.parametrize("name", zoo.params(("a2c", "dqn"), wide=("dqn",)))  # without a replay, and with one
ALONE = pbt.exchange(select=pbt.truncation(0.0))
BY_SCORE = pbt.exchange(select=pbt.truncation(0.5), explore=pbt.perturb(1.0))


@pytest.mark.parametrize("name", zoo.params(zoo.ROWS, zoo.VARIANTS))
def test_an_exchange_keeps_the_structure_of_every_agents_population(name):
    """By tracing alone: all shapes and dtypes, of hyperparameters too, so that a generation compiles nothing."""
    own = jax.eval_shape(lambda key: zoo.row(name).make(zoo.row(name).hp).init(key), jax.random.key(0))
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), own)
    values = {x: jnp.full(3, getattr(zoo.row(name).hp, x)) for x in pbt.declared(type(zoo.row(name).hp))
              if getattr(zoo.row(name).hp, x) is not None}  # fmt: skip
    hp = training.loop.as_arrays(dataclasses.replace(zoo.row(name).hp, **values))
    scores = jax.ShapeDtypeStruct((3,), jnp.float32)
    after = jax.eval_shape(pbt.exchange(), jax.random.key(0), hp, state, scores)
    shapes = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), x.dtype, getattr(x, "weak_type", False)), tree)
    assert shapes(after[1]) == shapes(state) and shapes(after[0]) == shapes(hp)


@cache
def isolated(name):
    return training.batch(zoo.make(name), isolate=True)


def varied(name, n=3):
    return dataclasses.replace(zoo.row(name).hp, learning_rate=1e-3 * jnp.arange(1.0, n + 1))


def host(generation):
    return zoo.to_host(generation._replace(iteration=np.array(generation.iteration)))


@AGENTS
def test_members_without_exchange_are_separate_runs(name, key, monkeypatch):
    """Bit for bit, in all of their state: each is the run of its key and hyperparameters alone."""
    lower = training.loop._advance.lower
    compiled = cache(lambda make, n: lower(make, *shapes[n]).compile(zoo.AS_USERS_DO))
    shapes = {}

    def advance(make, hp, state, num_updates):
        shapes[len(state.iteration)] = hp, state, num_updates
        return compiled(make, len(state.iteration))(hp, state, num_updates)

    monkeypatch.setattr(training.loop, "_advance", advance)
    hp = varied(name)
    *_, last = pbt.evolve(isolated(name), hp, key, 2 * EVERY, EVERY, ALONE)
    last = host(last)
    keys = jax.random.split(jax.random.split(key)[0], 3)
    for i in range(3):
        own = dataclasses.replace(hp, learning_rate=hp.learning_rate[i : i + 1])
        *_, (_, alone, _) = purerl.run(isolated(name), own, keys[i : i + 1], 2 * EVERY, EVERY)
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], last.state)
        checks.assert_same_bits(one, zoo.to_host(alone), f"member {i} of a population against itself alone")


@pytest.mark.parametrize("name", ("a2c", "dqn"))
def test_a_child_has_all_of_its_parent_but_its_key(name, key):
    """Parameters, optimiser, environments, replay and counters; and the same key gives the same bits."""
    order = lambda state, metrics, before: jnp.array([1.0, 3.0, 2.0])
    run = lambda: [host(g) for g in pbt.evolve(isolated(name), varied(name), key, EVERY, EVERY, BY_SCORE, order)]
    (first,) = run()
    assert first.parent.tolist() == [1, 1, 2]
    child, parent, other = (jax.tree.map(lambda x, i=i: x[i], first.state) for i in range(3))
    assert (child.key != parent.key).any()
    checks.assert_same_bits(child._replace(key=()), parent._replace(key=()), "a child against its parent")
    assert not np.array_equal(child.iteration, 0) and child.iteration == other.iteration
    assert first.hp.learning_rate.tolist() == [first.trained.learning_rate[i] for i in (1, 1, 2)]
    checks.assert_same_bits(first, run()[0], "the same key twice")


@AGENTS
def test_a_member_that_breaks_leaves_the_others_as_they_were(name, key):
    """A learning rate of 1e30 breaks one; after that it goes on from another's state, and is finite."""
    whole, broken = varied(name), varied(name)
    broken = dataclasses.replace(broken, learning_rate=broken.learning_rate.at[1].set(1e30))
    num_updates = 8 * EVERY  # dqn learns from its sixth update on
    sound = [host(g) for g in pbt.evolve(isolated(name), whole, key, num_updates, 4 * EVERY, ALONE, fixed)]
    found = [host(g) for g in pbt.evolve(isolated(name), broken, key, num_updates, 4 * EVERY, ALONE, fixed)]
    assert found[0].parent.tolist() == [0, 2, 2] or found[0].parent.tolist() == [0, 0, 2]
    for i in (0, 2):
        of = lambda g, i=i: jax.tree.map(lambda x: x[i] if np.ndim(x) else x, (g.state, g.hp, g.scores))
        checks.assert_same_bits([of(g) for g in found], [of(g) for g in sound], f"member {i} beside a broken one")
    checks.assert_finite(found[-1].state.agent, name)


def fixed(state, metrics, before):
    """Equal scores, but for members that broke."""
    del metrics
    return jnp.where(state.nonfinite > 0, jnp.nan, jnp.zeros_like(before))


@pytest.mark.wide
def test_a_population_over_two_devices_equals_one_on_one(key):
    devices = jax.devices()[:2]
    hp, exchange = varied("a2c", 4), pbt.exchange(select=pbt.truncation(0.5))
    rank = lambda state, metrics, before: jnp.arange(4.0)
    one, two = (
        [host(g) for g in pbt.evolve(training.batch(zoo.make("a2c"), d), hp, key, 4, 2, exchange, rank)]
        for d in (devices[:1], devices)
    )
    for a, b in zip(one, two, strict=True):
        checks.assert_close(a._replace(metrics=()), b._replace(metrics=()), "two devices against one")
