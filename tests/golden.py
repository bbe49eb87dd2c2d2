"""The first numbers of every agent from one seed, the size of its program, and how to renew both.

    python tests/golden.py

A difference in numbers is a change of results: renew the files, and add a line under RESULTS in CHANGELOG.md. A program
that has grown gets a line in CHANGELOG.md that says what for.
"""

import json
from pathlib import Path

import jax

from purerl.host import options

FOLDER = Path(__file__).parent / "golden"
NAMES = ("ppo", "a2c", "reinforce", "dqn", "qrdqn", "iqn", "rainbow", "pqn", "sac", "td3", "ddpg")
PROGRAMS = Path(__file__).parent / "golden" / "programs.json"


def learner_of(name):
    """An agent with its default hyperparameters, but that it learns from the first step on.

    It acts in CartPole-v1, or in Pendulum-v1 where actions must be continuous.
    """
    import purerl

    algorithm = getattr(purerl, name)
    config = getattr(purerl, name.upper(), None) or getattr(purerl, name.capitalize())
    if options.takes(algorithm, "critic"):
        env, env_params = purerl.make("Pendulum-v1")
        policy = purerl.distributions.hybrid(env.action_space(env_params), config.box)
        torso = lambda: purerl.networks.MLP((16,))
        actor, critic = purerl.networks.actor(policy, torso), purerl.networks.critic(policy, torso)
        make = lambda hp: purerl.learner(env, env_params, algorithm(actor, critic, policy, hp), 4, 32)
        return make, config(learning_starts=0, capacity=1_000, train_every=32)
    env, env_params = purerl.make("CartPole-v1")
    if not options.takes(algorithm, "policy"):
        start = {"learning_starts": 0} if hasattr(config, "learning_starts") else {}
        hp = config(**start)
        build = getattr(config, "network", purerl.networks.q_network)
        outputs = getattr(hp, "num_atoms", None) or getattr(hp, "num_quantiles", None)
        network = build(2, lambda: purerl.networks.MLP((16,)), **({"outputs": outputs} if outputs else {}))
        return lambda hp: purerl.learner(env, env_params, algorithm(network, hp), num_envs=4, rollout_length=32), hp
    policy = purerl.distributions.for_space(env.action_space(env_params))
    network = purerl.networks.actor_critic(policy, lambda: purerl.networks.MLP((16,)))
    make = lambda hp: purerl.learner(env, env_params, algorithm(network, policy, hp), num_envs=4, rollout_length=32)
    return make, config()


def equations(jaxpr):
    """The equations of a jaxpr and of all that lies inside it."""
    return sum(1 + sum(equations(inner) for inner in _inside(eqn.params)) for eqn in jaxpr.eqns)


def _inside(params):
    for value in params.values():
        for inner in value if isinstance(value, (tuple, list)) else [value]:
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner


def size(name):
    """Equations of one step of an agent's learner, environment and all."""
    make, hp = learner_of(name)
    state = jax.eval_shape(make(hp).init, jax.random.key(0))
    return equations(jax.make_jaxpr(lambda hp, state: make(hp).step(state))(hp, state).jaxpr)


def version():
    """The versions of jax whose programs have the same size: 0.9 of 0.9.2."""
    return ".".join(jax.__version__.split(".")[:2])


def measure(name):
    """Metrics of three updates."""
    import purerl

    make, hp = learner_of(name)
    _, metrics = jax.jit(lambda key: purerl.train(make(hp), key, 3))(jax.random.key(0))
    return {key: [float(f"{x:.6g}") for x in values.tolist()] for key, values in sorted(metrics.items())}


if __name__ == "__main__":
    for name in NAMES:
        (FOLDER / f"{name}.json").write_text(json.dumps(measure(name), indent=1) + "\n")
    sizes = json.loads(PROGRAMS.read_text()) if PROGRAMS.exists() else {}
    sizes[version()] = {name: size(name) for name in NAMES}
    PROGRAMS.write_text(json.dumps(sizes, indent=1) + "\n")
