"""Training rewards of one's own; the returns that are reported stay those of the environment.

Train with one of them, or check them:

    purerl train ppo CartPole-v1 --reward FILE.py:my_reward
    purerl train ppo CartPole-v1 --reward FILE.py:my_shaped_reward
    python FILE.py
"""

import jax
import jax.numpy as jnp

import purerl
from purerl import rewards


def my_reward(transitions):
    """A reward for every step, `[T, N]`, from a block of transitions: obs, action, reward, next_obs, terminated, ...

    Entries of the environment's info are in `transitions.info` if --info names them.
    """
    position = transitions.next_obs[..., 0]
    return transitions.reward - 0.1 * jnp.abs(position)


def my_shaped_reward(hp):
    """A function of the hyperparameters, called hp, that returns a `purerl.Reward`: one after the other.

    Shaping by a potential of the state leaves the optimal policy as it is.
    """
    upright = lambda obs: -jnp.abs(obs[..., 2])
    return rewards.chain(rewards.scale(0.1), rewards.potential(upright, hp.gamma))


if __name__ == "__main__":
    block = jax.random.normal(jax.random.key(seed=0), (5, 3, 4))
    number, flag = jnp.ones((5, 3)), jnp.zeros((5, 3), bool)
    transitions = purerl.Transition(block, flag, number, block, flag, flag, ~flag)
    for reward in (rewards.term(my_reward, "my_reward"), my_shaped_reward(purerl.PPO())):
        purerl.testing.check_reward(reward, transitions, jax.random.key(seed=1))
