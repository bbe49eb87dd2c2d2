"""purerl: reinforcement learning in JAX where everything is a pure function."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from purerl import (
        agents,
        arguments,
        bellman,
        build,
        cli,
        core,
        distributions,
        envs,
        exploration,
        export,
        gradients,
        hyperparameters,
        losses,
        networks,
        normalize,
        replay,
        returns,
        rewards,
        runs,
        schedules,
        search,
        statistics,
        tabular,
        testing,
        text,
        training,
    )
    from purerl.agents.a2c import A2C, a2c
    from purerl.agents.c51 import C51, c51
    from purerl.agents.ddpg import DDPG, ddpg
    from purerl.agents.dqn import DQN, dqn
    from purerl.agents.grpo import GRPO, grpo
    from purerl.agents.iqn import IQN, iqn
    from purerl.agents.parts.declarations import declare
    from purerl.agents.parts.families import ACTOR_CRITIC, POLICY_GRADIENT, Q_LEARNING
    from purerl.agents.ppo import PPO, ppo
    from purerl.agents.pqn import PQN, pqn
    from purerl.agents.qrdqn import QRDQN, qrdqn
    from purerl.agents.rainbow import Rainbow, rainbow
    from purerl.agents.reinforce import REINFORCE, reinforce
    from purerl.agents.rloo import RLOO, rloo
    from purerl.agents.sac import SAC, sac
    from purerl.agents.sequence_ppo import SequencePPO, sequence_ppo
    from purerl.agents.sequence_reinforce import SequenceREINFORCE, sequence_reinforce
    from purerl.agents.td3 import TD3, td3
    from purerl.core import Agent, Distribution, Learner, Network, Reward, Rollout, Transition
    from purerl.envs import make
    from purerl.hyperparameters import config, option
    from purerl.training import batch, evaluate, learner, rollout, run, shard_environments, train

# Public names and where they live. Loaded when first used, so that `purerl --help` need not wait for jax.
_NAMES = {
    "purerl.agents.a2c": ("A2C", "a2c"),
    "purerl.agents.c51": ("C51", "c51"),
    "purerl.agents.ddpg": ("DDPG", "ddpg"),
    "purerl.agents.dqn": ("DQN", "dqn"),
    "purerl.agents.grpo": ("GRPO", "grpo"),
    "purerl.agents.iqn": ("IQN", "iqn"),
    "purerl.agents.parts.declarations": ("declare",),
    "purerl.agents.parts.families": ("ACTOR_CRITIC", "POLICY_GRADIENT", "Q_LEARNING"),
    "purerl.agents.ppo": ("PPO", "ppo"),
    "purerl.agents.pqn": ("PQN", "pqn"),
    "purerl.agents.qrdqn": ("QRDQN", "qrdqn"),
    "purerl.agents.rainbow": ("Rainbow", "rainbow"),
    "purerl.agents.reinforce": ("REINFORCE", "reinforce"),
    "purerl.agents.rloo": ("RLOO", "rloo"),
    "purerl.agents.sac": ("SAC", "sac"),
    "purerl.agents.sequence_ppo": ("SequencePPO", "sequence_ppo"),
    "purerl.agents.sequence_reinforce": ("SequenceREINFORCE", "sequence_reinforce"),
    "purerl.agents.td3": ("TD3", "td3"),
    "purerl.core": ("Agent", "Distribution", "Learner", "Network", "Reward", "Rollout", "Transition"),
    "purerl.hyperparameters": ("config", "option"),
    "purerl.envs": ("make",),
    "purerl.training": ("batch", "evaluate", "learner", "rollout", "run", "shard_environments", "train"),
}  # fmt: skip
_MODULES = (
    "agents", "arguments", "bellman", "build", "cli", "core", "distributions", "envs", "exploration", "export",
    "gradients", "hyperparameters", "losses", "networks", "normalize", "replay", "returns", "rewards", "runs",
    "schedules", "search", "statistics", "tabular", "testing", "text", "training",
)  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted([*_HOME, *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"purerl.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'purerl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
