"""Assemble the text task of a run from its settings: environment, network, policy and training reward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purerl import rewards
from purerl.core import Distribution, MemoryNetwork, Reward
from purerl.text import data, environment, models, objectives, tokens
from purerl.text import rewards as text_rewards
from purerl.text.data import Task
from purerl.text.tokens import Tokenizer


class Settings(NamedTuple):
    """The settings of a text task."""

    model: str  # the folder of a language model
    data: str  # the source of the prompts; see `data.pairs` and `data.documents`
    max_prompt: int = 64  # tokens
    max_tokens: int = 32  # of a completion
    temperature: float = 1.0  # of the sampled softmax
    value: bool = True  # whether the network has a value head


class Parts(NamedTuple):
    """The parts of a learner on a text task."""

    env: Any
    env_params: Any
    network: Callable[[Any, Any], MemoryNetwork]  # (policy, hp) -> network
    policy: Distribution
    reward: Callable[[str], Reward]  # the names of terms -> the training reward
    task: Task
    tokenizer: Tokenizer
    model: models.LanguageModel
    params: Any


# the terms of training rewards: (task, max_tokens, tokenizer) -> function of transitions
TERMS: dict[str, Callable[[Task, int, Tokenizer], Callable]] = {
    "exact": lambda task, size, tokenizer: text_rewards.exact_match(task),
    "bleu": lambda task, size, tokenizer: text_rewards.bleu(task),
    "rouge-1": lambda task, size, tokenizer: text_rewards.rouge_n(task, 1),
    "rouge-2": lambda task, size, tokenizer: text_rewards.rouge_n(task, 2),
    "rouge-l": lambda task, size, tokenizer: text_rewards.rouge_l(task),
}
