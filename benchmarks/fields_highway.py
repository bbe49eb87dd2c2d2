"""Driving in highway-fast-v0: how agents and rules are judged, and a picture of an episode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import training
from purerl.envs.fields import highway

EPISODES = 1_024
PUBLISHED = 19.7  # return of a DQN in its last 100 training episodes, ε = 0.05: HighwayEnv, issue 460, of May 2023
PUBLISHED_SECONDS = 1_566


class HighwayFast(highway.Highway):
    """highway-fast-v0: 3 lanes, 20 vehicles beside the agent's, 5 frames per second, 30 s."""

    def __init__(self):
        super().__init__(**highway.FAST)

    @property
    def default_params(self):
        return highway.fast_params()


def episodes(env: Any, act: Callable, memory: Any, key: Any, num: int = EPISODES) -> dict[str, Any]:
    """Play episodes: rewards `[T, E]`, 0 after the end, whether they had ended before each step, and the states.

    act: `(key, obs, env_state, memory) -> (action, memory)`, of all episodes.
    """
    environment = training.vectorized(env, env.default_params)
    reset_key, step_key = jax.random.split(key)
    begin = environment.reset(jax.random.split(reset_key, num))

    def step(carry, key):
        obs, state, memory, crashed = carry
        act_key, step_key = jax.random.split(key)
        action, memory = act(act_key, obs, state, memory)
        keys = jax.random.split(step_key, num)
        out = environment.step(keys, keys, state, action, None)
        row = {"reward": jnp.where(crashed, 0, out.reward), "ended": crashed, "state": state}
        return (out.obs, out.state, memory, crashed | out.terminated), row

    keys = jax.random.split(step_key, env.default_params.max_steps_in_episode)
    (*_, crashed), rows = jax.lax.scan(step, (*begin, memory, jnp.zeros(num, bool)), keys)
    return {**rows, "crashed": crashed}


def summary(played: dict[str, Any]) -> dict[str, Any]:
    """The mean return, the share of episodes with a collision, and the mean length of `episodes`."""
    return {
        "value": played["reward"].sum(0).mean(),
        "collisions": played["crashed"].mean(),
        "length": (~played["ended"]).sum(0).mean(),
    }


def of_agent(agent: Any, state: Any) -> Callable:
    """The greedy actions of an agent as the `act` of `episodes`."""
    return lambda key, obs, env_state, memory: agent.greedy(state, memory, obs)


def driving(env: Any, agent: Any, state: Any, key: Any) -> dict[str, Any]:
    """The mean return of greedy episodes, and how they end."""
    return summary(episodes(env, of_agent(agent, state), agent.memory(EPISODES), key))


def of_rules(env: Any) -> dict[str, float]:
    """The mean returns of rules; their names have the share of episodes with a collision."""
    params, lanes = env.default_params, highway.FAST["num_lanes"]
    like_traffic = lambda share: lambda key, state: highway.follow_traffic(state, params, lanes, share)
    rules = {
        "random": lambda key, state: jax.random.randint(key, (), 0, 5),
        "idle": lambda key, state: highway.IDLE,
        "always slower": lambda key, state: highway.SLOWER,
        "IDM and MOBIL": like_traffic(1.0),
        "IDM and MOBIL, half the gap": like_traffic(0.5),
    }

    def act(key, obs, state, which):  # all rules in one program
        of_one = lambda key, state, which: jax.lax.switch(which, list(rules.values()), key, state)
        return jax.vmap(of_one)(jax.random.split(key, len(which)), state, which), which

    which = jnp.repeat(jnp.arange(len(rules)), EPISODES)
    play = jax.jit(lambda key: episodes(env, act, which, key, len(which)))
    played = {name: x for name, x in play(jax.random.key(31)).items() if name != "state"}
    found = {}
    for i, name in enumerate(rules):
        one = summary({n: x.reshape(*x.shape[:-1], len(rules), EPISODES)[..., i, :] for n, x in played.items()})
        found[f"{name}, {one['collisions']:.1%} collide"] = float(one["value"])
    return found


def draw_episode(env: Any, agent: Any, state: Any, key: Any, path: Path) -> None:
    """One greedy episode, a picture of the road every five seconds."""
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    played = jax.jit(lambda key: episodes(env, of_agent(agent, state), agent.memory(1), key, 1))(key)
    frames = []
    for t in range(0, len(played["reward"]), 5):
        if not played["ended"][t, 0]:
            now = jax.tree.map(lambda x: np.asarray(x[t, 0]), played["state"])
            figure = env.render(now, env.default_params)
            axes = figure.axes[0]
            axes.set_title(f"{t} s, at {now.speed[highway.EGO]:.0f} m/s", loc="left", fontsize=9)
            if t + 5 < len(played["reward"]):
                axes.set(xlabel="")
            figure.set_dpi(80)
            figure.set_size_inches(8, 1.45)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            frames.append(np.asarray(canvas.buffer_rgba()))
    plt.imsave(path, np.concatenate(frames))
