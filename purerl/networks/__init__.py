"""Networks: torsos that represent an observation, what remembers, and the heads that act and judge on top of them."""

from purerl.networks.cnn import MinAtarCNN
from purerl.networks.heads import Actor, ActorCritic, Critic, actor, actor_critic, critic, remembering, sight
from purerl.networks.mlp import MLP, OneHot
from purerl.networks.recurrent import Core, gru, lstm, min_gru, stack
from purerl.networks.transformer import transformer
from purerl.networks.values import Noisy, QHead, implicit_q_network, noisy, q_network

__all__ = [
    "MLP",
    "Actor",
    "ActorCritic",
    "Core",
    "Critic",
    "MinAtarCNN",
    "Noisy",
    "OneHot",
    "QHead",
    "actor",
    "actor_critic",
    "critic",
    "gru",
    "implicit_q_network",
    "lstm",
    "min_gru",
    "noisy",
    "q_network",
    "remembering",
    "sight",
    "stack",
    "transformer",
]
