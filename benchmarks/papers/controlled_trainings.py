"""Agents trained to control the training of networks, and many trainings under one control: for two scripts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sections import recorded

import purerl
from purerl import build, rewards
from purerl.core import Agent
from purerl.envs.training_control import schedules
from purerl.envs.training_control.environment import TrainingControl
from purerl.rewards import Term
from purerl.runs import report
from purerl.runs.stream import measure

LAST = ("log_loss", "train_loss", "train_score", "test_loss", "test_score")  # what is kept of a training: its last row


def keys_of(purpose: int, seed: int, num: int) -> Any:
    """Keys of trainings `[num]`, for a purpose and a seed."""
    return jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(26), purpose), seed), num)


def outcome(table: dict[str, Any], kept: tuple[str, ...], shown: tuple[str, ...] = ()) -> dict[str, Any]:
    """Of a recorded training the last valid row of `kept`, `gain`, the fall of the log validation loss, and all rows
    of `shown`."""
    last = jnp.maximum(table["valid"].sum() - 1, 0)
    gain = table["log_loss_before"][0] - table["log_loss"][last]
    return {"gain": gain, **{name: table[name][last] for name in kept}, **{name: table[name] for name in shown}}


def controlled(env: TrainingControl, agent: Agent, num_steps: int, shown: tuple[str, ...]) -> Callable[..., Any]:
    """Trainings under an agent's greedy actions, one program: `(agent_state, env_params, keys [n]) -> outcomes [n]`."""

    @jax.jit
    def judge(state, env_params, keys):
        control, memory = schedules.act(env, agent, state)
        play = lambda key: schedules.rollout(key, env, env_params, num_steps, control, memory)
        return jax.vmap(lambda key: outcome(play(key), LAST, shown))(keys)

    return judge


def against_group(size: int) -> Term:
    """The reward of a step, minus its mean over the `size` neighbours that train the same network.

        r'ₜ = rₜ - bₜ,   and at the end of an episode minus Σ bₛ over the later steps s, which others have

    Returns are then those of the environment minus the group's mean return, whenever an episode ends.
    """

    def relative(tr):
        reward = jnp.where(tr.valid, tr.reward, 0.0)
        mean = jnp.repeat(reward.reshape(len(reward), -1, size).mean(-1), size, axis=1)
        later = jnp.flip(jnp.cumsum(jnp.flip(mean, 0), 0), 0) - mean
        return tr.reward - mean - jnp.where(tr.terminated, later, 0.0)

    return relative


def train(
    env: TrainingControl,
    env_params: Any,
    hp: Any,
    num_envs: int,
    updates: int,
    seed: int,
    group: int = 1,
    algorithm: Callable[..., Agent] = purerl.ppo,
) -> tuple[Any, Any]:
    """An agent on trainings, with a progress bar: its state, and the mean return of every chunk of updates.

    group: the number of neighbours that train the same network on the same data, and whose mean return is a baseline;
      1: no such baseline.
    """
    agent = build.agent(algorithm, env.action_space(env_params))
    length = int(env_params.max_steps_in_episode)
    own = {"group_size": group, "reward": rewards.term(against_group(group)), "episodic": True} if group > 1 else {}
    make = lambda hp: purerl.learner(env, env_params, agent(hp), num_envs, length, **own)
    measured = measure(
        make, hp, keys_of(0, seed, 1), jax.devices()[:1], updates, max(1, updates // 50), num_envs * length
    )
    state = jax.tree.map(lambda x: x[0], measured.state.agent)
    return state, [None if np.isnan(x) else round(float(x), 4) for x in measured.metrics["episode_return"][:, 0]]


def save(path: Path, found: dict[str, Any]) -> None:
    """Write a record with the versions and the device that it is of."""
    recorded.save(path, found | recorded.made_with("optax"))


def rounded(tree: Any, digits: int = 5) -> Any:
    """Arrays as lists of rounded numbers."""
    return jax.tree.map(lambda x: np.asarray(x, float).round(digits).tolist(), tree)


def search(name: str, program: Callable[..., Any], candidates: Any, keys: Any, chunk: int) -> np.ndarray:
    """The mean gain of every candidate, `[C]`, over the same keys, a few keys at a time.

    program: `(candidate, keys [chunk]) -> gains [chunk]`, for one candidate.
    """
    report.note(f"{name}: {len(jax.tree.leaves(candidates)[0])} candidates, {len(keys)} trainings each")
    run = jax.jit(lambda candidates, keys: jax.lax.map(lambda c: program(c, keys).mean(), candidates))
    return np.mean([run(candidates, keys[i : i + chunk]) for i in range(0, len(keys), chunk)], axis=0)


ppo = partial(purerl.PPO, gamma=1.0, entropy_cost=0.0, num_epochs=8)
