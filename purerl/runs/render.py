"""Episodes as GIFs: classic control as Gymnasium renders it, MinAtar and other grids by their channels."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import training
from purerl.runs import loading, report
from purerl.runs.evaluation import evaluation_key
from purerl.runs.progress import progress_bar

CLASSIC = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0")
MOST_FRAMES_PER_SECOND = 25
CAPTION = 28  # pixels below the picture

Draw = Callable[[Any], np.ndarray]  # state -> uint8 [height, width, 3]


def episode(run: loading.Loaded, key: Any, max_steps: int, greedy: bool) -> tuple[list[Any], np.ndarray, int]:
    """Play one episode; return the T + 1 states before, between and after its steps, the rewards `[T]`, and T.

    The last one is missing for environments that reset themselves.
    """
    environment = training.vectorized(run.env, run.env_params)

    def watched(keys, reset_keys, state, action, begin):
        out = environment.step(keys, reset_keys, state, action, begin)
        return out._replace(info={"state": out.state})

    @jax.jit
    def play(hp, agent_state, key):
        agent = run.agent(hp)
        if greedy:
            certain = agent.greedy
            agent = agent._replace(act=lambda key, state, memory, obs: (*certain(state, memory, obs), ()))
        reset_key, step_key = jax.random.split(key)
        begin = training.start(environment, agent, jax.random.split(reset_key, 1))
        world = environment._replace(step=watched)
        how = {"info": ("state",), "episodic": True}
        _, data = training.rollout(world, agent, agent_state, begin, step_key, max_steps, **how)
        return begin.env, training.first_episodes(data.transitions)

    begin, tr = play(jax.tree.map(np.float32, run.hp), run.state.agent, key)
    count = int(tr.valid.sum())
    first, later = jax.device_get((begin, jax.tree.map(lambda x: x[:count, 0], tr.info["state"])))
    states = [jax.tree.map(lambda x: x[0], first), *(jax.tree.map(lambda x: x[t], later) for t in range(count))]
    return states[: count if training.resets_itself(run.env) else None], np.asarray(tr.reward)[:count, 0], count


def painter(env: Any, env_params: Any) -> tuple[Draw, int]:
    """The function that draws a state of an environment, and its number of steps per second.

    Raises:
      ValueError: if the environment cannot be drawn, or if pygame is needed and not installed.
    """
    from purerl.envs.wrappers import Sticky, Timed, Wrapper

    inner: Any = env
    while isinstance(inner, Wrapper):
        inner = inner.env

    def bare(state):
        while isinstance(state, (Timed, Sticky)):
            state = state.env
        return state

    if inner.name in CLASSIC:
        draw, pace = _classic(inner.name, env_params)
    elif hasattr(inner, "render"):
        draw, pace = (lambda state: _as_image(inner.render(state, env_params))), 10
    elif hasattr(inner, "obs_shape") and len(inner.obs_shape) == 3 and hasattr(inner, "get_obs"):
        draw, pace = (lambda state: _channels(np.asarray(inner.get_obs(state)))), 10
    else:
        raise ValueError(
            f"{inner.name} cannot be drawn: it is neither classic control nor MinAtar, and has no "
            "render(state, env_params) that returns an image [height, width, 3] or a matplotlib figure"
        )
    return (lambda state: draw(bare(state))), pace


def _classic(name: str, env_params: Any) -> tuple[Draw, int]:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window and no sound
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f"drawing {name} needs pygame: pip install 'purerl[render]'") from error
    import gymnasium
    from gymnax.visualize import vis_gym

    there: Any = gymnasium.make(name, render_mode="rgb_array").unwrapped
    there.reset()
    vis_gym.set_gym_params(there, name, env_params)

    def draw(state):
        there.state = vis_gym.get_gym_state(state, name)
        if name == "Pendulum-v1":
            there.last_u = float(np.asarray(state.last_u))
        return np.asarray(there.render())

    return draw, there.metadata["render_fps"]


def _channels(obs: np.ndarray, size: int = 400) -> np.ndarray:
    """An observation `[H, W, C]` of zeros and ones, each channel in its own colour; the last one is on top."""
    import matplotlib

    colors = matplotlib.colormaps["tab10"](np.arange(obs.shape[-1]) % 10)[:, :3]
    image = np.full((*obs.shape[:2], 3), 0.08)
    for channel, color in enumerate(colors):
        image = np.where(obs[..., channel, None] > 0, color, image)
    scale = max(1, size // max(obs.shape[:2]))
    large = np.kron((255 * image).astype(np.uint8), np.ones((scale, scale, 1), np.uint8))
    large[::scale], large[:, ::scale] = 32, 32  # the grid's lines
    return large


def _as_image(drawn: Any) -> np.ndarray:
    """The image of an array, of a matplotlib figure or of `(figure, axis)`, uint8 `[height, width, 3]`.

    Arrays are of numbers in [0, 255], of floats in [0, 1], or of bools.
    """
    figure = drawn[0] if isinstance(drawn, tuple) else drawn
    if hasattr(figure, "savefig"):
        import matplotlib.pyplot as plt
        from PIL import Image

        file = io.BytesIO()
        figure.savefig(file, dpi=100)
        plt.close(figure)
        return np.asarray(Image.open(file).convert("RGB"))
    image = np.asarray(drawn)
    if image.ndim != 3 or image.shape[-1] != 3 or image.size == 0:
        raise ValueError(f"render returns an array of shape {image.shape}; it must be [height, width, 3]")
    least, most = float(image.min()), float(image.max())
    if not 0 <= least <= most <= 255:
        raise ValueError(
            f"render returns an image from {least:g} to {most:g}; it must be in [0, 255], or of floats in [0, 1]"
        )
    unit = image.dtype.kind == "b" or (jnp.issubdtype(image.dtype, jnp.floating) and most <= 1)
    return np.round(image.astype(np.float32) * 255.0 if unit else image).astype(np.uint8)


def _rounded(x: float) -> str:
    """A return in a caption.

    >>> _rounded(-1234.56), _rounded(0.1234), _rounded(-0.0)
    ('-1,234.6', '0.12', '0.00')
    """
    return f"{x + 0.0:,.1f}" if abs(x) >= 100 else f"{x + 0.0:.2f}"


def gif(path: Path, states: list[Any], rewards: np.ndarray, draw: Draw, pace: int, said: Callable[[int], Any]) -> None:
    """Write frames with the step and the return so far below them, at the pace of the environment.

    states: `[T + 1]`, or `[T]` without the last one.  rewards: `[T]`.
    """
    from PIL import Image, ImageDraw, ImageFont

    stride = max(1, round(pace / MOST_FRAMES_PER_SECOND))
    font = ImageFont.load_default(size=15)
    so_far = np.concatenate([[0.0], np.cumsum(rewards)])
    frames = []
    for t in sorted({*range(0, len(states), stride), len(states) - 1}):
        picture = Image.fromarray(draw(states[t]))
        frame = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
        frame.paste(picture, (0, 0))
        text = f"step {t:,}    return {_rounded(so_far[t])}"
        ImageDraw.Draw(frame).text((10, picture.height + 5), text, fill="#24292f", font=font)
        frames.append(frame)
        said(t)
    colors = frames[len(frames) // 2].quantize(64)
    flat = [frame.quantize(palette=colors, dither=Image.Dither.NONE) for frame in frames]
    hold = [1000 * stride // pace] * (len(flat) - 1) + [1500]
    part = path.with_name(f".part-{path.name}")
    flat[0].save(part, format="GIF", save_all=True, append_images=flat[1:], duration=hold, loop=0, optimize=True)
    part.replace(path)
    said(len(rewards))


def render(
    run: Path,
    number: int,
    stochastic: bool,
    seed: int,
    max_steps: int,
    out: Path | None,
    code: str | None = None,
    checkpoint: str | None = None,
) -> None:
    """Draw one episode of one run."""
    loaded = loading.load(run, code, checkpoint)
    out = report.new_file(out or report.unused(run / "episode.gif"), "--out", (".gif",))
    one = loaded.one(number)
    draw, frames_per_second = painter(one.env, one.env_params)
    states, rewards, count = episode(one, evaluation_key(seed), max_steps, greedy=not stochastic)
    with progress_bar() as bar:
        task = bar.add_task("drawing", total=count)
        gif(out, states, rewards, draw, frames_per_second, lambda n: bar.update(task, completed=n))
    report.note(f"episode of {report.counted(count, 'step')}, return {_rounded(float(np.sum(rewards)))}: {out}")
