from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from gymnax.environments import spaces

import purerl
from purerl import distributions, exploration, networks
from purerl.agents.parts import policy_gradient, q_learning, sequences
from purerl.gradients import adam
from purerl.networks import MLP, MinAtarCNN, actor_critic


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("torso, shape", [(MLP, (3, 2)), (MinAtarCNN, (10, 10, 4))])
def test_shapes_and_gains(torso, shape, shared, key):
    policy = distributions.normal(shape=(3,))
    network = actor_critic(policy, torso, shared)
    obs = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    params, (pi, value) = jax.jit(network.init_with_output)(key, obs)[::-1]
    assert pi.shape == (5, 6) and value.shape == (5,)
    np.testing.assert_array_equal(np.asarray(pi)[:, 3:], 0.0)  # log deviations are free and start at 0
    kernels = {path: x for path, x in jax.tree_util.tree_leaves_with_path(params) if x.ndim == 2}
    gains = {}
    for path, x in kernels.items():
        singular = np.linalg.svd(x, compute_uv=False)
        np.testing.assert_allclose(singular, singular[0], rtol=1e-4)
        gains[jax.tree_util.keystr(path)] = round(float(singular[0]), 3)
    assert sorted(set(gains.values())) == [0.01, 1.0, 1.414]
    torsos = {name.split("'")[3] for name in gains if "MLP" in name or "CNN" in name}
    assert len(torsos) == (1 if shared else 2)


def test_a_shared_torso_is_trained_by_both():
    policy, obs = distributions.categorical(2), jnp.ones((1, 3))
    for shared in (True, False):
        network = actor_critic(policy, partial(MLP, hidden=(8,)), shared)
        params = drawn(network.init, obs)
        slope = jax.jit(jax.grad(lambda p, n=network: n.apply(p, obs)[1].sum()))(params)["params"]["MLP_0"]
        assert any(np.asarray(x).any() for x in jax.tree.leaves(slope)) == shared


def test_mlp_takes_trees_and_its_settings():
    obs = {"a": np.ones((2, 3), np.float32), "b": np.ones(2, np.int32)}
    torso = MLP(hidden=(7, 5), activation=nn.relu)
    features = np.asarray(jax.jit(torso.apply)(drawn(torso.init, obs), obs))
    assert features.shape == (2, 5) and (features >= 0).all() and features.any()


def test_cnn_is_a_convolution():
    obs = np.random.default_rng(1).normal(size=(2, 10, 10, 4)).astype(np.float32)
    network = MinAtarCNN(channels=5, width=3)

    @jax.jit
    def both(params):
        first, second = params["params"]["Dense_0"], params["params"]["Dense_1"]
        kernel, layout = first["kernel"].reshape(3, 3, 4, 5), ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(obs, kernel, (1, 1), "VALID", dimension_numbers=layout)
        x = nn.relu(x + first["bias"]).reshape(2, -1)
        return network.apply(params, obs), nn.relu(x @ second["kernel"] + second["bias"])

    np.testing.assert_allclose(*both(drawn(network.init, obs)), rtol=1e-4, atol=1e-5)


def test_the_cnn_of_large_images_is_three_convolutions_of_brightness():
    obs = np.random.default_rng(1).integers(0, 256, (2, 36, 45, 2)).astype(np.uint8)
    network = networks.NatureCNN(width=3)

    @jax.jit
    def both(params):
        x, layout = obs / np.float32(255), ("NHWC", "HWIO", "NHWC")
        for i, (channels, size, stride) in enumerate(((32, 8, 4), (64, 4, 2), (64, 3, 1))):
            layer = params["params"][f"Dense_{i}"]
            kernel = layer["kernel"].reshape(size, size, -1, channels)
            x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=layout)
            x = nn.relu(x + layer["bias"])
        last = params["params"]["Dense_3"]
        return network.apply(params, obs), nn.relu(x.reshape(2, -1) @ last["kernel"] + last["bias"])

    np.testing.assert_allclose(*both(drawn(network.init, obs)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("torso", [MLP((3,)), MinAtarCNN(2, 3)], ids=lambda x: type(x).__name__)
def test_images_of_uint8_are_brightness(torso):
    """Divided by 255, and nothing else is: not other dtypes, nor numbers of kinds in vectors."""
    image = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 1))
    params = drawn(torso.init, image.astype(np.uint8))
    of = jax.jit(lambda params: [torso.apply(params, x) for x in (image.astype(np.uint8), image / 255, image)])
    pixels, floats, whole = map(np.asarray, of(params))
    np.testing.assert_allclose(pixels, floats, rtol=1e-6)
    assert not np.allclose(whole, floats)
    assert networks.inputs.as_floats(np.full((2, 3), 7, np.uint8)).tolist() == [[7.0] * 3] * 2


def test_layers_are_normalised_before_their_activation():
    obs = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    network = MLP((6, 3), nn.relu, layer_norm=True)
    params = drawn(network.init, obs)
    x = np.asarray(obs, np.float64)
    for i in (0, 1):
        dense, norm = (params["params"][f"{kind}_{i}"] for kind in ("Dense", "LayerNorm"))
        x = x @ dense["kernel"] + dense["bias"]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x = np.maximum(x * norm["scale"] + norm["bias"], 0)
    np.testing.assert_allclose(jax.jit(network.apply)(params, obs), x, rtol=1e-4, atol=1e-5)


def test_cnn_refuses_vectors(key):
    with pytest.raises(ValueError, match=r"MinAtarCNN: obs has shape \(2, 4\)"):
        jax.eval_shape(MinAtarCNN().init, key, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"NatureCNN: obs has shape \(2, 35, 84, 3\); .* at least 36 high and wide"):
        jax.eval_shape(networks.NatureCNN().init, key, jnp.ones((2, 35, 84, 3)))


def test_numbers_become_vectors(key):
    """The one-hot torso: a head on it is a table, row by row, and so are a policy and its values."""
    obs = np.array([2, 0, 4])
    torso = networks.OneHot(5)
    q_network = networks.q_network(3, lambda: networks.OneHot(5))
    params = drawn(q_network.init, obs)

    @jax.jit
    def of(params, obs):
        bound = jax.grad(lambda params: q_network.apply(params, obs)[0, 1])(params)
        return torso.apply({}, obs), bound, q_network.apply(params, obs), q_network.apply(params, jnp.arange(5))

    vectors, bound, some, q = jax.tree.map(np.asarray, of(params, obs))
    np.testing.assert_array_equal(vectors, np.eye(5)[[2, 0, 4]])
    assert sum(x.size for x in jax.tree.leaves(params)) == 5 * 3 + 3
    row = next(x for x in jax.tree.leaves(bound) if x.ndim == 2)
    np.testing.assert_array_equal(row, np.eye(3)[1][:, None] * np.eye(5)[2])  # one entry learns
    np.testing.assert_allclose(some, q[[2, 0, 4]], atol=1e-6)
    critic = networks.actor_critic(distributions.categorical(3), lambda: networks.OneHot(5, (8,)))
    (pi, value), _ = jax.eval_shape(critic.init_with_output, key, obs)
    assert pi.shape == (3, 3) and value.shape == (3,)
    for bad, message in (
        (jnp.ones(3), r"obs is float32 \(3,\)"),
        (jnp.ones((3, 1), int), r"obs is int32 \(3, 1\)"),
        ({"a": obs}, "obs is dict"),
    ):
        with pytest.raises(ValueError, match=message):
            torso.apply({}, bad)
    for num in (0, 2.5):
        with pytest.raises(ValueError, match=f"num is {num}; it must be a positive int"):
            networks.OneHot(num).apply({}, obs)


def test_parts_of_agents_take_plain_networks(key):
    """Where a network with memory is meant, one without is converted; a class or another object is refused."""
    policy, obs = distributions.categorical(3), jnp.ones((2, 4))
    nothing = lambda *_: None
    plain = actor_critic(policy, partial(MLP, hidden=(3,)))
    agents = {
        "policy gradient": lambda network: policy_gradient.policy_gradient_agent(network, policy, adam(1.0), nothing),
        "q": lambda network: q_learning.agent(
            network, purerl.DQN(), lambda q: q, nothing, exploration.epsilon_greedy, q_learning.unperturbed, adam
        ),
        "sequences": lambda network: sequences.sequence_agent(network, policy, purerl.RLOO(), adam(1.0), nothing),
    }
    for name, make in agents.items():
        agent = make(networks.q_network(3, partial(MLP, hidden=(3,))) if name == "q" else plain)
        acting = lambda key, agent=agent: agent.act(key, agent.init(key, obs), agent.memory(2), obs)[0]
        assert jax.eval_shape(acting, key).shape == (2,)
        with pytest.raises(ValueError, match=r"network is the class MLP; give an instance, such as MLP\(\)"):
            make(MLP)
        with pytest.raises(ValueError, match=r"network is \{\}; it must be a flax Module"):
            make({})
    with pytest.raises(ValueError, match="critic is the class MLP"):
        purerl.sac(MLP(), MLP, distributions.hybrid(spaces.Box(-1.0, 1.0, (2,)), distributions.squashed))
    with pytest.raises(ValueError, match="actor or critic has a memory; actor-critics with a replay take feed-forward"):
        purerl.sac(plain, networks.actor_critic(policy, MLP, memory=networks.gru(3)), distributions.hybrid(BOX))


BOX = spaces.Box(-1.0, 1.0, (2,))


def test_a_mask_is_taken_out_of_an_observation_of_several_parts():
    rest, mask = networks.split_mask({"a": 1, "b": 2, "action_mask": [True, False]})
    assert rest == {"a": 1, "b": 2} and mask == [True, False]
