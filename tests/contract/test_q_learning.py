"""Agents that learn Q from replay: exact values, targets, when what is due is done, and what the program is like."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo

import purerl
from purerl import bellman, exploration, networks, replay
from purerl.agents.parts import q_learning, replay_updates
from purerl.envs import Observe
from purerl.testing import probes

ONE = partial(networks.MLP, ())  # no layer: linear in the observation
FEW = dict(learning_starts=0, train_every=8, batch_size=16, capacity=200, target_period=16)


# --- targets (pitfall C-22) -------------------------------------------------------------------------------------------


def loss_of(build):
    """The network and the loss that an agent hands to `q_learning.agent`, and a batch for them."""
    caught, assemble = [], q_learning.agent
    with pytest.MonkeyPatch.context() as patch:
        spy = lambda *args, **kwargs: caught.append(args) or assemble(*args, **kwargs)
        patch.setattr(q_learning, "agent", spy)
        build()
    obs = jax.random.normal(jax.random.key(1), (1, 6, 4))
    ones = jnp.ones((1, 6))
    batch = q_learning.Batch(
        obs, jnp.array([[0, 1, 0, 1, 1, 0]]), ones, 0.9 * ones, ones < 0, obs + 1, ones > 0, None, (), None
    )
    return caught[0][0], caught[0][3], batch


def loss_of_row(name):
    """(online, target) -> the loss of one batch, and a function of seeds to parameters."""
    row = zoo.row(name)
    network, loss, batch = loss_of(lambda: row.agent(row.hp))
    obs = batch.obs
    make = jax.jit(lambda seed: jax.tree.map(lambda x: x + 0.1, network.init(jax.random.key(seed), obs[0])))
    return (lambda online, target: loss(online, target, jax.random.key(2), batch).loss.mean()), make


@pytest.mark.parametrize("name", ["dqn", "c51", "qrdqn", "iqn"])
def test_targets_enter_the_loss_and_nothing_but_the_online_network_learns(name):
    loss, make = loss_of_row(name)
    online, target, other = map(make, range(3))
    value_and_slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    value, gradient = value_and_slopes(online, target)
    assert not np.isclose(value, value_and_slopes(online, other)[0])
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(gradient[0])) > 0
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(gradient[1])) == 0


def test_the_loss_is_half_the_squared_error_by_hand():
    """Of double Q-learning: the online network chooses, the target network gives the value."""
    loss, make = loss_of_row("dqn")
    online, target = make(0), make(1)
    network = networks.q_network(2, zoo.SMALL)
    obs = jax.random.normal(jax.random.key(1), (6, 4))
    chosen = network.apply(online, obs + 1).argmax(1)
    y = 1 + 0.9 * network.apply(target, obs + 1)[jnp.arange(6), chosen]
    q = network.apply(online, obs)[jnp.arange(6), jnp.array([0, 1, 0, 1, 1, 0])]
    np.testing.assert_allclose(loss(online, target), 0.5 * ((y - q) ** 2).mean(), rtol=1e-6)


def test_a_backup_is_given_both_networks_of_the_successor_and_the_target_network_of_the_state():
    seen, network = [], networks.q_network(2, ONE)
    backup = lambda reward, gamma, terminated, next: seen.append(next) or reward
    _, loss, batch = loss_of(lambda: purerl.dqn(network, purerl.DQN(), backup))
    obs = batch.obs[0]
    online, target = (jax.jit(network.init)(jax.random.key(seed), obs) for seed in range(2))
    loss(online, target, jax.random.key(2), batch)
    q = lambda params, obs: network.apply(params, obs)[None]
    wanted = bellman.Next(q(target, obs + 1), q(online, obs + 1), q_now=q(target, obs), action_now=batch.action)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), seen[0], wanted)


def test_pqn_learns_from_lambda_returns(key):
    """Of a block with a termination and a truncation in it, by hand."""
    hp = purerl.PQN(gamma=0.9, q_lambda=0.5, num_epochs=1, num_minibatches=1)
    network = networks.q_network(2, ONE)
    agent, (obs, reward) = purerl.pqn(network, hp), (jax.random.normal(key, (6, 4)), jnp.arange(5.0))
    terminated, truncated = jnp.arange(5) == 1, jnp.arange(5) == 3
    state = jax.jit(agent.init)(key, obs[:1])
    columns = obs[:5], jnp.zeros(5, int), reward, obs[1:], terminated, truncated, terminated | True
    tr = purerl.Transition(*(x[:, None] for x in columns))
    _, metrics = jax.jit(agent.update)(key, state, purerl.Rollout(tr, ()))
    q = network.apply(state.params, obs)
    q, best = q[:5, 0], q[1:].max(1)
    target, later = np.zeros(5), 0.0
    for t in reversed(range(5)):
        cut = t == 4 or truncated[t]
        target[t] = reward[t] + 0.9 * (1 - terminated[t]) * (best[t] if cut else 0.5 * best[t] + 0.5 * later)
        later = target[t]
    np.testing.assert_allclose(metrics["td_error"], np.abs(target - q).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.5 * np.square(target - q).mean(), rtol=1e-5)


# --- when what is due is done (pitfalls C-16, C-17) -------------------------------------------------------------------


def counting(env, hp, num_envs, rollout_length, num_updates, network=None):
    """States after every update; the parameters grow by 1 with each gradient step."""
    network = network or networks.q_network(2, ONE)
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
    "num_envs,length,train_every,period",
    [(7, 1, 10, 50), (3, 5, 4, 8), *(pytest.param(*x, marks=pytest.mark.wide) for x in ((1, 1, 3, 7), (2, 8, 16, 32)))],
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


def test_schedules_go_on_beyond_two_to_the_31_steps(key):
    """After 3.2e9 of 8e9 steps, which are 10⁸ blocks of 32."""
    hp = purerl.DQN(**FEW, priority=0.5, importance=0.4, importance_steps=8e9, explore_steps=8e9)
    agent = purerl.dqn(networks.q_network(2, ONE), hp)
    zeros, no = jnp.zeros((16, 2)), jnp.zeros((16, 2), bool)
    obs = jnp.zeros((16, 2, 1))
    block = purerl.Rollout(purerl.Transition(obs, zeros.astype(int), zeros, obs, no, no, ~no), ())

    @jax.jit
    def later(key):
        state = agent.init(key, obs[0])._replace(updates=jnp.int32(10**8))
        due = replay_updates.begin(key, hp, state, block, 1)[1]
        return due.importance, agent.update(key, state, block)[0].explore

    importance, explore = later(key)
    np.testing.assert_allclose(importance, 0.4 + 0.6 * 0.4, rtol=1e-4)
    np.testing.assert_allclose(explore, 1 - 0.95 * 0.4, rtol=1e-4)


def test_a_gradient_step_that_waits_leaves_priorities_as_they_are(key):
    hp = purerl.DQN(priority=0.5)
    no = jnp.zeros((5, 2), bool)
    block = purerl.Transition(no, no, 1.0 * no, no, no, no, ~no)
    index = replay.Index(jnp.array([1, 3]), jnp.array([0, 1]), jnp.ones(2))

    @jax.jit
    def leaves(wanted, error):
        kept = replay.add(replay.init(jax.tree.map(lambda x: x[0], block), 10, prioritized=True), block)
        step = replay_updates.GradientStep(key, jnp.int32(0), jnp.int32(0), True, wanted)
        after = replay_updates.prioritized(step, kept, hp, index, error)
        return kept.priorities.tree[0], after.tree[0]

    before, after = leaves(False, jnp.array([4.0, 0.0]))
    np.testing.assert_array_equal(after, before)
    before, after = leaves(True, jnp.array([4.0, 0.0]))
    np.testing.assert_allclose(sorted(after[after != before]), [1e-3, 2.0], rtol=1e-4)  # (|error| + 1e-6)^0.5


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
        hp = purerl.training.loop.as_arrays(purerl.DQN(**{**FEW, "capacity": capacity}))
        make = lambda hp: purerl.learner(*cartpole, purerl.dqn(network, hp), 2, 4)
        state = jax.eval_shape(lambda key: make(hp).init(key), jax.random.key(0))
        compiled = purerl.training.loop._advance.lower(make, hp, state, jnp.int32(1)).compile()
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
    start = lambda keys: purerl.training.start(environment, agent, keys)
    position = jax.jit(start)(jax.random.split(key, 3))
    state = jax.jit(agent.init)(key, position.obs)
    acted, learn = [], jax.jit(agent.update)
    spy = agent._replace(act=lambda key, s, m, obs: (*agent.act(key, s, m, obs)[:2], network.step(s.params, m, obs)[0]))
    play = jax.jit(lambda state, position, key: purerl.rollout(environment, spy, state, position, key, 5))
    for block in range(6):
        position, data = play(state, position, jax.random.fold_in(key, block))
        acted.append(data.transitions.extras)
        state, _ = learn(key, state, data._replace(transitions=data.transitions._replace(extras=())))
    acted = np.concatenate(acted)
    index = jax.jit(replay.sample, static_argnums=(2, 3))(key, state.replay, 8, 11)
    tr, memory = jax.jit(replay.read_sequences, static_argnums=2)(state.replay, index, 11)
    ended = tr.terminated | tr.truncated
    before = (tr.obs[:5], ended[:5])
    late = q_learning.Batch(tr.obs[5:], tr.action[5:10], tr.reward[5:10], tr.reward[5:10], ended[5:10], tr.next_obs[5:],
                        ended[5:], jnp.zeros((5, 8), int) + jnp.arange(5)[:, None], memory, before)  # fmt: skip
    q, _ = jax.jit(partial(q_learning.apply_to_batch, network))(state.params, late)
    for b in range(8):
        row, n = int(index.row[b]) + 5, int(index.env[b])
        np.testing.assert_allclose(q[:, b], acted[row : row + 5, n], atol=1e-5)


def test_noisy_layers(key):
    network = networks.q_network(3, partial(networks.MLP, (8,)), noise=True, dueling=True)
    obs = jax.random.normal(key, (5, 4))
    params = jax.jit(network.init)(key, obs)
    still = jax.jit(network.apply)(params, obs)
    np.testing.assert_array_equal(still, jax.jit(network.apply)(params, obs))
    apply = jax.jit(jax.vmap(lambda key: network.apply(networks.noisy(key, params), obs)))
    many = apply(jax.random.split(key, 4000))
    one, two = many[:2]
    assert (np.abs(one - two) > 1e-6).all()
    assert np.abs(many.std(0)).min() > 0.01
    layers = jax.jit(networks.noisy)(key, params)["params"]["head"].values()
    noise = np.concatenate([layer[name] for layer in layers for name in ("noise_in", "noise_out")])
    assert len(layers) == 4 and len(np.unique(noise)) == len(noise)  # each layer has noise of its own
    # one layer by hand: W + σ_W ⊙ f(ε_out) f(ε_in)ᵀ, and deviations of the paper at first
    layer = networks.Noisy(2)
    p = jax.jit(lambda key: networks.noisy(key, layer.init(key, obs)))(key)["params"]
    kernel = p["kernel"] + p["kernel_sigma"] * jnp.outer(p["noise_out"], p["noise_in"])
    expected = obs @ kernel.T + p["bias"] + p["bias_sigma"] * p["noise_out"]
    np.testing.assert_allclose(layer.apply({"params": p}, obs), expected, atol=1e-6)
    assert np.allclose(p["kernel_sigma"], 0.5 / 2)
    gradient = jax.jit(jax.grad(lambda p: layer.apply({"params": p}, obs).sum()))(p)
    assert not gradient["noise_in"].any() and gradient["kernel_sigma"].any()


def test_dueling_streams_add_up(key):
    network = networks.q_network(4, partial(networks.MLP, (8,)), outputs=3, dueling=True)
    obs = jax.random.normal(key, (5, 4))
    params, apply = jax.jit(network.init)(key, obs), jax.jit(network.apply)
    q = apply(params, obs)
    assert q.shape == (5, 4, 3)
    advantage = q - q.mean(1, keepdims=True)
    shifted = jax.tree.map(lambda x: x, params)
    heads = shifted["params"]["head"]
    value_head = next(h for h in heads.values() if h["bias"].shape == (3,))
    value_head["bias"] = value_head["bias"] + 2.0
    moved = apply(shifted, obs)
    np.testing.assert_allclose(moved - moved.mean(1, keepdims=True), advantage, atol=1e-5)
    np.testing.assert_allclose(moved - q, 2.0, atol=1e-5)
    advantage_head = next(h for h in heads.values() if h["bias"].shape == (12,))
    advantage_head["bias"] = advantage_head["bias"] + 3.0  # of all actions alike: no advantage of any
    np.testing.assert_allclose(apply(shifted, obs), moved, atol=1e-5)


def test_exploration_is_what_is_passed(key):
    network = networks.q_network(3, ONE)
    obs = jnp.ones((2000, 2))
    for explore, amount in ((exploration.epsilon_greedy, 0.3), (exploration.boltzmann, 0.5)):
        agent = purerl.dqn(network, purerl.DQN(explore_start=amount), explore=explore)
        state = jax.jit(agent.init)(key, obs)
        q = network.apply(state.params, obs[:1])[0]
        action, _, _ = jax.jit(agent.act)(key, state, (), obs)
        share = np.bincount(action, minlength=3) / 2000
        probs = exploration.epsilon_greedy_probs if explore is exploration.epsilon_greedy else bellman.softmax_policy
        np.testing.assert_allclose(share, probs(q, amount), atol=0.05)
        assert (agent.greedy(state, (), obs)[0] == q.argmax()).all()


def test_rainbow_explores_by_the_noise_of_its_network(key):
    """With ε = 0: actions differ between keys, and the greedy ones do not."""
    network = networks.q_network(4, partial(networks.MLP, (8,)), outputs=5, dueling=True, noise=True)
    agent = purerl.rainbow(network, purerl.Rainbow(num_atoms=5))
    obs = jax.random.normal(key, (64, 3))
    state, act = jax.jit(agent.init)(key, obs), jax.jit(agent.act)
    one, two = (act(jax.random.key(seed), state, (), obs)[0] for seed in range(2))
    assert (one != two).any() and state.explore == 0


def test_bad_input(cartpole, key):
    network = networks.q_network(2, ONE)
    with pytest.raises(ValueError, match=r"sequence_length or burn_in is given; they are for a network with memory"):
        purerl.dqn(network, purerl.DQN(burn_in=3))
    with pytest.raises(ValueError, match=r"DQN.batch_size is 0; it must be an integer >= 1"):
        purerl.DQN(batch_size=0)
    remembering = networks.q_network(2, ONE, memory=networks.gru(4))
    agent = purerl.dqn(remembering, purerl.DQN(sequence_length=4))
    with pytest.raises(ValueError, match="rollout_length is 5, and must be 4"):
        jax.eval_shape(lambda key: purerl.train(purerl.learner(*cartpole, agent, 2, 5), key, 1), key)
    with pytest.raises(ValueError, match=r"c51: low is 5.0 and high is 1.0; low must be below high"):
        purerl.c51(networks.q_network(2, ONE, outputs=21), purerl.C51(low=5.0, high=1.0))
    swept = lambda high: (
        purerl.c51(networks.q_network(2, ONE, outputs=21), purerl.C51(num_atoms=21, high=high)).act and high
    )
    assert jax.vmap(swept)(jnp.array([1.0, 2.0])).tolist() == [1.0, 2.0]  # one end alone may be swept
    agent = purerl.c51(networks.q_network(2, ONE, outputs=21), purerl.C51(num_atoms=7))
    with pytest.raises(ValueError, match=r"shapes=\[\(2, 2, 21\), \(7,\)\]"):
        jax.eval_shape(lambda key: purerl.train(purerl.learner(*cartpole, agent, 2, 5), key, 1), key)
