"""Composite actions: independent parts, or a choice among kinds of action with parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl.core import Distribution
from purerl.distributions.families import categorical, mask_logits


def is_distribution(x: Any) -> bool:
    """Whether x is a `Distribution`, a leaf of a tree of distributions."""
    return isinstance(x, Distribution)


def _pack(parts: list[Distribution]) -> tuple[Callable, Callable, int, int]:
    """Pack the parameters of several distributions into one vector, free parameters last.

    Returns `split(p) -> [p of each]`, `join([p of each]) -> p`, num_params and num_free.
    """
    free = [part.num_free for part in parts]
    given = [part.num_params - part.num_free for part in parts]
    ends = np.cumsum(given + free)[:-1].tolist()

    def split(p):
        pieces = jnp.split(p, ends, axis=-1)
        return [jnp.concatenate(pair, -1) for pair in zip(pieces[: len(parts)], pieces[len(parts) :], strict=True)]

    def join(ps):
        pairs = [jnp.split(p, [n], axis=-1) for p, n in zip(ps, given, strict=True)]
        return jnp.concatenate([x for x, _ in pairs] + [x for _, x in pairs], -1)

    return split, join, sum(given) + sum(free), sum(free)


def joint(parts: Any) -> Distribution:
    """The joint distribution of independent actions, a nesting of dicts and tuples of distributions.

        log π(a|s) = Σᵢ log πᵢ(aᵢ|s),   H = Σᵢ Hᵢ,   KL = Σᵢ KLᵢ

    Args:
      parts: such as `{"kind": categorical(3), "throttle": normal(0.0, 1.0, (2,))}`; actions have its structure.
    Returns:
      A distribution. Its `mask` takes masks in the same structure, for the parts that have one.

    >>> from purerl.distributions import normal
    >>> pi = joint({"kind": categorical(3), "throttle": normal(0.0, 1.0, (2,))})
    >>> action = pi.mode(jnp.zeros(pi.num_params))
    >>> action["kind"].item(), action["throttle"].tolist(), pi.num_params
    (0, [0.5, 0.5], 7)
    """
    named, structure = jax.tree_util.tree_flatten_with_path(parts, is_leaf=is_distribution)
    paths, each = [path for path, _ in named], [part for _, part in named]
    if not each or not all(map(is_distribution, each)):
        raise ValueError(f"joint: parts is {parts!r}; it must be a nesting of dicts and tuples of distributions")
    split, join, num_params, num_free = _pack(each)
    total = lambda function, *args: sum(map(function, each, *args))

    def sample(key, p):
        keys = jax.random.split(key, len(each))
        return structure.unflatten([part.sample(k, x) for part, k, x in zip(each, keys, split(p), strict=True)])

    def sample_and_log_prob(key, p):
        keys = jax.random.split(key, len(each))
        drawn = [part.sample_and_log_prob(k, x) for part, k, x in zip(each, keys, split(p), strict=True)]
        return structure.unflatten([action for action, _ in drawn]), sum(log_prob for _, log_prob in drawn)

    def log_prob(p, action):
        return total(lambda part, p, a: part.log_prob(p, a), split(p), structure.flatten_up_to(action))

    def mode(p):
        return structure.unflatten([part.mode(x) for part, x in zip(each, split(p), strict=True)])

    def mask(p, legal):
        legal = [find(legal, path) for path in paths]
        return join([x if m is None else part.mask(x, m) for part, x, m in zip(each, split(p), legal, strict=True)])

    entropy = lambda p: total(lambda part, p: part.entropy(p), split(p))
    kl = lambda p, q: total(lambda part, p, q: part.kl(p, q), split(p), split(q))
    return Distribution(sample, log_prob, entropy, mode, kl, num_params, num_free, sample_and_log_prob, mask)


def find(tree: Any, path: tuple) -> Any:
    """The subtree at a path of `jax.tree_util`, or None if the tree does not have that path."""
    for step in path:
        key: Any = getattr(step, "key", getattr(step, "idx", None))
        if tree is None or not (key in tree if hasattr(tree, "keys") else key < len(tree)):
            return None
        tree = tree[key]
    return tree


def parameterised(parts: Sequence[Distribution]) -> Distribution:
    """A choice among K kinds of action, each with parameters that only have an effect if it is chosen.

        log π(k, x|s) = log π(k|s) + log πₖ(xₖ|s),   H = H(π) + Σ π(k) Hₖ,   KL = KL(π ‖ π') + Σ π(k) KLₖ

    Args:
      parts: the distribution of the parameters of each kind.
    Returns:
      A distribution over `{"choice": int32 [...], "parameters": (x₁, …, x_K)}`; its mask is that of the choice.
    Reference: Masson, Ranchod & Konidaris, 2016, arXiv:1509.01644, section 2.

    >>> from purerl.distributions import normal
    >>> pi = parameterised((normal(0.0, 1.0, (1,)), normal(0.0, 2.0, (2,))))
    >>> pi.mode(jnp.zeros(pi.num_params))["choice"].item(), pi.num_params
    (0, 8)
    """
    parts = tuple(parts)
    choice = categorical(len(parts))
    split, join, num_params, num_free = _pack([choice, *parts])

    def sample(key, p):
        choice_key, *keys = jax.random.split(key, len(parts) + 1)
        logits, *rest = split(p)
        parameters = tuple(part.sample(k, x) for part, k, x in zip(parts, keys, rest, strict=True))
        return {"choice": choice.sample(choice_key, logits), "parameters": parameters}

    def log_prob(p, action):
        logits, *rest = split(p)
        each = [part.log_prob(x, a) for part, x, a in zip(parts, rest, action["parameters"], strict=True)]
        chosen = action["choice"][..., None] == jnp.arange(len(parts))
        return choice.log_prob(logits, action["choice"]) + jnp.where(chosen, jnp.stack(each, -1), 0.0).sum(-1)

    def expected(logits, each):
        probs = jax.nn.softmax(logits)
        return (probs * jnp.where(probs == 0, 0.0, jnp.stack(each, -1))).sum(-1)

    def entropy(p):
        logits, *rest = split(p)
        return choice.entropy(logits) + expected(logits, [part.entropy(x) for part, x in zip(parts, rest, strict=True)])

    def kl(p, q):
        (p, *ps), (q, *qs) = split(p), split(q)
        return choice.kl(p, q) + expected(p, [part.kl(x, y) for part, x, y in zip(parts, ps, qs, strict=True)])

    def mode(p):
        logits, *rest = split(p)
        parameters = tuple(part.mode(x) for part, x in zip(parts, rest, strict=True))
        return {"choice": choice.mode(logits), "parameters": parameters}

    def sample_and_log_prob(key, p):
        action = sample(key, p)
        return action, log_prob(p, action)

    def mask(p, legal):
        logits, *rest = split(p)
        legal = legal["choice"] if hasattr(legal, "keys") else legal
        return join([mask_logits(logits, legal), *rest])

    return Distribution(sample, log_prob, entropy, mode, kl, num_params, num_free, sample_and_log_prob, mask)
