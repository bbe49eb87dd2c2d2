"""Networks with memory: acting step by step and learning from whole blocks are the same function."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from drawn import drawn

from purerl import build, distributions, networks
from purerl.networks import adapters

CORES = {
    "gru": networks.gru(7),
    "lstm": networks.lstm(7),
    "min_gru": networks.min_gru(7),
    "transformer": networks.transformer(8, num_layers=1, num_heads=2, context=4),
    "gated": networks.transformer(8, num_layers=1, num_heads=1, context=3, gated=True),
    "long": networks.transformer(8, num_layers=1, num_heads=2, context=64),
    "one": networks.transformer(8, num_layers=2, num_heads=2, context=1),
    "stack": networks.stack(networks.min_gru(5), networks.MLP((6,)), networks.lstm(7)),
}
DIFFERENTIATED = ["gru", "lstm", "min_gru", "transformer", "gated", "stack"]
T, N, F = 17, 3, 5


def network_of(core, shared=False):
    torso = partial(networks.MLP, hidden=(6,))  # not the width of any memory
    return networks.actor_critic(distributions.categorical(2), torso, shared, core)


def block(seed, end=0.2):
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.normal(size=(2, T, N, F)).astype(np.float32)
    ended = rng.random((T, N)) < end
    ended[7, 0] = True
    return obs, next_obs, ended


def step_by_step(network, params, state, obs, next_obs, ended):
    """Outputs, outputs for the successors, and the memory at the end, by `step` and `reset` alone."""

    def one(state, now):
        obs, next_obs, ended = now
        output, state = step(params, state, obs)
        return network.reset(state, ended), (output, step(params, state, next_obs)[0])

    step = jax.jit(network.step)
    state, (outputs, next_outputs) = jax.lax.scan(one, state, (obs, next_obs, ended))
    return outputs, next_outputs, state


def close(a, b, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance)


@cache
def built(name):
    """A network, its parameters, and one program for all that is asked of it.

    The program takes `(memory, obs, next_obs, ended)` and a direction of the parameters. It gives the outputs and the
    memory at the end, by blocks and by steps, and the derivatives of a loss: the gradient by blocks, and by steps that
    along the direction.
    """
    network = network_of(CORES[name], shared=name != "min_gru")
    params = drawn(network.init, jnp.ones((N, F)))
    by_block = lambda params, state, obs, next_obs, ended: network.unroll(params, state, obs, ended, next_obs)

    def loss(params, run, block):
        (pi, value), (_, next_value), _ = out = run(params, *block)
        return jnp.square(pi).sum() + jnp.sin(value).sum() + jnp.cos(next_value).sum(), out

    def program(block, direction):
        of_block = partial(loss, run=by_block, block=block)
        of_steps = partial(loss, run=partial(step_by_step, network), block=block)
        if name not in DIFFERENTIATED:
            return (of_block(params)[1], of_steps(params)[1]), None
        gradient, ours = jax.grad(of_block, has_aux=True)(params)
        _, along, theirs = jax.jvp(of_steps, (params,), (direction,), has_aux=True)
        return (ours, theirs), (gradient, along)

    program = jax.jit(program)
    nowhere = jax.tree.map(np.zeros_like, params)
    return network, params, lambda *block, direction=nowhere: program(block, direction)


@pytest.mark.parametrize("name", zoo.params(CORES, wide=("long", "one")))
def test_unroll_is_step_after_step_through_episode_ends(name):
    """Twice in a row, so that the second block starts from a memory that is neither empty nor of one age."""
    network, params, program = built(name)
    ((ours, ours_next, by_block), (outputs, next_outputs, by_step)), _ = program(network.memory(N), *block(0))
    close((ours, ours_next), (outputs, next_outputs))
    if "gru" in name or name in ("lstm", "stack"):
        close(by_block, by_step)
    second = [out[:2] for start in (by_step, by_block) for out in program(start, *block(1))[0]]
    for out in second[:1] + second[2:]:
        close(out, second[1])
    obs, _, ended = block(0)
    alone, none, _ = jax.eval_shape(network.unroll, params, by_block, obs, ended)
    assert none is None and jax.tree.structure(alone) == jax.tree.structure(outputs)


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_gradients_are_those_of_step_after_step(name):
    """Along a random direction of every array of parameters: backward through the block, forward through the steps."""
    network, params, program = built(name)
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    for i, leaf in enumerate(leaves):
        way = rng.normal(size=leaf.shape).astype(np.float32)
        direction = structure.unflatten([way if i == j else np.zeros_like(x) for j, x in enumerate(leaves)])
        _, (gradient, along) = program(network.memory(N), *block(0), direction=direction)
        np.testing.assert_allclose((way * np.asarray(jax.tree.leaves(gradient)[i])).sum(), along, rtol=1e-4, atol=1e-4)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(gradient["trunks"]))


def outputs_of(name, obs, next_obs, ended):
    """From an empty memory, by blocks: of the steps and of their successors."""
    network, _, program = built(name)
    ((outputs, next_outputs, _), _), _ = program(network.memory(N), obs, next_obs, ended)
    return jax.tree.map(np.asarray, (outputs, next_outputs))


@pytest.mark.parametrize("name", ["gru", "lstm", "min_gru", "transformer", "stack"])
def test_environments_do_not_see_one_another(name):
    """In another order the same, and one of them beside others too."""
    this, that, order = block(0), block(1), np.array([2, 0, 1])
    out = outputs_of(name, *this)
    permuted = outputs_of(name, *(x[:, order] for x in this))
    close(permuted, jax.tree.map(lambda x: x[:, order], out))
    beside = outputs_of(name, *(np.concatenate([x[:, :1], y[:, 1:]], axis=1) for x, y in zip(this, that, strict=True)))
    close(*(jax.tree.map(lambda x: x[:, 0], y) for y in (beside, out)))
    network, params, _ = built(name)
    alone = jax.eval_shape(network.unroll, params, network.memory(1), *(x[:, :1] for x in (this[0], this[2], this[1])))
    assert jax.tree.map(jnp.shape, alone[:2]) == jax.tree.map(lambda x: (T, 1, *x.shape[2:]), out)


@pytest.mark.parametrize("name", ["gru", "lstm", "min_gru", "transformer", "stack"])
def test_nothing_is_seen_of_other_episodes_or_of_the_future(name):
    """What another observation at one step changes, in one environment of several."""
    obs, next_obs, _ = block(0)
    ended = np.zeros((T, N), bool)
    ended[9] = True
    before = outputs_of(name, obs, next_obs, ended)
    for at in range(T):
        other = obs.copy()
        other[at, 0] += 1.0
        after = outputs_of(name, other, next_obs, ended)
        of_env = lambda x, y: (x != y).reshape(T, N, -1).any(-1)
        changed = [of_env(x, y) for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
        for x in changed:
            assert x[at, 0] and not x[:, 1:].any()
            assert not x[:at].any() and (at >= 10 or not x[10:].any())


def test_a_reset_of_a_cache_touches_only_its_length():
    core = networks.transformer(8, num_heads=2, context=512)
    cache = core.memory(3)
    after = core.reset(cache, jnp.array([True, False, True]))
    assert after.keys is cache.keys and after.values is cache.values
    assert after._replace(length=cache.length) == cache


@pytest.mark.parametrize("core", [None, networks.gru(4)], ids=["none", "gru"])
@pytest.mark.parametrize("kind", ["actor_critic", "q_network", "quantiles"])
def test_a_mask_is_that_of_the_observation_it_came_with(kind, core):
    """Of the successors too: what a target is made of has their mask, not that of the step before."""
    x, _, ended = block(0)
    legal = np.random.default_rng(0).random((2, T, N, 3)) < 0.5
    legal[..., 0] |= ~legal.any(-1)
    obs, next_obs = ({"x": x, "action_mask": mask} for mask in legal)
    if kind == "actor_critic":
        network = networks.actor_critic(distributions.categorical(3), memory=core)
    else:
        network = networks.q_network(3, outputs=2 if kind == "quantiles" else None, memory=core)
    network = adapters.with_memory(network)
    params = drawn(network.init, jax.tree.map(lambda x: x[0], obs))
    out = jax.jit(network.unroll)(params, network.memory(N), obs, ended, next_obs)
    for outputs, mask in zip(out[:2], legal, strict=True):
        seen = outputs[0] if kind == "actor_critic" else outputs[..., 1] if kind == "quantiles" else outputs
        np.testing.assert_array_equal(np.isfinite(seen), mask)


# --- written out ------------------------------------------------------------------------------------------------------

sigmoid = lambda x: 1 / (1 + np.exp(-x))


def first_bias(core):
    """What a core's bias begins with; the rest of `init` is not compiled."""
    return np.asarray(jax.jit(lambda key: core.init(key, F)["bias"])(jax.random.key(0)))


def test_cells_are_their_equations():
    x = np.random.default_rng(1).normal(size=(N, F))
    for core in (networks.gru(4), networks.lstm(4), networks.min_gru(4)):
        params = drawn(core.init, F) | {"bias": first_bias(core)}
        start = jax.tree.map(lambda m: m + np.arange(4, dtype=np.float32) / 4, core.memory(N))
        y, after = jax.jit(core.step)(params, start, x.astype(np.float32))
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


def test_a_linear_recurrence_is_the_same_in_steps_and_in_passes():
    from purerl.networks.recurrent import _linear_in_passes, _linear_in_steps

    a, b = np.random.default_rng(0).random((2, 11, N, 4)).astype(np.float32)
    h, expected = np.zeros((N, 4)), []
    for t in range(11):
        h = a[t] * h + b[t]
        expected.append(h)

    def total(a, b, linear):
        out = linear(a, b)
        return jnp.sin(out).sum(), out

    both = lambda a, b: [
        jax.grad(total, (0, 1), has_aux=True)(a, b, linear) for linear in (_linear_in_steps, _linear_in_passes)
    ]
    (gradient, steps), (gradient_in_passes, passes) = jax.jit(both)(a, b)
    np.testing.assert_allclose(steps, np.stack(expected), rtol=1e-5)
    np.testing.assert_allclose(passes, np.stack(expected), rtol=1e-5)
    close(gradient_in_passes, gradient)


def test_attention_is_softmax_over_what_is_seen_with_rotated_queries_and_keys():
    """One layer written out over the tokens of one episode."""
    width, heads, size = 8, 2, 4
    core = networks.transformer(width, num_heads=heads, context=3)
    x = np.random.default_rng(1).normal(size=(5, 1, F)).astype(np.float32)
    params = drawn(core.init, F)
    y, _, _ = jax.jit(core.unroll)(params, core.memory(1), x, np.zeros((5, 1), bool))
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


def test_a_gate_is_a_gru_whose_update_starts_near_zero():
    from purerl.networks.transformer import _gate

    rng = np.random.default_rng(0)
    h, y = rng.normal(size=(2, N, 8)).astype(np.float32)
    kernels = rng.normal(size=(6, 8, 8)).astype(np.float32)
    params = {"kernels": kernels, "bias": np.full(8, 2.0, np.float32)}
    k, h64, y64 = (np.asarray(x, np.float64) for x in (kernels, h, y))
    r, z = sigmoid(y64 @ k[0] + h64 @ k[1]), sigmoid(y64 @ k[2] + h64 @ k[3] - 2)
    expected = (1 - z) * h64 + z * np.tanh(y64 @ k[4] + (r * h64) @ k[5])
    np.testing.assert_allclose(jax.jit(_gate)(params, h, y), expected, rtol=1e-4, atol=1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_sizes_are_named():
    for make in (networks.gru, networks.lstm, networks.min_gru):
        with pytest.raises(ValueError, match="size is 0; it must be a positive int"):
            make(0)
    with pytest.raises(ValueError, match="context is -1"):
        networks.transformer(context=-1)
    with pytest.raises(ValueError, match="width is 12; it must be a multiple of 2 num_heads, 8"):
        networks.transformer(12, num_heads=4)


# --- other networks and cores -----------------------------------------------------------------------------------------


def test_a_feed_forward_network_has_the_memory_that_is_none():
    network = adapters.with_memory(networks.actor_critic(distributions.categorical(2)))
    obs, next_obs, ended = block(0)
    params = drawn(network.init, obs[0], scale=0.1)
    both = lambda params: (
        step_by_step(network, params, (), obs, next_obs, ended)[:2],
        network.unroll(params, (), obs, ended, next_obs)[:2],
    )
    close(*jax.jit(both)(params))
    assert adapters.with_memory(network) is network


@pytest.mark.parametrize("core", [networks.gru(3, longest=8.0), networks.lstm(3, longest=8.0)])
def test_longest_spreads_what_cells_keep(core):
    """With no input and no recurrent weights, a gate that keeps halves, or keeps 8 parts of 9."""
    bias = first_bias(core).reshape(-1, 3)
    keeps = sigmoid(np.asarray(bias[1], np.float64))
    np.testing.assert_allclose(keeps, 1 - 1 / (1 + 8 ** np.array([0, 0.5, 1])), rtol=1e-6)
    if len(bias) == 4:
        np.testing.assert_allclose(bias[0], -bias[1])


@pytest.mark.parametrize("core", [networks.gru, networks.lstm, networks.min_gru])
def test_longest_must_be_a_step_at_least(core):
    with pytest.raises(ValueError, match=r"longest is 0\.5; it must be at least 1"):
        core(4, longest=0.5)


def test_a_stack_is_its_layers_one_after_another():
    first, layer, second = networks.gru(4), networks.MLP((6,)), networks.min_gru(5)
    core = networks.stack(first, layer, second)
    params, memory = drawn(core.init, F), jax.tree.map(lambda m: m + 0.5, core.memory(N))

    @jax.jit
    def both(params, x):
        h, wanted = first.step(params[0], memory[0], x)
        wanted_y, last = second.step(params[2], memory[2], layer.apply(params[1], h))
        return core.step(params, memory, x), (wanted_y, (wanted, (), last))

    close(*both(params, block(0)[0][0]))


@pytest.mark.parametrize("layers", [(), (networks.gru(4), jnp.tanh)])
def test_a_stack_is_of_memories_and_modules(layers):
    with pytest.raises(ValueError, match=r"stack: .* it (must be|takes)"):
        networks.stack(*layers)


@pytest.mark.parametrize("name", build.MEMORIES)
def test_every_memory_of_the_command_line_is_one(name, key):
    core = build.memory(name, 8, context=4)
    if name == "none":
        assert core is None
        return
    start = core.memory(N)
    y, after = jax.eval_shape(lambda key: core.step(core.init(key, F), start, jnp.ones((N, F))), key)
    assert y.shape == (N, 8) and jax.tree.structure(after) == jax.tree.structure(start)


@pytest.mark.parametrize("core", [networks.gru(4), networks.lstm(4)], ids=["gru", "lstm"])
def test_derivatives_through_a_cell_are_those_of_its_steps(core):
    """Both modes and second order: the loop has a derivative rule of its own."""
    x = np.random.default_rng(1).normal(size=(5, 2, F)).astype(np.float32)
    ended = np.zeros((5, 2), bool)
    ended[2, 0] = True

    def unrolled(params, x):
        return core.unroll(params, core.memory(2), x, ended)[0]

    def stepped(params, x):
        def one(memory, now):
            y, memory = core.step(params, memory, now[0])
            return core.reset(memory, now[1]), y

        return jax.lax.scan(one, core.memory(2), (x, ended))[1]

    at = drawn(core.init, F), x
    direction = jax.tree.map(lambda p: np.cos(np.arange(p.size, dtype=p.dtype)).reshape(p.shape), at)

    def derivatives(f, *at):
        slope = jax.grad(lambda *a: jnp.sin(f(*a)).sum(), (0, 1))
        return jax.jvp(f, at, direction)[1], *jax.jvp(slope, at, direction)  # the last: a product with the Hessian

    got, wanted = jax.jit(lambda *at: [derivatives(f, *at) for f in (unrolled, stepped)])(*at)
    close(got, wanted, 2e-5)
