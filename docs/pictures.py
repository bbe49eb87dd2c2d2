"""Draw every environment into docs/pictures: a state as `purerl render` has it, otherwise an episode's numbers.

    python docs/pictures.py [NAME ...]

The actions are random. The pictures are committed, since making them takes minutes.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import gymnax
import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import purerl
from purerl.envs import registry
from purerl.runs import render
from purerl.runs.progress import progress_bar

FOLDER = Path(__file__).parent / "pictures"
BEFORE, LONGEST = 12, 60  # steps before the picture of a state, and of an episode
LARGEST = 400  # pixels
MOST_LINES = 16  # numbers of an observation; of larger ones the picture is an image


def episode(env: Any, env_params: Any, steps: int) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """States, observations as vectors and rewards of an episode with random actions."""
    first, *keys = jax.random.split(jax.random.key(0), 1 + 2 * steps)
    obs, state = jax.jit(env.reset_env)(first, env_params)
    step, sample = jax.jit(env.step_env), jax.jit(env.action_space(env_params).sample)
    flat = lambda obs: np.concatenate([np.ravel(x) for x in jax.tree.leaves(obs)]).astype(float)
    states, observations, rewards = [state], [flat(obs)], []
    for action_key, step_key in zip(keys[::2], keys[1::2], strict=True):
        obs, state, reward, terminated, *_ = step(step_key, state, sample(action_key), env_params)
        states, observations, rewards = [*states, state], [*observations, flat(obs)], [*rewards, float(reward)]
        if terminated or env.is_truncated(state, env_params):
            break
    return states, np.array(observations), np.array(rewards)


def numbers(observations: np.ndarray, rewards: np.ndarray) -> Image.Image:
    """Observations over an episode, as lines or, if they are many, as an image, and the rewards below them."""
    figure = Figure(figsize=(4.5, 3.2), layout="constrained", dpi=90)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    if observations.shape[1] <= MOST_LINES:
        above.plot(observations, ".-", linewidth=0.8, markersize=3)
    else:
        above.imshow(observations.T, aspect="auto", interpolation="nearest")
    above.set(ylabel="observations")
    below.bar(np.arange(1, len(rewards) + 1), rewards, color="C3")
    below.set(ylabel="reward", xlabel="step")
    file = io.BytesIO()
    figure.savefig(file)
    return Image.open(file).convert("RGB")


def picture(name: str) -> Image.Image:
    """The picture of an environment.

    Raises:
      ValueError: if it cannot be made.
    """
    env, env_params = purerl.make(name)
    try:
        draw, _ = render.painter(env, env_params)
        states, *_ = episode(env, env_params, BEFORE)
        image = Image.fromarray(draw(jax.device_get(states[-1])))
    except ValueError:
        image = numbers(*episode(env, env_params, LONGEST)[1:])
    image.thumbnail((LARGEST, LARGEST))
    return image


def main() -> None:
    """Draw the environments named, or all."""
    FOLDER.mkdir(exist_ok=True)
    names = sys.argv[1:] or [x for x in (*gymnax.registered_envs, *registry.OWN) if x not in registry.DOWNLOADS]
    with progress_bar() as bar:
        task = bar.add_task("", total=len(names))
        for name in names:
            bar.update(task, advance=1, description=name)
            try:
                picture(name).quantize(64).save(FOLDER / f"{name}.png", optimize=True)
            except ValueError as error:  # of data that are not installed
                print(f"{name}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
