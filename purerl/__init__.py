"""purerl: reinforcement learning in JAX where everything is a pure function."""

from purerl import distributions, losses, networks, normalize, returns, schedules, statistics, updates
from purerl.agents.a2c import A2C, a2c
from purerl.agents.ppo import PPO, ppo
from purerl.agents.reinforce import REINFORCE, reinforce
from purerl.core import (
    Agent,
    Distribution,
    Learner,
    Network,
    Reward,
    Rollout,
    Transition,
    config,
    option,
)
from purerl.envs import make
from purerl.training import batch, evaluate, learner, rollout, run, shard_environments, train

__version__ = "0.1.0"
