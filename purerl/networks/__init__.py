"""Networks: torsos that represent an observation, what remembers, and the heads that act and judge on top of them."""

from purerl.networks.cnn import MinAtarCNN
from purerl.networks.heads import ActorCritic, actor_critic, remembering
from purerl.networks.mlp import MLP
from purerl.networks.recurrent import Core, gru, lstm, min_gru
from purerl.networks.transformer import transformer

__all__ = [
    "MLP",
    "ActorCritic",
    "Core",
    "MinAtarCNN",
    "actor_critic",
    "gru",
    "lstm",
    "min_gru",
    "remembering",
    "transformer",
]
