"""Heads for Q: standard, dueling, noisy, distributional, and quantiles at any fraction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl.core import Array, Key, MemoryNetwork
from purerl.distributions import mask_logits
from purerl.networks.heads import Head, recurrent_torso, split_mask
from purerl.networks.mlp import MLP
from purerl.networks.recurrent import Core

_NOISE = ("noise_in", "noise_out")


class Noisy(nn.Module):
    """A dense layer whose parameters are noisy: y = (W + σ_W ⊙ ε_W) x + b + σ_b ⊙ ε_b, with ε_W = f(ε_out) f(ε_in)ᵀ.

    The noise is part of the parameters and 0 until `noisy` samples it, so that a network without it is the mean.
    Reference: Fortunato et al., 2018, arXiv:1706.10295, eq. 9 to 11 and section 3.2.
    """

    size: int
    sigma: float = 0.5

    @nn.compact
    def __call__(self, features):
        width = features.shape[-1]
        bound = 1 / math.sqrt(width)
        uniform = lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)
        constant, zeros = nn.initializers.constant(self.sigma * bound), nn.initializers.zeros
        kernel = self.param("kernel", uniform, (self.size, width))
        bias = self.param("bias", uniform, (self.size,))
        kernel_sigma = self.param("kernel_sigma", constant, (self.size, width))
        bias_sigma = self.param("bias_sigma", constant, (self.size,))
        noise_in = jax.lax.stop_gradient(self.param("noise_in", zeros, (width,)))
        noise_out = jax.lax.stop_gradient(self.param("noise_out", zeros, (self.size,)))
        # (σ ⊙ ε_out ε_inᵀ) x = ε_out ⊙ σ (ε_in ⊙ x): two products, and no matrix of noise
        noise = noise_out * ((features * noise_in) @ kernel_sigma.T + bias_sigma)
        return features @ kernel.T + bias + noise


def noisy(key: Key, params: Any) -> Any:
    """Sample new noise for all `Noisy` layers of the parameters; for the argument `perturb` of agents.

    f(x) = sign(x) √|x| of standard normals.

    >>> layer = Noisy(2)
    >>> x = jnp.ones((1, 3))
    >>> params = layer.init(jax.random.key(0), x)
    >>> bool((layer.apply(noisy(jax.random.key(1), params), x) == layer.apply(params, x)).any())
    False
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    is_noise = lambda path: getattr(path[-1], "key", None) in _NOISE

    def draw(key, x):
        normal = jax.random.normal(key, x.shape, x.dtype)
        return jnp.sign(normal) * jnp.sqrt(jnp.abs(normal))

    keys = jax.random.split(key, max(1, sum(is_noise(path) for path, _ in leaves)))
    drawn = iter(keys)
    return jax.tree.unflatten(structure, [draw(next(drawn), x) if is_noise(path) else x for path, x in leaves])


class QHead(nn.Module):
    """Features `[..., F]` to Q `[..., A]`, or to `[..., A, outputs]`. See `q_network`."""

    num_actions: int
    outputs: int | None = None
    dueling: bool = False
    noise: bool = False

    @nn.compact
    def __call__(self, features):
        dense = (lambda size, gain: Noisy(size)) if self.noise else (lambda size, gain: Head(size, gain))

        def stream(num):
            x = features
            if self.dueling:
                x = nn.relu(dense(x.shape[-1], math.sqrt(2))(x))
            x = dense(num * (self.outputs or 1), 1.0)(x)
            return x.reshape(*x.shape[:-1], num, self.outputs or 1)

        q = stream(self.num_actions)
        if self.dueling:
            q = stream(1) + q - q.mean(-2, keepdims=True)
        return q if self.outputs else q[..., 0]


def masked_values(q: Array, legal: Any, outputs: int | None) -> Array:
    """Set Q of illegal actions to -inf, so that they are neither selected nor used for bootstrapping.

    Of several outputs the first stays as it is: to quantiles it makes no difference, and a distribution over atoms has
    all of its mass on the worst return.

    q: float `[..., A]`, or `[..., A, outputs]`.  legal: bool `[..., A]`; None: all are.
    """
    if legal is None or not outputs:
        return q if legal is None else mask_logits(q, legal)
    there = mask_logits(jnp.zeros(q.shape[:-1]), legal) == 0
    return jnp.where(there[..., None] | (jnp.arange(outputs) == 0), q, -jnp.inf)


class QNetwork(nn.Module):
    """`obs [B, ...] -> Q [B, A]`, or `[B, A, outputs]`. See `q_network`."""

    head: QHead
    torso: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, obs):
        obs, legal = split_mask(obs)
        return masked_values(self.head(self.torso()(obs)), legal, self.head.outputs)


def q_network(
    num_actions: int,
    torso: Callable[[], nn.Module] = MLP,
    outputs: int | None = None,
    dueling: bool = False,
    noise: bool = False,
    memory: Core | None = None,
) -> QNetwork | MemoryNetwork:
    """Action values on a torso.

    Args:
      num_actions: A.
      torso: makes a module from observations `[B, ...]` to features `[B, F]`, as for `actor_critic`.
      outputs: the number of outputs per action, such as atoms of a distribution; None: one, without an axis.
      dueling: two streams of one hidden layer, Q = V + A - mean A. Wang et al., 2016, arXiv:1511.06581, eq. 9.
      noise: `Noisy` layers in the head; give the agent `perturb=networks.noisy`.
      memory: the memory between torso and head: `gru()`, `lstm()`, `min_gru()`, `transformer()` or a `stack`.

    >>> network = q_network(3, outputs=51, dueling=True)
    >>> obs = jnp.ones((5, 4))
    >>> network.apply(network.init(jax.random.key(0), obs), obs).shape
    (5, 3, 51)
    """
    head = QHead(num_actions, outputs, dueling, noise)
    if memory is None:
        return QNetwork(head, torso)
    base = recurrent_torso(torso(), memory)

    def init(key, obs):
        base_key, head_key = jax.random.split(key)
        params = base.init(base_key, obs)
        num_envs = jax.tree.leaves(obs)[0].shape[0]
        features, _ = jax.eval_shape(lambda: base.step(params, base.memory(num_envs), obs))
        return {"base": params, "head": head.init(head_key, jnp.zeros(features.shape, features.dtype))}

    def read(params, features, obs):
        return masked_values(head.apply(params["head"], features), split_mask(obs)[1], outputs)

    def step(params, memory, obs):
        features, memory = base.step(params["base"], memory, obs)
        return read(params, features, obs), memory

    def unroll(params, memory, obs, ended, next_obs=None):
        features, next_features, memory = base.unroll(params["base"], memory, obs, ended, next_obs)
        after = None if next_obs is None else read(params, next_features, next_obs)
        return read(params, features, obs), after, memory

    return MemoryNetwork(init, base.memory, base.reset, step, unroll)


class ImplicitQNetwork(nn.Module):
    """`(obs [B, ...], fractions [B, K]) -> quantiles [B, A, K]`. See `implicit_q_network`."""

    head: QHead
    torso: Callable[[], nn.Module]
    num_cosines: int

    @nn.compact
    def __call__(self, obs):
        obs, fractions = obs
        obs, legal = split_mask(obs)
        features = self.torso()(obs)
        waves = jnp.cos(jnp.pi * jnp.arange(1, self.num_cosines + 1) * fractions[..., None])
        gain = nn.initializers.orthogonal(math.sqrt(2))
        embedded = nn.relu(nn.Dense(features.shape[-1], kernel_init=gain)(waves))
        quantiles = self.head(features[:, None] * embedded)  # [B, K, A]
        legal = None if legal is None else jnp.broadcast_to(legal[:, None], quantiles.shape)
        return jnp.moveaxis(masked_values(quantiles, legal, None), -1, -2)


def implicit_q_network(
    num_actions: int,
    torso: Callable[[], nn.Module] = MLP,
    dueling: bool = False,
    noise: bool = False,
    num_cosines: int = 64,
) -> ImplicitQNetwork:
    """Quantiles of the return at any fraction: features ⊙ ReLU(dense(cos πiτ)), and the head of `q_network`.

    Reference: Dabney et al., 2018, arXiv:1806.06923, eq. 4 (with i from 1, so that no cosine is constant).

    >>> network = implicit_q_network(3)
    >>> obs = jnp.ones((5, 4)), jnp.full((5, 8), 0.5)
    >>> network.apply(network.init(jax.random.key(0), obs), obs).shape
    (5, 3, 8)
    """
    return ImplicitQNetwork(QHead(num_actions, None, dueling, noise), torso, num_cosines)
