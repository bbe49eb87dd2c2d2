"""Population-based training: selection, copies and exploration against plain loops, and the toy of its paper."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.core import Learner
from purerl.hyperparameters import config, option
from purerl.runs import populations
from purerl.search import pbt
from purerl.search.spaces import Interval, choice, log_uniform, uniform

INF = float("inf")


@config
class Settings:
    """Every kind of field."""

    rate: float = option(1e-3, "", low=0.0, open_low=True)
    gamma: float = option(0.9, "", low=0.0, high=1.0)
    free: float = option(0.0, "")
    shared: float = option(2.0, "", low=0.0)
    absent: float | None = option(None, "", low=0.0)
    epochs: int = option(4, "", low=1)


def population(n):
    values = jnp.arange(1.0, n + 1)
    return Settings(rate=1e-3 * values, gamma=1 - 0.01 * values, free=-values)


def state_of(n):
    keys = jax.random.split(jax.random.key(7), n)
    return {
        "x": jnp.arange(6.0 * n).reshape(n, 2, 3),
        "flag": jnp.arange(n) % 2 == 0,
        "key": keys,
        "count": jnp.int32(5),
    }


# --- the reference: loops over members --------------------------------------------------------------------------------


def select_by_loops(key, scores, share):
    n = len(scores)
    sound = [i for i in range(n) if np.isfinite(scores[i])]
    if not sound:
        return list(range(n))
    broken = [i for i in range(n) if np.isnan(scores[i]) or scores[i] == np.inf]
    lowest_first = broken + sorted(sound, key=lambda i: (scores[i], i))
    k = 0 if share == 0 else min(max(round(share * n), 1), n // 2, len(lowest_first) // 2)
    top = lowest_first[::-1][: max(1, min(k, len(sound)))]
    keys = jax.random.split(key, n)
    parents = []
    for i in range(n):
        replaced = i in lowest_first[:k] or i in broken
        parents.append(top[int(jax.random.randint(keys[i], (), 0, len(top)))] if replaced else i)
    return parents


def exchange_by_loops(key, hp, state, scores, share, names, low, high, factors=(0.8, 1.2)):
    select_key, explore_key = jax.random.split(key)
    parent = select_by_loops(select_key, scores, share)
    new = {name: np.array(getattr(hp, name)) for name in ("rate", "gamma", "free")}
    for index, name in enumerate(names):
        keys = jax.random.split(jax.random.fold_in(explore_key, index), len(scores))
        before = new[name].copy()
        for i, p in enumerate(parent):
            if p != i:
                factor = np.float32(jax.random.choice(keys[i], jnp.array(factors, jnp.float32)))
                new[name][i] = min(max(before[p] * factor, np.float32(low[name])), np.float32(high[name]))
    for name in new.keys() - {*names}:
        new[name] = new[name][np.array(parent)]
    moved = {name: np.stack([np.asarray(state[name])[p] for p in parent]) for name in ("x", "flag")}
    return new, moved, parent


CASES = {  # scores and share
    "distinct": ([3.0, 1.0, 7.0, 5.0, 2.0, 6.0, 0.0, 4.0], 0.25),
    "ties": ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 0.5),
    "broken": ([3.0, np.nan, 7.0, np.inf, 2.0, 6.0, -np.inf, 4.0], 0.25),
    "none yet": ([3.0, -np.inf, 7.0, -np.inf, 2.0, 6.0, -np.inf, 4.0], 0.5),
    "none yet or broken": ([-np.inf, -np.inf, 7.0, np.nan, -np.inf, 6.0, -np.inf, -np.inf], 0.25),
    "one is sound": ([np.nan, np.nan, np.nan, np.nan, 2.0, np.nan, np.nan, np.nan], 0.25),
    "all are broken": ([np.nan] * 8, 0.25),
    "none is exchanged": ([3.0, 1.0, 7.0, 5.0, 2.0, 6.0, 0.0, 4.0], 0.0),
}
SPACE = {"gamma": uniform(0.9, 0.95), "rate": log_uniform(1e-3, 5e-3)}
by_share = {share: jax.jit(pbt.exchange(SPACE, pbt.truncation(share))) for share in (0.0, 0.25, 0.5)}


@pytest.mark.parametrize("case", CASES)
def test_an_exchange_against_loops(case):
    scores, share = CASES[case]
    hp, state = population(8), state_of(8)
    low, high = ({name: x[end] for name, x in SPACE.items()} for end in (0, 1))
    for seed in range(3):
        key = jax.random.key(seed)
        new_hp, new_state, parent = by_share[share](key, hp, state, jnp.array(scores))
        values, moved, parents = exchange_by_loops(key, hp, state, np.array(scores), share, [*SPACE], low, high)
        assert parent.tolist() == parents and parent.dtype == jnp.int32
        for name, x in values.items():
            np.testing.assert_allclose(getattr(new_hp, name), x, rtol=1e-6, err_msg=name)
        for name, x in moved.items():
            np.testing.assert_array_equal(new_state[name], x)
        assert (jax.random.key_data(new_state["key"]) == jax.random.key_data(state["key"])).all()
        assert new_state["count"] == 5 and new_hp.shared == 2.0 and new_hp.absent is None and new_hp.epochs == 4


def test_a_member_that_breaks_is_replaced_and_no_other_changes():
    """To the bit, and nothing of what it held is left; nor does what others draw depend on it."""
    hp, state, key = population(8), state_of(8), jax.random.key(3)
    state["x"] = state["x"].at[2].set(jnp.nan)
    scores = jnp.array([3.0, 1.0, jnp.nan, 5.0, 2.0, 6.0, 0.0, 4.0])
    new_hp, new_state, parent = by_share[0.0](key, hp, state, scores)
    assert parent.tolist() == [0, 1, 5, 3, 4, 5, 6, 7]
    others = np.arange(8) != 2
    for name in ("rate", "gamma", "free"):
        np.testing.assert_array_equal(getattr(new_hp, name)[others], getattr(hp, name)[others])
    np.testing.assert_array_equal(new_state["x"][others], state["x"][others])
    np.testing.assert_array_equal(new_state["x"][2], state["x"][5])
    a, _, with_broken = by_share[0.25](key, hp, state, scores)
    b, _, without = by_share[0.25](key, hp, state, scores.at[2].set(-1.0))
    assert with_broken.tolist() == without.tolist()
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_parents_are_chosen_with_equal_probability():
    scores = jnp.array([3.0, 1.0, 7.0, 5.0, 2.0, 6.0, 0.0, 4.0])
    many = jax.jit(jax.vmap(lambda key: pbt.truncation(0.25)(key, scores)))(jax.random.split(jax.random.key(0), 4000))
    for child in (1, 6):
        share = np.mean(np.asarray(many)[:, child] == 2)
        assert set(np.asarray(many)[:, child].tolist()) == {2, 5} and abs(share - 0.5) < 4 * 0.5 / 4000**0.5
    both = np.asarray(many)[:, [1, 6]] == 2
    assert abs(np.corrcoef(both.T)[0, 1]) < 0.07  # independent


def test_every_hyperparameter_of_every_member_has_a_key_of_its_own():
    """A library that shares one moves all of them by one factor."""
    n = 2000
    hp = Settings(rate=jnp.ones(n), gamma=jnp.full(n, 0.5), free=jnp.ones(n))
    everyone = lambda key, scores: jnp.full(n, n - 1)
    new, _, parent = jax.jit(pbt.exchange(select=everyone))(jax.random.key(1), hp, (), jnp.zeros(n))
    assert (parent == n - 1).all()
    up = np.stack([np.asarray(new.rate) > 1, np.asarray(new.gamma) > 0.5, np.asarray(new.free) > 1])[:, :-1]
    assert np.abs(up.mean(1) - 0.5).max() < 4 * 0.5 / n**0.5
    assert np.abs(np.corrcoef(up) - np.eye(3)).max() < 4 / n**0.5
    steps = np.corrcoef(up[:, 1:].astype(float).ravel(), up[:, :-1].astype(float).ravel())[0, 1]
    assert abs(steps) < 4 / (3 * n) ** 0.5
    np.testing.assert_allclose(np.unique(np.asarray(new.rate)[:-1]), [0.8, 1.2], rtol=1e-6)


def test_a_copy_is_only_made_of_a_member_that_stays():
    """In a chain 0 <- 1 <- 2 only 1 copies 2: what 0 would copy is replaced."""
    chain = lambda key, scores: jnp.array([1, 2, 2])
    values = Settings(rate=jnp.array([1.0, 2.0, 3.0]))
    hp, state, parent = pbt.exchange(select=chain, explore=lambda key, x, interval: x)(
        jax.random.key(0), values, {"x": jnp.array([10.0, 20.0, 30.0])}, jnp.zeros(3)
    )
    assert parent.tolist() == [0, 2, 2] and hp.rate.tolist() == [1, 3, 3] and state["x"].tolist() == [10, 30, 30]


def test_the_ranges_of_fields_are_kept():
    """Without a space every float with values is explored; clipped to what its field declares."""
    found = pbt.declared(Settings)
    assert found["gamma"] == Interval(0, 1) and found["free"] == Interval(-INF, INF) and found["shared"].low == 0
    assert 0 < found["rate"].low < 1e-37 and found["rate"].high == INF
    assert found.keys() == {"rate", "gamma", "free", "shared", "absent"}
    n = 64
    hp = Settings(rate=jnp.full(n, 1e-3), gamma=jnp.full(n, 0.95), absent=jnp.full(n, 0.1))
    below = lambda key, x, interval: x - 1 + 2 * jax.random.bernoulli(key)
    new, _, parent = jax.jit(pbt.exchange(select=pbt.truncation(0.5), explore=below))(
        jax.random.key(0), hp, (), jnp.arange(64.0)
    )
    for name, (low, high, _) in found.items():
        x = np.asarray(getattr(new, name), np.float64).ravel()
        assert (x >= low).all() and (x <= high).all(), name
    assert set(np.asarray(new.gamma).tolist()) == {0.0, 1.0, np.float32(0.95)}
    assert (np.asarray(new.rate) > 0).all() and (np.asarray(new.rate) < 1e-37).any()
    config_again = Settings(**{name: getattr(new, name) for name in ("rate", "gamma", "absent")})  # which is checked
    assert config_again.shared == new.shared and (parent[32:] == np.arange(32, 64)).all()


def test_explorations_against_their_distributions():
    keys = jax.random.split(jax.random.key(0), 4000)
    one = lambda explore, x, interval: jax.jit(jax.vmap(lambda key: explore(key, jnp.float32(x), interval)))
    draw = lambda explore, x, interval: np.asarray(one(explore, x, interval)(keys))
    linear, log = uniform(2.0, 4.0), log_uniform(1e-4, 1e-2)
    close = lambda x, mean, deviation: abs(x.mean() - mean) < 4 * deviation / len(x) ** 0.5
    x = draw(pbt.gaussian(0.1), 3.0, linear)
    assert close(x, 3.0, 0.2) and abs(x.std() - 0.2) < 0.01
    x = np.log(draw(pbt.gaussian(0.1), 1e-3, log))
    assert close(x, np.log(1e-3), 0.1 * np.log(100)) and abs(x.std() - 0.1 * np.log(100)) < 0.02
    x = draw(pbt.resample(1.0), 3.0, linear)
    assert close(x, 3.0, 2 / 12**0.5) and x.min() >= 2 and x.max() <= 4 and abs(x.std() - 2 / 12**0.5) < 0.02
    x = np.log10(draw(pbt.resample(1.0), 1e-3, log))
    assert close(x, -3.0, 2 / 12**0.5) and abs(x.std() - 2 / 12**0.5) < 0.02
    x = draw(pbt.resample(0.25, pbt.perturb(1.0)), 3.0, linear)
    assert abs((x != 3.0).mean() - 0.25) < 4 * 0.43 / len(x) ** 0.5


AT = (jax.random.key(0), population(4), (), jnp.arange(4.0))


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: pbt.truncation(0.6), r"truncation: share is 0.6; it must be a number in \[0, 0.5\]"),
        (lambda: pbt.perturb(1.2, -1), "perturb: factors are 1.2, -1; they must be positive and finite"),
        (lambda: pbt.gaussian(0.0), "gaussian: scale is 0.0; it must be positive"),
        (lambda: pbt.resample(2), r"resample: probability is 2; it must lie in \[0, 1\]"),
        (lambda: pbt.exchange({"lr": uniform(0, 1)})(*AT), "the space names lr, which Settings has not"),
        (lambda: pbt.exchange({"gamma": uniform(0.5, 1.5)})(*AT), "Settings.gamma is 1.5; it must be a number"),
        (lambda: pbt.exchange({"gamma": choice(0.5, 0.9)})(*AT), "the space has gamma as a choice"),
        (lambda: pbt.exchange({"shared": uniform(0, 1)})(*AT), r"shared has one value for all members; .* \[4\]"),
        (lambda: pbt.exchange()(AT[0], Settings(), *AT[2:]), "every field of hp has one value for all members"),
        (lambda: pbt.exchange()(*AT[:3], jnp.arange(3.0)), r"rate has shape \(4,\); it must be \(3,\), as scores"),
        (lambda: pbt.exchange()(*AT[:3], jnp.float32(3)), r"scores has shape \(\); it must be \[n\]"),
        (lambda: pbt.exchange()(AT[0], {"rate": 1.0}, *AT[2:]), "must be an instance of a purerl.config class"),
        (lambda: pbt.exchange(explore=pbt.resample())(*AT), r"the interval is \[.*, inf\]; it must be finite: name"),
        (lambda: pbt.history([]), "history: generations is empty"),
        (
            lambda: pbt.schedule(pbt.History(np.ones(1), np.full((1, 2), np.nan), np.zeros((1, 2), int), {})),
            "schedule: no score of the last generation is finite",
        ),
        (lambda: pbt.members(Settings(), []), "members: points is empty"),
        (lambda: pbt.evolve(None, population(4), AT[0], 10, 3, None), "every is 3; it must divide num_updates"),
        (lambda: pbt.evolve(None, population(4), AT[0], 0, 3, None), "evolve: num_updates is 0"),
        (lambda: pbt.evolve(None, Settings(), AT[0], 9, 3, None), r"leaves of hp have \[\] values"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# --- the toy of figure 2 ----------------------------------------------------------------------------------------------


@pytest.fixture
def population_script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks" / "papers"), *sys.path])
    return importlib.import_module("population")


def test_the_toy_of_the_paper(population_script):
    """Without chance 1.2 - 0.9² - 0.9² · 0.98⁴⁰⁰, and with copies, where each dimension has half of the 200 steps of a
    lineage, 1.2 - 2 · 0.9² · 0.98²⁰⁰; with chance the mean and the spread of 200 seeds of a loop in NumPy."""
    best = {name: population_script.toy_results(trade) for name, trade in population_script.TOY_ARMS.items()}
    np.testing.assert_allclose(best["no exchange"], 1.2 - 0.81 - 0.81 * 0.98**400, atol=1e-6)
    np.testing.assert_allclose(best["no exchange"], 0.389749, atol=2e-6)
    np.testing.assert_allclose(best["copying weights alone"], 1.2 - 2 * 0.81 * 0.98**200, atol=1e-6)
    for name, mean, spread in (("exploring alone", 1.037, 0.136), ("both", 1.127, 0.072)):
        x = best[name]
        assert abs(x.mean() - mean) < 4 * spread / len(x) ** 0.5, (name, x.mean())
        assert 0.7 * spread < x.std() < 1.4 * spread, (name, x.std())
    assert best["no exchange"].mean() < best["exploring alone"].mean() < best["both"].mean()


# --- the loop ---------------------------------------------------------------------------------------------------------


def counting():
    """A learner whose parameter rises by its rate in each update, and whose return is the parameter."""

    def make(hp):
        def init(key):
            zero = jnp.zeros((), jnp.int32)
            return purerl.training.learners.LearnerState(zero, key, jnp.zeros(()), (), (), jnp.zeros((), jnp.int32))

        def step(state):
            level = state.agent + hp.rate
            state = state._replace(iteration=state.iteration + 1, agent=level)
            one = jnp.ones((), jnp.int32)
            return state, purerl.training.learners.Sums(one, one, level, one.astype(jnp.float32), {})

        return Learner(init, step)

    return purerl.batch(make)


COUNTING = counting()
TRADE = pbt.exchange({"rate": uniform(0.1, 10)}, pbt.truncation(0.25))


def test_a_run_that_goes_on_equals_one_that_was_not_interrupted(key):
    hp = Settings(rate=jnp.arange(1.0, 9.0))
    host = lambda tree: jax.tree.map(np.array, tree._replace(state=tree.state._replace(key=())))
    whole = [host(g) for g in pbt.evolve(COUNTING, hp, key, 12, 3, TRADE)]
    assert [g.iteration for g in whole] == [3, 6, 9, 12]
    for g in pbt.evolve(COUNTING, hp, key, 6, 3, TRADE):
        last = g
    again = [host(g) for g in pbt.evolve(COUNTING, hp, key, 12, 3, TRADE, start=last)]
    jax.tree.map(np.testing.assert_array_equal, whole[2:], again)
    with pytest.raises(ValueError, match="state was donated"):
        pbt.evolve(COUNTING, hp, key, 12, 3, TRADE, start=last)


def test_the_lineage_says_who_trained_what(key):
    """What a member has reached is the sum of the rates of its ancestors."""
    hp = Settings(rate=jnp.arange(1.0, 9.0))
    generations = [jax.tree.map(np.array, g._replace(state=np.array(g.state.agent)))
                   for g in pbt.evolve(COUNTING, hp, key, 15, 3, TRADE)]  # fmt: skip
    parents = np.stack([g.parent for g in generations])
    assert (parents != np.arange(8)).sum(1).tolist() == [2] * 5
    for member in range(8):
        line = pbt.ancestors(parents, member)
        reached = 3 * sum(g.trained.rate[i] for g, i in zip(generations, line, strict=True))
        before = generations[-1].state[member] if parents[-1][member] == member else None
        assert before is None or np.isclose(before, reached)
    past = pbt.history(generations)
    best = int(past.scores[-1].argmax())
    np.testing.assert_array_equal(
        pbt.schedule(past)["rate"],
        [g.trained.rate[i] for g, i in zip(generations, pbt.ancestors(parents, best), strict=True)],
    )
    assert past.iterations.tolist() == [3, 6, 9, 12, 15] and past.hyperparameters.keys() == {"rate"}
    assert np.allclose(generations[0].scores, 2 * np.arange(1.0, 9.0))  # the mean of the levels at 1, 2 and 3 updates


def test_a_child_without_an_episode_has_the_score_of_its_parent(key):
    """`score` sees the scores before: those of the members from which the states are."""
    seen = []

    def score(state, metrics, before):
        jax.debug.callback(lambda x: seen.append(x.tolist()), before)
        return jnp.arange(8.0)

    hp = Settings(rate=jnp.arange(1.0, 9.0))
    first, _ = [g.parent.tolist() for g in pbt.evolve(COUNTING, hp, key, 6, 3, TRADE, score)]
    jax.effects_barrier()
    assert np.isneginf(seen[0]).all() and seen[1] == first and first[:2] != [0, 1]


def test_scores_of_runs_without_an_episode_or_that_broke():
    state = purerl.training.learners.LearnerState((), (), (), (), (), jnp.array([0, 0, 4]))
    metrics = {"episodes": jnp.array([2, 0, 1]), "episode_return": jnp.array([5.0, jnp.nan, 3.0])}
    found = pbt.latest_returns(state, metrics, jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(found, [5.0, 2.0, np.nan])


def test_the_memory_of_an_exchange_is_the_population_and_a_member():
    n, size = 16, 1 << 16
    state = {"replay": jax.ShapeDtypeStruct((n, size), jnp.float32)}
    hp = jax.eval_shape(lambda: population(n))
    program = jax.jit(by_share[0.25].__wrapped__, donate_argnums=2)
    used = program.lower(jax.random.key(0), hp, state, jax.ShapeDtypeStruct((n,), jnp.float32)).compile()
    memory = used.memory_analysis()
    assert memory.alias_size_in_bytes >= 4 * n * size  # the result is where the state was
    assert memory.temp_size_in_bytes < 2 * 4 * size


def test_what_a_population_leaves_on_disk(tmp_path):
    past = pbt.History(
        np.array([3, 6]),
        np.array([[1.0, np.nan], [2.0, 3.0]]),
        np.array([[0, 0], [0, 1]]),
        {"rate": np.array([[0.1, 100.0], [0.1, 0.12]])},
    )
    populations.write(tmp_path / "population.csv", past)
    assert (tmp_path / "population.csv").read_text().splitlines() == [
        "iteration,member,score,parent,rate",
        "3,0,1.0,0,0.1",
        "3,1,nan,0,100.0",
        "6,0,2.0,0,0.1",
        "6,1,3.0,1,0.12",
    ]
    edges, rate = np.array([0, 3, 6]), past.hyperparameters["rate"]
    values = [[[0, 0.1], [3, 0.1]], [[0, 100], [3, 100]], [[3, 0.1], [6, 0.1]], [[3, 0.12], [6, 0.12]]]
    copies = [[[3, 0.1], [3, 0.1]], [[3, 0.1], [3, 0.12]]]  # both go on from 0, 1 with another value
    np.testing.assert_array_equal(populations._segments(edges, rate, past.parents, True), values + copies)
    of_scores = populations._segments(edges, past.scores, past.parents, False)
    np.testing.assert_array_equal(of_scores, [[[3, 1], [6, 2]], [[3, 1], [6, 3]]])  # nobody goes on from NaN
    populations.picture(tmp_path / "population.png", past)
    assert (tmp_path / "population.png").stat().st_size > 10_000 and len(list(tmp_path.iterdir())) == 2
