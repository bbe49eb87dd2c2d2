"""SAC, TD3 and DDPG: contracts, targets against NumPy, units of noise and entropy, optima that are known."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from gymnax.environments import spaces

import purerl
from purerl import distributions, exploration, networks, replay, training
from purerl.agents.parts import actor_critic, replay_updates
from purerl.agents.parts.declarations import declaration_of

linear = partial(networks.MLP, ())
SMALL = dict(learning_starts=16, batch_size=8, capacity=64)


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
    policy = distributions.hybrid(space, declaration_of(algorithm).box)
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

    s = jax.jit(lambda memory: replay.read(memory, replay.sample(draw_key, memory, 64), 0.9))(after.replay)
    k, x = policy.split(s.action)
    p = Affine(policy.num_params).apply(state.params["actor"], s.next_obs)
    next_x, log_prob = policy.continuous.sample_and_log_prob(target_key, p[:, 3:])
    unit = lambda x: (x - 2.0) / 3.0
    q = lambda params, obs, x: np.asarray(Affine(3).apply(params, (obs, unit(x))), np.float64)
    next_q = np.minimum(*(q(w, s.next_obs, next_x) for w in state.target_params["critic"]))
    probs = np.asarray(jax.nn.softmax(p[:, :3]), np.float64)
    value = (probs * (next_q - 0.5 * np.log(probs))).sum(-1) - 0.5 * np.asarray(log_prob)
    target = np.asarray(s.reward) + 0.9 * np.where(s.terminated, 0.0, value)
    errors = [target - q(w, s.obs, x)[np.arange(64), k] for w in state.params["critic"]]
    np.testing.assert_allclose(metrics["loss"], np.mean(sum(0.5 * e**2 for e in errors)), rtol=1e-4)
    np.testing.assert_allclose(metrics["td_error"], np.mean(np.abs(errors)), rtol=1e-4)


def test_a_temperature_rises_where_the_entropy_is_below_its_target(key):
    """And falls where it is above; that of the choice and that of the numbers each by their own."""
    hp = purerl.SAC(
        learning_starts=0, batch_size=64, capacity=64, train_every=64, choice_entropy=0.0, target_entropy=10.0
    )
    *_, after, _, _ = one_step(purerl.sac, hp, HYBRID, key)
    choice, numbers = after.params["temperature"]
    assert choice < 0 < numbers


def test_the_entropy_aimed_at_counts_legal_choices_and_is_in_the_actions_units(key):
    """Two of four choices are legal, and alike; the number is in ±4: without that the targets are on the other side."""
    space = spaces.Dict({"kind": spaces.Discrete(4), "x": spaces.Box(-4.0, 4.0, (1,))})
    policy = distributions.hybrid(space)
    outputs = jnp.array([0.0, 0.0, -jnp.inf, -jnp.inf, 0.0, -0.7])
    actor = SimpleNamespace(
        init=lambda key, obs: outputs, apply=lambda params, obs: jnp.broadcast_to(params, (len(obs), 6))
    )
    hp = purerl.SAC(
        learning_starts=0, batch_size=64, capacity=64, train_every=64, choice_entropy=0.75, target_entropy=1.0
    )
    agent = purerl.sac(actor, Affine(4), policy, hp)
    obs, zeros, no = jnp.zeros((16, 4, 2)), jnp.zeros((16, 4)), jnp.zeros((16, 4), bool)
    action = policy.join(zeros.astype(jnp.int32), zeros[..., None])
    block = purerl.Rollout(purerl.Transition(obs, action, zeros, obs, no, no, ~no), ())
    after, metrics = jax.jit(lambda key: agent.update(key, agent.init(key, obs[0]), block))(key)
    assert 0.75 * np.log(2) < np.log(2) < 0.75 * np.log(4)
    assert 1.0 < metrics["entropy"] - np.log(2) < 1.0 + np.log(4)
    choice, numbers = after.params["temperature"]
    assert choice < 0 < numbers


def test_critics_learn_from_a_step_as_often_as_its_weight_says():
    policy = distributions.hybrid(spaces.Box(-1.0, 1.0, (1,)))
    q, rng = actor_critic.ensemble(Affine(1), policy), np.random.default_rng(0)
    obs, x, target, critics = (jnp.asarray(rng.normal(size=size)) for size in ((3, 2), (3, 1), 3, (2, 4, 1)))

    @jax.jit
    def slope(rows, weight):
        s = actor_critic.Batch(obs[rows], jnp.zeros(3, int), x[rows], None, None, None, None, weight)
        return jax.grad(actor_critic.critic_loss(q, s, target[rows]), has_aux=True)(critics)[0]

    rows = jnp.arange(3)
    np.testing.assert_allclose(slope(rows, 2.0 - rows), slope(jnp.array([0, 0, 1]), jnp.ones(3)), rtol=1e-5)


def test_td3_climbs_the_first_critic(key):
    """The second one is lower everywhere."""
    hp = purerl.TD3(learning_starts=0, batch_size=8, capacity=64, train_every=64, policy_delay=1)
    policy = distributions.hybrid(spaces.Box(-1.0, 1.0, (2,)), distributions.deterministic)
    agent = purerl.td3(Affine(3), Affine(1), policy, hp)
    obs, zeros, no = jnp.ones((16, 4, 3)), jnp.zeros((16, 4)), jnp.zeros((16, 4), bool)
    block = purerl.Rollout(purerl.Transition(obs, jnp.zeros((16, 4, 2)), zeros, obs, no, no, ~no), ())

    @jax.jit
    def learn(key):
        state = agent.init(key, obs[0])
        first, second = state.params["critic"]
        state = state._replace(params={**state.params, "critic": (first, second - 5.0)})
        after, metrics = agent.update(key, state, block)
        x = jnp.tanh(Affine(3).apply(state.params["actor"], obs[0])[:, 1:])
        return metrics["policy_loss"], [Affine(1).apply(w, (obs[0], x)).mean() for w in after.params["critic"]]

    loss, (first, second) = learn(key)
    assert second < first - 5
    np.testing.assert_allclose(loss, -first, rtol=1e-4)


def test_td3_targets_are_those_of_the_equation(key):
    """Noise in targets is in the action's own units, clipped, and so is the action."""
    space = spaces.Box(jnp.array([-1.0, 0.0]), jnp.array([5.0, 0.5]), (2,))
    hp = purerl.TD3(learning_starts=0, batch_size=64, capacity=64, train_every=64, gamma=0.9, noise_clip=0.25)
    _, agent, state, after, metrics, update_key = one_step(purerl.td3, hp, space, key)
    draw_key, target_key, *_ = jax.random.split(jax.random.split(update_key, 1)[0], 4)

    s = jax.jit(lambda memory: replay.read(memory, replay.sample(draw_key, memory, 64), 0.9))(after.replay)
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
    init = zoo.agent_of(purerl.sac, HYBRID, networks.MLP)(purerl.SAC(**SMALL)).init
    state = jax.jit(init)(key, jnp.ones((2, 3)))
    first, second = state.params["critic"]
    kernels = [x for x in jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), first, second)) if x]
    assert len(kernels) >= 3
    jax.tree.map(np.testing.assert_array_equal, state.params["critic"], state.target_params["critic"])


def test_noise_is_in_the_actions_own_units_and_starts_after_uniform_actions(key):
    space = spaces.Box(jnp.array([-2.0, 0.0]), jnp.array([2.0, 10.0]), (2,))
    policy = distributions.hybrid(space, distributions.deterministic)
    hp = purerl.TD3(learning_starts=10, capacity=64, noise=0.1)
    agent = purerl.td3(Affine(3), Affine(1), policy, hp)
    obs = jnp.zeros((20_000, 2))
    state, act = jax.jit(agent.init)(key, obs[:1]), jax.jit(agent.act)
    state = state._replace(params={**state.params, "actor": jnp.zeros((3, 3))})
    first, _, _ = act(key, state, agent.memory(20_000), obs)
    np.testing.assert_allclose(first.std(0), [4 / 12**0.5, 10 / 12**0.5], rtol=0.03)
    later, _, _ = act(key, state._replace(explore=jnp.zeros(())), agent.memory(20_000), obs)
    np.testing.assert_allclose(later.mean(0), [0.0, 5.0], atol=0.02)
    np.testing.assert_allclose(later.std(0), [0.2, 0.5], rtol=0.03)
    greedy, _ = agent.greedy(state, agent.memory(20_000), obs)
    np.testing.assert_array_equal(greedy[0], [0.0, 5.0])


def test_uniform_actions_end_when_learning_starts(key):
    env, env_params = purerl.make("Pendulum-v1")
    make = lambda hp: purerl.learner(env, env_params, zoo.agent_of(purerl.sac, env.action_space(env_params))(hp), 2, 3)
    hp = purerl.SAC(learning_starts=20, batch_size=4, capacity=64, train_every=6)
    seen = [
        (int(i) * 6, float(state.agent.explore), float(m["loss"]) != 0)
        for i, state, m in purerl.run(make, hp, key, 6, every=1)
    ]
    # the block that brings the 20th step is the first that is learned from
    assert [(steps, explore) for steps, explore, _ in seen] == [(6, 1), (12, 1), (18, 1), (24, 0), (30, 0), (36, 0)]
    assert [learned for _, _, learned in seen] == [False, False, False, True, True, True]


@pytest.mark.parametrize("algorithm", [purerl.td3, purerl.ddpg])
def test_noise_with_a_memory_is_the_one_that_is_passed(algorithm):
    space = spaces.Box(-1.0, 1.0, (2,))
    make = zoo.agent_of(algorithm, space, process=exploration.ornstein_uhlenbeck)
    assert [x.shape for x in jax.tree.leaves(make(zoo.config_of(algorithm)()).memory(3))] == [(3, 2)]


@pytest.mark.parametrize("step", [0.0, 0.25, 1.0])
def test_polyak_is_exact_at_its_ends(step):
    target, online = jnp.array([1e8, 0.1]), jnp.array([1.0, 0.3])
    exact = {0.0: target, 1.0: online}.get(step, 0.75 * target + 0.25 * online)
    np.testing.assert_array_equal(replay_updates.polyak(target, online, jnp.array(step)), exact)


def test_bad_parts_are_named():
    policy = distributions.hybrid(HYBRID)
    with pytest.raises(ValueError, match=r"td3 and ddpg are for continuous actions alone"):
        purerl.td3(
            networks.actor(policy), networks.critic(policy), distributions.hybrid(HYBRID, distributions.deterministic)
        )
    recurrent = networks.q_network(2, memory=networks.gru(4))
    with pytest.raises(ValueError, match=r"actor or critic has a memory"):
        purerl.sac(recurrent, networks.critic(policy), policy)
    with pytest.raises(ValueError, match=r"SAC.temperature is -1.0; it must be a number >= 0 or None"):
        purerl.SAC(temperature=-1.0)
    bare = purerl.Distribution(*policy.continuous[:6])
    with pytest.raises(ValueError, match=r"this Distribution was made without sample_and_log_prob; give it \(key, p\)"):
        bare.sample_and_log_prob(jax.random.key(0), jnp.zeros(2))


def test_images_pass_through_an_eye(key):
    policy = distributions.hybrid(spaces.Box(-1.0, 1.0, (2,)))
    critic = networks.critic(policy, encoder=networks.MinAtarCNN)
    obs = jnp.ones((3, 10, 10, 4)), jnp.ones((3, 2))
    assert jax.eval_shape(lambda: critic.apply(critic.init(key, obs), obs)).shape == (3, 1)


def test_evaluation_is_greedy_for_hybrid_actions(key):
    env, env_params = purerl.make("Platform-v0")
    agent = zoo.agent_of(purerl.sac, env.action_space(env_params))(purerl.SAC(**SMALL))
    learner = purerl.learner(env, env_params, agent, 2, 1)
    state = jax.jit(learner.init)(key)
    play = jax.jit(lambda state: training.evaluate(env, env_params, agent, state, key, 4, greedy=True).returns)
    a, b = (play(state.agent) for _ in range(2))
    np.testing.assert_array_equal(a, b)
