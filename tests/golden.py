"""The first numbers of every agent from one seed, and how to renew them.

    python tests/golden.py

A difference is a change of results: renew the files, and add a line under RESULTS in CHANGELOG.md.
"""

import json
from pathlib import Path

import jax

FOLDER = Path(__file__).parent / "golden"
NAMES = ("ppo", "a2c", "reinforce")


def measure(name):
    """Metrics of three updates on CartPole-v1."""
    import purerl

    algorithm, config = getattr(purerl, name), getattr(purerl, name.upper())
    env, env_params = purerl.make("CartPole-v1")
    policy = purerl.distributions.for_space(env.action_space(env_params))
    network = purerl.networks.actor_critic(policy, lambda: purerl.networks.MLP((16,)))
    learner = purerl.learner(env, env_params, algorithm(network, policy, config()), num_envs=4, rollout_length=32)
    _, metrics = jax.jit(lambda key: purerl.train(learner, key, 3))(jax.random.key(0))
    return {key: [float(f"{x:.6g}") for x in values.tolist()] for key, values in sorted(metrics.items())}


if __name__ == "__main__":
    for name in NAMES:
        (FOLDER / f"{name}.json").write_text(json.dumps(measure(name), indent=1) + "\n")
