"""Networks: torsos, which encode observations, memories, and heads for policies and values."""

from purerl.networks.cnn import MinAtarCNN, NatureCNN
from purerl.networks.heads import Actor, ActorCritic, Critic, actor, actor_critic, critic, recurrent_torso, split_mask
from purerl.networks.mlp import MLP, OneHot
from purerl.networks.q_heads import Noisy, QHead, implicit_q_network, noisy, q_network
from purerl.networks.recurrent import Core, gru, lstm, min_gru, stack
from purerl.networks.transformer import transformer

__all__ = [
    "MLP",
    "Actor",
    "ActorCritic",
    "Core",
    "Critic",
    "MinAtarCNN",
    "NatureCNN",
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
    "recurrent_torso",
    "split_mask",
    "stack",
    "transformer",
]
