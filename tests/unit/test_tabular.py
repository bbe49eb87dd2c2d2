"""Planning against NumPy's linear solves and printed digits; tables that learn against planning."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from hypothesis import given, settings
from hypothesis import strategies as st

import purerl
from purerl import bellman, tabular
from purerl.tabular import MDP, planning, worlds
from purerl.testing import check_agent, check_env, checks


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def float32():
    with jax.enable_x64(False):
        yield


close = lambda a, b, tolerance=1e-10: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# --- an oracle of its own: dense NumPy ----------------------------------------------------------------------------


def dense(mdp):
    """(P [S, A, S], R [S, A]) as float64 NumPy, with nothing after an end."""
    probability, reward = (np.asarray(x, np.float64) for x in (mdp.P, mdp.R))
    num_states, num_actions, _ = probability.shape
    reward = (probability * reward).sum(-1) if reward.ndim == 3 else reward.copy()
    full = probability
    if mdp.successors is not None:
        full = np.zeros((num_states, num_actions, num_states))
        for s, a, k in np.ndindex(probability.shape):
            full[s, a, mdp.successors[s, a, k]] += probability[s, a, k]
    full = full.copy()
    full[np.asarray(mdp.terminal)], reward[np.asarray(mdp.terminal)] = 0, 0
    return full, reward


def solve(mdp, policy, gamma):
    p, r = dense(mdp)
    return np.linalg.solve(np.eye(len(p)) - gamma * np.einsum("sa,sat->st", policy, p), (policy * r).sum(-1))


def best(mdp, gamma):
    """Policy iteration, which ends with a solve."""
    p, r = dense(mdp)
    policy, before = np.full(r.shape, 1 / r.shape[1]), None
    for _ in range(100):
        v = solve(mdp, policy, gamma)
        if before is not None and np.allclose(v, before, rtol=1e-13, atol=1e-13):
            return v
        before = v
        policy = np.eye(r.shape[1])[np.round(r + gamma * p @ v, 9).argmax(-1)]
    raise AssertionError("the oracle turns in circles")


garnet = jax.jit(worlds.garnet, static_argnums=(1, 2, 3))
GAMES = {
    "jumping": (worlds.jumping_grid, 0.9), "corners": (worlds.corner_grid, 1.0), "lake": (worlds.frozen_lake, 0.99),
    "big lake": (lambda: worlds.frozen_lake(8), 0.95), "dry": (lambda: worlds.frozen_lake(4, False), 0.9),
    "cliff": (worlds.cliff, 0.99), "wind": (worlds.windy_grid, 0.99), "walk": (worlds.random_walk, 0.9),
    "corridor": (worlds.short_corridor, 0.9), "river": (worlds.river_swim, 0.95),
    "garnet": (lambda: garnet(jax.random.key(1), 12, 3, 4), 0.9),
}  # fmt: skip
S, A, K = 70, 8, 4  # what the largest have


def start_by_hand(mdp):
    on = ~np.asarray(mdp.terminal)
    return on / on.sum() if mdp.start is None else np.asarray(mdp.start)


def padded(mdp):
    """The same MDP in the shape of the largest, so that one program solves them all.

    States that are added are terminal, actions that are added are the first, and branches have probability 0.
    """
    probability, reward, successors = (np.asarray(x) for x in (mdp.P, mdp.R, mdp.successors))
    reward = np.broadcast_to(reward if reward.ndim == 3 else reward[..., None], probability.shape)
    more = S - len(probability)

    def fill(x):
        x = np.concatenate([x, np.repeat(x[:, :1], A - x.shape[1], axis=1)], axis=1)
        return np.pad(x, [(0, more), (0, 0), (0, K - x.shape[2])])

    ends = np.pad(np.asarray(mdp.terminal), (0, more), constant_values=True)
    return MDP(fill(probability), fill(reward), ends, np.pad(start_by_hand(mdp), (0, more)), fill(successors))


def pad_policy(policy):
    return np.pad(policy, [(0, S - len(policy)), (0, A - policy.shape[1])])


evaluate, value_iteration = jax.jit(tabular.evaluate), jax.jit(tabular.value_iteration)
RELATIVE = jax.jit(tabular.relative_value_iteration)


@jax.jit
def every_way(mdp, as_dense, policy, gamma):
    """What the tests ask of an MDP, of its dense form, and of a policy."""
    solutions = {
        "value": tabular.value_iteration(mdp, gamma), "policy": tabular.policy_iteration(mdp, gamma),
        "modified": tabular.modified_policy_iteration(mdp, gamma, 7),
    }  # fmt: skip
    values = [tabular.evaluate(x, policy, gamma) for x in (mdp, as_dense)]
    matrices = [tabular.transition_matrix(x, policy) for x in (mdp, as_dense)]
    iterated = tabular.iterate_evaluation(mdp, policy, gamma)
    judged = iterated.value, bellman.state_value(policy, iterated.q)
    return solutions, values, matrices, judged, tabular.occupancy(mdp, policy, gamma)


@pytest.mark.parametrize("name", GAMES)
def test_every_way_agrees_with_the_oracle(name):
    make, gamma = GAMES[name]
    mdp = make()
    tabular.checked(mdp)
    p, r = dense(mdp)
    num_states, num_actions = r.shape
    uniform, start = np.full(r.shape, 1 / num_actions), start_by_hand(mdp)
    large = padded(mdp)
    as_dense = MDP(*dense(large), large.terminal, large.start)
    given = every_way(large, as_dense, pad_policy(uniform), gamma)
    solutions, values, matrices, judged, visits = jax.tree.map(np.asarray, given)
    of_states = lambda x: x[:num_states]
    wanted = solve(mdp, uniform, gamma)
    for value in values:  # the dense form is the same MDP
        close(of_states(value), wanted)
    for matrix in matrices:
        close(matrix[:num_states, :num_states], np.einsum("sa,sat->st", uniform, p))
    for value in judged:
        close(of_states(value), wanted, 1e-8)
    close(of_states(visits), np.linalg.solve((np.eye(len(p)) - gamma * np.einsum("sa,sat->st", uniform, p)).T, start))
    wanted = best(mdp, gamma)
    for way, tolerance in (("value", 1e-8), ("policy", 1e-10), ("modified", 1e-8)):
        solution = solutions[way]
        close(of_states(solution.value), wanted, tolerance)
        close(solution.q[:num_states, :num_actions], r + gamma * p @ wanted, tolerance)
        policy = solution.policy[:num_states, :num_actions]
        close(solve(mdp, policy, gamma), wanted, 1e-8)  # the policy is worth what it says
    close(tabular.start_of(mdp), start)
    np.testing.assert_array_equal(tabular.uniform(mdp), uniform)


# --- printed digits -----------------------------------------------------------------------------------------------


def uniform_value(mdp, gamma):
    num_states, num_actions = mdp.P.shape[:2]
    policy = np.full((num_states, num_actions), 1 / num_actions)
    return np.asarray(evaluate(padded(mdp), pad_policy(policy), gamma))[:num_states]


def best_value(mdp, gamma):
    return np.asarray(value_iteration(padded(mdp), gamma).value)[: len(mdp.P)]


def test_example_3_5():
    grid = worlds.jumping_grid()
    v = uniform_value(grid, 0.9).reshape(5, 5)
    close(v[0], [3.30899634, 8.78929186, 4.42761918, 5.32236759, 1.49217876], 1e-8)
    v = best_value(grid, 0.9).reshape(5, 5)
    np.testing.assert_allclose(v[0], [21.9775, 24.4194, 21.9775, 19.4194, 17.4775], atol=5e-5)
    np.testing.assert_allclose(v[4], [14.4194, 16.0216, 14.4194, 12.9775, 11.6797], atol=5e-5)


def test_example_4_1():
    grid = worlds.corner_grid()
    v = uniform_value(grid, 1.0).reshape(4, 4)
    close(v, [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]])
    digits = {2: [-1.75, -2, -2], 3: [-2.4375, -2.9375, -3], 10: [-6.138, -8.3524, -8.9673]}
    of_sweeps = lambda k: tabular.iterate_evaluation(grid, tabular.uniform(grid), 1.0, tolerance=0, max_sweeps=k)
    for sweeps, swept in jax.jit(lambda: {k: of_sweeps(k) for k in digits})().items():
        np.testing.assert_allclose(swept.value[1:4], digits[sweeps], atol=5e-5)
        assert swept.sweeps == sweeps


def test_frozen_lake():
    small, large = worlds.frozen_lake(4), worlds.frozen_lake(8)
    for gamma, digits in ((0.9, 0.0688909049), (0.95, 0.1804715784), (0.99, 0.5420259320), (1.0, 14 / 17)):
        assert best_value(small, gamma)[0] == pytest.approx(digits, abs=5e-11)
    assert best_value(large, 0.99)[0] == pytest.approx(0.4146403618, abs=5e-11)
    finite_horizon = jax.jit(lambda mdp: tabular.finite_horizon(mdp, 200)[0])
    assert finite_horizon(padded(small))[100, 0] == pytest.approx(0.7441902878, abs=5e-11)
    assert finite_horizon(padded(large))[200, 0] == pytest.approx(0.9132201502, abs=5e-11)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("slippery", [True, False])
def test_the_frozen_lake_is_gymnasiums(size, slippery):
    import gymnasium

    name = f"{size}x{size}"
    theirs = gymnasium.make("FrozenLake-v1", map_name=name, is_slippery=slippery).unwrapped.P
    lake = worlds.frozen_lake(size, slippery)
    p, r = dense(lake)
    wanted_p, wanted_r = np.zeros_like(p), np.zeros_like(r)
    for s, a in np.ndindex(r.shape):
        for probability, to, reward, ends in [] if lake.terminal[s] else theirs[s][a]:
            wanted_p[s, a, to] += probability
            wanted_r[s, a] += probability * reward
            assert ends == lake.terminal[to]
    close(p, wanted_p)
    close(r, wanted_r)


def toy_values(P, gamma):
    """Value iteration on gymnasium's own table, by its own flags: nothing follows what terminated."""
    value = np.zeros(len(P))
    for _ in range(2000):
        q = [[sum(p * (r + gamma * (0 if ends else value[to])) for p, to, r, ends in P[s][a]) for a in P[s]] for s in P]
        new = np.array([max(row) for row in q])
        if np.array_equal(new, value):
            break
        value = new
    return value


@pytest.mark.parametrize("name", ["FrozenLake", "CliffWalking", "Taxi"])
def test_tables_of_gymnasium(name):
    import gymnasium

    newest = max(id for id in gymnasium.registry if id.startswith(f"{name}-v"))
    toy = gymnasium.make(newest).unwrapped
    start = np.asarray(toy.initial_state_distrib)
    mdp = tabular.from_gymnasium(toy.P, start)
    extra = len(mdp.P) - len(toy.P)
    assert extra == (name == "Taxi")  # where states that end an episode are entered from such states as well
    value = np.asarray(value_iteration(mdp, 0.9).value)
    wanted = toy_values(toy.P, 0.9)
    on = ~mdp.terminal[: len(wanted)]
    close(value[: len(wanted)][on], wanted[on], 1e-8)
    close(start_by_hand(mdp)[: len(start)], start)
    assert mdp.legal is None and mdp.terminal[-1]


def test_a_table_of_gymnasium_may_lack_actions():
    P = {0: {0: [(1.0, 1, -1.0, False)]}, 1: {0: [(1.0, 0, -1.0, False)], 1: [(1.0, 2, 5.0, True)]}, 2: {}}
    mdp = tabular.from_gymnasium(P)
    assert mdp.legal[:2].tolist() == [[True, False], [True, True]]
    assert value_iteration(mdp, 1.0).value.tolist() == [4.0, 5.0, 0.0]


def test_gambler():
    values = {p: np.asarray(value_iteration(worlds.gambler(p), 1.0).value) for p in (0.4, 0.25, 0.55)}
    for p, capital, digits in (
        (0.4, 25, 0.16), (0.4, 50, 0.4), (0.4, 75, 0.64), (0.4, 1, 0.0020656248), (0.4, 99, 0.9643329672),
        (0.25, 50, 0.25), (0.55, 50, 0.9999560992),
    ):  # fmt: skip
        assert values[p][capital] == pytest.approx(digits, abs=5e-11), (p, capital)


def test_short_corridor():
    """The three cells look alike, so one number is the policy; its exact gradient is zero at the best."""
    corridor = worlds.short_corridor()
    policy = lambda right: jnp.tile(jnp.stack([1 - right, right]), (4, 1))
    earns = jax.jit(jax.value_and_grad(lambda right: tabular.objective(corridor, policy(right), 1.0)))
    value, slope = earns(2 - 2**0.5)
    assert value == pytest.approx(-11.6568542, abs=5e-8) and slope == pytest.approx(0.0, abs=1e-10)
    assert [earns(x)[0] for x in (0.05, 0.95)] == pytest.approx([-82.105, -44.211], abs=5e-4)


def test_cliff():
    @jax.jit
    def values(cliff):
        exact = tabular.policy_iteration(cliff, 1.0)
        soft = tabular.value_iteration(tabular.epsilon_soft(cliff, 0.1), 1.0)
        return exact.value, soft.value, tabular.evaluate(cliff, 0.9 * exact.policy + 0.1 / 4, 1.0)

    exact, soft, follows = (v[36] for v in values(worlds.cliff()))
    assert exact == pytest.approx(-13)
    assert soft == pytest.approx(-20.7077, abs=5e-5)
    assert follows == pytest.approx(-45.8033, abs=5e-5)


def test_walks_wind_and_river():
    for n, left in ((5, 0.0), (19, -1.0)):
        inside = uniform_value(worlds.random_walk(n, left), 1.0)[1:-1]
        close(inside, left + (1 - left) * np.arange(1, n + 1) / (n + 1))
    assert best_value(worlds.windy_grid(), 1.0)[30] == -15
    assert best_value(worlds.windy_grid(kings=True), 1.0)[30] == -7
    river = jax.jit(tabular.relative_value_iteration)(worlds.river_swim())
    assert river.gain == pytest.approx(0.4286224338, abs=5e-11)
    assert np.asarray(river.policy).argmax(-1).tolist() == [1] * 6
    p, r = dense(worlds.river_swim())
    bias = np.asarray(river.bias)
    close(np.asarray(river.gain) + bias, (r + p @ bias).max(-1), 1e-8)


# --- properties ---------------------------------------------------------------------------------------------------


@jax.jit
def garnet_and_look_ahead(key, values, gamma):
    mdp = worlds.garnet(key, 8, 3, 3)
    return jax.vmap(lambda v: tabular.look_ahead(mdp, v, gamma).max(-1))(values)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from([0.5, 0.9]))
def test_operators_contract_and_are_monotone(seed, gamma):
    v, w = np.random.default_rng(seed).normal(size=(2, 8)) * 5
    values = np.stack([v, w, np.maximum(v, w)])
    of_v, of_w, of_larger = np.asarray(garnet_and_look_ahead(jax.random.key(seed), values, gamma))
    assert np.abs(of_v - of_w).max() <= gamma * np.abs(v - w).max() + 1e-12
    assert (of_larger >= of_w - 1e-12).all()


def test_soft_values_go_from_the_best_to_the_uniform_policy():
    mdp = jax.tree.map(np.asarray, garnet(jax.random.key(3), 8, 3, 3))
    solve_at = jax.jit(lambda tau: tabular.soft_value_iteration(mdp, 0.9, tau))
    exact = jax.jit(lambda: tabular.value_iteration(mdp, 0.9))()
    cold, hot, warm = (jax.tree.map(np.asarray, solve_at(tau)) for tau in (1e-4, 1e4, 0.7))
    close(cold.value, exact.value, 1e-2)
    close(cold.policy, exact.policy, 1e-3)
    close(hot.policy, np.full((8, 3), 1 / 3), 1e-3)
    # the value of the softmax policy, with its entropy in the reward
    bonus = -0.7 * (warm.policy * np.log(warm.policy)).sum(-1, keepdims=True)
    close(solve(mdp._replace(R=mdp.R + bonus), warm.policy, 0.9), warm.value, 1e-8)


def test_the_exact_policy_gradient_is_the_derivative():
    earns = lambda logits, mdp: tabular.objective(mdp, jax.nn.softmax(logits), 0.9)
    both = jax.jit(lambda logits, mdp: (tabular.policy_gradient(mdp, logits, 0.9), jax.grad(earns)(logits, mdp)))
    logits = np.random.default_rng(0).normal(size=(S, A))
    for mdp in (worlds.frozen_lake(), garnet(jax.random.key(0), 6, 3, 2)):
        exact, derivative = both(logits, padded(mdp))
        close(exact, derivative)
        assert np.abs(exact).max() > 1e-4


def test_many_tables_at_once():
    """Planning under vmap: 500 random MDPs, each as if alone."""
    keys = jax.random.split(jax.random.key(0), 500)
    mdps = jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: worlds.garnet(key, 10, 4, 3)))(keys))
    solve_all = jax.jit(jax.vmap(lambda mdp: tabular.value_iteration(mdp, 0.9)))
    one = jax.tree.map(lambda x: x[17], mdps)
    close(solve_all(mdps).value[17], value_iteration(one, 0.9).value)
    close(mdps.P.sum(-1), 1.0)
    assert all(len(set(row)) == 3 for row in mdps.successors.reshape(-1, 3).tolist()[:100])


def test_float32_settles_too(float32):
    lake = value_iteration(worlds.frozen_lake(), 0.99)
    assert lake.value.dtype == jnp.float32 and lake.sweeps < 2000
    assert lake.value[0] == pytest.approx(0.542026, abs=1e-5)
    river = RELATIVE(worlds.river_swim())
    assert river.gain == pytest.approx(0.428622, abs=1e-5)


def loops(*rewards, ends=()):
    """States that stay where they are, alone; those that end pay once. Rewards are of each state, or of its actions."""
    rewards = np.array(rewards, float).reshape(len(rewards), -1)
    num_states, num_actions = rewards.shape
    p = np.zeros((num_states + 1, num_actions, num_states + 1))
    for s in range(num_states + 1):
        p[s, :, num_states if s in ends else s] = 1
    return MDP(p, np.concatenate([rewards, np.zeros((1, num_actions))]), np.arange(num_states + 1) == num_states)


@jax.jit
def every_iteration(mdp):
    gamma, policy = 0.99, tabular.uniform(mdp)
    return {
        "value": tabular.value_iteration(mdp, gamma),
        "evaluation": tabular.iterate_evaluation(mdp, policy, gamma),
        "modified": tabular.modified_policy_iteration(mdp, gamma, 7),
        "soft": tabular.soft_value_iteration(mdp, gamma, 1.0),
        "q_lambda": tabular.q_lambda_values(mdp, gamma, 0.5, lambda q: jnp.ones_like(q), 3),
        "policy": tabular.policy_iteration(mdp, gamma),
    }


def test_a_small_value_settles_beside_large_ones(float32):
    """Every scale from 1e-30 to 1e30 in one table, in float32: each state's value as if it were alone."""
    scales = 10.0 ** np.arange(-30, 31, 3)
    rewards = np.concatenate([0.01 * scales, -1e5 * scales])
    mdp = loops(*rewards, ends=range(len(scales), 2 * len(scales)))
    wanted = np.concatenate([scales, -1e5 * scales, [0]])
    for name, solution in every_iteration(mdp).items():
        # changes of 4 ulp at the rate of γ leave 4 / (1 - γ) ulp
        np.testing.assert_allclose(solution.value, wanted, rtol=5e-5, err_msg=name)
        assert solution.sweeps < 1100, name


def test_sweeps_that_rounding_keeps_in_a_cycle_end(float32):
    """Two states that lead to each other and pay 1 and -1: what differs between them is rounded to itself."""
    swap = MDP(np.array([[[0.0, 1]], [[1.0, 0]]]), np.array([[1.0], [-1.0]]), np.zeros(2, bool))
    for name, solution in every_iteration(swap).items():
        if name != "soft":  # of one action it is the same
            np.testing.assert_allclose(solution.value, [1 / 1.99, -1 / 1.99], rtol=5e-5, err_msg=name)
        assert solution.sweeps < 3000, name
    # undiscounted, and without an end: no value, and still an end of the sweeps
    endless = jax.jit(lambda: tabular.value_iteration(swap, 1.0))()
    assert endless.sweeps < 3000 and endless.residual == 1


def test_news_may_take_as_many_sweeps_as_there_are_states(float32):
    """A reward at the end of a corridor that is longer than any fixed number of sweeps without an improvement."""
    n = 1500
    p, to = np.ones((n + 1, 1, 1)), np.minimum(np.arange(1, n + 2), n)[:, None, None]
    r = np.where(np.arange(n + 1) == n - 1, 1.0, 0.0)[:, None]
    corridor = MDP(p, r, np.arange(n + 1) == n, None, to.astype(np.int32))
    solution = jax.jit(lambda: tabular.value_iteration(corridor, 1.0))()
    np.testing.assert_array_equal(solution.value[:n], 1.0)
    assert solution.sweeps == n + 1


def test_policy_iteration_improves_a_small_state_beside_a_large_one(float32):
    scales = 10.0 ** np.arange(-30, 30, 3)
    mdp = loops(*[(x, 2 * x) for x in scales], (-1e7, -1e7))
    solution = jax.jit(lambda: tabular.policy_iteration(mdp, 0.5))()
    np.testing.assert_allclose(solution.value, [*(4 * scales), -2e7, 0], rtol=1e-6)
    assert solution.sweeps <= 3


def test_policy_iteration_ends_where_actions_are_alike(float32):
    """Copies of each action, and γ so near to 1 that a solve is wrong by more than what an action could gain."""
    mdp = jax.tree.map(np.asarray, garnet(jax.random.key(5), 30, 3, 5))
    copies = MDP(np.repeat(mdp.P, 3, 1), np.repeat(mdp.R, 3, 1), mdp.terminal, None, np.repeat(mdp.successors, 3, 1))
    solution = jax.jit(lambda: tabular.policy_iteration(copies, 0.9999))()
    assert solution.sweeps < 30
    with jax.enable_x64(True):
        exact = best(mdp, 0.9999)
        of_policy = solve(copies, np.asarray(solution.policy, np.float64), 0.9999)
    np.testing.assert_allclose(of_policy, exact, rtol=1e-5)


# --- legal actions, first policies, average rewards ----------------------------------------------------------------


def some_legal(seed, num_states=10, num_actions=4):
    """A garnet with an end and a mask, and what it is worth to NumPy: the same MDP with copies of legal actions.

    What is not legal pays best of all, and its P is no distribution.
    """
    rng = np.random.default_rng(seed)
    mdp = jax.tree.map(np.asarray, garnet(jax.random.key(seed), num_states, num_actions, 3))
    legal = rng.random((num_states, num_actions)) < 0.5
    legal[np.arange(num_states), rng.integers(0, num_actions, num_states)] = True
    terminal = np.arange(num_states) == 4
    copied = np.where(legal, np.arange(num_actions), legal.argmax(-1)[:, None])
    take = lambda x: np.take_along_axis(x, copied.reshape(*copied.shape, *[1] * (x.ndim - 2)), axis=1)
    copies = MDP(take(mdp.P), take(mdp.R), terminal, None, take(mdp.successors))
    wild = lambda x, to: np.where(legal.reshape(*legal.shape, *[1] * (x.ndim - 2)), x, to)
    masked = MDP(wild(mdp.P, 7.0), wild(mdp.R, 1e6), terminal, None, mdp.successors, legal)
    return masked, copies, legal


@jax.jit
def plan_masked(mdp, initial):
    gamma, policy, dense = 0.9, tabular.uniform(mdp), tabular.epsilon_soft(mdp, 0.0)
    half = lambda q: jnp.where(jnp.isneginf(q), 0.0, 1.0) / (~jnp.isneginf(q)).sum(-1, keepdims=True)
    best = {
        "value": tabular.value_iteration(mdp, gamma), "policy": tabular.policy_iteration(mdp, gamma),
        "modified": tabular.modified_policy_iteration(mdp, gamma), "dense": tabular.value_iteration(dense, gamma),
        "initial": tabular.policy_iteration(mdp, gamma, initial=initial),
        "cold": tabular.soft_value_iteration(mdp, gamma, 1e-6),
        "q_lambda": tabular.q_lambda_values(mdp, gamma, 0, half, 3),
    }  # fmt: skip
    of_uniform = {
        "evaluate": tabular.evaluate(mdp, policy, gamma),
        "iterate": tabular.iterate_evaluation(mdp, policy, gamma).value,
        "soft": tabular.evaluate(tabular.epsilon_soft(mdp, 1.0), policy, gamma),
    }  # fmt: skip
    logits = jnp.asarray(initial) + 0.3
    softly = lambda x: tabular.objective(mdp, jax.nn.softmax(jnp.where(tabular.legal_of(mdp), x, -jnp.inf)), gamma)
    gradients = tabular.policy_gradient(mdp, logits, gamma), jax.grad(softly)(logits)
    return best, of_uniform, policy, gradients, tabular.finite_horizon(mdp, 200, gamma)


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_not_legal_does_not_count(seed):
    masked, copies, legal = some_legal(seed)
    initial = np.eye(4)[legal.argmax(-1)]
    tabular.checked(masked)
    exact = best(copies, 0.9)
    found, of_uniform, policy, (gradient, derivative), (values, actions) = plan_masked(masked, initial)
    for name, solution in found.items():
        close(solution.value, exact, 1e-5 if name == "cold" else 1e-8)
        if name == "dense":
            continue
        assert (np.isneginf(solution.q) == ~(legal | masked.terminal[:, None])).all(), name
        taken = np.asarray(solution.policy) * ~masked.terminal[:, None]
        assert (taken[~legal] == 0).all() and np.isfinite(solution.residual), name
    allowed = legal | masked.terminal[:, None]
    np.testing.assert_allclose(policy, allowed / allowed.sum(-1, keepdims=True))
    p, r = dense(masked._replace(P=np.where(legal[..., None], masked.P, 0.0), R=np.where(legal, masked.R, 0.0)))
    wanted = solve(MDP(p, r, masked.terminal), np.asarray(policy), 0.9)
    for name, value in of_uniform.items():
        np.testing.assert_allclose(value, wanted, rtol=1e-8, err_msg=name)
    close(gradient, derivative)
    assert (np.asarray(gradient)[~legal] == 0).all() and np.abs(gradient).max() > 1e-3
    close(values[-1], exact, 1e-6)
    assert legal[~masked.terminal, np.asarray(actions)[-1, ~masked.terminal]].all()


def test_a_first_policy_that_is_the_best_is_kept():
    lake = worlds.frozen_lake()
    iterate = jax.jit(lambda initial: tabular.policy_iteration(lake, 0.99, initial=initial))
    found = iterate(np.full((16, 4), 0.25))
    again = iterate(found.policy)
    assert found.sweeps > 1 and again.sweeps == 1
    np.testing.assert_array_equal(again.value, found.value)


def test_the_average_reward_of_a_policy():
    """Against NumPy's stationary distribution, and against the best of all."""
    mdp = jax.tree.map(np.asarray, garnet(jax.random.key(7), 9, 3, 4))
    policy = np.random.default_rng(0).dirichlet(np.ones(3), 9)
    p, r = dense(mdp)
    chain, pay = np.einsum("sa,sat->st", policy, p), (policy * r).sum(-1)
    values, vectors = np.linalg.eig(chain.T)
    stationary = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    stationary /= stationary.sum()
    evaluate_average = jax.jit(tabular.evaluate_average)
    found = evaluate_average(mdp, policy)
    close(found.gain, stationary @ pay)
    close(found.gain + found.bias, pay + chain @ found.bias)
    assert found.bias[0] == 0 and found.sweeps == 0
    np.testing.assert_array_equal(found.policy, policy)
    best_of_all = RELATIVE(mdp)
    of_best = evaluate_average(mdp, best_of_all.policy)
    close(of_best.gain, best_of_all.gain, 1e-8)
    close(of_best.bias, best_of_all.bias, 1e-6)
    slope = jax.jit(jax.grad(lambda r: tabular.evaluate_average(mdp._replace(R=r), policy).gain))(mdp.R)
    close(slope, stationary[:, None] * policy)  # how often each pair happens


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e6, 1e20])
def test_an_average_reward_is_exact_in_its_own_scale(scale, float32):
    river = worlds.river_swim()
    found = RELATIVE(river._replace(R=river.R * scale))
    assert found.gain / scale == pytest.approx(0.4286224338, rel=1e-5)


def test_an_average_reward_up_to_a_tolerance(float32):
    river = worlds.river_swim()
    coarse = jax.jit(lambda mdp: tabular.relative_value_iteration(mdp, tolerance=1e-2))(river)
    assert coarse.sweeps < RELATIVE(river).sweeps and 1e-6 < abs(coarse.gain - 0.4286224338) < 1e-2


def test_a_way_of_probability_zero_is_none():
    mdp = tabular.from_gymnasium({0: {0: [(1.0, 0, 1.0, False), (0.0, 0, 5.0, True)]}})
    assert np.asarray(mdp.terminal).tolist() == [False] and (np.asarray(mdp.P) * mdp.R).sum() == 1


def test_bad_input():
    lake = worlds.frozen_lake()
    no_left = lake._replace(legal=np.tile(np.arange(4) > 0, (16, 1)))
    bad = [
        (lambda: tabular.checked(lake._replace(P=lake.P * 0.9)), r"those of \(state, action\) \(0, 0\) add up to 0\.9"),
        (lambda: tabular.checked(lake._replace(successors=None)), r"without successors it must be \(S, A, S\)"),
        (lambda: tabular.checked(lake._replace(terminal=lake.terminal[1:])), r"P has shape .* and terminal \(15,\)"),
        (lambda: tabular.checked(lake._replace(R=lake.R[:, :2])), r"R has shape \(16, 2, 3\); it must be \(16, 4\) or"),
        (lambda: tabular.checked(lake._replace(start=lake.start * 2)), "start has entries from 0 that add up to 2"),
        (lambda: tabular.checked(lake._replace(start=np.eye(16)[0] * 2 - np.eye(16)[1])), "start has entries from -1"),
        (lambda: tabular.checked(lake._replace(R=lake.R * np.nan)), r"R is NaN for \(state, action\) \(0, 0\)"),
        (lambda: tabular.checked(lake._replace(successors=lake.successors + 1)), r"successors lie in 1 \.\. 16"),
        (lambda: tabular.evaluate(lake, tabular.uniform(lake)[0], 0.9), r"policy has shape \(4,\)"),
        (lambda: tabular.checked(lake._replace(legal=np.ones(4, bool))), r"legal has shape \(4,\); it must be"),
        (lambda: tabular.checked(lake._replace(legal=np.arange(64).reshape(16, 4) > 7)), "no action in state 0, which"),
        (lambda: tabular.evaluate(no_left, tabular.uniform(lake), 1), r"not legal, \(state, action\) \(0, 0\)"),
        (lambda: tabular.policy_iteration(lake, 0.9, initial=np.ones(4)), r"policy has shape \(4,\)"),
        (lambda: tabular.policy_gradient(lake, jnp.ones(4), 0.9), r"logits has shape \(4,\); it must be \(16, 4\)"),
        (lambda: tabular.evaluate_average(lake, tabular.uniform(lake)), "evaluate_average: mdp has terminal states"),
        (lambda: tabular.from_gymnasium({1: {0: [(1.0, 1, 0.0, True)]}}), r"states of P are \[1\]"),
        (lambda: tabular.from_gymnasium({0: {1: [(1.0, 0, 0.0, True)]}}), r"actions of P are \[1\]"),
        (lambda: tabular.from_gymnasium({0: {0: [(1.0, 5, 0.0, True)]}}), r"P\[0\]\[0\] has \(1.0, 5, 0.0, True\)"),
        (lambda: tabular.from_gymnasium({0: {0: []}}), r"P\[0\]\[0\] has nothing"),
        (lambda: tabular.from_gymnasium({}), r"states of P are \[\]"),
        (lambda: tabular.from_gymnasium({0: {0: [(1.0, 0, 0.0)]}}), r"P\[0\]\[0\] has \(1.0, 0, 0.0\); each must be"),
        (lambda: tabular.checked(lake._replace(P=lake.P[0])), r"P has shape \(4, 3\) and terminal \(16,\), not"),
        (lambda: tabular.checked(lake._replace(P=-lake.P)), r"those of \(state, action\) \(0, 0\)"),
        (lambda: tabular.checked(lake._replace(successors=lake.successors - 1)), r"successors lie in -1 \.\. 14"),
        (lambda: worlds.gambler(-0.5), r"p is -0\.5"),
        (lambda: worlds.gambler(0.5, goal=1), r"p is 0\.5 and goal 1; p must lie in \[0, 1\] and goal be at least 2"),
        (lambda: worlds.random_walk(0), "random_walk: num_states is 0; it must be at least 1"),
        (lambda: worlds.river_swim(1), "river_swim: num_states is 1; it must be at least 2"),
        (lambda: worlds.garnet(jax.random.key(0), 3, 0, 2), "num_actions is 0; it must be a positive int"),
        (lambda: worlds.garnet(jax.random.key(0), 3.5, 2, 2), "num_states is 3.5; it must be a positive int"),
        (lambda: tabular.from_gymnasium({0: {0: [(0.5, 0, 0.0, False)]}}), r"\(0, 0\) add up to 0\.5"),
        (lambda: tabular.finite_horizon(lake, 0), "horizon is 0; it must be a positive int"),
        (lambda: tabular.relative_value_iteration(lake), "mdp has terminal states"),
        (lambda: worlds.frozen_lake(5), "size is 5; it must be one of 4, 8"),
        (lambda: worlds.gambler(1.5), r"p is 1\.5"),
        (lambda: worlds.garnet(jax.random.key(0), 3, 2, 4), "branching is 4"),
        (lambda: tabular.control(0, 2, bellman.max_backup), "num_states is 0"),
        (lambda: tabular.control(2, 2, bellman.max_backup, num_tables=3), "num_tables is 3"),
        (lambda: tabular.control(2, 2, bellman.max_backup, legal=jnp.ones(2)), r"legal has shape \(2,\)"),
        (lambda: tabular.td_lambda(jnp.ones(2)), r"policy has shape \(2,\)"),
        (lambda: tabular.Control(step_size=2.0), r"Control\.step_size is 2\.0"),
    ]  # fmt: skip
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


# --- tables that learn --------------------------------------------------------------------------------------------


CONTROL = {name: getattr(tabular, name) for name in ("q_learning", "sarsa", "expected_sarsa", "double_q_learning")}


LAKE = worlds.frozen_lake(4, slippery=False)
EPSILON = 0.5
# with α falling as N^-0.7
FALLING = tabular.Control(step_size=1.0, step_power=0.7, gamma=0.9, epsilon=EPSILON)


@cache
def made(name):
    """`hp -> Agent`, `hp -> Learner` and hyperparameters, the same functions each time: one compiled program a name."""
    env = purerl.envs.Table(LAKE)
    if name in CONTROL:
        make, hp = partial(CONTROL[name], 16, 4), FALLING
    else:
        make, hp = partial(getattr(tabular, name), tabular.uniform(LAKE)), tabular.Prediction(n=3)
    return make, lambda hp: purerl.learner(env, env.default_params, make(hp), 32, 1), hp


@pytest.mark.parametrize("name", [*CONTROL, "n_step_td", "td_lambda"])
def test_tables_keep_the_contract_of_agents(name, float32, key):
    """One by the public check as a whole; of the others what compiles nothing beyond the program that learns."""
    make_agent, make, hp = made(name)
    env, other = purerl.envs.Table(LAKE), jax.random.fold_in(key, 1)
    if name == "td_lambda":
        check_agent(make_agent, hp, env, env.default_params, key)
        return
    traced = checks.trace(make, hp, key)
    checks.check_structure(traced)
    checks.check_actions(make_agent(hp), traced.begin.agent, env, env.default_params, key, 32)
    *_, (_, state, metrics) = purerl.run(make, hp, key, 4)
    checks.assert_finite((state.agent, metrics["td_error"]), name)
    checks.check_runs(make, hp, key, other, 4, jax.tree.map(lambda x: x.copy(), state))


@pytest.mark.parametrize("name", CONTROL)
def test_control_learns_the_optimum(name, float32, key):
    """To V* where the target is the optimal value, to the best ε-soft one's for Sarsa's."""
    _, make, hp = made(name)
    *_, (_, state, _) = purerl.run(make, hp, key, 1000, every=1000)
    q = np.asarray(state.agent.q, np.float64)
    if "sarsa" not in name:
        np.testing.assert_allclose(q.mean(0).max(-1)[0], best(LAKE, 0.9)[0], atol=0.02)
        return
    soft = lambda x: (1 - EPSILON) * x + EPSILON * x.mean(1, keepdims=True)
    p, r = map(soft, dense(LAKE))
    exact = r + 0.9 * p @ best(MDP(p, r, LAKE.terminal), 0.9)
    # what its greedy policy is worth with ε of noise
    got, wanted = (solve(LAKE, soft(np.eye(4)[x.argmax(-1)]), 0.9)[0] for x in (q[0], exact))
    np.testing.assert_allclose(got, wanted, atol=0.02)


def by_hand(name, steps, alpha, gamma, epsilon):
    """The textbook's boxes, over (s, a, r, s', terminated, a')."""
    q = np.zeros((3, 2))
    for s, a, r, following, terminated, next_action in steps:
        greedy = (q[following] == q[following].max()) / (q[following] == q[following].max()).sum()
        probs = (1 - epsilon) * greedy + epsilon / 2
        value = {
            "q_learning": q[following].max(),
            "sarsa": q[following, next_action],
            "expected_sarsa": probs @ q[following],
        }[name]
        q[s, a] += alpha * (r + gamma * (0.0 if terminated else value) - q[s, a])
    return q


@pytest.mark.parametrize("name", ["q_learning", "sarsa", "expected_sarsa"])
@pytest.mark.parametrize("length", [1, 5])
def test_control_against_the_textbooks_boxes(name, length, float32):
    """A fixed stream of steps through `update`, in blocks of one or of five."""
    rng = np.random.default_rng(0)
    t = 20
    s, a = rng.integers(0, 2, t + 1), rng.integers(0, 2, t + 1)
    terminated = rng.random(t) < 0.2
    r, following = rng.normal(size=t), np.where(terminated, 2, s[1:])
    agent = CONTROL[name](3, 2, tabular.Control(step_size=0.3, gamma=0.8, epsilon=0.2))
    state = agent.init(jax.random.key(0), jnp.zeros(1, jnp.int32))
    no = np.zeros(t, bool)
    block = purerl.Transition(s[:t], a[:t], r, following, terminated, no, ~no)
    block = jax.tree.map(lambda x: x.astype(jnp.result_type(x))[:, None], block)
    update = jax.jit(agent.update)
    for i in range(0, t, length):
        rollout = purerl.Rollout(jax.tree.map(lambda x: x[i : i + length], block), ())
        state, metrics = update(jax.random.key(i), state, rollout)
        assert np.isfinite(metrics["td_error"])
    seen = t - 1 if name == "sarsa" else t  # its last step waits for the next action
    steps = list(zip(s[:t], a[:t], r, following, terminated, a[1:], strict=True))[:seen]
    np.testing.assert_allclose(state.q[0], by_hand(name, steps, 0.3, 0.8, 0.2), atol=1e-5)


def test_double_q_learning_updates_one_table_by_the_other(float32):
    agent = tabular.double_q_learning(3, 2, tabular.Control(step_size=0.5, gamma=1.0))
    state = agent.init(jax.random.key(0), jnp.zeros(1, jnp.int32))
    q = np.array([[[0.0, 0], [1, 2], [0, 0]], [[0, 0], [8, 4], [0, 0]]], np.float32)
    state = state._replace(q=q)
    one = lambda x: np.array([[x]], jnp.result_type(x))
    no = one(False)
    rollout = purerl.Rollout(purerl.Transition(one(0), one(1), one(1.0), one(1), no, no, ~no), ())
    update = jax.jit(jax.vmap(lambda key: agent.update(key, state, rollout)[0].q - q))
    changes = update(jax.random.split(jax.random.key(0), 20))
    outcomes = {tuple(change[:, 0, 1].tolist()) for change in np.asarray(changes)}
    # the first's best is action 1, worth 4 to the second; the second's is 0, worth 1 to the first
    assert outcomes == {(2.5, 0.0), (0.0, 1.0)}


def test_actions_that_are_not_legal_are_never_taken_nor_counted_on(float32, key):
    legal = np.ones((7, 2), bool)
    legal[3, 1] = False  # in the middle of the walk one can only go left
    env = purerl.envs.Table(worlds.random_walk(5))
    agent = tabular.q_learning(7, 2, tabular.Control(gamma=0.5, epsilon=1.0, initial=3.0), legal=legal)
    learner = purerl.learner(env, env.default_params, agent, 1, 1)
    state, _ = jax.jit(lambda key: purerl.train(learner, key, 400))(key)
    q, count = np.asarray(state.agent.q)[0], np.asarray(state.agent.count)[0]
    assert count[3, 1] == 0 and count[3, 0] > 0
    assert q[3, 1] == 3.0 and q[2, 1] < 1.0


def n_step_by_hand(episodes, n, alpha, gamma, num_states):
    """Section 7.1's box, with its own time τ."""
    v = np.zeros(num_states)
    for states, rewards in episodes:  # states has one more than rewards, the last of them terminal
        length = len(rewards)
        for t in range(length + n - 1):
            tau = t - n + 1
            if tau >= 0:
                g = sum(gamma ** (i - tau) * rewards[i] for i in range(tau, min(tau + n, length)))
                if tau + n < length:
                    g += gamma**n * v[states[tau + n]]
                v[states[tau]] += alpha * (g - v[states[tau]])
    return v


def td_lambda_by_hand(episodes, lam, alpha, gamma, num_states):
    v = np.zeros(num_states)
    for states, rewards in episodes:
        e = np.zeros(num_states)
        for t, r in enumerate(rewards):
            e = gamma * lam * e + np.eye(num_states)[states[t]]
            last = t == len(rewards) - 1
            v = v + alpha * (r + (0.0 if last else gamma * v[states[t + 1]]) - v[states[t]]) * e
    return v


@pytest.mark.parametrize("method", [1, 3, "traces"])
def test_prediction_against_the_textbooks_boxes(method, float32):
    rng = np.random.default_rng(1)
    episodes = []
    for length in (4, 1, 2, 5):
        episodes.append(([*rng.integers(0, 4, length), 4], rng.normal(size=length)))
    policy = jnp.full((5, 2), 0.5)
    hp = tabular.Prediction(step_size=0.3, gamma=0.9, td_lambda=0.7, n=method if method in (1, 3) else 1)
    agent = tabular.td_lambda(policy, hp) if method == "traces" else tabular.n_step_td(policy, hp)
    state = agent.init(jax.random.key(0), jnp.zeros(1, jnp.int32))
    s, following = (np.concatenate([e[0][i : len(e[0]) - 1 + i] for e in episodes]) for i in (0, 1))
    r = np.concatenate([e[1] for e in episodes])
    terminated = following == 4
    no = np.zeros(len(s), bool)
    block = purerl.Transition(s, 0 * s, r, following, terminated, no, ~no)
    block = jax.tree.map(lambda x: x.astype(jnp.result_type(x))[:, None], block)
    update = jax.jit(agent.update)
    for part in (slice(0, 6), slice(6, 12)):  # a block's end, here within an episode, is nothing to an online method
        state, _ = update(jax.random.key(0), state, purerl.Rollout(jax.tree.map(lambda x: x[part], block), ()))
    if method == "traces":
        wanted = td_lambda_by_hand(episodes, 0.7, 0.3, 0.9, 5)
    else:
        wanted = n_step_by_hand(episodes, method, 0.3, 0.9, 5)
    np.testing.assert_allclose(state.value, wanted, atol=1e-5)


def test_truncation_is_not_termination(float32, key):
    """A reward of 1 for ever, cut every 5 steps: V = 10 at γ = 0.9, for every table, all learning from the same."""
    env = purerl.envs.Table(MDP(np.ones((1, 1, 1)), np.ones((1, 1)), np.zeros(1, bool)))
    params = env.default_params.replace(max_steps_in_episode=5)
    control, prediction = tabular.Control(gamma=0.9), tabular.Prediction(step_size=0.3, gamma=0.9, n=3)
    agents = [make(1, 1, control) for make in CONTROL.values()]
    agents += [make(jnp.ones((1, 1)), prediction) for make in (tabular.n_step_td, tabular.td_lambda)]

    def update(key, states, rollout):
        given = [agent.update(key, state, rollout) for agent, state in zip(agents, states, strict=True)]
        return tuple(state for state, _ in given), {}

    together = agents[0]._replace(
        init=lambda key, obs: tuple(agent.init(key, obs) for agent in agents),
        act=lambda key, states, memory, obs: agents[0].act(key, states[0], memory, obs),
        update=update,
    )
    learner = purerl.learner(env, params, together, 1, 1)
    states, metrics = jax.jit(lambda key: purerl.train(learner, key, 600, every=600))(key)
    for state in states.agent:
        learned = np.asarray(state.q if hasattr(state, "q") else state.value)
        np.testing.assert_allclose(learned, np.full_like(learned, 10.0), rtol=0.02)
    assert metrics["episode_length"] == 5


# --- environments and tables --------------------------------------------------------------------------------------


def test_a_table_is_an_environment(float32, key):
    env = purerl.envs.Table(worlds.frozen_lake())
    check_env(env, env.default_params, key)
    mdp, draws = env.mdp, 3000
    noisy = purerl.envs.Table(worlds.random_walk(3), noise=2.0)

    @jax.jit
    @jax.vmap
    def step(key):
        _, state = env.reset(key, env.default_params)
        out = env.step_env(key, state._replace(index=jnp.int32(14)), 2, env.default_params)
        _, state = noisy.reset(key, noisy.default_params)
        return out[0], out[2], out[3], noisy.step_env(key, state, 0, noisy.default_params)[2]

    index, reward, terminated, noise = map(np.asarray, step(jax.random.split(key, draws)))
    counts = np.bincount(index, minlength=16) / draws
    assert np.abs(counts - dense(mdp)[0][14, 2]).max() < 4.5 * np.sqrt(0.25 / draws)
    np.testing.assert_array_equal(reward, index == 15)  # the reward is of the successor
    np.testing.assert_array_equal(terminated, np.isin(index, [5, 7, 11, 12, 15]))
    assert np.std(noise) == pytest.approx(2.0, rel=0.1)


def test_a_table_with_a_mask_is_an_environment_with_one(float32, key):
    """Its mask reaches networks through observations; from_env finds it again; tables learn by the state's number."""
    walk = worlds.random_walk(3)
    legal = np.ones((5, 2), bool)
    legal[2, 0] = False
    env = purerl.envs.Table(walk._replace(legal=legal))
    check_env(env, env.default_params, key)
    obs, _ = jax.jit(env.reset)(key, env.default_params)
    assert obs["state"] == 2 and obs["action_mask"].tolist() == [False, True]
    found = tabular.from_env(env, env.default_params, key, 2, 1, 1, ignore=("time",))
    order = found.obs["state"].tolist()
    assert sorted(order) == [2, 3]  # state 1 can not be reached
    np.testing.assert_array_equal(found.mdp.legal[:-1], legal[order])
    agent = tabular.q_learning(5, 2, tabular.Control(gamma=0.5), legal=legal)
    learner = purerl.learner(env, env.default_params, agent, 1, 1)
    state, _ = jax.jit(lambda key: purerl.train(learner, key, 100))(key)
    assert state.agent.count[0, 2, 0] == 0 and state.agent.count[0, 2, 1] > 0
    network, many = (
        purerl.networks.q_network(2, partial(purerl.networks.OneHot, 5)),
        jax.tree.map(lambda x: x[None], obs),
    )
    q = np.asarray(jax.jit(network.apply)(drawn(network.init, many), many))
    assert np.isneginf(q[0, 0]) and np.isfinite(q[0, 1])


def test_a_masked_grid_is_enumerated_by_its_legal_moves(float32, key):
    env, params = purerl.make("MaskedGrid-v0")
    found = tabular.from_env(env, params, key, 2, denominator=1, ignore=("time",))
    value = np.asarray(value_iteration(found.mdp, 1.0).value)[:-1]
    cells = found.obs["cell"].argmax(-1)
    assert value[cells == 0].item() == -6 and value.max() == -1
    np.testing.assert_array_equal(found.mdp.legal[:-1], found.obs["action_mask"])


@pytest.mark.parametrize("first", [False, pytest.param(True, marks=pytest.mark.wide)])
def test_programs_of_both_precisions_may_share_an_mdp(first, key):
    """NumPy's arrays closed over, given to environments, and given as arguments, in float32 and in float64."""
    mdps = worlds.random_walk(3), MDP(*dense(worlds.random_walk(3)), worlds.random_walk(3).terminal)
    for mdp in mdps:
        env, policy = purerl.envs.Table(mdp), np.full((5, 2), 0.5)

        def act(key, env=env, policy=policy):
            obs, state = env.reset(key, env.default_params)
            agent = tabular.td_lambda(policy)
            action, *_ = agent.act(key, agent.init(key, obs[None]), (), obs[None])
            return env.step(key, state, action[0], env.default_params)

        def plan(mdp, policy=policy):
            soft = tabular.value_iteration(tabular.epsilon_soft(mdp, 0.1), 0.5).value
            return tabular.evaluate(mdp, policy, 0.5), soft, tabular.objective(mdp, policy, 0.5)

        for precise in (first, not first):
            with jax.enable_x64(precise):
                jax.block_until_ready(jax.jit(act)(key))
                for x, y in zip(jax.jit(lambda mdp=mdp: plan(mdp))(), jax.jit(plan)(mdp), strict=True):
                    assert x.dtype == (jnp.float64 if precise else jnp.float32)
                    close(x, y, 1e-6)
                close(tabular.expected_reward(mdp), dense(mdp)[1], 1e-6)  # without jit


def test_an_environment_becomes_its_table(float32, key):
    """FrozenLake through `Table` and back: the same values to the last digit, from rounded frequencies."""
    env = purerl.envs.Table(worlds.frozen_lake())
    found = tabular.from_env(env, env.default_params, key, 256, denominator=3, start_denominator=1, ignore=("time",))
    assert found.mdp.P.shape[0] == 12  # eleven that are not ends, and the end
    with jax.enable_x64(True):
        v = value_iteration(found.mdp, 0.99).value
        at = found.obs.tolist().index(0)
        assert v[at] == pytest.approx(0.5420259320, abs=5e-11)
        assert tabular.start_of(found.mdp)[at] == 1


def test_known_optima_of_gymnax_environments(float32, key):
    env, params = purerl.make("DeepSea-bsuite")
    found = tabular.from_env(env, params, key, num_samples=2, ignore=("time",), max_states=2000)
    best_return = start_by_hand(found.mdp) @ np.asarray(value_iteration(found.mdp, 1.0).value)
    assert 0.9 < best_return <= 1.0  # 1 at the end of the way, less 0.01 in all for its steps
    env, params = purerl.make("TMaze-v0")
    found = tabular.from_env(env, params.replace(length=4), key, 4, start_denominator=2, ignore=("time",))
    best_return = start_by_hand(found.mdp) @ np.asarray(value_iteration(found.mdp, 1.0).value)
    assert best_return == pytest.approx(4.0)


def test_what_cannot_be_enumerated_says_why(float32, key):
    env, params = purerl.make("Pendulum-v1")
    with pytest.raises(ValueError, match=r"the action space is .*; it must be Discrete"):
        tabular.from_env(env, params, key)
    lake = purerl.envs.Table(worlds.frozen_lake())
    with pytest.raises(ValueError, match="there are more than max_states, 10, states; if they count time"):
        tabular.from_env(lake, lake.default_params, key, 256, max_states=10)
    with pytest.raises(ValueError, match="not multiples of 1/4"):
        tabular.from_env(lake, lake.default_params, key, 256, denominator=4, ignore=("time",))
    chain, params = purerl.make("MemoryChain-bsuite")  # whose end hangs on the clock
    with pytest.raises(ValueError, match=r"more hangs on what was ignored, \('time',\)"):
        tabular.from_env(chain, params, key, ignore=("time",))


def test_policy_iteration_ends_where_rounding_keeps_it_in_a_cycle(monkeypatch):
    """An evaluation that favours whichever action was not selected, as rounding could, would go on for ever."""
    P = np.zeros((3, 2, 3), np.float32)
    P[0, 0, 1] = P[0, 1, 2] = P[1, :, 1] = P[2, :, 2] = 1
    mdp = tabular.MDP(P, np.zeros((3, 2), np.float32), np.zeros(3, bool))
    misled = lambda mdp, policy, gamma: jnp.where(policy[0, 0] > 0.5, *np.eye(3, dtype=np.float32)[[2, 1]])
    monkeypatch.setattr(planning, "evaluate", misled)
    solution = tabular.policy_iteration(mdp, 0.9, max_rounds=1000)
    assert 10 <= solution.sweeps <= 13
