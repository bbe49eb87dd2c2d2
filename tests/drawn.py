"""Parameters of a network without its `init`, whose program takes longer to compile than most tests."""

import jax
import numpy as np


def drawn(init, *args, scale=0.5):
    """Normal numbers in the shapes and dtypes of what `init(key, *args)` would give."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: init(key, *args), jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(x.dtype), shapes)
