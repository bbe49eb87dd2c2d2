"""Networks: torsos that represent an observation, and the heads that act and judge on top of them."""

from purerl.networks.cnn import MinAtarCNN
from purerl.networks.heads import ActorCritic, actor_critic
from purerl.networks.mlp import MLP

__all__ = ["MLP", "ActorCritic", "MinAtarCNN", "actor_critic"]
