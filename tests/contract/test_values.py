"""Agents that learn Q from replay: exact values, targets, when what is due is done, and what the program is like."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purerl
from purerl import bellman, exploration, networks, replay, tabular, values
from purerl.agents.qrdqn import midpoints
from purerl.envs import Observe, Table
from purerl.testing import probes

ONE = partial(networks.MLP, ())  # no layer: linear in the observation
FEW = dict(learning_starts=0, train_every=8, batch_size=16, capacity=200, target_period=16)


def network_of(name, num_actions=2, torso=ONE, **kinds):
    if name == "iqn":
        return networks.implicit_q_network(num_actions, torso, **kinds)
    outputs = {"c51": 21, "rainbow": 21, "qrdqn": 11}.get(name)
    return networks.q_network(num_actions, torso, outputs=outputs, **kinds)


AGENTS = {
    "dqn": (purerl.dqn, purerl.DQN, {}),
    "c51": (purerl.c51, purerl.C51, dict(num_atoms=21, low=0.0, high=20.0)),
    "qrdqn": (purerl.qrdqn, purerl.QRDQN, dict(num_quantiles=11, kappa=0.0)),
    "iqn": (purerl.iqn, purerl.IQN, dict(num_fractions=8, num_target_fractions=8, num_acting_fractions=8, kappa=0.0)),
}


def trained(name, env, num_updates, num_envs=8, **hyperparameters):
    algorithm, config, own = AGENTS[name]
    network, hp = network_of(name), config(**{**FEW, **own, **hyperparameters})
    learner = purerl.learner(env, env.default_params, algorithm(network, hp), num_envs, 1)
    state, metrics = jax.jit(lambda key: purerl.train(learner, key, num_updates, num_updates // 4))(jax.random.key(0))
    obs = env.rows
    if name == "iqn":
        middle = jnp.broadcast_to(midpoints(64), (len(obs), 64))
        q = network.apply(state.agent.params, (obs, middle)).mean(-1)
    else:
        q = network.apply(state.agent.params, obs)
        if name == "c51":
            q = bellman.expectation(jax.nn.softmax(q), jnp.linspace(0.0, 20.0, 21))
        q = q.mean(-1) if name == "qrdqn" else q
    return np.asarray(q), metrics


# --- known values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_the_clock_does_not_end_what_is_worth_something(name):
    """Reward 1 for ever, cut every 5 steps: Q = 10. Taking the clock for an end would give 2.95."""
    env, _ = probes.constant_reward()
    q, metrics = trained(name, env, 4000, learning_rate=3e-2, anneal_steps=32_000, gamma=0.9)
    np.testing.assert_allclose(q, 10.0, rtol=0.02)
    assert abs(metrics["q"][-1] - 10) < 0.3


@pytest.mark.parametrize("n", [1, 3])
def test_ends_and_n_steps(n):
    """V = (γ, 1) of a chain of two steps, from whole returns and from pieces; and a random end."""
    env, value = probes.delayed_reward()
    q, _ = trained("dqn", env, 2000, learning_rate=3e-2, anneal_steps=16_000, gamma=0.9, n_step=n)
    np.testing.assert_allclose(q.max(1), value(0.9), atol=0.01)
    env, value = probes.random_length(0.25)
    q, _ = trained("dqn", env, 3000, learning_rate=3e-2, anneal_steps=24_000, gamma=0.9, n_step=n, batch_size=64)
    np.testing.assert_allclose(q, value(0.9)[0], rtol=0.05)


class OneHot(nn.Module):
    num: int

    def __call__(self, obs):
        return jax.nn.one_hot(obs, self.num)


@pytest.mark.parametrize("kind", ["max", "double", "munchausen", "prioritised", "rescaled"])
def test_exact_values_of_a_chain(kind):
    """Q of every state and action of a random walk, against the exact answer of `tabular`."""
    mdp = tabular.worlds.random_walk(6)
    env, network = Table(mdp), networks.q_network(2, lambda: OneHot(8))
    scale = bellman.signed_hyperbolic, bellman.signed_parabolic
    backup = {
        "double": bellman.double_backup,
        "munchausen": bellman.munchausen_backup(0.1, 0.5),
        "rescaled": bellman.transformed_backup(bellman.double_backup, *scale),
    }
    extra = dict(priority=0.6, importance=1.0) if kind == "prioritised" else {}
    hp = purerl.DQN(
        **{**FEW, "capacity": 4000, "batch_size": 64, "target_period": 100}, **extra,
        learning_rate=3e-2, anneal_steps=48_000, gamma=0.9, explore_start=1.0, explore_end=1.0,
    )  # fmt: skip
    agent = purerl.dqn(network, hp, backup.get(kind, bellman.max_backup))
    learner = purerl.learner(env, env.default_params, agent, 8, 1)
    state, _ = jax.jit(lambda key: purerl.train(learner, key, 6000, 6000))(jax.random.key(0))
    q_of, ends = tabular.backup(mdp, 0.9), np.asarray(mdp.terminal)
    if kind == "munchausen":
        bonus = lambda q: jnp.clip(0.1 * jax.nn.log_softmax(q / 0.1), -1.0, 0.0)
        exact = jnp.zeros((8, 2))
        for _ in range(300):
            follows = q_of(jnp.where(ends, 0.0, bellman.soft_value(exact, 0.1)))
            exact = follows + jnp.where(ends[:, None], 0.0, 0.5 * bonus(exact))
    else:
        exact = tabular.value_iteration(mdp, 0.9).q
    learned = network.apply(state.agent.params, jnp.arange(8))
    learned = scale[1](learned) if kind == "rescaled" else learned
    np.testing.assert_allclose(learned[~ends], exact[~ends], atol=0.01)


@pytest.mark.parametrize("lam", [0.0, 0.65])
def test_pqn_reaches_its_own_fixed_point(lam):
    mdp = tabular.worlds.random_walk(6)
    env, network = Table(mdp), networks.q_network(2, lambda: OneHot(8))
    hp = purerl.PQN(
        learning_rate=2e-2, anneal_steps=256_000, gamma=0.9, q_lambda=lam, explore_start=1.0, explore_end=1.0,
        max_grad_norm=None, num_epochs=1, num_minibatches=1,
    )  # fmt: skip
    learner = purerl.learner(env, env.default_params, purerl.pqn(network, hp), 32, 8)
    state, _ = jax.jit(lambda key: purerl.train(learner, key, 1000, 1000))(jax.random.key(0))
    ends = np.asarray(mdp.terminal)
    exact = tabular.q_lambda_values(mdp, 0.9, lam, lambda q: jnp.full(q.shape, 0.5), 8).q
    best = tabular.value_iteration(mdp, 0.9).q
    if lam:
        assert np.abs(exact - best).max() > 0.05  # another answer than Q*
    learned = network.apply(state.agent.params, jnp.arange(8))
    np.testing.assert_allclose(learned[~ends], exact[~ends], atol=0.03 if lam else 0.01)


# --- targets (pitfall C-22) -------------------------------------------------------------------------------------------


def loss_of(name, **kinds):
    """(online, target) -> the loss of one batch, by catching what the agent hands to `value_agent`."""
    algorithm, config, own = AGENTS[name]
    caught = []
    original = values.value_agent
    module = __import__(f"purerl.agents.{name}", fromlist=["value_agent"])
    try:
        module.value_agent = lambda network, hp, q, loss, *rest: (
            caught.append(loss) or original(network, hp, q, loss, *rest)
        )
        network = network_of(name)
        algorithm(network, config(**own), **kinds)
    finally:
        module.value_agent = original
    obs = jax.random.normal(jax.random.key(1), (1, 6, 3))
    ones = jnp.ones((1, 6))
    batch = values.Batch(
        obs, jnp.array([[0, 1, 0, 1, 1, 0]]), ones, 0.9 * ones, ones < 0, obs + 1, ones > 0, None, (), None
    )
    example = (obs[0], jnp.ones((6, 8))) if name == "iqn" else obs[0]
    make = lambda seed: jax.tree.map(lambda x: x + 0.1, network.init(jax.random.key(seed), example))
    return (lambda online, target: caught[0](online, target, jax.random.key(2), batch).loss.mean()), make


@pytest.mark.parametrize("name", AGENTS)
def test_targets_enter_the_loss_and_nothing_but_the_online_network_learns(name):
    loss, make = loss_of(name)
    online, target, other = make(0), make(1), make(2)
    assert not np.isclose(loss(online, target), loss(online, other))
    gradient = jax.grad(loss, argnums=(0, 1))(online, target)
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(gradient[0])) > 0
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(gradient[1])) == 0


def test_the_loss_is_half_the_squared_error_by_hand():
    loss, make = loss_of("dqn")
    online, target = make(0), make(1)
    network = network_of("dqn")
    obs = jax.random.normal(jax.random.key(1), (6, 3))
    y = 1 + 0.9 * network.apply(target, obs + 1).max(1)
    q = network.apply(online, obs)[jnp.arange(6), jnp.array([0, 1, 0, 1, 1, 0])]
    np.testing.assert_allclose(loss(online, target), 0.5 * ((y - q) ** 2).mean(), rtol=1e-6)


# --- when what is due is done (pitfalls C-16, C-17) -------------------------------------------------------------------


def counting(env, hp, num_envs, rollout_length, num_updates, network=None):
    """States after every update; the parameters grow by 1 with each gradient step."""
    network = network or network_of("dqn")
    grow = optax.stateless(lambda grads, params: jax.tree.map(lambda x: -jnp.ones_like(x), grads))
    agent = purerl.dqn(network, hp, optimizer=lambda max_grad_norm: grow)
    learner = purerl.learner(env, env.default_params, agent, num_envs, rollout_length)
    step, state = jax.jit(learner.step), jax.jit(learner.init)(jax.random.key(0))
    begin = float(jax.tree.leaves(state.agent.params)[0].ravel()[0])
    for _ in range(num_updates):
        state, _ = step(state)
        read = lambda params: round(float(jax.tree.leaves(params)[0].ravel()[0]) - begin)
        yield read(state.agent.params), read(state.agent.target_params), state.agent


@pytest.mark.parametrize(
    "num_envs,length,train_every,period", [(7, 1, 10, 50), (3, 5, 4, 8), (1, 1, 3, 7), (2, 8, 16, 32)]
)
def test_periods_that_environments_do_not_divide(num_envs, length, train_every, period):
    """Gradient steps and target updates against a clock that ticks once a step of any environment."""
    hp = purerl.DQN(
        learning_rate=1.0, batch_size=4, capacity=100, learning_starts=0, train_every=train_every, target_period=period
    )
    steps = events = learned = target = 0
    for params, target_params, _ in counting(probes.constant_reward()[0], hp, num_envs, length, 60):
        steps += num_envs * length
        while (events + 1) * train_every <= steps:
            events += 1
            learned += 1
            if events * train_every // period > (events - 1) * train_every // period:
                target = learned
        assert (params, target_params) == (learned, target)
    assert learned == 60 * num_envs * length // train_every and target > 0


def test_warm_up_several_gradient_steps_and_polyak():
    env = probes.constant_reward()[0]
    hp = purerl.DQN(
        learning_rate=1.0, batch_size=4, capacity=100, learning_starts=20, train_every=6, num_gradient_steps=3,
        target_period=1, target_rate=0.25, explore_steps=40.0,
    )  # fmt: skip
    seen = list(counting(env, hp, 3, 2, 10))
    assert [params for params, *_ in seen] == [0, 0, 0, 3, 6, 9, 12, 15, 18, 21]  # from 24 steps on
    online = target = 0.0
    begin = float(jax.tree.leaves(seen[0][2].params)[0].ravel()[0])
    for update, (_, _, state) in enumerate(seen, 1):
        online += 3.0 if update * 6 >= 20 else 0.0
        target += 0.25 * (online - target)
        got = float(jax.tree.leaves(state.target_params)[0].ravel()[0]) - begin
        np.testing.assert_allclose(got, target, atol=1e-5)
        np.testing.assert_allclose(state.explore, max(0.05, 1 - 0.95 * update * 6 / 40), atol=1e-6)


def test_what_is_due_never_hangs_on_a_batched_branch_with_the_replay(cartpole):
    """Over seeds, no select and no branch carries the ring: it would be copied in every step."""
    network = networks.q_network(2, ONE)
    hp = purerl.DQN(**{**FEW, "capacity": 5000, "train_every": 5}, priority=0.5)
    make = purerl.batch(lambda hp: purerl.learner(*cartpole, purerl.dqn(network, hp), 2, 3))
    learner = make(hp)
    state = jax.eval_shape(learner.init, jax.random.split(jax.random.key(0), 3))
    large = [x.shape for x in jax.tree.leaves(state.agent.replay) if x.size > 1000]
    assert len(large) >= 8
    inside = []

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("cond", "select_n"):
                inside.extend((eqn.primitive.name, v.aval.shape) for v in eqn.outvars)
            for value in eqn.params.values():
                for inner in value if isinstance(value, (tuple, list)) else [value]:
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        walk(inner)

    walk(jax.make_jaxpr(learner.step)(state).jaxpr)
    assert inside and not [x for x in inside if x[1] in large]


def test_time_per_step_needs_no_memory_that_grows_with_capacity(cartpole):
    """The whole training loop, compiled: beside the state, which is donated, nothing that the capacity changes."""

    def spare(capacity):
        network = networks.q_network(2, ONE)
        hp = purerl.training._as_arrays(purerl.DQN(**{**FEW, "capacity": capacity}))
        make = lambda hp: purerl.learner(*cartpole, purerl.dqn(network, hp), 2, 4)
        state = jax.eval_shape(lambda key: make(hp).init(key), jax.random.key(0))
        compiled = purerl.training._advance.lower(make, hp, state, jnp.int32(1)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = spare(1_000), spare(200_000)
    assert large < small + 20_000, (small, large)


# --- memory, noise, exploration ---------------------------------------------------------------------------------------


def test_sequences_are_unrolled_from_where_they_began(key):
    """Q of replayed sequences is Q when acting: stored memory, ends inside, burn-in, with parameters that stay."""
    env = Observe(purerl.make("CartPole-v1")[0], (0, 2))
    env_params = env.default_params.replace(max_steps_in_episode=7)
    network = networks.q_network(2, partial(networks.MLP, (8,)), memory=networks.gru(6))
    hp = purerl.DQN(learning_rate=0.0, capacity=200, batch_size=8, sequence_length=5, burn_in=5, n_step=2)
    agent = purerl.dqn(network, hp)
    environment = purerl.training.vectorized(env, env_params)
    position = purerl.training.start(environment, agent, jax.random.split(key, 3))
    state = agent.init(key, position.obs)
    acted, learn = [], jax.jit(agent.update)
    spy = agent._replace(act=lambda key, s, m, obs: (*agent.act(key, s, m, obs)[:2], network.step(s.params, m, obs)[0]))
    play = jax.jit(lambda state, position, key: purerl.rollout(environment, spy, state, position, key, 5))
    for block in range(6):
        position, data = play(state, position, jax.random.fold_in(key, block))
        acted.append(data.transitions.extras)
        state, _ = learn(key, state, data._replace(transitions=data.transitions._replace(extras=())))
    acted = np.concatenate(acted)
    index = replay.sample(key, state.replay, 8, 11)
    tr, memory = replay.read_sequences(state.replay, index, 11)
    ended = tr.terminated | tr.truncated
    before = (tr.obs[:5], ended[:5])
    late = values.Batch(tr.obs[5:], tr.action[5:10], tr.reward[5:10], tr.reward[5:10], ended[5:10], tr.next_obs[5:],
                        ended[5:], jnp.zeros((5, 8), int) + jnp.arange(5)[:, None], memory, before)  # fmt: skip
    q, _ = values.look(network, state.params, late)
    for b in range(8):
        row, n = int(index.row[b]) + 5, int(index.env[b])
        np.testing.assert_allclose(q[:, b], acted[row : row + 5, n], atol=1e-5)


def test_noisy_layers(key):
    network = networks.q_network(3, partial(networks.MLP, (8,)), noise=True, dueling=True)
    obs = jax.random.normal(key, (5, 4))
    params = network.init(key, obs)
    still = network.apply(params, obs)
    np.testing.assert_array_equal(still, network.apply(params, obs))
    one, two = (network.apply(networks.noisy(jax.random.key(k), params), obs) for k in range(2))
    assert (np.abs(one - two) > 1e-6).all()
    many = jax.vmap(lambda key: network.apply(networks.noisy(key, params), obs))(jax.random.split(key, 4000))
    assert np.abs(many.std(0)).min() > 0.01
    # one layer by hand: W + σ_W ⊙ f(ε_out) f(ε_in)ᵀ, and deviations of the paper at first
    layer = networks.Noisy(2)
    p = networks.noisy(key, layer.init(key, obs))["params"]
    kernel = p["kernel"] + p["kernel_sigma"] * jnp.outer(p["noise_out"], p["noise_in"])
    expected = obs @ kernel.T + p["bias"] + p["bias_sigma"] * p["noise_out"]
    np.testing.assert_allclose(layer.apply({"params": p}, obs), expected, atol=1e-6)
    assert np.allclose(p["kernel_sigma"], 0.5 / 2)
    gradient = jax.grad(lambda p: layer.apply({"params": p}, obs).sum())(p)
    assert not gradient["noise_in"].any() and gradient["kernel_sigma"].any()


def test_dueling_streams_add_up(key):
    network = networks.q_network(4, partial(networks.MLP, (8,)), outputs=3, dueling=True)
    obs = jax.random.normal(key, (5, 4))
    params = network.init(key, obs)
    q = network.apply(params, obs)
    assert q.shape == (5, 4, 3)
    advantage = q - q.mean(1, keepdims=True)
    shifted = jax.tree.map(lambda x: x, params)
    heads = shifted["params"]["head"]
    value_head = next(h for h in heads.values() if h["bias"].shape == (3,))
    value_head["bias"] = value_head["bias"] + 2.0
    moved = network.apply(shifted, obs)
    np.testing.assert_allclose(moved - moved.mean(1, keepdims=True), advantage, atol=1e-5)
    np.testing.assert_allclose(moved - q, 2.0, atol=1e-5)


def test_exploration_is_what_is_passed(key):
    network = network_of("dqn", 3)
    obs = jnp.ones((2000, 2))
    for explore, amount in ((exploration.epsilon_greedy, 0.3), (exploration.boltzmann, 0.5)):
        agent = purerl.dqn(network, purerl.DQN(explore_start=amount), explore=explore)
        state = agent.init(key, obs)
        q = network.apply(state.params, obs[:1])[0]
        action, _, _ = agent.act(key, state, (), obs)
        share = np.bincount(action, minlength=3) / 2000
        probs = exploration.epsilon_greedy_probs if explore is exploration.epsilon_greedy else bellman.softmax_policy
        np.testing.assert_allclose(share, probs(q, amount), atol=0.05)
        assert (agent.greedy(state, (), obs)[0] == q.argmax()).all()


@pytest.mark.parametrize("name", AGENTS)
def test_every_hyperparameter_changes_the_result(name, key):
    env, _ = probes.random_length(0.2)
    algorithm, config, own = AGENTS[name]
    base = config(**{
        **FEW, "learning_rate": 0.03, "anneal_steps": 500.0, "max_grad_norm": 0.05, "priority": 0.5, "n_step": 2,
        "learning_starts": 20, "importance_steps": 100.0, "explore_steps": 200.0, "capacity": 40, "target_rate": 0.7,
        "train_every": 4, **own,
    })  # fmt: skip
    other = {bool: lambda x: not x, float: lambda x: 0.7 * x + 0.01, int: lambda x: 2 * x}
    memory_only, shapes = {"sequence_length", "burn_in"}, {"num_atoms", "num_quantiles"}
    shapes |= {"high"} if name == "c51" else set()
    environment_of = lambda hp: purerl.learner(env, env.default_params, algorithm(network_of(name), hp), 4, 4)
    compiled = jax.jit(lambda hp, key: purerl.train(environment_of(hp), key, 12)[0].agent)
    leaves = lambda hp: [np.asarray(x) for x in jax.tree.leaves(compiled(hp, key)._replace(updates=0))]
    plain, changed_floats = leaves(base), 0
    for field in dataclasses.fields(config):
        value = getattr(base, field.name)
        if field.name in memory_only | shapes or (type(value) is not float and name != "dqn"):
            continue  # ints and flags compile anew: once is enough for those that all agents share
        new = leaves(dataclasses.replace(base, **{field.name: other[type(value)](value)}))
        same = len(new) == len(plain) and all(np.array_equal(x, y) for x, y in zip(new, plain, strict=True))
        assert not same, f"{field.name} has no effect"
        changed_floats += 1
    assert changed_floats > 8


def test_bad_input(cartpole, key):
    network = network_of("dqn")
    with pytest.raises(ValueError, match=r"sequence_length or burn_in is given; they are for a network with memory"):
        purerl.dqn(network, purerl.DQN(burn_in=3))
    with pytest.raises(ValueError, match=r"DQN.batch_size is 0; it must be an integer >= 1"):
        purerl.DQN(batch_size=0)
    remembering = networks.q_network(2, ONE, memory=networks.gru(4))
    agent = purerl.dqn(remembering, purerl.DQN(sequence_length=4))
    with pytest.raises(ValueError, match="rollout_length is 5, and must be 4"):
        jax.eval_shape(lambda key: purerl.train(purerl.learner(*cartpole, agent, 2, 5), key, 1), key)
    with pytest.raises(ValueError, match=r"c51: low is 5.0 and high is 1.0; low must be below high"):
        purerl.c51(network_of("c51"), purerl.C51(low=5.0, high=1.0))
    swept = lambda high: purerl.c51(network_of("c51"), purerl.C51(num_atoms=21, high=high)).act and high
    assert jax.vmap(swept)(jnp.array([1.0, 2.0])).tolist() == [1.0, 2.0]  # one end alone may be swept
    agent = purerl.c51(network_of("c51"), purerl.C51(num_atoms=7))
    with pytest.raises(ValueError, match=r"must end with \(A, 7\)|shapes|broadcast"):
        jax.eval_shape(lambda key: purerl.train(purerl.learner(*cartpole, agent, 2, 5), key, 1), key)
