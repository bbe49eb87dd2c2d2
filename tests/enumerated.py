"""All 81 sequences of 3 tokens and length 4, and a policy that is a table of logits: sums in place of samples."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

VOCABULARY, LENGTH, END = 3, 4, 2
ALL = np.array(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))  # [81, 4]
PREFIXES = {
    p: i for i, p in enumerate(p for n in range(LENGTH) for p in itertools.product(range(VOCABULARY), repeat=n))
}
STATE = np.array([[PREFIXES[tuple(y[:t])] for t in range(LENGTH)] for y in ALL])  # [81, 4]: the prefix of each token


def log_probs(logits):
    """log π of each token of each of the 81 sequences, from a table of logits `[40, 3]`, one row a prefix."""
    return jax.nn.log_softmax(logits)[STATE, ALL]


def in_float64(f):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(f)(*tables()[:1]))


@cache
def tables():
    """Logits of the policy and of the reference, and the reward of each sequence, which depends on no tail."""
    random = np.random.default_rng(3)
    logits, reference = random.normal(size=(2, len(PREFIXES), VOCABULARY))
    seen = {}
    reward = np.array([seen.setdefault(completion(y), random.normal()) for y in ALL])
    return logits, reference, reward


def completion(y):
    """A sequence up to its end token, as a tuple."""
    out = []
    for token in y:
        out.append(int(token))
        if token == END:
            break
    return tuple(out)


MASK = np.array([np.arange(LENGTH) < len(completion(y)) for y in ALL])
PAIRS = np.array(list(itertools.product(range(81), repeat=2)))  # [6561, 2]


def exact(per_sequence):
    """The gradient of Σ p(y) f(y), with f a constant, by the sum over all sequences."""
    return in_float64(jax.grad(lambda x: (jnp.exp(log_probs(x).sum(-1)) * per_sequence).sum()))


def close(a, b, tolerance=1e-12):
    assert np.abs(b).max() > 1e-3
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
