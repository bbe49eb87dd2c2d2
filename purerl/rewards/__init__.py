"""Rewards as pure functions of a block of transitions: weighted terms, transformations and bonuses.

A `Reward` is a pair of `init` and `apply` (see `purerl.core`); `apply` computes the training reward, and reported
returns remain those of the environment. `weighted` builds a reward from named terms; the other functions transform
the current reward, `transitions.reward`, or add to it, and `chain` composes them. Weights and coefficients may be
traced, so that a `vmap` sweeps over reward designs. Rewards that learn or count are applied once to every block, when
it is collected: a replay buffer stores the reward of that time.

>>> from purerl.core import Transition
>>> terms = {"task": environment, "effort": lambda tr: -abs(tr.action)}
>>> reward = chain(weighted(terms, {"task": 1.0, "effort": 0.5}), clip(-1.0, 1.0))
>>> one = lambda x: jnp.full((1, 1), x)  # a block of one step of one environment
>>> tr = Transition(one(0.0), one(3.0), one(1.2), one(0.0), one(False), one(False), one(True))
>>> key = jax.random.key(0)
>>> _, paid, metrics = reward.apply(key, reward.init(key, tr), tr)
>>> round(paid.item(), 2), metrics["effort"].item(), metrics["weighted/effort"].item()
(-0.3, -3.0, -1.5)
"""

from purerl.normalize import rewards as normalize
from purerl.rewards.constraints import lagrangian
from purerl.rewards.intrinsic import RND, count_bonus, rnd
from purerl.rewards.preferences import learn_preferences, modelled, preference_loss
from purerl.rewards.shaping import potential, terminal_bonus
from purerl.rewards.terms import (
    Term,
    anneal,
    chain,
    clip,
    environment,
    mean_over_episodes,
    mean_over_steps,
    scale,
    sign,
    symlog,
    term,
    weighted,
    when,
)

__all__ = [
    "RND",
    "Term",
    "anneal",
    "chain",
    "clip",
    "count_bonus",
    "environment",
    "lagrangian",
    "learn_preferences",
    "mean_over_episodes",
    "mean_over_steps",
    "modelled",
    "normalize",
    "potential",
    "preference_loss",
    "rnd",
    "scale",
    "sign",
    "symlog",
    "term",
    "terminal_bonus",
    "weighted",
    "when",
]
