"""The training loop: rollout, learner, train, run, batch, evaluate."""

from purerl.training.environments import Environment, Step, group_keys, resets_itself, vectorized, with_reset_pool
from purerl.training.evaluation import Evaluation, evaluate
from purerl.training.learners import LearnerState, Sums, learner, summarize
from purerl.training.loop import Program, advance, compile_run, run, train
from purerl.training.processes import distributed, is_first, to_host
from purerl.training.rollouts import ActorState, first_episodes, rollout, start
from purerl.training.sharding import batch, shard_environments

__all__ = [
    "ActorState",
    "Environment",
    "Evaluation",
    "LearnerState",
    "Program",
    "Step",
    "Sums",
    "advance",
    "batch",
    "compile_run",
    "distributed",
    "evaluate",
    "first_episodes",
    "group_keys",
    "is_first",
    "learner",
    "resets_itself",
    "rollout",
    "run",
    "shard_environments",
    "start",
    "summarize",
    "to_host",
    "train",
    "vectorized",
    "with_reset_pool",
]
