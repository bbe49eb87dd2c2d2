"""Networks with memory: acting step by step and learning from whole blocks are the same function."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl import distributions, memory, networks, training
from purerl.host import options
from purerl.testing import check_agent, probes

CORES = {
    "gru": networks.gru(7),
    "lstm": networks.lstm(7),
    "min_gru": networks.min_gru(7),
    "transformer": networks.transformer(8, num_layers=2, num_heads=2, context=4),
    "gated": networks.transformer(8, num_layers=1, num_heads=1, context=3, gated=True),
    "long": networks.transformer(8, num_layers=1, num_heads=2, context=64),
    "one": networks.transformer(8, num_layers=2, num_heads=2, context=1),
    "stack": networks.stack(networks.min_gru(5), networks.MLP((6,)), networks.lstm(7)),
}
T, N, F = 17, 3, 5


def network_of(core, shared=False):
    torso = partial(networks.MLP, hidden=(6,))  # not the width of any memory
    return networks.actor_critic(distributions.categorical(2), torso, shared, core)


def block(key, end=0.2):
    obs_key, next_key, end_key = jax.random.split(key, 3)
    obs, next_obs = (jax.random.normal(k, (T, N, F)) for k in (obs_key, next_key))
    ended = jax.random.bernoulli(end_key, end, (T, N)).at[7, 0].set(True)
    return obs, next_obs, ended


def step_by_step(network, params, state, obs, next_obs, ended):
    """Outputs, outputs for the successors, and the memory at the end, by `step` and `reset` alone."""

    def one(state, now):
        obs, next_obs, ended = now
        output, state = network.step(params, state, obs)
        return network.reset(state, ended), (output, network.step(params, state, next_obs)[0])

    state, (outputs, next_outputs) = jax.lax.scan(one, state, (obs, next_obs, ended))
    return outputs, next_outputs, state


def close(a, b, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", CORES)
def test_unroll_is_step_after_step_through_episode_ends(name, key):
    """Twice in a row, so that the second block starts from a memory that is neither empty nor of one age."""
    network = network_of(CORES[name])
    first, second, init_key = jax.random.split(key, 3)
    params = network.init(init_key, jnp.ones((N, F)))
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)  # no zeros
    by_step = by_block = network.memory(N)
    for k in (first, second):
        obs, next_obs, ended = block(k)
        outputs, next_outputs, by_step = jax.jit(partial(step_by_step, network))(params, by_step, obs, next_obs, ended)
        ours, ours_next, by_block = jax.jit(network.unroll)(params, by_block, obs, ended, next_obs)
        close(ours, outputs)
        close(ours_next, next_outputs)
    alone, none, _ = jax.eval_shape(network.unroll, params, by_block, obs, ended)
    assert none is None and jax.tree.structure(alone) == jax.tree.structure(outputs)
    if "gru" in name or name in ("lstm", "stack"):
        close(by_block, by_step)


@pytest.mark.parametrize("name", ["gru", "lstm", "min_gru", "transformer", "gated", "stack"])
def test_gradients_are_those_of_step_after_step(name, key):
    network = network_of(CORES[name], shared=True)
    obs, next_obs, ended = block(key)
    params, start = network.init(key, obs[0]), network.memory(N)

    def loss(params, run):
        (pi, value), (_, next_value), _ = run(params, start, obs, next_obs, ended)
        return jnp.square(pi).sum() + jnp.sin(value).sum() + jnp.cos(next_value).sum()

    flat = lambda params, state, obs, next_obs, ended: network.unroll(params, state, obs, ended, next_obs)
    ours = jax.jit(jax.grad(partial(loss, run=flat)))(params)
    theirs = jax.jit(jax.grad(partial(loss, run=partial(step_by_step, network))))(params)
    close(ours, theirs, 1e-4)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(ours["trunks"]))


@pytest.mark.parametrize("name", ["gru", "lstm", "min_gru", "transformer", "stack"])
def test_environments_do_not_see_one_another(name, key):
    """In another order the same, and one of them alone too."""
    network = network_of(CORES[name])
    obs, next_obs, ended = block(key)
    params, order = network.init(key, obs[0]), jnp.array([2, 0, 1])
    unroll = jax.jit(lambda *block: network.unroll(params, network.memory(block[1].shape[1]), *block)[:2])
    out, next_out = unroll(obs, ended, next_obs)
    permuted = unroll(obs[:, order], ended[:, order], next_obs[:, order])
    close(permuted, jax.tree.map(lambda x: x[:, order], (out, next_out)))
    one = unroll(obs[:, :1], ended[:, :1], next_obs[:, :1])
    close(one, jax.tree.map(lambda x: x[:, :1], (out, next_out)))


@pytest.mark.parametrize("name", ["gru", "lstm", "min_gru", "transformer", "stack"])
def test_nothing_is_seen_of_other_episodes_or_of_the_future(name, key):
    network = network_of(CORES[name], shared=True)
    obs, _, _ = block(key)
    ended = jnp.zeros((T, N), bool).at[9].set(True)
    params = network.init(key, obs[0])
    value = lambda obs: network.unroll(params, network.memory(N), obs, ended)[0][1][:, 0]
    seen = np.abs(jax.jit(jax.jacrev(value))(obs)).max(axis=(2, 3)) > 0  # [T of the value, T of what it depends on]
    for at in range(T):
        assert seen[at, at] and not seen[at, at + 1 :].any()
        assert at < 10 or not seen[at, :10].any()


def test_a_reset_of_a_cache_touches_only_its_length():
    core = networks.transformer(8, num_heads=2, context=512)
    cache = core.memory(3)
    after = core.reset(cache, jnp.array([True, False, True]))
    assert after.keys is cache.keys and after.values is cache.values
    assert after._replace(length=cache.length) == cache


# --- written out ------------------------------------------------------------------------------------------------------

sigmoid = lambda x: 1 / (1 + np.exp(-x))


def test_cells_are_their_equations(key):
    x = np.asarray(jax.random.normal(key, (N, F)), np.float64)
    for core in (networks.gru(4), networks.lstm(4), networks.min_gru(4)):
        params = core.init(key, F)
        start = jax.tree.map(lambda m: m + jnp.arange(4.0) / 4, core.memory(N))
        y, after = core.step(params, start, jnp.asarray(x, jnp.float32))
        w = np.split(np.asarray(params["input"], np.float64), params["input"].shape[1] // 4, axis=1)
        if len(w) == 2:
            bias, h = np.asarray(params["bias"])[:4], np.asarray(start)
            np.testing.assert_allclose(1 / sigmoid(bias) - 1, [1, 100 ** (1 / 3), 100 ** (2 / 3), 100], rtol=1e-5)
            z = sigmoid(x @ w[0] + bias)
            expected = (1 - z) * h + z * (x @ w[1])
        elif len(w) == 3:
            u, h = np.split(np.asarray(params["recurrent"]), 3, axis=1), np.asarray(start)
            r, z = sigmoid(x @ w[0] + h @ u[0]), sigmoid(x @ w[1] + h @ u[1])
            expected = (1 - z) * np.tanh(x @ w[2] + r * (h @ u[2])) + z * h
        else:
            u, (h, c) = np.split(np.asarray(params["recurrent"]), 4, axis=1), map(np.asarray, start)
            i, f, g, o = (x @ w[k] + h @ u[k] for k in range(4))
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
            expected = sigmoid(o) * np.tanh(c)
            np.testing.assert_allclose(after[1], c, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_a_linear_recurrence_is_the_same_in_steps_and_in_passes(key):
    from purerl.networks.recurrent import _linear_in_passes, _linear_in_steps

    a, b = jax.random.uniform(key, (2, 11, N, 4))
    h, expected = np.zeros((N, 4)), []
    for t in range(11):
        h = np.asarray(a[t]) * h + np.asarray(b[t])
        expected.append(h)
    for linear in (_linear_in_steps, _linear_in_passes):
        np.testing.assert_allclose(jax.jit(linear)(a, b), np.stack(expected), rtol=1e-5)
        gradient = jax.jit(jax.grad(lambda a, b, linear=linear: jnp.sin(linear(a, b)).sum(), (0, 1)))(a, b)
        close(gradient, jax.grad(lambda a, b: jnp.sin(_linear_in_steps(a, b)).sum(), (0, 1))(a, b))


def test_attention_is_softmax_over_what_is_seen_with_rotated_queries_and_keys(key):
    """One layer written out over the tokens of one episode."""
    width, heads, size = 8, 2, 4
    core = networks.transformer(width, num_heads=heads, context=3)
    x = jax.random.normal(key, (5, 1, F))
    params = jax.tree.map(np.asarray, core.init(key, F))
    y, _, _ = core.unroll(params, core.memory(1), x, jnp.zeros((5, 1), bool))
    layer = params["layers"][0]

    def norm(p, h):
        return (h - h.mean()) / np.sqrt(h.var() + 1e-6) * p["scale"] + p["shift"]

    def rotate(v, position):
        pairs = v[: size // 2] + 1j * v[size // 2 :]
        turned = pairs * np.exp(1j * position * 10_000.0 ** -(np.arange(size // 2) / (size // 2)))
        return np.concatenate([turned.real, turned.imag])

    h = np.asarray(x[:, 0]) @ params["embed"]
    normed = [norm(layer["norms"][0], token) for token in h]
    keys = [rotate((t @ layer["key_value"])[:size], p) for p, t in enumerate(normed)]
    values = [(t @ layer["key_value"])[size:] for t in normed]
    for p in range(5):
        mixed = []
        for query in np.split(normed[p] @ layer["query"], heads):
            seen = range(max(0, p - 2), p + 1)
            scores = np.array([rotate(query, p) @ keys[s] / 2 for s in seen])
            weights = np.exp(scores) / np.exp(scores).sum()
            mixed.append(sum(w * values[s] for w, s in zip(weights, seen, strict=True)))
        out = h[p] + np.concatenate(mixed) @ layer["out"]
        out = out + np.asarray(jax.nn.gelu(norm(layer["norms"][1], out) @ layer["up"])) @ layer["down"]
        np.testing.assert_allclose(y[p, 0], norm(params["norm"], out), rtol=1e-4, atol=1e-5)


def test_a_gate_is_a_gru_whose_update_starts_near_zero(key):
    from purerl.networks.transformer import _gate

    h, y = jax.random.normal(key, (2, N, 8))
    kernels = jax.random.normal(key, (6, 8, 8))
    params = {"kernels": kernels, "bias": jnp.full(8, 2.0)}
    k, h64, y64 = (np.asarray(x, np.float64) for x in (kernels, h, y))
    r, z = sigmoid(y64 @ k[0] + h64 @ k[1]), sigmoid(y64 @ k[2] + h64 @ k[3] - 2)
    expected = (1 - z) * h64 + z * np.tanh(y64 @ k[4] + (r * h64) @ k[5])
    np.testing.assert_allclose(_gate(params, h, y), expected, rtol=1e-4, atol=1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_sizes_are_named():
    for make in (networks.gru, networks.lstm, networks.min_gru):
        with pytest.raises(ValueError, match="size is 0; it must be a positive int"):
            make(0)
    with pytest.raises(ValueError, match="context is -1"):
        networks.transformer(context=-1)
    with pytest.raises(ValueError, match="width is 12; it must be a multiple of 2 num_heads, 8"):
        networks.transformer(12, num_heads=4)


# --- agents -----------------------------------------------------------------------------------------------------------

AGENTS = {
    "ppo": (purerl.ppo, purerl.PPO(num_epochs=2, num_minibatches=2)),
    "a2c": (purerl.a2c, purerl.A2C()),
    "reinforce": (purerl.reinforce, purerl.REINFORCE()),
}
SMALL = {
    "gru": networks.gru(5),
    "lstm": networks.lstm(5),
    "min_gru": networks.min_gru(5),
    "transformer": networks.transformer(8, num_heads=2, context=4),
}


@pytest.mark.parametrize("agent, core", [("ppo", "transformer"), ("a2c", "gru"), ("reinforce", "min_gru")])
def test_contract_with_memory(agent, core, cartpole, key):
    algorithm, hp = AGENTS[agent]
    policy, network = distributions.categorical(2), network_of(SMALL[core], shared=core != "gru")
    check_agent(lambda hp: algorithm(network, policy, hp), hp, *cartpole, key)


@pytest.mark.parametrize("core", ["lstm", "min_gru", "transformer"])
def test_at_the_first_gradient_step_of_ppo_every_ratio_is_one(core, cartpole, key):
    """In the third block of a run, whose memory is of episodes that began before it; the step has learning rate 0."""
    policy, network = distributions.categorical(2), network_of(SMALL[core])
    hp = purerl.PPO(learning_rate=0.0, num_epochs=2, num_minibatches=2)
    learner = purerl.learner(*cartpole, purerl.ppo(network, policy, hp), num_envs=4, rollout_length=9)
    _, metrics = jax.jit(lambda key: purerl.train(learner, key, 3))(key)
    assert np.abs(metrics["approx_kl"]).max() < 1e-9 and metrics["clip_fraction"].max() == 0
    agent, environment = purerl.ppo(network, policy), training.vectorized(*cartpole)

    @jax.jit
    def two_blocks(state):
        position, _ = training.rollout(environment, agent, state.agent, state.position, key, 40)
        return training.rollout(environment, agent, state.agent, position, key, 40)[1]

    params = learner.init(key).agent.params
    rollout = two_blocks(learner.init(key))
    tr = rollout.transitions
    (pi, _), _, _ = network.unroll(params, rollout.memory, tr.obs, tr.terminated | tr.truncated)
    np.testing.assert_allclose(policy.log_prob(pi, tr.action), tr.extras, atol=1e-5)


def test_minibatches_keep_time_whole(cartpole, key):
    policy, network = distributions.categorical(2), network_of(networks.gru(4))
    make = lambda n: purerl.learner(*cartpole, purerl.ppo(network, policy, purerl.PPO(num_minibatches=n)), 4, 8)
    with pytest.raises(ValueError, match="num_minibatches is 8; it must divide 4: num_envs, since the network has mem"):
        jax.eval_shape(lambda key: make(8).step(make(8).init(key)), key)
    jax.eval_shape(lambda key: make(4).step(make(4).init(key)), key)


@pytest.mark.parametrize("core", ["gru", "min_gru", "transformer"])
def test_a_time_limit_is_not_an_end_through_a_memory(core):
    """Reward 1 for ever, cut every 5 steps: V = 1 / (1 - γ) = 10, not what 5 rewards are worth."""
    env, _ = probes.constant_reward()
    policy, network = distributions.categorical(2), network_of(SMALL[core], shared=True)
    hp = purerl.PPO(learning_rate=1e-2, gamma=0.9, entropy_cost=0.0, max_grad_norm=10.0)
    learner = purerl.learner(env, env.default_params, purerl.ppo(network, policy, hp), 16, 12)
    state, _ = jax.jit(lambda key: purerl.train(learner, key, 200, every=200))(jax.random.key(0))
    obs, ended = jnp.ones((5, 1, 1)), jnp.zeros((5, 1), bool)
    (_, value), _, _ = network.unroll(state.agent.params, network.memory(1), obs, ended)
    np.testing.assert_allclose(value, 10.0, rtol=0.1)


def test_a_feed_forward_network_has_the_memory_that_is_none(key):
    network = memory.with_memory(networks.actor_critic(distributions.categorical(2)))
    obs, next_obs, ended = block(key)
    params = network.init(key, obs[0])
    outputs, next_outputs, _ = step_by_step(network, params, (), obs, next_obs, ended)
    close(network.unroll(params, (), obs, ended, next_obs)[:2], (outputs, next_outputs))
    assert memory.with_memory(network) is network


@pytest.mark.parametrize("core", [networks.gru(3, longest=8.0), networks.lstm(3, longest=8.0)])
def test_longest_spreads_what_cells_keep(core):
    """With no input and no recurrent weights, a gate that keeps halves, or keeps 8 parts of 9."""
    bias = core.init(jax.random.key(0), 2)["bias"].reshape(-1, 3)
    keeps = sigmoid(np.asarray(bias[1], np.float64))
    np.testing.assert_allclose(keeps, 1 - 1 / (1 + 8 ** np.array([0, 0.5, 1])), rtol=1e-6)
    if len(bias) == 4:
        np.testing.assert_allclose(bias[0], -bias[1])


@pytest.mark.parametrize("core", [networks.gru, networks.lstm, networks.min_gru])
def test_longest_must_be_a_step_at_least(core):
    with pytest.raises(ValueError, match=r"longest is 0\.5; it must be at least 1"):
        core(4, longest=0.5)


def test_a_stack_is_its_layers_one_after_another(key):
    first, layer, second = networks.gru(4), networks.MLP((6,)), networks.min_gru(5)
    core = networks.stack(first, layer, second)
    params, memory = core.init(key, F), jax.tree.map(lambda m: m + 0.5, core.memory(N))
    x = jax.random.normal(key, (N, F))
    y, after = core.step(params, memory, x)
    h, wanted = first.step(params[0], memory[0], x)
    wanted_y, last = second.step(params[2], memory[2], layer.apply(params[1], h))
    close((y, after), (wanted_y, (wanted, (), last)))


@pytest.mark.parametrize("layers", [(), (networks.gru(4), jnp.tanh)])
def test_a_stack_is_of_memories_and_modules(layers):
    with pytest.raises(ValueError, match=r"stack: .* it (must be|takes)"):
        networks.stack(*layers)


@pytest.mark.parametrize("name", options.MEMORIES)
def test_every_memory_of_the_command_line_is_one(name, key):
    core = options.memory(name, 8, context=4)
    if name == "none":
        assert core is None
        return
    y, after = core.step(core.init(key, F), core.memory(N), jnp.ones((N, F)))
    assert y.shape == (N, 8) and jax.tree.structure(after) == jax.tree.structure(core.memory(N))


@pytest.mark.parametrize("core", [networks.gru(4), networks.lstm(4)], ids=["gru", "lstm"])
def test_derivatives_through_a_cell_are_those_of_its_steps(core):
    """Both modes and second order: the loop has a derivative rule of its own."""
    x = jax.random.normal(jax.random.key(1), (5, 2, 3))
    ended = jnp.zeros((5, 2), bool).at[2, 0].set(True)

    def unrolled(params, x):
        return core.unroll(params, core.memory(2), x, ended)[0]

    def stepped(params, x):
        memory, ys = core.memory(2), []
        for t in range(5):
            y, memory = core.step(params, memory, x[t])
            memory = core.reset(memory, ended[t])
            ys.append(y)
        return jnp.stack(ys)

    params = core.init(jax.random.key(0), 3)
    direction = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), (params, x))
    total = lambda f: lambda *a: jnp.sin(f(*a)).sum()
    along = lambda f: jax.jvp(f, (params, x), direction)[1]
    hessian = lambda f: jax.jvp(jax.grad(total(f), (0, 1)), (params, x), direction)[1]
    both = lambda of: [jax.tree.leaves(jax.jit(lambda: of(f))()) for f in (unrolled, stepped)]
    for of in (along, lambda f: jax.grad(total(f), (0, 1))(params, x), hessian):
        for got, wanted in zip(*both(of), strict=True):
            np.testing.assert_allclose(got, wanted, atol=2e-5)
