"""Meta-gradients through one update of A2C and of PPO against finite differences, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from linear import Linear

import purerl
from purerl import returns
from purerl.core import Rollout, Transition
from purerl.search import metagradient

POLICY = purerl.distributions.categorical(2)
NETWORK = purerl.networks.adapters.with_memory(Linear(POLICY.num_params))
HP = purerl.A2C(learning_rate=0.1, gamma=0.9, gae_lambda=0.7, entropy_cost=0.01, max_grad_norm=0.5)
OBJECTIVE = metagradient.policy_gradient(NETWORK, POLICY, gamma=0.99, gae_lambda=0.95)
NAMES = ("gamma", "gae_lambda")
OF_PPO = purerl.PPO(learning_rate=0.02, gamma=0.9, gae_lambda=0.7, entropy_cost=0.01, num_epochs=3, num_minibatches=3)


def block(seed, steps=6, envs=3):
    """A block with an end of each kind, float64."""
    r = np.random.default_rng(seed)
    ends = np.zeros((2, steps, envs), bool)
    ends[0, 2, 0] = ends[1, 3, 1] = True
    obs, following = r.standard_normal((2, steps, envs, 4))
    log_prob = np.full((steps, envs), -0.7)
    tr = Transition(obs, r.integers(2, size=(steps, envs)), r.standard_normal((steps, envs)), following, *ends,
                    np.ones((steps, envs), bool), log_prob)  # fmt: skip
    return Rollout(jax.tree.map(jnp.asarray, tr), ())


@pytest.mark.parametrize("make, hp", [(purerl.a2c, HP), (purerl.ppo, OF_PPO)], ids=["a2c", "ppo"])
def test_the_gradient_through_an_update_is_that_of_finite_differences(make, hp):
    plain = lambda hp: make(NETWORK, POLICY, hp)
    agent = metagradient.learning(plain, hp, NAMES, OBJECTIVE, 0.05)
    with jax.enable_x64(True):
        first, second = block(0), block(1)
        as_float64 = lambda tree: jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, tree)
        begin = as_float64(agent.init(jax.random.key(0), first.transitions.obs[0]))
        assert jax.tree.leaves(begin.agent.params)[0].dtype == jnp.float64
        zero = metagradient.meta_gradient(OBJECTIVE, begin, first)
        assert all(x == 0 for x in zero.values())  # before the first update nothing depends on them
        update = jax.jit(lambda state, rollout: agent.update(jax.random.key(1), state, rollout))
        after, _ = update(begin, first)
        gradient = jax.jit(lambda state: metagradient.meta_gradient(OBJECTIVE, state, second))(after)

        tr = second.transitions
        value = lambda obs: Linear(2).apply(after.agent.params, obs)[1]
        of_steps = lambda f, x: jnp.stack([f(row) for row in x])
        advantage = returns.gae(tr.reward, of_steps(value, tr.obs), of_steps(value, tr.next_obs), tr.terminated,
                                tr.truncated, 0.99, 0.95)  # fmt: skip

        @jax.jit
        def judged(logits):
            """The mean of -A log π: the policy depends on the logits, and A is what it is after the update."""
            own = dataclasses.replace(hp, **{name: jax.nn.sigmoid(x) for name, x in logits.items()})
            new, _ = plain(own).update(jax.random.key(1), begin.agent, first)
            log_pi = jax.nn.log_softmax(of_steps(lambda obs: Linear(2).apply(new.params, obs)[0], tr.obs))
            return -(advantage * jnp.take_along_axis(log_pi, tr.action[..., None], -1)[..., 0]).mean()

        step = 1e-5
        for name in NAMES:
            up, down = (judged({**after.logits, name: after.logits[name] + s}) for s in (step, -step))
            assert abs(gradient[name]) > 1e-5
            np.testing.assert_allclose(gradient[name], (up - down) / (2 * step), rtol=1e-6, err_msg=name)
        # Adam's first step on a gradient that is not 0 goes against its sign; the step before had a gradient of 0
        third, metrics = update(after, second)
        for name in NAMES:
            assert np.sign(third.logits[name] - after.logits[name]) == -np.sign(gradient[name])
            np.testing.assert_allclose(metrics[name], jax.nn.sigmoid(third.logits[name]), rtol=1e-12)
        np.testing.assert_allclose(jax.nn.sigmoid(begin.logits["gamma"]), 0.9, rtol=1e-6)


def test_it_is_an_agent_like_others_whose_other_parts_learn_as_before(key):
    """With a rate of 0 the parameters are those of A2C; with another one γ and λ change, and stay inside (0, 1)."""
    row = zoo.row("a2c")
    policy = purerl.distributions.for_space(row.env.action_space(row.env_params))
    network = Linear(policy.num_params)
    objective = metagradient.policy_gradient(network, policy, 0.99)
    plain = lambda hp: purerl.a2c(network, policy, hp)

    def trained(agent):
        learner = purerl.learner(row.env, row.env_params, agent, 4, 8)
        return jax.jit(lambda key: purerl.train(learner, key, 20, 5))(key)

    reference, _ = trained(plain(HP))
    fixed, _ = trained(metagradient.learning(plain, HP, NAMES, objective, 0.0))
    learned, metrics = trained(metagradient.learning(plain, HP, NAMES, objective, 0.1))
    same = lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-5)
    jax.tree.map(same, fixed.agent.agent.params, reference.agent.params)
    for name in NAMES:
        assert abs(metrics[name][-1] - getattr(HP, name)) > 0.01 and ((metrics[name] > 0) & (metrics[name] < 1)).all()
    assert learned.nonfinite == 0


@pytest.mark.parametrize(
    "names, said",
    [
        ((), "learning: names is empty; allowed are learning_rate, "),
        (("lam",), r"learning: lam is None; it must name a float in \[0, 1\], of learning_rate"),
        (("anneal_steps",), "learning: anneal_steps is None"),
        (("normalize_obs",), "learning: normalize_obs is False"),
    ],
)
def test_bad_names(names, said):
    with pytest.raises(ValueError, match=said):
        metagradient.learning(lambda hp: purerl.a2c(NETWORK, POLICY, hp), HP, names, OBJECTIVE)
