"""SAC, TD3 and DDPG: contracts, targets against NumPy, units of noise and entropy, optima that are known."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

import purerl
from purerl import actor_critics, distributions, exploration, networks, offpolicy, replay, training
from purerl.testing import check_agent, probes
from purerl.testing.probes import ProbeParams, ProbeState

linear = partial(networks.MLP, ())
SMALL = dict(learning_starts=16, batch_size=8, capacity=64)


def agent_of(algorithm, space, torso=linear, **parts):
    """`hp -> Agent` for an action space."""
    config = {purerl.sac: purerl.SAC, purerl.td3: purerl.TD3, purerl.ddpg: purerl.DDPG}[algorithm]
    policy = distributions.hybrid(space, config.box)
    return lambda hp: algorithm(networks.actor(policy, torso), networks.critic(policy, torso), policy, hp, **parts)


CONTRACTS = {
    "td3": (
        purerl.td3,
        purerl.TD3(**SMALL, train_every=16, policy_delay=3, max_grad_norm=1.0, anneal_steps=1e3),
        {"process": exploration.ornstein_uhlenbeck},
    ),
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_contract(name, key):
    algorithm, hp, parts = CONTRACTS[name]
    env, env_params = purerl.make("Pendulum-v1")
    check_agent(agent_of(algorithm, env.action_space(env_params), **parts), hp, env, env_params, key)


def test_contract_of_sac_with_hybrid_actions(key):
    env, env_params = purerl.make("Platform-v0")
    make = agent_of(purerl.sac, env.action_space(env_params))
    hp = purerl.SAC(**SMALL, train_every=5, num_gradient_steps=2, n_step=2, priority=0.6)
    check_agent(make, hp, env, env_params, key)


class Affine:
    """A critic that is known: Q(s, x)[k] = wₖ · (s, x, 1); an actor without x."""

    def __init__(self, outputs):
        self.outputs = outputs

    def init(self, key, obs):
        obs = jnp.concatenate([x.reshape(x.shape[0], -1) for x in jax.tree.leaves(obs)], -1)
        return 0.3 * jax.random.normal(key, (obs.shape[1] + 1, self.outputs))

    def apply(self, params, obs):
        obs = jnp.concatenate([x.reshape(x.shape[0], -1) for x in jax.tree.leaves(obs)], -1)
        return jnp.concatenate([obs, jnp.ones((obs.shape[0], 1))], -1) @ params


def one_step(algorithm, hp, space, key, num_envs=4):
    """A state of an agent whose replay is full of one block, before and after one gradient step, and that block."""
    policy = distributions.hybrid(space, type(hp).box)
    agent = algorithm(Affine(policy.num_params), Affine(policy.choice.num_params), policy, hp)
    obs_key, init_key, *keys = jax.random.split(key, 6)
    obs = jax.random.normal(obs_key, (hp.capacity // num_envs, num_envs, 2))
    state = jax.jit(agent.init)(init_key, obs[0])
    act = jax.jit(jax.vmap(lambda key, obs: agent.act(key, state, agent.memory(num_envs), obs)[0]))
    actions = act(jax.random.split(keys[0], len(obs)), obs)
    flags = jax.random.bernoulli(keys[1], 0.3, obs.shape[:2])
    never = jnp.zeros_like(flags)
    reward = jax.random.normal(keys[2], flags.shape)
    block = purerl.Transition(obs, actions, reward, jnp.roll(obs, -1, 0), flags, never, ~never)
    after, metrics = jax.jit(agent.update)(keys[3], state, purerl.Rollout(block, ()))
    return policy, agent, state, after, metrics, keys[3]


HYBRID = spaces.Dict({"kind": spaces.Discrete(3), "x": spaces.Box(-1.0, 5.0, (1,))})


def test_soft_targets_are_those_of_the_equation(key):
    """The critics' loss of one gradient step, recomputed in NumPy with the same draws."""
    hp = purerl.SAC(learning_starts=0, batch_size=64, capacity=64, train_every=64, temperature=0.5, gamma=0.9)
    policy, _, state, after, metrics, update_key = one_step(purerl.sac, hp, HYBRID, key)
    step_key = jax.random.split(update_key, 1)[0]
    draw_key, target_key, *_ = jax.random.split(step_key, 4)

    index = replay.sample(draw_key, after.replay, 64)
    s = replay.read(after.replay, index, 0.9)
    k, x = policy.split(s.action)
    p = Affine(policy.num_params).apply(state.params["actor"], s.next_obs)
    next_x, log_prob = policy.continuous.draw(target_key, p[:, 3:])
    unit = lambda x: (x - 2.0) / 3.0
    q = lambda params, obs, x: np.asarray(Affine(3).apply(params, (obs, unit(x))), np.float64)
    next_q = np.minimum(*(q(w, s.next_obs, next_x) for w in state.target_params["critic"]))
    probs = np.asarray(jax.nn.softmax(p[:, :3]), np.float64)
    value = (probs * (next_q - 0.5 * np.log(probs))).sum(-1) - 0.5 * np.asarray(log_prob)
    target = np.asarray(s.reward) + 0.9 * np.where(s.terminated, 0.0, value)
    errors = [target - q(w, s.obs, x)[np.arange(64), k] for w in state.params["critic"]]
    np.testing.assert_allclose(metrics["loss"], np.mean(sum(0.5 * e**2 for e in errors)), rtol=1e-4)
    np.testing.assert_allclose(metrics["td_error"], np.mean(np.abs(errors)), rtol=1e-4)


def test_td3_targets_are_those_of_the_equation(key):
    """Noise in targets is in the action's own units, clipped, and so is the action."""
    space = spaces.Box(jnp.array([-1.0, 0.0]), jnp.array([5.0, 0.5]), (2,))
    hp = purerl.TD3(learning_starts=0, batch_size=64, capacity=64, train_every=64, gamma=0.9, noise_clip=0.25)
    _, agent, state, after, metrics, update_key = one_step(purerl.td3, hp, space, key)
    draw_key, target_key, *_ = jax.random.split(jax.random.split(update_key, 1)[0], 4)

    s = replay.read(after.replay, replay.sample(draw_key, after.replay, 64), 0.9)
    centre, half = np.array([2.0, 0.25]), np.array([3.0, 0.25])
    mean = centre + half * np.tanh(Affine(3).apply(state.target_params["actor"], s.next_obs)[:, 1:])
    noise = half * np.clip(0.2 * np.asarray(jax.random.normal(target_key, (64, 2))), -0.25, 0.25)
    assert (np.abs(noise) <= 0.25 * half + 1e-6).all() and np.abs(noise).max() > 0.2
    next_x = np.clip(mean + noise, centre - half, centre + half)
    q = lambda w, obs, x: np.asarray(Affine(1).apply(w, (obs, jnp.asarray((x - centre) / half))))[:, 0]
    next_q = np.minimum(*(q(w, s.next_obs, next_x) for w in state.target_params["critic"]))
    target = np.asarray(s.reward) + 0.9 * np.where(s.terminated, 0.0, next_q)
    errors = [target - q(w, s.obs, s.action) for w in state.params["critic"]]
    np.testing.assert_allclose(metrics["loss"], np.mean(sum(0.5 * e**2 for e in errors)), rtol=1e-4)
    # the first of two gradient steps leaves the actor and the targets alone, the second does not
    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))
    assert same(state.params["actor"], after.params["actor"]) and same(state.target_params, after.target_params)
    tr = purerl.Transition(
        s.obs[None, :4], s.action[None, :4], s.reward[None, :4], s.next_obs[None, :4], *jnp.zeros((3, 1, 4), bool)
    )
    update = jax.jit(agent.update)
    for step in range(16):  # a block of 4 steps: one event in 16
        after, _ = update(jax.random.key(step), after, purerl.Rollout(tr, ()))
    assert not same(state.params["actor"], after.params["actor"])
    assert not same(state.target_params["critic"], after.target_params["critic"])


def test_twin_critics_start_apart_and_their_targets_alike(key):
    policy = distributions.hybrid(HYBRID)
    state = purerl.sac(networks.actor(policy), networks.critic(policy), policy, purerl.SAC(**SMALL)).init(
        key, jnp.ones((2, 3))
    )
    first, second = state.params["critic"]
    kernels = [x for x in jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), first, second)) if x]
    assert len(kernels) >= 3
    jax.tree.map(np.testing.assert_array_equal, state.params["critic"], state.target_params["critic"])


def test_noise_is_in_the_actions_own_units_and_starts_after_uniform_actions(key):
    space = spaces.Box(jnp.array([-2.0, 0.0]), jnp.array([2.0, 10.0]), (2,))
    policy = distributions.hybrid(space, distributions.point)
    hp = purerl.TD3(learning_starts=10, capacity=64, noise=0.1)
    agent = purerl.td3(Affine(3), Affine(1), policy, hp)
    obs = jnp.zeros((20_000, 2))
    state = agent.init(key, obs[:1])
    state = state._replace(params={**state.params, "actor": jnp.zeros((3, 3))})
    first, _, _ = agent.act(key, state, agent.memory(20_000), obs)
    np.testing.assert_allclose(first.std(0), [4 / 12**0.5, 10 / 12**0.5], rtol=0.03)
    later, _, _ = agent.act(key, state._replace(explore=jnp.zeros(())), agent.memory(20_000), obs)
    np.testing.assert_allclose(later.mean(0), [0.0, 5.0], atol=0.02)
    np.testing.assert_allclose(later.std(0), [0.2, 0.5], rtol=0.03)
    greedy, _ = agent.greedy(state, agent.memory(20_000), obs)
    np.testing.assert_array_equal(greedy[0], [0.0, 5.0])


def test_uniform_actions_end_when_learning_starts(key):
    env, env_params = purerl.make("Pendulum-v1")
    make = lambda hp: purerl.learner(env, env_params, agent_of(purerl.sac, env.action_space(env_params))(hp), 2, 3)
    hp = purerl.SAC(learning_starts=20, batch_size=4, capacity=64, train_every=6)
    seen = [
        (int(i) * 6, float(state.agent.explore), float(m["loss"]) != 0)
        for i, state, m in purerl.run(make, hp, key, 6, every=1)
    ]
    # the block that brings the 20th step is the first that is learned from
    assert [(steps, explore) for steps, explore, _ in seen] == [(6, 1), (12, 1), (18, 1), (24, 0), (30, 0), (36, 0)]
    assert [learned for _, _, learned in seen] == [False, False, False, True, True, True]


@pytest.mark.parametrize("step", [0.0, 0.25, 1.0])
def test_polyak_is_exact_at_its_ends(step):
    target, online = jnp.array([1e8, 0.1]), jnp.array([1.0, 0.3])
    exact = {0.0: target, 1.0: online}.get(step, 0.75 * target + 0.25 * online)
    np.testing.assert_array_equal(offpolicy.polyak(target, online, jnp.array(step)), exact)


def test_bad_parts_are_named():
    policy = distributions.hybrid(HYBRID)
    with pytest.raises(ValueError, match=r"td3 and ddpg are for continuous actions alone"):
        purerl.td3(networks.actor(policy), networks.critic(policy), distributions.hybrid(HYBRID, distributions.point))
    recurrent = networks.q_network(2, memory=networks.gru(4))
    with pytest.raises(ValueError, match=r"actor or critic has a memory"):
        purerl.sac(recurrent, networks.critic(policy), policy)
    with pytest.raises(ValueError, match=r"SAC.temperature is -1.0; it must be a number >= 0 or None"):
        purerl.SAC(temperature=-1.0)
    bare = purerl.Distribution(*policy.continuous[:6])
    with pytest.raises(ValueError, match=r"this Distribution was made without draw; give it \(key, p\)"):
        bare.draw(jax.random.key(0), jnp.zeros(2))


def test_images_pass_through_an_eye(key):
    policy = distributions.hybrid(spaces.Box(-1.0, 1.0, (2,)))
    critic = networks.critic(policy, eye=networks.MinAtarCNN)
    obs = jnp.ones((3, 10, 10, 4)), jnp.ones((3, 2))
    assert critic.apply(critic.init(key, obs), obs).shape == (3, 1)


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_every_hyperparameter_changes_the_result(name, key):
    env, env_params = purerl.make("Platform-v0") if name == "sac" else purerl.make("Pendulum-v1")
    algorithm, config = getattr(purerl, name), {"sac": purerl.SAC, "td3": purerl.TD3}[name]
    base = config(
        learning_rate=0.03, anneal_steps=500.0, max_grad_norm=0.05, priority=0.5, n_step=2, learning_starts=20,
        importance_steps=100.0, capacity=40, target_rate=0.7, train_every=4, batch_size=4,
    )  # fmt: skip
    other = {float: lambda x: 0.7 * x + 0.01, int: lambda x: 2 * x}
    make = agent_of(algorithm, env.action_space(env_params))
    learner = lambda hp: purerl.learner(env, env_params, make(hp), 4, 4)
    compiled = jax.jit(lambda hp, key: purerl.train(learner(hp), key, 10)[0].agent)
    leaves = lambda hp: [np.asarray(x) for x in jax.tree.leaves(compiled(hp, key)._replace(updates=0))]
    plain = leaves(base)
    shared = {field.name for field in dataclasses.fields(offpolicy.Replaying)}  # tests/test_values.py changes them all
    for field in dataclasses.fields(config):
        if field.name in shared:
            continue
        value = getattr(base, field.name)
        change = (lambda _: 0.3) if value is None else other[type(value)]
        changed = leaves(dataclasses.replace(base, **{field.name: change(value)}))
        same = len(changed) == len(plain) and all(np.array_equal(x, y) for x, y in zip(changed, plain, strict=True))
        assert not same, f"{field.name} has no effect"


# --- optima that are known ------------------------------------------------------------------------------------------


class Target(Environment):
    """One step: observe s in {-1, 1}, pay (x - s/2 · half - centre)² for an action in [0, 4]; the best is 2 + s."""

    name = "target"

    @property
    def default_params(self):
        return ProbeParams(1)

    def reset_env(self, key, params):
        row = jax.random.bernoulli(key).astype(jnp.int32)
        return jnp.array([2.0 * row - 1]), ProbeState(row, jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        best = 2 + 2.0 * state.row - 1
        cost = jnp.square(jnp.reshape(action, ()) - best)
        return jnp.array([2.0 * state.row - 1]), state._replace(time=state.time + 1), -cost, jnp.ones((), bool), {}

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return spaces.Box(0.0, 4.0, (1,))

    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (1,))


hidden = partial(networks.MLP, (32,), nn.relu)


def trained(algorithm, hp, env, num_updates, torso=hidden, num_envs=8, seeds=3):
    make = agent_of(algorithm, env.action_space(env.default_params), torso)
    learner = purerl.learner(env, env.default_params, make(hp), num_envs, 1)
    run = lambda key: purerl.train(learner, key, num_updates, num_updates)[0].agent
    return make(hp), jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds))


ONCE = dict(learning_rate=3e-3, learning_starts=64, batch_size=64, capacity=4096, train_every=8)


@pytest.mark.parametrize("name", ["sac", "td3", "ddpg"])
def test_the_best_of_continuous_actions_is_found(name):
    algorithm = getattr(purerl, name)
    hp = {"sac": purerl.SAC, "td3": purerl.TD3, "ddpg": purerl.DDPG}[name](**ONCE)
    agent, states = trained(algorithm, hp, Target(), 1500)
    obs = jnp.array([[-1.0], [1.0]])
    found = jax.vmap(lambda state: agent.greedy(state, agent.memory(2), obs)[0])(states)
    np.testing.assert_allclose(found[..., 0], [[1.0, 3.0]] * 3, atol=0.15)


def test_the_temperature_reaches_the_entropy_aimed_at():
    """log 2 - 1 nats where the range is 4 and half of it 2: densities are in the action's own units."""
    _, states = trained(purerl.sac, purerl.SAC(**ONCE, target_entropy=-1.0), Target(), 2000)
    np.testing.assert_allclose(states.metrics["entropy"].mean(), np.log(2) - 1, atol=0.15)


@pytest.mark.parametrize("probe", ["constant_reward", "delayed_reward"])
def test_discrete_values_are_the_known_ones(probe):
    """SAC without entropy; constant_reward: taking the clock for an end would give V = 2.95 in place of 10."""
    env, value = getattr(probes, probe)()
    hp = purerl.SAC(**ONCE | {"learning_rate": 1e-2}, temperature=0.0, gamma=0.9, target_rate=0.05)
    _, states = trained(purerl.sac, hp, env, 1500, linear)
    policy = distributions.hybrid(env.action_space(env.default_params))
    q = actor_critics.judge(networks.critic(policy, linear), policy)
    values = jax.vmap(lambda p: q(p, env.rows, jnp.zeros((len(env.rows), 0))).min(0).max(-1))(states.params["critic"])
    np.testing.assert_allclose(values, np.broadcast_to(value(0.9), values.shape), rtol=0.06)


def test_evaluation_is_greedy_for_hybrid_actions(key):
    env, env_params = purerl.make("Platform-v0")
    agent = agent_of(purerl.sac, env.action_space(env_params))(purerl.SAC(**SMALL))
    learner = purerl.learner(env, env_params, agent, 2, 1)
    state = learner.init(key)
    a, b = (training.evaluate(env, env_params, agent, state.agent, key, 4, greedy=True).returns for _ in range(2))
    np.testing.assert_array_equal(a, b)
