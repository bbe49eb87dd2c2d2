"""What agents that learn Q from sequences look at: what is trained on, and what only brings a memory up to date."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from purerl import exploration, networks, updates, values
from purerl.core import Rollout, Transition

NETWORK = networks.q_network(2, partial(networks.MLP, (3,)), memory=networks.gru(4))


def test_no_gradient_runs_into_the_burn_in(key):
    """It is as if the memory after it had been given."""
    obs_key, next_key, init_key = jax.random.split(key, 3)
    obs, next_obs = (jax.random.normal(k, (7, 2, 5)) for k in (obs_key, next_key))
    ended = jnp.zeros((7, 2), bool).at[1, 0].set(True).at[5, 1].set(True)
    params, start = NETWORK.init(init_key, obs[0]), NETWORK.memory(2)
    before = obs[:3], ended[:3]
    nothing = jnp.zeros((4, 2))
    batch = values.Batch(obs[3:], nothing, nothing, 0.9, ended[3:], next_obs[3:], ended[3:], None, start, before)
    given = batch._replace(memory=NETWORK.unroll(params, start, *before)[2], burn_in=None)
    total = jax.jit(
        jax.value_and_grad(lambda params, batch: sum(jnp.sin(x).sum() for x in values.look(NETWORK, params, batch)))
    )
    for got, wanted in zip(*(jax.tree.leaves(total(params, b)) for b in (batch, given)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert not np.isclose(total(params, given)[0], total(params, given._replace(memory=start))[0])


def test_the_steps_after_the_burn_in_are_what_is_learned_from(key):
    """Two blocks of four steps, whose observations are their times: of 0, 1, 2 | 3, 4, 5, 6 | 7 the middle is."""
    hp = values.QLearning(
        learning_starts=0, train_every=8, batch_size=4, capacity=16, sequence_length=4, burn_in=3, n_step=2, gamma=0.5
    )

    def loss(params, target_params, key, s):
        trained = s.obs[:4, :, 0]
        # the three numbers that are reported: what is trained on, what comes before, and its two rewards
        return values.Errors(
            trained + 0 * s.burn_in[1][0], jnp.broadcast_to(s.burn_in[0][..., 0].mean(0), (4, 4)), s.reward
        )

    parts = lambda q: q, loss, exploration.epsilon_greedy, values.unperturbed, updates.adam
    agent = values.value_agent(NETWORK, hp, *parts)
    time, no = jnp.arange(8.0)[:, None], jnp.zeros((8, 1), bool)
    tr = Transition(time[..., None], no.astype(jnp.int32), time, time[..., None] + 1, no, no, ~no)
    state = agent.init(key, tr.obs[0])
    for rows in (slice(0, 4), slice(4, 8)):
        block = Rollout(jax.tree.map(lambda x, rows=rows: x[rows], tr), NETWORK.memory(1))
        state, metrics = agent.update(key, state, block)
    assert state.events == 1
    np.testing.assert_allclose([metrics["loss"], metrics["td_error"]], [4.5, 1.0])
    np.testing.assert_allclose(metrics["q"], 4.5 + 0.5 * 5.5)
