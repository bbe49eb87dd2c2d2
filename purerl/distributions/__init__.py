"""Action distributions as pure functions of their parameters, and their selection by action space."""

from purerl.distributions.composite import find, joint, parameterised
from purerl.distributions.families import (
    bernoulli,
    beta,
    categorical,
    deterministic,
    mask_logits,
    multi_categorical,
    normal,
    squashed,
    tanh_normal,
)
from purerl.distributions.spaces import (
    Hybrid,
    clip_to_space,
    first_of,
    for_space,
    hybrid,
    is_discrete,
    map_space,
    tree_of,
)

__all__ = [
    "Hybrid",
    "bernoulli",
    "beta",
    "categorical",
    "clip_to_space",
    "deterministic",
    "find",
    "first_of",
    "for_space",
    "hybrid",
    "is_discrete",
    "joint",
    "map_space",
    "mask_logits",
    "multi_categorical",
    "normal",
    "parameterised",
    "squashed",
    "tanh_normal",
    "tree_of",
]
