"""Lines of k-space and glimpses: how agents are judged on images that they have not seen, and pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from purerl import networks, rewards, training
from purerl.core import where_ended
from purerl.envs.fields import acquisition
from purerl.envs.fields.glimpses import Glimpses, every_location
from purerl.envs.wrappers import Wrapper

# --- lines of k-space -------------------------------------------------------------------------------------------------


def standardized(train: Any) -> acquisition.Observe:
    """What the agent sees: the acquired lines, and the standardised logarithms of their energies, `[2 n]`.

    Slices are alike: by `energies_seen` they differ in the third digit. Moments are of the slices for training.
    """
    logarithm = lambda energy: jnp.log10(jnp.maximum(energy, acquisition.FLOOR))
    of_train = np.asarray(logarithm(jnp.asarray(train.energy)))
    mean, deviation = of_train.mean(0), of_train.std(0) + 1e-3

    def observe(kspace, energy, acquired):
        del kspace
        seen = jnp.where(acquired, (logarithm(energy) - mean) / deviation, 0)
        return jnp.concatenate([acquired, seen]).astype(jnp.float32)

    return observe


def relative_energy(env: Any) -> Any:
    """The training reward: the energy of a line relative to the best fixed order's line of that step, in the mean.

    In each step the same lines are best; but late lines, which have a hundredth of the first's energy, count as much.
    """
    num, size = env.default_params.max_steps_in_episode, env.num_actions
    typical = jnp.asarray(-np.sort(-energies(env.default_params).mean(0))[:num], jnp.float32)
    return rewards.term(lambda tr: tr.reward / typical[tr.obs["seen"][..., :size].sum(-1).astype(int)])


def chosen_lines(env: Any, agent: Any, state: Any, key: Any) -> dict[str, Any]:
    """The lines that the greedy policy acquires of each slice for test, `[M, K]`."""
    del key
    params = jax.tree.map(jnp.asarray, env.test_params)
    num = len(params.kspace)

    def step(carry, _):
        obs, env_state, memory = carry
        action, memory = agent.greedy(state, memory, obs)
        obs, env_state, *_ = jax.vmap(lambda s, a: env.step_env(jax.random.key(0), s, a, params))(env_state, action)
        return (obs, env_state, memory), action

    begin = jax.vmap(lambda image: env.begin(image, params))(jnp.arange(num))
    lines = jax.lax.scan(step, (*begin, agent.memory(num)), length=env.test_params.max_steps_in_episode)[1]
    return {"lines": lines.T}


def energies(params: Any) -> np.ndarray:
    """The share of each line in the energy of its image, `[M, n]`."""
    return np.asarray(acquisition.line_energies(np.asarray(params.kspace)), float)


def error_in_percent(test: np.ndarray, found: dict[str, Any]) -> float:
    """The mean error of the zero-filled inverses after all lines `[M, K]`, of energies `[M, n]`, in per cent."""
    return 100 * float(acquisition.error_of(found["lines"], test)[:, -1].mean())


def draw_lines(env: Any, agent: Any, state: Any, key: Any, path: Path) -> None:
    """The order in which lines are acquired of each slice for test, beside the oracle's lines."""
    import matplotlib.pyplot as plt

    test = energies(env.test_params)
    lines = np.asarray(jax.jit(partial(chosen_lines, env, agent))(state, key)["lines"])
    best = acquisition.oracle_lines(test, lines.shape[1])
    image = np.full(test.shape, np.nan)
    np.put_along_axis(image, lines, np.broadcast_to(np.arange(1, lines.shape[1] + 1), lines.shape), 1)
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    shown = axes.imshow(image, aspect="auto", interpolation="nearest")
    rows = np.broadcast_to(np.arange(len(best))[:, None], best.shape)
    axes.plot(best.ravel(), rows.ravel(), "x", color="tab:red", markersize=5, label="the oracle's lines")
    used = np.flatnonzero(np.isfinite(image).any(0) | np.isin(np.arange(env.num_actions), best))
    axes.set(xlim=(used[0] - 1, used[-1] + 1), xlabel="line of k-space; the middle has frequency 0")
    axes.set_ylabel("slice for test")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    figure.colorbar(shown, label="order")
    figure.savefig(path, dpi=110)
    plt.close(figure)


# --- glimpses ---------------------------------------------------------------------------------------------------------

EPISODES = 8_192


class Changed(Wrapper):
    """`Glimpses` with other actions or observations, and its images for test."""

    env: Glimpses

    @property
    def test_params(self):
        return self.env.test_params


class RandomGlimpses(Changed):
    """Every location is uniform: the agent only names the class."""

    def action_space(self, params=None):
        return spaces.Dict({"class": self.env.action_space(params).spaces["class"]})

    def step_env(self, key, state, action, params):
        location = jax.random.uniform(key, (2,), jnp.float32, -1, 1)
        return self.env.step_env(key, state, {**action, "location": location}, params)


class WholeImages(RandomGlimpses):
    """The agent sees all pixels, at every step, and only names the class."""

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (int(np.prod(params.images.shape[1:])),), jnp.float32)

    def _see(self, state, params):
        return jnp.asarray(params.images)[state.image].reshape(-1).astype(jnp.float32)

    def reset_env(self, key, params):
        _, state = self.env.reset_env(key, params)
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        _, state, *rest = super().step_env(key, state, action, params)
        return self._see(state, params), state, *rest


class Cells(Changed):
    """Locations are pixels, numbered row by row: nothing is lost, since a glimpse is at the nearest one."""

    def action_space(self, params=None):
        side = np.shape(self.env.default_params.images)[1]
        return spaces.Dict({**self.env.action_space(params).spaces, "location": spaces.Discrete(side**2)})

    def step_env(self, key, state, action, params):
        location = jnp.asarray(every_location(params.images.shape[1])[0])[action["location"]]
        return self.env.step_env(key, state, {**action, "location": location}, params)


def canvas(side: int, patch: int) -> networks.Core:
    """A memory without parameters: the pixels seen in their places, which of them were seen, and the last location.

    Its inputs are the observations of `Glimpses` with one scale; its outputs `[N, 2 side² + 3]`.
    """
    row, column = np.divmod(np.arange(side**2), side)

    def place(memory, obs):
        middle = jnp.round((obs[:, -3:-1] + 1) * (side - 1) / 2).astype(int)
        i, j = row - middle[:, :1] + patch // 2, column - middle[:, 1:] + patch // 2
        inside = (i >= 0) & (i < patch) & (j >= 0) & (j < patch)
        seen = jnp.take_along_axis(obs[:, :-3], jnp.where(inside, i * patch + j, 0), axis=1)
        return jnp.where(inside, seen, memory[0]), jnp.where(inside, 1.0, memory[1])

    read = lambda memory, obs: jnp.concatenate([*memory, obs[..., -3:]], -1)
    reset = lambda memory, ended: where_ended(ended, jax.tree.map(jnp.zeros_like, memory), memory)

    def step(params, memory, obs):
        memory = place(memory, obs)
        return read(memory, obs), memory

    def unroll(params, memory, obs, ended, next_obs=None):
        def one(memory, now):
            memory = place(memory, now[0])
            return reset(memory, now[1]), memory

        last, after = jax.lax.scan(one, memory, (obs, ended))
        return read(after, obs), None if next_obs is None else read(jax.vmap(place)(after, next_obs), next_obs), last

    return networks.Core(lambda key, num: (), lambda n: (jnp.zeros((n, side**2)),) * 2, reset, step, unroll)


def every_guess(hp: Any) -> Any:
    """The training reward: 1 for every right guess, not only the last, so that early glimpses are learned as well."""
    del hp
    return rewards.term(lambda tr: tr.info["right"].astype(jnp.float32))


def accuracy(env: Any, agent: Any, state: Any, key: Any) -> dict[str, Any]:
    """The share of right last guesses of the greedy policy, of images for test."""
    out = training.evaluate(env, jax.tree.map(jnp.asarray, env.test_params), agent, state, key, EPISODES,
                            env.test_params.max_steps_in_episode, greedy=True)  # fmt: skip
    return {"value": out.returns.mean()}


def draw_glimpses(env: Any, agent: Any, state: Any, key: Any, path: Path, num: int = 18) -> None:
    """Images for test with the places of the glimpses and the guess of the class."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    params = jax.tree.map(jnp.asarray, env.test_params)

    @jax.jit
    def play(key):
        environment = training.vectorized(env, params)
        reset_key, key = jax.random.split(key)

        def step(carry, key):
            obs, env_state, memory = carry
            action, memory = agent.greedy(state, memory, obs)
            keys = jax.random.split(key, num)
            out = environment.step(keys, keys, env_state, action, None)
            return (out.obs, out.state, memory), (env_state, action["class"])

        begin = environment.reset(jax.random.split(reset_key, num))
        keys = jax.random.split(key, env.test_params.max_steps_in_episode)
        return jax.lax.scan(step, (*begin, agent.memory(num)), keys)[1]

    states, guess = jax.device_get(play(key))
    side, patch = params.images.shape[1], 3
    figure, axes = plt.subplots(3, num // 3, figsize=(8, 4.6), layout="constrained")
    for i, axis in enumerate(axes.ravel()):
        image = states.image[0, i]
        axis.imshow(params.images[image], cmap="gray")
        for t in range(len(guess)):
            row, column = np.round((states.location[t, i] + 1) * (side - 1) / 2)
            corner = (column - patch // 2 - 0.5, row - patch // 2 - 0.5)
            axis.add_patch(Rectangle(corner, patch, patch, fill=False, color=f"C{t}", linewidth=2))
        right = guess[-1, i] == params.labels[image]
        axis.set_title(" ".join(map(str, guess[:, i])), color="black" if right else "tab:red", fontsize=10)
        axis.set(xticks=[], yticks=[])
    figure.suptitle("glimpses: blue, orange, green; the class guessed after each", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
