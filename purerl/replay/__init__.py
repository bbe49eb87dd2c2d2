"""A replay buffer of the last steps of N environments, with uniform or prioritised sampling.

`init`, `add`, `sample` and `update` are pure functions of a `Replay`, a ring buffer whose rows hold one step of every
environment. An observation is stored once, in its own dtype: the successor of a step is the next row's observation,
and only the successors of truncated steps are stored separately. n-step returns are computed from the stored rewards
when they are read, so that γ may be traced and n needs no memory; they stop at the end of an episode, and bootstrap
at a truncation.

>>> from purerl.core import Transition
>>> no = jnp.zeros((2, 1), bool)
>>> obs = jnp.arange(2.0).reshape(2, 1)
>>> block = Transition(obs, jnp.zeros((2, 1), int), jnp.ones((2, 1)), obs + 1, no, no, ~no)  # [T, N] = [2, 1]
>>> memory = add(init(jax.tree.map(lambda x: x[0], block), capacity=10), block)
>>> steps = read(memory, sample(jax.random.key(0), memory, 3), gamma=0.5)
>>> (steps.next_obs - steps.obs).tolist(), steps.gamma.tolist()
([1.0, 1.0, 1.0], [0.5, 0.5, 0.5])
"""

from purerl.replay.ring import (
    FINALS,
    Index,
    Priorities,
    Replay,
    Steps,
    add,
    below,
    bytes_of,
    device_bytes,
    init,
    n_steps,
    num_bytes,
    num_ready,
    read,
    sample,
    update,
)
from purerl.replay.sequences import read_sequences

__all__ = [
    "FINALS",
    "Index",
    "Priorities",
    "Replay",
    "Steps",
    "add",
    "below",
    "bytes_of",
    "device_bytes",
    "init",
    "n_steps",
    "num_bytes",
    "num_ready",
    "read",
    "read_sequences",
    "sample",
    "update",
]
