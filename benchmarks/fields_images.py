"""Lines of k-space and glimpses: how agents are judged on images that they have not seen, and pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from purerl import networks, rewards, training
from purerl.core import where_ended
from purerl.envs.fields import acquisition
from purerl.envs.fields.glimpses import Glimpses, GlimpsesParams, GlimpsesState, every_location, glimpse
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


@struct.dataclass
class NearestParams(GlimpsesParams):
    """left_out: int `[n]`, of each image the one for training that does not count for it; -1: none."""

    left_out: Any


class NearestState(NamedTuple):
    """That of `Glimpses`, the squared distances `[m]`, and the pixels seen `[side, side]` with which of them were."""

    image: Any
    location: Any
    time: Any
    distances: Any
    canvas: Any
    seen: Any


class Nearest(Changed):
    """The agent only chooses where to look, a pixel; the class is named as by `accuracy_of_fixed_glimpses`.

    That is the class of the nearest of the m images for training, by the sum over the glimpses of the squared distances
    of glimpses at the same locations; of equal ones the first. In `default_params` an image itself does not count. The
    episode ends with the last glimpse, after T - 1 actions.

    Observations, float32 `[2 side² + K + 4]`: the pixels seen in their places, otherwise 0; which of them were seen;
    the smallest distance of each of the K classes less the smallest of all; that one; the last location; and the
    fraction of the actions taken. `info` has `right`, of the class named after the action, and `evidence`, the change
    of log p(y) by the action for the right class y, where p(c) ∝ Σᵢ exp(-dᵢ / τ) over the images i of class c.

    Args:
      env: with two glimpses or more.
      temperature: τ.
    """

    def __init__(self, env: Glimpses, temperature: float = 0.25):
        super().__init__(env)
        params, self.temperature = env.default_params, temperature
        self.labels, self.locations = np.asarray(params.labels), every_location(params.images.shape[1])[0]
        at = lambda where: jax.vmap(lambda image: glimpse(image, where, env._patch, env._scales))(params.images)
        self.glimpses = jax.jit(jax.vmap(at))(jnp.asarray(self.locations)).reshape(
            len(self.locations), len(self.labels), -1
        )
        of_class = [np.flatnonzero(self.labels == c) for c in range(env.num_actions)]
        longest = max(map(len, of_class))  # the index m has an infinite distance
        self.members = np.stack([np.pad(i, (0, longest - len(i)), constant_values=len(self.labels)) for i in of_class])

    def _params(self, params, left_out):
        return NearestParams(params.images, params.labels, params.max_steps_in_episode - 1, left_out)

    @property
    def default_params(self):
        every = np.arange(len(self.labels), dtype=np.int32)
        return self._params(self.env.default_params, every)

    @property
    def test_params(self):
        params = self.env.test_params
        return self._params(params, np.full(len(params.images), -1, np.int32))

    def action_space(self, params=None):
        return spaces.Discrete(len(self.locations))

    def observation_space(self, params):
        size = 2 * len(self.locations) + len(self.members) + 4
        return spaces.Box(-jnp.inf, jnp.inf, (size,), jnp.float32)

    def guess(self, distances):
        """The class of the nearest image, of distances `[m]`."""
        return jnp.asarray(self.labels)[distances.argmin()]

    def _by_class(self, distances):
        return jnp.append(distances, jnp.inf)[self.members]

    def _log_posterior(self, distances):
        return jax.nn.log_softmax(jax.nn.logsumexp(-self._by_class(distances) / self.temperature, -1))

    def _look(self, state, obs, params):
        """The state of `Nearest` after the glimpse that `Glimpses` has just shown."""
        side = params.images.shape[1]
        middle = jnp.round((state.location + 1) * (side - 1) / 2).astype(int)
        new = jnp.square(self.glimpses[middle @ jnp.array([side, 1])] - obs[:-3]).sum(-1)
        near = abs(jnp.arange(side) - middle[:, None]) <= self.env._patch // 2
        now = near[0][:, None] & near[1]
        image = jnp.asarray(params.images)[state.image]
        return state._replace(
            distances=state.distances + new, canvas=jnp.where(now, image, state.canvas), seen=state.seen | now
        )

    def see(self, state, params):
        """The observation in a state."""
        smallest = self._by_class(state.distances).min(-1)
        parts = [state.canvas, state.seen, smallest - smallest.min(), smallest.min(), state.location,
                 state.time / params.max_steps_in_episode]  # fmt: skip
        return jnp.concatenate([jnp.asarray(x, jnp.float32).reshape(-1) for x in parts])

    def begin(self, image, location, params):
        """The observation and state after a first glimpse of an image."""
        state = GlimpsesState(image, location, jnp.zeros((), jnp.int32))
        left_out = jnp.asarray(params.left_out)[image]
        distances = jnp.where(jnp.arange(len(self.labels)) == left_out, jnp.inf, 0.0)
        nothing = jnp.zeros(params.images.shape[1:])
        state = self._look(NearestState(*state, distances, nothing, nothing > 0), self.env._see(state, params), params)
        return self.see(state, params), state

    def reset_env(self, key, params):
        _, state = self.env.reset_env(key, params)
        return self.begin(state.image, state.location, params)

    def step_env(self, key, state, action, params):
        location = jnp.asarray(self.locations)[action]
        now = state._replace(location=location)
        after = self._look(now, self.env._see(GlimpsesState(*now[:3]), params), params)
        named = {"class": self.guess(after.distances), "location": location}
        _, inner, *rest, info = self.env.step_env(key, GlimpsesState(*state[:3]), named, params)
        after = after._replace(time=inner.time)
        label = jnp.asarray(params.labels)[state.image]
        evidence = self._log_posterior(after.distances)[label] - self._log_posterior(state.distances)[label]
        return self.see(after, params), after, *rest, info | {"evidence": evidence}


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


def evidence(hp: Any) -> Any:
    """The training reward of `Nearest`: the change of the log-probability of the right class.

    Their sum over an episode is the log-probability after all glimpses less that after the first, so that with a
    discount of 1 the last one's is maximised. The environment's reward is 1 for a right name.
    """
    del hp
    return rewards.term(lambda tr: tr.info["evidence"])


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
            return (out.obs, out.state, memory), (env_state, action)

        begin = environment.reset(jax.random.split(reset_key, num))
        keys = jax.random.split(key, env.test_params.max_steps_in_episode)
        (_, last, _), (states, actions) = jax.lax.scan(step, (*begin, agent.memory(num)), keys)
        if not isinstance(env, Nearest):
            return states, actions["class"]
        states = jax.tree.map(lambda x, y: jnp.append(x, y[None], 0), states, last)
        return states, jax.vmap(jax.vmap(env.guess))(states.distances)

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
