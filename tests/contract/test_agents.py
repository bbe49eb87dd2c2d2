"""Every agent of the table against the same contract: structure, keys, seeds, resuming, recorded numbers, options."""

import dataclasses
import json
from typing import Literal, get_args, get_origin, get_type_hints

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import purerl
from purerl import training
from purerl.testing import checks

EVERY = pytest.mark.parametrize("name", zoo.ROWS)
COMPILED = pytest.mark.parametrize("name", zoo.params(zoo.ROWS, zoo.VARIANTS))
SMOKE = pytest.mark.parametrize("name", zoo.params(zoo.ROWS, zoo.VARIANTS, zoo.FAMILIES))
ONE_OF_A_FAMILY = pytest.mark.parametrize("name", zoo.params(zoo.SMALLEST, wide=("ddpg", "rloo")))


def test_every_algorithm_is_in_the_table():
    assert {name.split()[0] for name in zoo.ROWS} >= set(purerl.agents.names())


# --- by tracing alone -------------------------------------------------------------------------------------------------


@EVERY
def test_an_update_keeps_the_states_structure_and_its_metrics_are_scalars(name):
    checks.check_structure(zoo.traced(name))


@EVERY
def test_no_key_is_used_twice(name):
    zoo.traced(name)  # tracing raises where one is


@EVERY
def test_actions_have_the_shape_of_the_space(name, key):
    row = zoo.row(name)
    state = zoo.traced(name).begin.agent
    checks.check_actions(row.agent(row.hp), state, row.env, row.env_params, key, row.num_envs)


@EVERY
def test_programs_do_not_grow_unseen(name):
    recorded = json.loads(golden.PROGRAMS.read_text())
    if name not in recorded.get(golden.version(), {}):
        pytest.skip(f"no size of {name} is recorded for jax {golden.version()}: python tests/golden.py")
    before, now = recorded[golden.version()][name], golden.size(name)
    assert now <= before, f"{name}'s step has grown from {before} to {now} equations: see tests/golden.py"
    assert now > 0.9 * before, f"{name}'s step has shrunk from {before} to {now} equations: python tests/golden.py"


# --- one compiled program an agent ------------------------------------------------------------------------------------


@SMOKE
def test_first_metrics_are_the_recorded_ones(name):
    """Numbers of one seed stay what they are, up to rounding of other processors and versions of XLA."""
    expected = json.loads(golden.METRICS.read_text())[name]
    measured = golden.measure(name)
    assert measured.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(measured[key], values, rtol=2e-3, atol=2e-4, err_msg=f"{name}: {key}")


@COMPILED
def test_training_stays_finite(name):
    done = zoo.finished(name)
    metrics = {key: x for key, x in done.metrics.items() if key not in ("episode_return", "episode_length")}
    checks.assert_finite((done.state.agent, metrics), name)


@SMOKE
def test_seeds_chunks_resumed_runs_and_other_floats_are_one_program(name, key):
    """Same seed same bits, another seed others; chunks and a resumed run equal one that went through."""
    other = jax.random.fold_in(key, 1)
    checks.check_runs(zoo.make(name), zoo.row(name).hp, key, other, zoo.NUM_UPDATES, zoo.finished(name).state)


def test_a_state_is_one_line_in_a_notebook():
    for name in zoo.FAMILIES:
        state = zoo.finished(name).state
        assert "iteration=4" in repr(state) and max(len(repr(state)), len(repr(state.agent))) < 300
    assert "replay=<" in repr(state.agent) and "obs=<" in repr(state.agent.replay)


def parameters(state):
    """Parameters and their targets: what learning changed, and not the counters or the exploration beside it."""
    leaves = jax.tree_util.tree_leaves_with_path(state.agent)
    found = [np.asarray(x) for path, x in leaves if "params" in jax.tree_util.keystr(path)]
    assert found
    return found


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def floats(hp):
    return [name for name in vars(hp) if isinstance(getattr(hp, name), float)]


@COMPILED
def test_every_float_changes_what_is_learned(name, key):
    hp = zoo.row(name).hp
    plain = parameters(zoo.finished(name).state)
    without = []
    for field in floats(hp):
        changed = dataclasses.replace(hp, **{field: 0.3 * getattr(hp, field) + 0.3})
        without += [field] if same(plain, parameters(zoo.finish(name, changed, key).state)) else []
    assert without == [], f"{name}: {without} have no effect"


# --- structure --------------------------------------------------------------------------------------------------------


def other_value(hint, value):
    """Another value of a field that is not a float, or None for a float that may be left out."""
    if isinstance(value, float):
        return None
    if value is None:
        return 0.3
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    return not value if isinstance(value, bool) else 2 * value


def structural(name):
    """Fields whose values are structure, and floats whose presence is; inherited ones once for each base."""
    hp = zoo.row(name).hp
    hints = get_type_hints(type(hp))
    inherited = {field for base in type(hp).__mro__[1:] for field in getattr(base, "__annotations__", {})}
    skipped = set() if name in (*zoo.FAMILIES, "rloo") else inherited - set(type(hp).__annotations__)
    for field in dataclasses.fields(hp):
        value = getattr(hp, field.name)
        optional = type(None) in get_args(hints[field.name])
        if field.name not in skipped and (optional or not isinstance(value, float)):
            yield field.name, other_value(hints[field.name], value)


MEMORY_ONLY = {"sequence_length", "burn_in"}
STRUCTURE = [name for name in zoo.ROWS if " " not in name]  # no two rows of one config, but for r2d2


@pytest.mark.parametrize("name", zoo.params(STRUCTURE, wide=("iqn", "rainbow")))
def test_every_structural_option_changes_the_program(name, key):
    """Without compiling: another jaxpr, or other shapes in the state."""
    hp, plain = zoo.row(name).hp, zoo.traced(name)
    without = []
    for field, value in structural(name):
        if (field in MEMORY_ONLY) != (name == "r2d2"):
            continue
        changed = checks.trace(zoo.make(name), dataclasses.replace(hp, **{field: value}), key)
        shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), traced.begin) for traced in (plain, changed)]
        without += [field] if shapes[0] == shapes[1] and str(plain.step) == str(changed.step) else []
    assert without == [], f"{name}: {without} have no effect"


@EVERY
def test_defaults_are_the_recorded_ones(name):
    """A default that changes is a change of results: it gets a line under RESULTS in CHANGELOG.md."""
    config = type(zoo.row(name).hp)
    assert golden.defaults(config) == json.loads(golden.DEFAULTS.read_text())[config.__name__]


# --- what is a property of the loop: one agent of each family ---------------------------------------------------------


@ONE_OF_A_FAMILY
def test_chunks_of_a_run_are_one_scan(name, key):
    """The two are different programs, and equal bit for bit where XLA emits what a user's programs are made of."""
    make, hp = zoo.make(name), training.loop.as_arrays(zoo.row(name).hp)
    compiled = lambda function, *args: jax.jit(function).lower(*args).compile(zoo.AS_USERS_DO)
    whole = compiled(lambda hp, key: purerl.train(make(hp), key, zoo.NUM_UPDATES), hp, key)
    begin = compiled(lambda hp, key: make(hp).init(key), hp, key)(hp, key)
    chunk = training.loop._advance.lower(make, hp, begin, jnp.int32(1)).compile(zoo.AS_USERS_DO)
    program = training.Program(begin, lambda make, hp, state, num_updates: chunk(hp, state, num_updates))
    *_, (_, state, _) = purerl.run(make, hp, None, zoo.NUM_UPDATES, zoo.NUM_UPDATES - 1, program=program)
    checks.assert_same_bits(whole(hp, key)[0], state, "a run in chunks against one scan")


@ONE_OF_A_FAMILY
def test_a_batch_of_seeds_equals_its_members(name, key):
    checks.check_batch(zoo.make(name), zoo.row(name).hp, jax.random.split(key, 2))


def test_isolated_seeds_are_the_same_whatever_their_number(key):
    """Bit for bit, in all of their state and metrics: each seed alone, and among others."""
    make, hp = training.batch(zoo.make("a2c"), isolate=True), training.loop.as_arrays(zoo.row("a2c").hp)

    def program(keys):
        state = training.loop._init(make, hp, keys)
        compiled = training.loop._advance.lower(make, hp, state, jnp.int32(1)).compile(zoo.AS_USERS_DO)
        return lambda keys: compiled(hp, training.loop._init(make, hp, keys), jnp.int32(3))

    keys = jax.random.split(key, 3)
    alone, several = program(keys[:1]), program(keys)(keys)
    for k in range(3):
        one = jax.tree.map(lambda x, k=k: x[k : k + 1], several)
        checks.assert_same_bits(one, alone(keys[k : k + 1]), f"seed {k} among others against itself alone")


@pytest.mark.wide  # every operation is a program
@pytest.mark.parametrize("name", ("a2c", "dqn", "ddpg"))
def test_an_update_without_jit_is_the_same_up_to_rounding(name, key):
    make, hp = zoo.make(name), training.loop.as_arrays(zoo.row(name).hp)
    state = training.loop._init(make, hp, key)
    (_, jitted, _), *_ = purerl.run(make, hp, None, 1, state=jax.tree.map(lambda x: x.copy(), state))
    with jax.disable_jit():
        eager, _ = make(hp).step(state)
    checks.assert_close(eager.agent, jitted.agent, "a step without jit")


@ONE_OF_A_FAMILY
def test_a_run_is_two_programs(name, key):
    """Its first state and its step; other lengths, seeds and floats add none."""
    row = zoo.row(name)
    make = lambda hp: row.make(hp)  # a function of its own, so that nothing is compiled yet
    other = dataclasses.replace(row.hp, learning_rate=row.hp.learning_rate / 2)
    keys = [key, jax.random.fold_in(key, 1)]
    training.loop.as_arrays((row.hp, other)), jnp.int32(3)  # what is small and shared is compiled before
    with checks._Compilations() as compiled:
        for _ in purerl.run(make, row.hp, keys[0], 3, every=2):
            pass
        first = compiled.count
        for _ in purerl.run(make, other, keys[1], 5, every=3):
            pass
        for _ in purerl.run(make, jax.tree.map(jnp.float32, row.hp), keys[1], 1):  # arrays in place of Python's floats
            pass
    assert first == 2 and compiled.count == first
