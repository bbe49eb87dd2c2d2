"""The families of agents: policy gradient, Q-learning, and actor-critic with a replay."""

from __future__ import annotations

from typing import Any

from purerl import bellman, distributions, exploration, losses, networks
from purerl.agents.parts.declarations import Body, Choice, Family, Number, Switch, declaration_of, name_of
from purerl.agents.parts.q_learning import unperturbed


def _refuse_memory(make: Any, body: Body) -> None:
    if body.memory is not None:
        raise ValueError(f"--memory: {name_of(make)} takes no network with memory")


# --- policy gradient ------------------------------------------------------------------------------------------------

BOXES = {"normal": distributions.normal, "tanh-normal": distributions.tanh_normal, "beta": distributions.beta}


def _policy(make, space, options):
    del make
    return distributions.for_space(space, BOXES[options.get("policy", "normal")])


def _actor_critic_network(make, policy, body, options, hp):
    del make, hp
    return networks.actor_critic(policy, body.torso, options.get("shared_torso", False), body.memory)


POLICY_GRADIENT = Family(
    _policy,
    _actor_critic_network,
    lambda make, network, policy, hp, parts: make(network, policy, hp, **parts),
    {
        "shared_torso": Switch(False, "whether actor and critic share their torso", "separate-torsos"),
        "policy": Choice(
            {name: lambda options, box=box: box for name, box in BOXES.items()},
            "of continuous actions; a normal's are clipped to the bounds, the others' lie inside",
        ),
    },
)

# --- Q-learning -----------------------------------------------------------------------------------------------------


def _num_actions(make, space, options):
    del options
    if not distributions.is_discrete(space):
        raise ValueError(f"{name_of(make)} is for discrete actions; the environment has {space!r}")
    return int(space.n)


def _q_network(make, num_actions, body, options, hp):
    about = declaration_of(make)
    if not about.memory:
        _refuse_memory(make, body)
    build = about.network or networks.q_network
    kinds = {name: options.get(name, about.switches.get(name, False)) for name in ("dueling", "noise")}
    kinds |= {} if body.memory is None else {"memory": body.memory}
    kinds |= {} if about.outputs is None else {"outputs": about.outputs(hp)}
    return build(num_actions, body.torso, **kinds)


def _q_agent(make, network, num_actions, hp, parts):
    del num_actions
    return make(network, hp, **parts)


def _perturb(make, options):
    if "noise" not in options:
        return {}  # as the constructor has it
    if declaration_of(make).perturb:
        return {"perturb": networks.noisy if options["noise"] else unperturbed}
    if options["noise"]:
        raise ValueError(f"--noise: {name_of(make)} has no part that draws it")
    return {}


Q_LEARNING = Family(
    _num_actions,
    _q_network,
    _q_agent,
    {
        "dueling": Switch(False, "Q = V + A - mean A"),
        "noise": Switch(False, "noisy layers in the head: explores without --explore-start and --explore-end"),
    },
    _perturb,
)

RESCALED = bellman.transformed_backup(bellman.double_backup, bellman.signed_hyperbolic, bellman.signed_parabolic)
BACKUP = Choice(
    {
        "max": lambda options: bellman.max_backup,
        "double": lambda options: bellman.double_backup,
        "munchausen": lambda options: bellman.munchausen_backup(options["temperature"]),
        "soft": lambda options: bellman.soft_backup(options["temperature"]),
        "rescaled": lambda options: RESCALED,
    },
    "the TD target of Q(s,a): see purerl.bellman",
)
TEMPERATURE = Number(0.03, "τ of --backup munchausen and soft")
TD_LOSS = Choice(
    {"squared": lambda options: losses.squared, "huber": lambda options: losses.huber}, "the loss of the TD error"
)
EXPLORE = Choice(
    {
        "epsilon-greedy": lambda options: exploration.epsilon_greedy,
        "boltzmann": lambda options: exploration.boltzmann,
    },
    "how actions are chosen; the next options say how much",
)
DQN_PARTS = {"backup": BACKUP, "td_loss": TD_LOSS, "explore": EXPLORE, "temperature": TEMPERATURE}
# what CleanRL publishes its classic-control table with
CLASSIC_CONTROL = {
    "num_envs": 1,
    "rollout_length": 10,
    "hidden": (120, 84),
    "activation": "relu",
    "parts": {"explore": EXPLORE},
    "perturb": True,
}

# --- actor-critics with a replay ------------------------------------------------------------------------------------


def _hybrid(make, space, options):
    del options
    return distributions.hybrid(space, declaration_of(make).box or distributions.squashed)


def _actor_and_critic(make, policy, body, options, hp):
    del options, hp
    _refuse_memory(make, body)
    encoder = () if body.torso is body.joined else (body.torso,)  # before the action joins what it gives
    return networks.actor(policy, body.torso), networks.critic(policy, body.joined, *encoder)


ACTOR_CRITIC = Family(
    _hybrid,
    _actor_and_critic,
    lambda make, network, policy, hp, parts: make(*network, policy, hp, **parts),
    {},
)

PROCESS = Choice(
    {
        "gaussian": lambda options: exploration.gaussian_noise,
        "ornstein-uhlenbeck": lambda options: exploration.ornstein_uhlenbeck,
    },
    "the noise that explores",
)
CONTINUOUS_CONTROL = {"num_envs": 1, "rollout_length": 1, "hidden": (256, 256), "activation": "relu"}
