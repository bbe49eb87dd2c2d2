"""Architecture search: the environment, its tables, random search in closed form, and regularised evolution."""

import importlib.util
import itertools
import math
import pickle
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.envs import ArchitectureSearch
from purerl.envs.training_control import architecture, supernetwork
from purerl.envs.training_control import nas_bench_graph as bench
from purerl.envs.training_control.architecture import SearchSpace
from purerl.testing import check_env


def toy(legal=True):
    """2 x 3 x 2 sequences, of which two pairs are one architecture; if `legal` is False, some are none."""
    index = np.array([[[0, 1], [1, 2], [3, 4]], [[5, 6], [6, 7], [8, 9]]], np.int32)
    if not legal:
        index[0, 1], index[1, :, 1] = -1, -1
    score = np.array([0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.8, 0.4, 0.6, 0.95], np.float32)
    return SearchSpace((("a", "xy"), ("b", "pqr"), ("c", "01")), index, score, 1 - score)


# --- random search ----------------------------------------------------------------------------------------------------


def test_the_best_of_random_draws_by_enumeration():
    scores = np.array([0.5, 0.1, 0.9, 0.5, 0.3])
    weights = np.array([1, 2, 1, 3, 1])
    for n in range(1, 6):
        every = np.array(list(itertools.product(range(5), repeat=n)))
        probability = (weights[every] / 8).prod(-1)
        best = scores[every].max(-1)
        distinct = np.array(list(itertools.combinations(scores, n))).max(-1).mean()
        assert architecture.expected_best_of_distinct(scores, n) == pytest.approx(distinct, abs=1e-12)
        assert architecture.expected_best_of_independent(scores, n) == pytest.approx(best.mean(), abs=1e-12)
        found = architecture.expected_best_of_independent(scores, n, weights)
        assert found == pytest.approx(probability @ best, abs=1e-12)


def test_the_best_of_many_draws():
    scores = np.random.default_rng(0).permutation(5_000) + 1.0
    distinct, independent = architecture.expected_best_of_distinct, architecture.expected_best_of_independent
    for n in (1, 40, 1_000, 5_000):  # of the numbers 1 … N: n (N + 1) / (n + 1)
        assert distinct(scores, n) == pytest.approx(n * 5_001 / (n + 1), rel=1e-10)
        powers = ((np.arange(5_000) / 5_000) ** n).sum()  # E max = Σ P(max > s)
        assert independent(scores, n) == pytest.approx(5_000 - powers, rel=1e-10)
        assert independent(scores, n) <= distinct(scores, n) + 1e-9


# --- the environment --------------------------------------------------------------------------------------------------


def walk(env, sequences, params):
    """Observations, rewards, ends and architectures of sequences of choices `[S, D]`, as arrays `[S, D, ...]`."""

    def one(sequence):
        first, state = env.reset_env(None, params)

        def step(state, action):
            obs, state, reward, terminated, info = env.step_env(None, state, action, params)
            return state, (obs, reward, terminated, info["architecture"])

        return first, *jax.lax.scan(step, state, sequence)[1]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jnp.asarray(sequences, jnp.int32)))


@pytest.mark.parametrize("legal", [True, False])
def test_every_sequence_against_the_table(legal):
    space = toy(legal)
    env = ArchitectureSearch(space)
    sequences = np.array(list(itertools.product(range(3), repeat=3)))
    first, obs, reward, terminated, found = walk(env, sequences, env.default_params)
    for s, sequence in enumerate(sequences):
        for t in range(4):
            seen = jax.tree.map(lambda x: x[s], first) if t == 0 else jax.tree.map(lambda x: x[s, t - 1], obs)
            prefix = tuple(sequence[:t])
            possible = [  # by the definition: some completion of the prefix is an architecture
                any(p[:t] == prefix and p[t : t + 1] == (a,) and space.index[p] >= 0 for p in np.ndindex(2, 3, 2))
                for a in range(3)
            ]
            chosen = np.zeros((3, 3))
            chosen[range(t), prefix] = 1
            np.testing.assert_array_equal(seen["choices"], [*(np.arange(3) == t), *chosen.reshape(-1)])
            ended = t == 3 or not any(possible)
            assert seen["action_mask"].tolist() == ([True] * 3 if ended else possible), (sequence, t)
            if t == 3:
                break
            row = space.index[tuple(sequence)] if t == 2 and possible[sequence[t]] else -1
            wanted = space.validation[row] if row >= 0 else 0.0 if possible[sequence[t]] else np.float32(0.1)
            assert (found[s, t], reward[s, t]) == (row, wanted)
            assert terminated[s, t] == (t == 2 or not possible[sequence[t]])
            if not possible[sequence[t]]:
                break  # the episode has ended


def test_other_scores_share_one_program(key):
    env = ArchitectureSearch(toy())
    step = jax.jit(lambda state, params: env.step_env(key, state, 1, params)[2])
    _, state = env.reset_env(key, env.default_params)
    for t, choice in enumerate((1, 2)):
        state = state._replace(choices=state.choices.at[t].set(choice), prefix=state.prefix * (2, 3)[t] + choice)
    state = state._replace(time=jnp.int32(2))
    params = env.default_params
    assert step(state, params) == np.float32(0.95)
    assert step(state, params.replace(score=10 * params.score)) == np.float32(9.5) and step._cache_size() == 1


@pytest.mark.parametrize("space", [toy(legal=False), None], ids=["illegal", "own"])
def test_they_are_environments(space, key):
    env, params = purerl.make("ArchitectureSearch-v0", space=space)
    assert env.name == "ArchitectureSearch-v0" and isinstance(env, ArchitectureSearch)
    check_env(env, params, key)


# --- our own space ----------------------------------------------------------------------------------------------------


def small_network(params, chosen, x):
    """The network of an architecture alone, in NumPy, from the units that it has."""
    h, before = np.asarray(x, np.float64), x.shape[-1]
    for kernel, bias, (width, activation, skip) in zip(params.kernel, params.bias, chosen, strict=True):
        size = supernetwork.WIDTHS[width]
        z = h @ np.asarray(kernel, np.float64)[:before, :size] + np.asarray(bias)[:size]
        new = (lambda z: z, lambda z: np.maximum(z, 0), np.tanh)[activation](z)
        if skip:
            both = min(before, size)
            new[:, :both] += h[:, :both]
        h, before = new, size
    return h @ np.asarray(params.out_kernel)[:before] + np.asarray(params.out_bias)


def test_the_masked_network_is_the_small_one(key):
    every = supernetwork.architectures()
    assert len(np.unique(every.reshape(-1, 9), axis=0)) == 5_832
    some = every[np.random.default_rng(0).permutation(5_832)[:40]]
    x = jax.random.normal(key, (7, 2))

    @jax.jit
    @jax.vmap
    def program(chosen):
        params = supernetwork.init(key, chosen, 2, 3)
        params = params._replace(bias=params.bias + 0.3)
        loss = lambda p: jnp.square(supernetwork.apply(p, chosen, x)).sum()
        return params, supernetwork.apply(params, chosen, x), jax.grad(loss)(params)

    params, logits, gradient = jax.tree.map(np.asarray, program(some))
    for i, chosen in enumerate(some):
        own = jax.tree.map(lambda p: p[i], params)
        np.testing.assert_allclose(logits[i], small_network(own, chosen, np.asarray(x)), rtol=1e-4, atol=1e-4)
        sizes = [2, *(supernetwork.WIDTHS[w] for w in chosen[:, 0])]
        for t in range(3):
            outside = np.ones((12, 12), bool)
            outside[: sizes[t], : sizes[t + 1]] = False
            assert (gradient.kernel[i, t][outside] == 0).all() and (gradient.bias[i, t][sizes[t + 1] :] == 0).all()
            scaled = own.kernel[t] * math.sqrt(sizes[t])
            assert 0.7 < scaled.std() < 1.3  # N(0, 1/fan-in)
        count = sum((a + 1) * b for a, b in itertools.pairwise([*sizes, 2]))
        assert supernetwork.num_parameters(chosen) == count


def test_the_table_is_that_of_the_training():
    validation, test = supernetwork.table()
    some = np.argsort(validation.mean(-1))[::1_166]  # from the worst to the best
    train = jax.jit(jax.vmap(jax.vmap(supernetwork.correct, (0, None)), (None, 0)))
    keys = jax.random.split(jax.random.key(supernetwork.KEY), supernetwork.SEEDS)
    found = np.asarray(train(keys, supernetwork.architectures()[some])) / supernetwork.NUM_JUDGED
    # another processor rounds otherwise, and training amplifies that
    assert np.abs(found - np.stack([validation[some], test[some]], -1)).mean() < 0.01
    assert validation.shape == test.shape == (5_832, supernetwork.SEEDS) and supernetwork.TABLE.stat().st_size < 3e5
    space = architecture.small_networks()
    assert np.corrcoef(space.validation, space.test)[0, 1] > 0.9
    # lines cannot part two spirals
    linear = (supernetwork.architectures()[:, :, 1] == 0).all(-1)
    assert space.validation[linear].max() < 0.8 < space.validation.max()
    chosen = architecture.choices_of(space, 5_831)
    assert list(chosen.values()) == [supernetwork.WIDTHS[-1], "tanh", "yes"] * 3
    with pytest.raises(ValueError, match=r"architecture is 5832; it must be in 0 .. 5831"):
        architecture.choices_of(space, 5_832)


# --- NAS-Bench-Graph --------------------------------------------------------------------------------------------------


def nested(inputs, operations):
    """The form of a network as nested tuples, by removing one skip after another."""
    inputs, operations = dict(enumerate(inputs, 1)), dict(enumerate(operations, 1))

    def removable(node):
        if operations[node] != bench.SKIP:
            return False
        used = node in inputs.values()
        alone = list(inputs.values()).count(inputs[node]) == 1
        return used or alone or inputs[node] == 0

    while gone := [node for node in inputs if removable(node)]:
        # those that something follows first: only then is it known what is an end
        node = next((n for n in gone if n in inputs.values()), gone[0])
        source = inputs.pop(node)
        inputs = {n: source if i == node else i for n, i in inputs.items()}
    form = lambda node: tuple(sorted((operations[n], form(n)) for n, i in inputs.items() if i == node))
    return form(0)


def test_codes_tell_networks_apart():
    every = np.array(list(itertools.product((1, 7, 8), repeat=4)))
    by_code, by_form = {}, {}
    for link, inputs in enumerate(bench.LINKS):
        code = bench.code_of_all(np.full(len(every), link), every)
        for operations, number in zip(every, code.tolist(), strict=True):
            form = nested(inputs, operations)
            assert by_code.setdefault(number, form) == form and by_form.setdefault(form, number) == number
    assert by_form[()] == 0 and len(by_form) > 100


@pytest.fixture(scope="module")
def described():
    """Every sequence of choices with its code, and one number for each code but that of four skips."""
    links, *chosen = (x.reshape(-1) for x in np.indices((9, 9, 9, 9, 9)))
    code = bench.code_of_all(links, np.stack(chosen, -1))
    number = (np.stack([links, *chosen], -1) * 10 ** np.arange(4, -1, -1)).sum(-1)
    found, first = np.unique(code, return_index=True)
    return code, number[first[found > 0]]


def test_there_are_26206_networks(described):
    code, numbers = described
    assert len(numbers) == 26_206  # as the paper says
    row = bench.row_of_choices(numbers, bench.OPERATIONS)
    assert (row < 0).sum() == 9 and (row[:, 8, 8, 8, 8] == -1).all()
    same = Counter(zip(row.reshape(-1).tolist(), code.tolist(), strict=True))
    assert len(same) == 26_207 and sum(same.values()) == 9**5  # each row has one code, each code one row
    fewer = bench.row_of_choices(numbers, bench.PROTEINS)
    own = [bench.OPERATIONS.index(x) for x in bench.PROTEINS]
    np.testing.assert_array_equal(fewer, row[np.ix_(range(9), own, own, own, own)])
    assert len(np.unique(fewer)) == 2_022


class Evil:
    """A pickle of it calls `touch`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_files_are_read_without_calling_what_they_name(tmp_path, monkeypatch):
    rows = {10007: {"valid_perf": 0.5, "perf": 0.25, "latency": np.float64(0.125), "para": 2.0}}
    rows[7] = {**rows[10007], "valid_perf": 0.75}
    package = tmp_path / "nas_bench_graph"
    (package / "light").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it was imported')")
    file = package / "light" / "cora.bench"
    file.write_bytes(pickle.dumps(rows, protocol=3))
    found = bench.read(file)
    assert found.number.tolist() == [7, 10007] and found.validation.tolist() == [0.75, 0.5]
    assert found.latency.tolist() == [0.125, 0.125] and found.parameters.tolist() == [2.0, 2.0]
    monkeypatch.syspath_prepend(tmp_path)
    space = architecture.nas_bench_graph("cora")
    assert space.index[0, 0, 0, 0, 7] == space.index[0, 7, 0, 0, 0] == 0 and (space.index >= 0).sum() == 4 + 1
    assert architecture.choices_of(space, 1)["inputs"] == (0, 0, 0, 1)
    written = tmp_path / "written"
    for bad in ({7: {**rows[7], "perf": Evil(written)}}, {7: {"perf": 1.0}}, {}, [1], {7: {**rows[7], "perf": np.nan}}):
        file.write_bytes(pickle.dumps(bad, protocol=3))
        with pytest.raises(ValueError, match=r"cora.bench is not a table of NAS-Bench-Graph: "):
            bench.read(file)
    assert not written.exists()
    with pytest.raises(ValueError, match=r"pubmed.bench is not a table of NAS-Bench-Graph: FileNotFoundError"):
        architecture.nas_bench_graph("pubmed")


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match=r"data_set is 'mnist'; allowed are cora, citeseer"):
        architecture.nas_bench_graph("mnist")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"cora needs the package nas-bench-graph: pip install 'purerl\[nas\]'"):
        architecture.nas_bench_graph("cora")
    space = toy()
    with pytest.raises(ValueError, match=r"index has shape \(2, 3, 2\); the decisions have \(2, 3\)"):
        ArchitectureSearch(space._replace(decisions=space.decisions[:2]))
    with pytest.raises(ValueError, match=r"index ends at 9; there must be finite scores of all, and there are 5"):
        ArchitectureSearch(space._replace(validation=space.validation[:5]))
    for n in (0, 2.0):
        for of in (architecture.expected_best_of_distinct, architecture.expected_best_of_independent):
            with pytest.raises(ValueError, match=r"num_draws is .*; it must be a positive int"):
                of([1.0, 2.0], n)
    with pytest.raises(ValueError, match=r"num_draws is 3; there are 2 scores"):
        architecture.expected_best_of_distinct([1.0, 2.0], 3)
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match=r"weights must be \(2,\) numbers of at least 0, not all 0"):
            architecture.expected_best_of_independent([1.0, 2.0], 3, weights)
    with pytest.raises(ValueError, match=r"num_queries is 10; the population has 50"):
        architecture.regularized_evolution(None, space.index, space.validation, 10)
    with pytest.raises(ValueError, match=r"sample is 0; it must be a positive int"):
        architecture.regularized_evolution(None, space.index, space.validation, 100, sample=0)


INSTALLED = importlib.util.find_spec("nas_bench_graph") is not None
RECORDED = {  # networks, best validation and its test, best test, mean, expected best of 10, 50, 100, 500, 1,000
    "cora": (26_206, 0.8193, 0.8263, 0.8313, 0.7631, (0.8004, 0.8060, 0.8080, 0.8120, 0.8137)),
    "arxiv": (26_206, 0.7367, 0.7195, 0.7239, 0.7070, (0.7281, 0.7313, 0.7322, 0.7338, 0.7344)),
    "proteins": (2_021, 0.8533, 0.7611, 0.7926, 0.8281, (0.8427, 0.8471, 0.8484, 0.8509, 0.8520)),
}


@pytest.mark.skipif(not INSTALLED, reason="nas-bench-graph is not installed: the extra nas")
@pytest.mark.parametrize("data_set", RECORDED)
def test_the_recorded_numbers(data_set, described):
    num, best, its_test, best_test, mean, draws = RECORDED[data_set]
    space = architecture.nas_bench_graph(data_set)
    assert len(space.validation) == num and len(np.unique(space.index)) == num + 1
    if num == len(described[1]):
        assert len(np.unique(described[0])) == num + 1
    found = [space.validation.max(), space.test.max(), space.validation.mean()]
    np.testing.assert_allclose(found, [best, best_test, mean], atol=5.1e-5)
    equal = space.test[space.validation == space.validation.max()]  # on cora several are best
    assert np.abs(equal - its_test).min() < 5.1e-5
    for n, wanted in zip((10, 50, 100, 500, 1000), draws, strict=True):
        assert architecture.expected_best_of_distinct(space.validation, n) == pytest.approx(wanted, abs=6e-5)


# --- regularised evolution --------------------------------------------------------------------------------------------


def test_evolution_against_its_definition(key):
    shape, population = (4, 3, 5, 2), 8
    sequences = np.array(list(np.ndindex(shape)))
    legal = sequences.sum(-1) % 4 != 3
    index = np.where(legal, np.cumsum(legal) - 1, -1).astype(np.int32).reshape(shape)
    score = (sequences @ [1.0, 2.03, 0.411, 3.017])[legal].astype(np.float32)
    assert len(np.unique(score)) == len(score)
    # the sample has every member, so the parent is the best of those that are alive
    search = lambda key: architecture.regularized_evolution(key, index, score, 60, population, 256)
    found = np.asarray(jax.jit(jax.vmap(search))(jax.random.split(key, 150)))
    assert found.shape == (150, 60) and found.min() >= 0
    changes, wanted, variance = np.zeros(4), np.zeros(4), np.zeros(4)
    for run in found:
        for t in range(population, 60):
            alive = run[t - population : t]
            parent, child = (sequences[legal][m] for m in (alive[score[alive].argmax()], run[t]))
            assert (parent != child).sum() == 1
            changes += parent != child
            possible = np.zeros(4)
            for d in range(4):
                others = [(*parent[:d], x, *parent[d + 1 :]) for x in range(shape[d]) if x != parent[d]]
                possible[d] = any(index[other] >= 0 for other in others)
            p = possible / possible.sum()
            wanted, variance = wanted + p, variance + p * (1 - p)
    assert np.abs((changes - wanted) / np.sqrt(variance)).max() < 4.5
    first = np.bincount(found[:, :population].reshape(-1), minlength=len(score))  # uniform: the χ² test
    assert ((first - first.mean()) ** 2).sum() / first.mean() < len(score) + 5 * math.sqrt(2 * len(score))
    assert score[found].max(-1).mean() > architecture.expected_best_of_distinct(score, 30)
