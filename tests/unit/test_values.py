"""What agents that learn Q from sequences look at: what is trained on, and what only brings a memory up to date."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from drawn import drawn

from purerl import exploration, gradients, networks
from purerl.agents.parts import q_learning
from purerl.core import Rollout, Transition

NETWORK = networks.q_network(2, partial(networks.MLP, (3,)), memory=networks.gru(4))


def test_no_gradient_runs_into_the_burn_in():
    """It is as if the memory after it had been given."""
    obs, next_obs = np.random.default_rng(0).normal(size=(2, 7, 2, 5)).astype(np.float32)
    ended = np.zeros((7, 2), bool)
    ended[1, 0] = ended[5, 1] = True
    params, start = drawn(NETWORK.init, obs[0]), NETWORK.memory(2)
    before = obs[:3], ended[:3]
    nothing = np.zeros((4, 2), np.float32)
    batch = q_learning.Batch(obs[3:], nothing, nothing, 0.9, ended[3:], next_obs[3:], ended[3:], None, start, before)
    given = batch._replace(memory=jax.jit(NETWORK.unroll)(params, start, *before)[2], burn_in=None)
    total = jax.jit(
        jax.value_and_grad(
            lambda params, batch: sum(jnp.sin(x).sum() for x in q_learning.apply_to_batch(NETWORK, params, batch))
        )
    )
    after, without, forgotten = (total(params, b) for b in (batch, given, given._replace(memory=start)))
    for got, wanted in zip(jax.tree.leaves(after), jax.tree.leaves(without), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert not np.isclose(without[0], forgotten[0])


def test_the_steps_after_the_burn_in_are_what_is_learned_from(key):
    """Two blocks of four steps, whose observations are their times: of 0, 1, 2 | 3, 4, 5, 6 | 7 the middle is."""
    hp = q_learning.QLearning(
        learning_starts=0, train_every=8, batch_size=4, capacity=16, sequence_length=4, burn_in=3, n_step=2, gamma=0.5,
        priority=1.0,
    )  # fmt: skip

    def loss(params, target_params, key, s):
        # the three numbers that are reported: what comes before, what is trained on, and its two rewards
        return q_learning.Errors(jnp.broadcast_to(s.burn_in[0][..., 0].mean(0), (4, 4)), s.obs[:4, :, 0], s.reward)

    parts = lambda q: q, loss, exploration.epsilon_greedy, q_learning.unperturbed, gradients.adam
    agent = q_learning.agent(NETWORK, hp, *parts)
    time, no = np.arange(8, dtype=np.float32)[:, None], np.zeros((8, 1), bool)
    tr = Transition(time[..., None], no.astype(np.int32), time, time[..., None] + 1, no, no, ~no)
    state, update = jax.jit(agent.init)(key, tr.obs[0]), jax.jit(agent.update)
    for rows in (slice(0, 4), slice(4, 8)):
        block = Rollout(jax.tree.map(lambda x, rows=rows: x[rows], tr), NETWORK.memory(1))
        state, metrics = update(key, state, block)
    assert state.events == 1
    np.testing.assert_allclose([metrics["loss"], metrics["td_error"]], [1.0, 4.5])
    np.testing.assert_allclose(metrics["q"], 4.5 + 0.5 * 5.5)
    # of a sequence: 0.9 of the largest error and 0.1 of their mean
    np.testing.assert_allclose(state.replay.priorities.tree[0].max(), 0.9 * 6 + 0.1 * 4.5, rtol=1e-5)
