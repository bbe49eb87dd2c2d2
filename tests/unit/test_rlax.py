"""Agreement with RLax where it has the same function; needs the extra `peers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

rlax = pytest.importorskip("rlax", reason="rlax is not installed: pip install 'purerl[peers]'")

from purerl import bellman, exploration, losses, returns  # noqa: E402
from purerl.bellman import Next  # noqa: E402

T, A, K = 7, 4, 5
GAMMA, LAM = 0.9, 0.7


def close(a, b, tolerance=1e-6):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


pytestmark = pytest.mark.filterwarnings("ignore:Rlax:PendingDeprecationWarning")


@pytest.fixture
def data():
    """In float64: what differs by 1e-6 differs in more than rounding."""
    with jax.enable_x64(True):
        yield make_data()


def make_data():
    keys = iter(jax.random.split(jax.random.key(0), 12))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    action = jax.random.randint(next(keys), (2, T), 0, A)
    terminated = jax.random.bernoulli(next(keys), 0.2, (T,))
    return normal, action, terminated, GAMMA * (1.0 - terminated)


def test_one_step_backups(data):
    normal, (action, next_action), terminated, discount = data
    q, next_q, online, twin = normal(T, A), normal(T, A), normal(T, A), normal(T, A)
    del twin
    probs, reward = jax.nn.softmax(normal(T, A)), normal(T)
    taken = jnp.take_along_axis(q, action[:, None], 1)[:, 0]
    next = Next(next_q, online=online, probs=probs, action=next_action)
    for backup, error in (
        (bellman.max_backup, lambda: jax.vmap(rlax.q_learning)(q, action, reward, discount, next_q)),
        (bellman.double_backup, lambda: jax.vmap(rlax.double_q_learning)(q, action, reward, discount, next_q, online)),
        (bellman.expected_backup, lambda: jax.vmap(rlax.expected_sarsa)(q, action, reward, discount, next_q, probs)),
        (bellman.sarsa_backup, lambda: jax.vmap(rlax.sarsa)(q, action, reward, discount, next_q, next_action)),
    ):
        close(backup(reward, GAMMA, terminated, next) - taken, error())


def test_distributional(data):
    normal, (action, _), terminated, discount = data
    support, reward = jnp.linspace(-2, 2, K), normal(T)
    logits, next_logits, online = normal(T, A, K), normal(T, A, K), normal(T, A, K)
    taken = jnp.take_along_axis(logits, action[:, None, None], 1)[:, 0]
    soft = jax.nn.softmax
    target = bellman.categorical_backup(support)(reward, GAMMA, terminated, Next(soft(next_logits)))
    over = lambda f, *axes: jax.vmap(f, axes)
    wanted = over(rlax.categorical_q_learning, None, 0, 0, 0, 0, None, 0)(
        support, logits, action, reward, discount, support, next_logits
    )
    close(losses.categorical_cross_entropy(taken, target), wanted)
    selector = (soft(online) * support).sum(-1)
    target = bellman.categorical_backup(support)(reward, GAMMA, terminated, Next(soft(next_logits), soft(online)))
    wanted = over(rlax.categorical_double_q_learning, None, 0, 0, 0, 0, None, 0, 0)(
        support, logits, action, reward, discount, support, next_logits, selector
    )
    close(losses.categorical_cross_entropy(taken, target), wanted)
    fractions = (jnp.arange(K) + 0.5) / K
    quantiles, following = normal(T, K, A), normal(T, K, A)
    swap = lambda x: jnp.swapaxes(x, 1, 2)
    target = bellman.quantile_backup(reward, GAMMA, terminated, swap(following))
    taken = jnp.take_along_axis(swap(quantiles), action[:, None, None], 1)[:, 0]
    for delta in (0.0, 0.5):
        wanted = over(rlax.quantile_q_learning, 0, None, 0, 0, 0, 0, 0, None)(
            quantiles, fractions, action, reward, discount, following, following, delta
        )
        # ours is over δ, as IQN has it
        close(losses.quantile_huber(taken, target, fractions, delta) * (delta or 1), wanted)


def test_projection(data):
    normal, _, _, _ = data
    atoms, probs = jnp.sort(2 * normal(T, 6)), jax.nn.softmax(normal(T, 6))
    support = jnp.array([-2.0, -1.5, 0.1, 0.2, 3.0])
    wanted = jax.vmap(rlax.categorical_l2_project, (0, 0, None))(atoms, probs, support)
    close(bellman.categorical_projection(atoms, probs, support), wanted)


def test_encodings(data):
    x = 10 * data[0](T)
    close(bellman.signed_hyperbolic(x), rlax.signed_hyperbolic(x), 2e-6)
    close(bellman.signed_parabolic(x), rlax.signed_parabolic(x))
    two_hot = rlax.transform_to_2hot(x, -5.0, 5.0, 11)
    close(bellman.two_hot(x, jnp.linspace(-5, 5, 11)), two_hot, 1e-5)  # theirs adds 1e-5 to a bin's width


def test_returns(data):
    normal, _, terminated, discount = data
    reward, value, log_ratio = normal(T), normal(T + 1), 0.5 * normal(T)
    v, following, no = value[:-1], value[1:], jnp.zeros(T, bool)
    close(returns.lambda_returns(reward, following, terminated, no, GAMMA, LAM),
          rlax.lambda_returns(reward, discount, following, LAM))  # fmt: skip
    close(returns.monte_carlo(reward, following, terminated, no, GAMMA),
          rlax.discounted_returns(reward, discount, following[-1]))  # fmt: skip
    # RLax takes n-step returns as if γ stayed the same after an end, so only without one
    close(returns.n_step(reward, following, no, no, GAMMA, 3),
          rlax.n_step_bootstrapped_returns(reward, jnp.full(T, GAMMA), following, 3))  # fmt: skip
    close(returns.gae(reward, v, following, terminated, no, GAMMA, LAM),
          rlax.truncated_generalized_advantage_estimation(reward, discount, LAM, value))  # fmt: skip
    rho = jnp.exp(log_ratio)
    ours = returns.vtrace(log_ratio, reward, v, following, terminated, no, GAMMA, LAM)
    theirs = rlax.vtrace_td_error_and_advantage(v, following, reward, discount, rho, LAM)
    close(ours.target, v + theirs.errors)
    close(ours.advantage, theirs.pg_advantage)


def test_q_returns(data):
    normal, (action, _), terminated, discount = data
    q, reward, log_ratio = normal(T + 1, A), normal(T), 0.5 * normal(T)
    no, probs = jnp.zeros(T, bool), jax.nn.softmax(normal(T + 1, A))
    taken = jnp.take_along_axis(q[:-1], action[:, None], 1)[:, 0]
    expected = bellman.state_value(probs[1:], q[1:])
    close(returns.q_lambda(reward, q[1:], terminated, no, GAMMA, LAM) - taken,
          rlax.q_lambda(q[:-1], action, reward, discount, q[1:], LAM))  # fmt: skip
    # theirs takes log μ of the actions and the target policy itself
    log_mu = jnp.log(jnp.take_along_axis(probs[:-1], action[:, None], 1)[:, 0]) - log_ratio
    # ratios are those of the next step's action; after the last step there is none
    action_t, mu_t = jnp.append(action[1:], 0), jnp.exp(jnp.append(log_mu[1:], 0.0))
    theirs = rlax.retrace(q[:-1], q[1:], action, action_t, reward, discount, probs[1:], mu_t, LAM)
    ours = returns.retrace(log_ratio, reward, taken, expected, terminated, no, GAMMA, LAM)
    close(ours - taken, theirs)


def test_policies(data):
    normal, (action, _), _, _ = data
    q = normal(T, A)
    close(exploration.epsilon_greedy_probs(q, 0.3), rlax.epsilon_greedy(0.3).probs(q))
    close(bellman.softmax_policy(q, 0.5), rlax.softmax(0.5).probs(q))
    weight = jnp.ones(T)
    log_ratio, advantage = 0.3 * normal(T), normal(T)
    ratio = jnp.exp(log_ratio)
    wanted = rlax.clipped_surrogate_pg_loss(ratio, advantage, 0.2)
    close(losses.ppo_clip(log_ratio, advantage, 0.2).mean(), wanted)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(q), action[:, None], 1)[:, 0]
    close(losses.policy_gradient(log_prob, advantage).mean(), rlax.policy_gradient_loss(q, action, advantage, weight))
    close(losses.huber(q[:, 0], q[:, 1], 0.5), rlax.huber_loss(q[:, 0] - q[:, 1], 0.5))
