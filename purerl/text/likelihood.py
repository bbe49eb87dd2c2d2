"""Maximum likelihood: language models fitted to text, and the perplexity of text under a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from purerl import schedules
from purerl.core import Array, Key, Learner
from purerl.gradients import Trained, clip_by_global_norm, sgd
from purerl.hyperparameters import config, option
from purerl.text.models import LanguageModel
from purerl.text.objectives import chunked_log_probs, token_cross_entropy
from purerl.training.environments import canonical
from purerl.training.learners import LearnerState, Sums


@config
class Likelihood:
    """Hyperparameters of `likelihood_learner`: AdamW with a linear warm-up and a cosine schedule, in updates."""

    learning_rate: float = option(1e-3, "highest step size of Adam", low=0.0)
    warmup_updates: float = option(100.0, "updates over which the learning rate rises from 0", low=0.0)
    anneal_updates: float | None = option(
        None, "updates after which the cosine has fallen to its end; None keeps the rate", low=0.0, open_low=True
    )
    final_rate: float = option(0.1, "end of the cosine, as a share of the highest rate", low=0.0, high=1.0)
    weight_decay: float = option(0.1, "decay of matrices, decoupled from the gradient", low=0.0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this global norm", low=0.0, open_low=True)


def learning_rate(hp: Likelihood, updates: Array) -> Array:
    """The learning rate after a number of updates.

        η(u) = η · min((u + 1) / warm-up, 1) · cosine((u - warm-up) / (anneal - warm-up))

    Args:
      updates: u, int scalar.
    Returns:
      η(u), float scalar.
    Reference: Loshchilov & Hutter, 2017, arXiv:1608.03983 (the cosine).

    >>> hp = Likelihood(learning_rate=1.0, warmup_updates=10, anneal_updates=110, final_rate=0.1)
    >>> [round(learning_rate(hp, jnp.int32(u)).item(), 3) for u in (0, 9, 60, 110, 500)]
    [0.1, 1.0, 0.55, 0.1, 0.1]
    """
    updates = updates.astype(jnp.float32)
    warm = jnp.clip((updates + 1) / jnp.maximum(hp.warmup_updates, 1.0), 0.0, 1.0)
    if hp.anneal_updates is None:
        return hp.learning_rate * warm
    length = jnp.maximum(hp.anneal_updates - hp.warmup_updates, 1.0)
    after = jnp.maximum(updates - hp.warmup_updates, 0.0)
    return warm * schedules.cosine(after, hp.learning_rate, hp.learning_rate * hp.final_rate, length)


def log_probs(model: LanguageModel, params: Any, tokens: Array, chunk: int = 64) -> Array:
    """log p of every token but the first, given those before it.

    Args:
      tokens: int `[N, L + 1]`, padded on the right.  chunk: time steps whose logits are in memory at once.
    Returns:
      float `[N, L]`.
    """
    features = model.features(params, tokens[:, :-1])
    return chunked_log_probs(features, model.kernel(params).T, None, tokens[:, 1:], chunk)


def adamw(weight_decay, max_grad_norm) -> optax.GradientTransformation:
    """AdamW's direction for gradients clipped to a global norm; only matrices decay.

    Reference: Loshchilov & Hutter, 2019, arXiv:1711.05101.
    """
    matrices = lambda params: jax.tree.map(lambda x: jnp.ndim(x) > 1, params)
    return optax.chain(
        clip_by_global_norm(max_grad_norm),
        optax.scale_by_adam(b2=0.99),
        optax.add_decayed_weights(weight_decay, matrices),
    )


def likelihood_learner(
    model: LanguageModel,
    batch: Callable[[Key], tuple[Array, Array]],
    hp: Likelihood = Likelihood(),  # noqa: B008 (frozen)
    params: Any = None,
    chunk: int = 64,
) -> Learner:
    """A learner whose `step` is one gradient step on -log p of a batch of text, for `purerl.train` and `purerl.run`.

    Args:
      batch: `key -> (tokens int [B, L + 1], mask bool [B, L])`; the mask says which of `tokens[:, 1:]` are learned.
      params: parameters to start from; None: those of `model.init`.
      chunk: time steps whose logits are in memory at once.
    Returns:
      A learner with metrics `loss` (nats a token) and `learning_rate`.
    """
    optimizer = adamw(hp.weight_decay, hp.max_grad_norm)

    def init(key):
        init_key, run_key = jax.random.split(key)
        start = canonical(model.init(init_key) if params is None else params)
        trained = Trained(start, optimizer.init(start), jnp.zeros((), jnp.int32))
        counters = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)  # two arrays: both are donated
        return LearnerState(counters[0], run_key, trained, (), (), counters[1])

    def loss(params, data):
        tokens, mask = data
        value = token_cross_entropy(log_probs(model, params, tokens, chunk), mask)
        return value, {"loss": value}

    improve = sgd(loss, optimizer)

    def step(state):
        data = batch(jax.random.fold_in(state.key, state.iteration))
        rate = learning_rate(hp, state.agent.updates)
        trained, metrics = improve(state.agent, data, rate)
        trained = trained._replace(updates=state.agent.updates + 1)
        metrics = {**metrics, "learning_rate": jnp.asarray(rate, jnp.float32)}
        iteration = state.iteration + 1
        finite = jnp.isfinite(metrics["loss"])
        nonfinite = jnp.where((state.nonfinite == 0) & ~finite, iteration, state.nonfinite)
        none = jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(())
        sums = Sums(jnp.ones((), jnp.int32), *none, metrics)
        return state._replace(iteration=iteration, agent=trained, nonfinite=nonfinite), sums

    return Learner(init, step)


def perplexity(
    model: LanguageModel, params: Any, tokens: Array, mask: Array, batch: int = 32, chunk: int = 64
) -> Array:
    """exp of the mean of -log p over all tokens of the mask, in batches of rows.

    Args:
      tokens: int `[M, L + 1]`.  mask: bool `[M, L]`, of `tokens[:, 1:]`.  batch: rows in one pass of the network.
    Returns:
      The perplexity of a token, float scalar; 1 if the mask is empty.
    """
    rows = tokens.shape[0]
    short = -rows % batch
    tokens, mask = (jnp.pad(jnp.asarray(x), ((0, short), (0, 0))) for x in (tokens, mask))
    split = lambda x: x.reshape(-1, batch, x.shape[1])

    def sums(data):
        tokens, mask = data
        return jnp.where(mask, log_probs(model, params, tokens, chunk), 0.0).sum()

    total = jax.lax.map(sums, (split(tokens), split(mask))).sum()
    return jnp.exp(-total / jnp.maximum(mask.sum(), 1))
