"""Reward terms of a training, for `TrainingControl(reward=)` and for `purerl.rewards`, such as `rewards.weighted`.

They are functions of transitions whose `info` is that of `TrainingControl`. In a learner, `INFO` is what they need:
`purerl.learner(..., info=terms.INFO, reward=rewards.weighted(...))`.
"""

from __future__ import annotations

import jax.numpy as jnp

from purerl.core import Array, Transition

INFO = ("log_loss_before", "log_loss", "score", "diverged", "cost")


def fall_of_log_loss(transitions: Transition) -> Array:
    """log L - log L', of the validation loss before and after the stretch, in nats: scale-free.

    Use it with γ = 1, at which it telescopes: the return is log L₀ - log L_T, whatever the path. With γ < 1 an early
    fall counts more than a late one, and the agent becomes short-sighted: it drops the learning rate early, which gains
    now and costs later (Wu et al., 2018, arXiv:1803.02021, section 3). A network that diverges has log L' = log L₀ plus
    the ceiling of the environment, so that the return of its episode is minus the ceiling.
    """
    return transitions.info["log_loss_before"] - transitions.info["log_loss"]


def final_log_loss(transitions: Transition) -> Array:
    """Minus the log validation loss at the end of the episode, otherwise 0."""
    return (transitions.terminated | transitions.truncated) * -transitions.info["log_loss"]


def final_score(transitions: Transition) -> Array:
    """The validation score, such as the accuracy, at the end of the episode, otherwise 0."""
    return (transitions.terminated | transitions.truncated) * transitions.info["score"]


def divergence(transitions: Transition) -> Array:
    """-1 where the inner network diverged, otherwise 0."""
    return -transitions.info["diverged"].astype(jnp.float32)


def compute(transitions: Transition) -> Array:
    """Minus the share of the budget that the step used: the sum over an episode is -1 at most."""
    return -transitions.info["cost"]
