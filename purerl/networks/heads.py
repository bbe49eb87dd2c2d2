"""Heads: policies and values on the features of a torso."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl.core import Array, Distribution, MemoryNetwork
from purerl.distributions import Hybrid
from purerl.networks.adapters import with_memory
from purerl.networks.mlp import MLP
from purerl.networks.recurrent import Core


class Head(nn.Module):
    """A dense layer with few outputs, kernel `[size, F]`, and beside them learned values: `[..., size + num_free]`.

    XLA's CPU backend takes three times as long for the gradient of a layer so narrow whose kernel is `[F, size]`.
    """

    size: int
    gain: float
    num_free: int = 0

    @nn.compact
    def __call__(self, features):
        kernel = self.param("kernel", nn.initializers.orthogonal(self.gain), (self.size, features.shape[-1]))
        outputs = features @ kernel.T + self.param("bias", nn.initializers.zeros, (self.size,))
        if not self.num_free:
            return outputs
        free = self.param("free", nn.initializers.zeros, (self.num_free,))
        return jnp.concatenate([outputs, jnp.broadcast_to(free, (*outputs.shape[:-1], self.num_free))], axis=-1)


def split_mask(obs: Any) -> tuple[Any, Any]:
    """Split observations into the inputs of a torso and the mask of legal actions: `(obs, legal)`.

    An environment may put `action_mask` into observations that are dicts: bool `[..., A]`, or a tree of such in the
    structure of the actions. The other entries are the inputs, unwrapped if there is only one. legal is None without a
    mask.

    >>> split_mask({"position": 1.0, "action_mask": [True, False]})
    (1.0, [True, False])
    """
    if not isinstance(obs, Mapping) or "action_mask" not in obs:
        return obs, None
    rest = {name: x for name, x in obs.items() if name != "action_mask"}
    return rest if len(rest) != 1 else next(iter(rest.values())), obs["action_mask"]


def masked(mask: Callable | None, p: Array, legal: Any) -> Array:
    """Mask policy parameters `[..., P]`, so that illegal actions have probability 0; unchanged without a mask."""
    if legal is None:
        return p
    if mask is None:
        raise ValueError("the observation has an action_mask, but the policy is of a space that takes none: a Box")
    return mask(p, legal)


class Actor(nn.Module):
    """`obs [B, ...] -> policy parameters [B, num_params]`. See `actor`."""

    num_params: int
    num_free: int
    torso: Callable[[], nn.Module]
    mask: Callable | None

    @nn.compact
    def __call__(self, obs):
        obs, legal = split_mask(obs)
        return masked(self.mask, Head(self.num_params - self.num_free, 0.01, self.num_free)(self.torso()(obs)), legal)


def actor(policy: Distribution | Hybrid, torso: Callable[[], nn.Module] = MLP) -> Actor:
    """A policy network, for agents with a separate critic; arguments as for `actor_critic`.

    >>> from purerl import distributions
    >>> network = actor(distributions.normal(shape=(2,)))
    >>> network.apply(network.init(jax.random.key(0), jnp.ones((5, 4))), jnp.ones((5, 4))).shape
    (5, 4)
    """
    return Actor(policy.num_params, policy.num_free, torso, policy.mask)


class Critic(nn.Module):
    """`(obs [B, ...], x [B, d]) -> Q [B, K]`. See `critic`."""

    num_choices: int
    torso: Callable[[], nn.Module]
    encoder: Callable[[], nn.Module] | None

    @nn.compact
    def __call__(self, obs):
        obs, x = obs
        obs, _ = split_mask(obs)
        return Head(self.num_choices, 1.0)(self.torso()((obs if self.encoder is None else self.encoder()(obs), x)))


def critic(
    policy: Hybrid, torso: Callable[[], nn.Module] = MLP, encoder: Callable[[], nn.Module] | None = None
) -> Critic:
    """Action values Q(s, x)[k] of the continuous part x, for each discrete choice k.

    Args:
      policy: the space, a result of `distributions.hybrid`.
      torso: a module on the concatenated observations and x.
      encoder: a module on the observations alone before the torso, such as `MinAtarCNN`.

    >>> from gymnax.environments import spaces
    >>> from purerl import distributions
    >>> network = critic(distributions.hybrid(spaces.Box(-1.0, 1.0, (2,)), distributions.deterministic))
    >>> obs = jnp.ones((5, 4)), jnp.ones((5, 2))
    >>> network.apply(network.init(jax.random.key(0), obs), obs).shape
    (5, 1)
    """
    return Critic(policy.choice.num_params, torso, encoder)


class ActorCritic(nn.Module):
    """`obs [B, ...] -> (policy parameters [B, num_params], value [B])`. See `actor_critic`."""

    num_params: int
    num_free: int
    torso: Callable[[], nn.Module]
    shared: bool
    mask: Callable | None = None

    @nn.compact
    def __call__(self, obs):
        obs, legal = split_mask(obs)
        features = self.torso()(obs)
        pi = masked(self.mask, Head(self.num_params - self.num_free, 0.01, self.num_free)(features), legal)
        value = Head(1, 1.0)(features if self.shared else self.torso()(obs))
        return pi, value[..., 0]


def actor_critic(
    policy: Distribution,
    torso: Callable[[], nn.Module] = MLP,
    shared: bool = False,
    memory: Core | None = None,
) -> ActorCritic | MemoryNetwork:
    """A policy and a value function on two torsos, or on a shared one.

    Args:
      policy: the distribution of the actor's outputs (gain 0.01, so that it starts near uniform); its free parameters
        are one learned vector.
      torso: makes a module from observations `[B, ...]` to features `[B, F]`: `MLP`, `MinAtarCNN`, or
        `functools.partial(MLP, hidden=(256, 256), activation=nn.relu)`.
      shared: one torso (and one memory) for both.
      memory: the memory between torso and heads: `gru()`, `lstm()`, `min_gru()`, `transformer()` or a `stack`.

    >>> from purerl import distributions, networks
    >>> network = actor_critic(distributions.categorical(3), memory=networks.gru(32))
    >>> params = network.init(jax.random.key(0), jnp.ones((5, 4)))
    >>> (pi, value), memory = network.step(params, network.memory(5), jnp.ones((5, 4)))
    >>> pi.shape, value.shape
    ((5, 3), (5,))
    """
    if memory is None:
        return ActorCritic(policy.num_params, policy.num_free, torso, shared, policy.mask)
    branch = recurrent_torso(torso(), memory)
    branches = [branch] if shared else [branch, branch]
    heads = Head(policy.num_params - policy.num_free, 0.01, policy.num_free), Head(1, 1.0)

    def init(key, obs):
        actor_key, critic_key, *head_keys = jax.random.split(key, 4)
        trunks = tuple(b.init(k, obs) for k, b in zip((actor_key, critic_key), branches, strict=False))
        num_envs = jax.tree.leaves(obs)[0].shape[0]
        features, _ = jax.eval_shape(lambda: branch.step(trunks[0], branch.memory(num_envs), obs))
        example = jnp.zeros(features.shape, features.dtype)
        return {
            "trunks": trunks,
            "heads": tuple(head.init(k, example) for k, head in zip(head_keys, heads, strict=True)),
        }

    def read(params, features, obs):
        """Policy parameters from the features of the first branch, and values from those of the last."""
        actor, critic = params["heads"]
        pi = masked(policy.mask, heads[0].apply(actor, features[0]), split_mask(obs)[1])
        value: Any = heads[1].apply(critic, features[-1])
        return pi, value[..., 0]

    def each(function, *arguments):
        """Apply a function to every branch; one tuple per result."""
        return tuple(zip(*(function(*x) for x in zip(*arguments, strict=True)), strict=True))

    def step(params, memory, obs):
        features, memory = each(lambda p, m: branch.step(p, m, obs), params["trunks"], memory)
        return read(params, features, obs), memory

    def unroll(params, memory, obs, ended, next_obs=None):
        go = lambda p, m: branch.unroll(p, m, obs, ended, next_obs)
        features, next_features, memory = each(go, params["trunks"], memory)
        after = None if next_obs is None else read(params, next_features, next_obs)
        return read(params, features, obs), after, memory

    return MemoryNetwork(
        init,
        lambda n: tuple(branch.memory(n) for branch in branches),
        lambda memory, ended: tuple(branch.reset(m, ended) for m in memory),
        step,
        unroll,
    )


def recurrent_torso(torso: nn.Module, core: Core) -> MemoryNetwork:
    """A torso whose features pass through a memory: observations to features `[..., H]`."""
    encoder = with_memory(torso)

    def init(key, obs):
        torso_key, core_key = jax.random.split(key)
        obs, _ = split_mask(obs)
        params = encoder.init(torso_key, obs)
        features, _ = jax.eval_shape(lambda: encoder.step(params, (), obs))
        return {"torso": params, "core": core.init(core_key, features.shape[-1])}

    def step(params, memory, obs):
        x, _ = encoder.step(params["torso"], (), split_mask(obs)[0])
        return core.step(params["core"], memory, x)

    def unroll(params, memory, obs, ended, next_obs=None):
        next_obs = None if next_obs is None else split_mask(next_obs)[0]
        x, next_x, _ = encoder.unroll(params["torso"], (), split_mask(obs)[0], ended, next_obs)
        return core.unroll(params["core"], memory, x, ended, next_x)

    return MemoryNetwork(init, core.memory, core.reset, step, unroll)
