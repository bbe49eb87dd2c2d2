"""Text as an environment: an action is a token, and an episode is the completion of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_counts, check_functions
from purerl.core import Array, Transition
from purerl.text.data import Task
from purerl.text.metrics import lengths_before

Score = Callable[[Array, Array, Array], Array]  # (tokens [T], length [], index []) -> float []


@struct.dataclass
class TextGenerationParams:
    """max_steps_in_episode: the number of tokens at which a completion terminates."""

    max_steps_in_episode: int


class TextGenerationState(NamedTuple):
    """Which prompt of the task is completed, the tokens so far, and their number."""

    index: Array  # int32
    tokens: Array  # int32 [T], the end token where there is none yet
    time: Array  # int32


def equals_a_reference(
    tokens: Array, length: Array, references: Array, reference_length: Array, reference_mask: Array
) -> Array:
    """Whether texts equal one of their references, token by token.

    Args:
      tokens: int `[..., T]`.  length: int `[...]`.
      references: int `[..., R, L]`.  reference_length: int `[..., R]`.  reference_mask: bool `[..., R]`.
    Returns:
      bool `[...]`.

    >>> one = jnp.array([[1, 2], [1, 3]])
    >>> equals_a_reference(jnp.array([1, 3, 0]), jnp.array(2), one, jnp.array([2, 2]), jnp.array([True, True])).item()
    True
    """
    size = min(tokens.shape[-1], references.shape[-1])
    after = jnp.arange(size) >= length[..., None, None]
    same = (after | (tokens[..., None, :size] == references[..., :size])).all(-1)
    return (reference_mask & same & (reference_length == length[..., None])).any(-1)


def exact_match(task: Task) -> Score:
    """1 for a completion that ended and equals one of its prompt's references, otherwise 0.

    Returns:
      A score of `TextGeneration`: `(tokens [T], length [], index []) -> float32 []`.
    """
    given = tuple(map(jnp.asarray, (task.references, task.reference_length, task.reference_mask)))

    def score(tokens, length, index):
        equal = equals_a_reference(tokens, length, *(x[index] for x in given))
        return (equal & (length < tokens.shape[-1])).astype(jnp.float32)

    return score


def ended_by_token(transitions: Transition) -> Array:
    """Which completions of a block ended by the end token and not at the limit, bool `[N]`, such as for `grpo(ended=)`.

    Args:
      transitions: a block `[T, N]` of an episodic learner with `info=("index", "ended")`.
    """
    return (transitions.info["ended"] & transitions.valid).any(0)


class TextGeneration(Environment):
    """Complete a prompt token by token; the reward is the score of the completion at its end, and 0 before.

    A reset draws a prompt of the task uniformly. Every action is a token that is added; the episode terminates at the
    end token or at `max_tokens`: that limit is part of the task, and no value follows it. Observations are
    `{"prompt": int32 [P], "length": int32, "token": int32}`: the prompt, padded on the right, its length, and the
    newest token, which after a reset is the last one of the prompt. `info` has the prompt's `index` in the task, and
    whether it has `ended` by the end token; agents that leave out what the limit cut need `ended_by_token`.

    Args:
      task: prompts, and references if there are any.
      max_tokens: T, the most tokens of a completion, the end token included.
      score: `(tokens [T], length [], index []) -> float []`: the completion, padded by the end token, its length
        before the end token (T if it did not end), and the index of its prompt. It is computed on every step; scores
        that cost more are rewards, `purerl.text.rewards`. None: `exact_match(task)`, which is 0 without references.
      vocab_size: V, the number of actions; None: one more than the largest id in the task. It does not restrict the
        actions of a policy.
    Raises:
      ValueError: for a task without prompts, an empty prompt, or a limit that is not a positive int.
    """

    def __init__(self, task: Task, max_tokens: int, score: Score | None = None, vocab_size: int | None = None):
        check_counts("TextGeneration", max_tokens=max_tokens)
        lengths = np.asarray(task.prompt_length)
        if len(lengths) == 0 or lengths.min() < 1:
            about = "no prompts" if len(lengths) == 0 else f"an empty prompt, at index {lengths.argmin()}"
            raise ValueError(f"TextGeneration: the task has {about}; each prompt must have at least one token")
        largest = 1 + int(max(np.max(task.prompts), np.max(task.references, initial=0), task.end))
        self._vocab_size = largest if vocab_size is None else vocab_size
        check_counts("TextGeneration", vocab_size=self._vocab_size)
        if self._vocab_size < largest:
            raise ValueError(
                f"TextGeneration: vocab_size is {vocab_size}; it must be at least {largest}, for the ids of the task"
            )
        self._score = exact_match(task) if score is None else score
        check_functions("TextGeneration", score=self._score)
        self.task, self._max_tokens = task, max_tokens

    @property
    def name(self) -> str:
        return "TextGeneration"

    @property
    def num_actions(self) -> int:
        return self._vocab_size

    @property
    def default_params(self) -> TextGenerationParams:
        return TextGenerationParams(self._max_tokens)

    def reset_env(self, key, params):
        del params
        index = jax.random.randint(key, (), 0, len(self.task.prompts), jnp.int32)
        tokens = jnp.full(self._max_tokens, self.task.end, jnp.int32)
        state = TextGenerationState(index, tokens, jnp.zeros((), jnp.int32))
        prompt, length = self._prompt(index)
        return {"prompt": prompt, "length": length, "token": prompt[length - 1]}, state

    def step_env(self, key, state, action, params):
        del key, params
        token = jnp.asarray(action, jnp.int32)
        tokens, time = state.tokens.at[state.time].set(token), state.time + 1
        ended = token == self.task.end
        terminated = ended | (time >= self._max_tokens)
        score = self._score(tokens, lengths_before(tokens, self.task.end), state.index)
        prompt, length = self._prompt(state.index)
        obs = {"prompt": prompt, "length": length, "token": token}
        reward = jnp.where(terminated, score, 0.0)
        info = {"index": state.index, "ended": ended}
        return obs, TextGenerationState(state.index, tokens, time), reward, terminated, info

    def _prompt(self, index):
        prompts, lengths = jnp.asarray(self.task.prompts, jnp.int32), jnp.asarray(self.task.prompt_length, jnp.int32)
        return prompts[index], lengths[index]

    def is_truncated(self, state, params):
        del state, params
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return spaces.Discrete(self._vocab_size)

    def observation_space(self, params):
        longest = self.task.prompts.shape[1]
        return spaces.Dict(
            {
                "prompt": spaces.Box(0, self._vocab_size - 1, (longest,), jnp.int32),
                "length": spaces.Box(1, longest, (), jnp.int32),
                "token": spaces.Discrete(self._vocab_size),
            }
        )
