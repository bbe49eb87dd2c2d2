"""Meta-gradients: hyperparameters that an agent learns online, by the gradient through its own update.

Xu, van Hasselt & Silver, 2018, arXiv:1805.09801.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl import losses
from purerl.agents.parts.policy_gradient import advantages_and_targets, critic, unrolled
from purerl.core import Agent, Array, Distribution, MemoryNetwork, Network, Rollout, short_repr
from purerl.hyperparameters import hints_of, is_float
from purerl.networks.adapters import with_memory

__all__ = ["MetaState", "learning", "meta_gradient", "policy_gradient"]

EDGE = 1e-3  # a start at 0 or 1 is moved by so much, since its logit is infinite


class MetaState(NamedTuple):
    """The state of an agent that learns some of its hyperparameters."""

    agent: Any
    logits: dict[str, Array]  # of the learned hyperparameters, float32 []
    derivative: Any  # of the agent's parameters in each of the logits, at its last update; a dict at each leaf
    opt_state: Any

    __repr__ = short_repr


def policy_gradient(network: Network | MemoryNetwork, policy: Distribution, gamma: float, gae_lambda: float = 1.0):
    """The objective -mean A(s, a) log π(a|s) of a block, where A is a constant and has a discount and λ of its own.

    Returns:
      `(params, rollout) -> scalar`, to be minimised.
    Reference: Xu et al., 2018, arXiv:1805.09801, equation 8.
    """
    network = with_memory(network)

    def objective(params: Any, rollout: Rollout) -> Array:
        data = advantages_and_targets(critic(network, params), rollout, gamma, gae_lambda)
        pi, _ = unrolled(network, params, data)
        advantage = jax.lax.stop_gradient(data.advantage)
        loss = losses.policy_gradient(policy.log_prob(pi, data.action), advantage)
        return losses.masked_mean(loss, data.valid)

    return objective


def learning(
    agent: Callable[[Any], Agent],
    hp: Any,
    names: Sequence[str],
    objective: Callable[[Any, Rollout], Array],
    learning_rate: float = 1e-2,
) -> Agent:
    """An agent that learns some of its hyperparameters in (0, 1), such as γ and λ, while it learns.

    With ηᵢ = σ(xᵢ), θ' = θ + f(τ, θ, η) after an update on a block τ, and the next block τ', which θ' collects,

        ∂J'(τ', θ') / ∂xᵢ = ∇J'(τ', θ') · ∂f(τ, θ, η) / ∂xᵢ

    is the exact gradient through one update; θ itself counts as a constant (μ = 0 in the paper). Adam follows it before
    the update on τ'. The derivative of f is computed in forward mode with the update, for each hyperparameter at the
    cost of about one more update.

    Args:
      agent: `hp -> Agent`, whose state has a field `params`, such as of `a2c` or `ppo`; its `act` must not read the
        hyperparameters that are learned.
      hp: the hyperparameters at the start.
      names: fields of hp that are floats in [0, 1].
      objective: J', `(params, rollout) -> scalar`, to be minimised, such as `policy_gradient(...)`.
      learning_rate: Adam's, of the logits.
    Returns:
      An agent; its metrics have the learned hyperparameters besides, as `gamma`.
    Raises:
      ValueError: for no names, or a field that is no float in [0, 1]; at trace time, for a state without `params`.
    """
    known = [name for name, hint in hints_of(type(hp)).items() if is_float(hint)]
    if not names:
        raise ValueError(f"learning: names is empty; allowed are {', '.join(known)}")
    for name in names:
        value = getattr(hp, name, None)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in known or value is None or (number and not 0 <= value <= 1):
            raise ValueError(f"learning: {name} is {value!r}; it must name a float in [0, 1], of {', '.join(known)}")
    plain, optimizer = agent(hp), optax.adam(learning_rate)

    def init(key, obs):
        inner = plain.init(key, obs)
        if not hasattr(inner, "params"):
            raise ValueError("learning: the agent's state has no field params")
        start = {name: jnp.clip(jnp.asarray(getattr(hp, name), jnp.float32), EDGE, 1 - EDGE) for name in names}
        logits = jax.tree.map(jax.scipy.special.logit, start)
        derivative = jax.tree.map(lambda p: {name: jnp.zeros_like(p) for name in names}, inner.params)
        return MetaState(inner, logits, derivative, optimizer.init(logits))

    def act(key, state, memory, obs):
        return plain.act(key, state.agent, memory, obs)

    def greedy(state, memory, obs):
        return plain.greedy(state.agent, memory, obs)

    def update(key, state, rollout):
        gradient = meta_gradient(objective, state, rollout)
        change, opt_state = optimizer.update(gradient, state.opt_state)
        logits = optax.apply_updates(state.logits, change)

        def after(logits):
            own = dataclasses.replace(hp, **jax.tree.map(jax.nn.sigmoid, logits))
            new, metrics = agent(own).update(key, state.agent, rollout)
            return new.params, (new, metrics)

        derivative, (new, metrics) = jax.jacfwd(after, has_aux=True)(logits)
        learned = jax.tree.map(jax.nn.sigmoid, logits)
        return MetaState(new, logits, derivative, opt_state), {**metrics, **learned}

    return Agent(init, plain.memory, plain.reset, act, greedy, update, plain.episodic, plain.group_size)


def meta_gradient(objective: Callable[[Any, Rollout], Array], state: MetaState, rollout: Rollout) -> dict[str, Array]:
    """∂J'/∂xᵢ of each logit: the gradient of the objective in the parameters, times their derivative in the logit."""
    gradient = jax.grad(objective)(state.agent.params, rollout)
    products = jax.tree.map(lambda g, d: {name: jnp.vdot(g, x) for name, x in d.items()}, gradient, state.derivative)
    leaves = jax.tree.leaves(products, is_leaf=lambda x: isinstance(x, dict) and x.keys() == state.logits.keys())
    return {name: jnp.sum(jnp.stack([leaf[name] for leaf in leaves])) for name in state.logits}
