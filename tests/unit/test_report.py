"""What the command line makes of numbers before they are drawn or printed."""

import dataclasses
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from rich.console import Console

import purerl
from purerl import replay
from purerl.cli.main import purerl_command
from purerl.envs import StickyActions, TimeLimit, registry
from purerl.envs.spaces import MultiBinary, MultiDiscrete
from purerl.envs.wrappers import Sticky, Timed
from purerl.runs import arguments as options
from purerl.runs import (
    catalogue,
    checkpoint,
    devices,
    files,
    loading,
    plans,
    progress,
    record,
    render,
    report,
    stream,
)


def test_a_curve_weighs_the_last_rows_by_their_episodes():
    """A fortieth of the rows; where nothing finished in them, the value before is carried on."""
    rng = np.random.default_rng(0)
    episodes = rng.integers(0, 4, (120, 2)) * (rng.random((120, 2)) < 0.4)
    episodes[:2, 1] = 0
    returns = np.where(episodes > 0, rng.normal(size=(120, 2)), np.nan)
    got = report.smoothed(episodes, returns)
    for run in (0, 1):
        before = np.nan
        for k in range(120):
            rows = [i for i in range(max(0, k - 2), k + 1) if episodes[i, run]]
            if rows:
                before = np.average(returns[rows, run], weights=episodes[rows, run])
            np.testing.assert_allclose(got[k, run], before)
    assert np.isnan(got[:2, 1]).all() and np.isfinite(got[5:]).all()


def test_what_a_replay_buffer_lost_is_counted():
    class State(NamedTuple):
        agent: Any

    flags = jax.ShapeDtypeStruct((3,), bool)
    step = purerl.Transition(*[flags] * 7)
    shapes = jax.eval_shape(lambda: replay.init(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), step), 60))
    empty = jax.tree.map(lambda x: np.zeros((2, *x.shape), x.dtype), shapes)
    of = lambda **counts: record.held(checkpoint.to_host(State({"replay": empty._replace(**counts)})))
    assert of(num_rows=np.array([7, 7])) == (21, 21)
    assert of(num_rows=np.array([100, 100]), oldest=np.array([80, 95])) == (15, 60)  # the fewest of two runs
    assert record.held(checkpoint.to_host(State({"params": np.zeros((2, 1))}))) is None


def test_a_row_has_the_mean_and_the_mean_of_the_middle_half():
    mean, middle, interval, ends = report.scores(np.array([1.0, 0.0, 100.0, np.nan, 3.0]))
    assert (mean, middle, ends) == ("26.0", "2.0", "0.0 .. 100.0")
    low, high = map(float, interval.split(" .. "))
    assert 0 <= low <= 2 <= high <= 100
    assert report.scores(np.full(3, np.nan))[0] == "no episode finished"


def test_a_picture_shows_the_mean_of_the_middle_half(tmp_path, monkeypatch):
    """Of seeds one of which is far away: in the curves, and in the scores at the end beside them."""
    import matplotlib.pyplot as plt

    returns = np.array([[0.0, 1.0, 3.0, 90.0], [2.0, 4.0, 6.0, 80.0]])
    make = lambda label, factor: report.Curve(label, np.array([10, 20]), factor * returns, factor * returns[-1], 0)
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    report.picture(tmp_path / "a.png", [report.Panel("title", "rate", [make("0.1", 1), make("0.2", 10)])])
    monkeypatch.undo()
    curves, scores = figures[0].axes
    drawn = {line.get_label(): line.get_ydata() for line in curves.get_lines()}
    np.testing.assert_allclose([drawn["0.1"], drawn["0.2"]], [[2, 5], [20, 50]])
    assert [list(bar.lines[0].get_ydata()) for bar in scores.containers] == [[5], [50]]
    plt.close(figures[0])


def test_text_is_printed_as_it_is(capsys, monkeypatch, tmp_path):
    """Names of files and hyperparameters are the user's: brackets are no markup, colons no emoji, $ no formula."""
    monkeypatch.setenv("COLUMNS", "120")
    name = "runs/s[lr=0.1] [/b] [red]x[/red] :smile: $a_$b$"
    report.note(name)
    report.say(name)
    curve = report.Curve(name, np.arange(1, 3), np.ones((2, 2)), np.ones(2), 0)
    panel = report.Panel(name, name, [curve, curve])
    report.table(panel)
    report.compared([(name, name, 1)])
    with progress.Progress(10, 10) as bar:
        bar.note(name)
    out, err = capsys.readouterr()
    assert out.count(name) == 7 and err == f"{name}\n" * 2
    report.picture(tmp_path / "a.png", [panel])
    assert (tmp_path / "a.png").exists()


def test_every_console_prints_text_as_it_is():
    package = Path(progress.__file__).parents[1]
    made = [line for p in package.rglob("*.py") for line in p.read_text().splitlines() if "Console(" in line]
    wrong = [line for line in made if "markup=False, emoji=False" not in line]
    assert made and not wrong, f"brackets in names of files are no markup, and colons no emoji: {wrong}"


def test_images_of_any_dtype():
    ramp = np.linspace(0, 1, 12).reshape(2, 2, 3)
    whole = np.round(255 * ramp).astype(np.uint8)
    for image in (ramp, ramp.astype(np.float32), whole, whole.astype(np.int64), whole.astype(float)):
        np.testing.assert_array_equal(render._as_image(image), whole)
    np.testing.assert_array_equal(render._as_image(ramp > 0.5), np.where(ramp > 0.5, 255, 0))
    assert render._as_image((ramp > 0.5).astype(jnp.bfloat16)).max() == 255
    for wrong in (ramp - 1, ramp * np.nan, 256 * ramp):
        with pytest.raises(ValueError, match=r"it must be in \[0, 255\], or of floats in \[0, 1\]"):
            render._as_image(wrong)


def test_the_pace_of_a_resumed_run_is_that_of_its_own_updates(monkeypatch):
    clock = SimpleNamespace(now=5.0)
    monkeypatch.setattr(
        progress, "time", SimpleNamespace(perf_counter=lambda: clock.now, process_time=lambda: clock.now)
    )
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, force_terminal=False, width=120, file=nowhere)
        with progress.Progress(100, 10, console, first=60) as bar:
            clock.now += 2.0
            bar.update(80, 7.0)
    # 20 updates of 10 steps in 2 s, and 20 updates to go
    assert "iteration 80/100  return 7.000  100 steps/s  2 s left" in console.export_text()


# --- what the command line is given --------------------------------------------------------------------------------


def test_values_of_options_and_of_files():
    """From a command line they are text, from a file or a default numbers and lists."""
    convert = lambda kind, value: kind.convert(value, None, None)
    assert (
        convert(options.Numbers(True), "0.5, NONE,2")
        == convert(options.Numbers(True), [0.5, None, 2])
        == (0.5, None, 2)
    )
    assert convert(options.Names(), "cost , delay") == convert(options.Names(), ["cost", "delay"]) == ("cost", "delay")
    assert convert(options.Count(), 5.0) == 5 and convert(options.Count(total=True), 2**31) == 2**31
    assert convert(options.Seed(), 2**31 - 1) == 2**31 - 1
    for kind, value, said in (
        (options.Numbers(False), [0.5, None], "'0.5,none' is not a number, nor numbers with commas between"),
        (options.Names(), "a,,b", "'a,,b' is not a list of names with commas between"),
        (options.Count(), 2.5, "2.5 is not a positive whole number"),
        (options.Count(), "inf", "'inf' is not a positive whole number"),
        (options.Count(), 2**31, "2147483648 is too large; it must be below 2147483648"),
        (options.Seed(), "-1", "'-1' is not a whole number from 0 to 2147483647"),
        (options.Seed(), 2**31, "2147483648 is not a whole number from 0 to 2147483647"),
    ):
        with pytest.raises(click.BadParameter) as error:
            convert(kind, value)
        assert error.value.message == said


def test_spaces_in_words():
    for space, words in (
        (spaces.Discrete(3), "Discrete(3)"),
        (MultiBinary((2, 3)), "MultiBinary[2, 3]"),
        (MultiDiscrete([2, 3]), "MultiDiscrete[2, 3]"),
        (spaces.Box(-1.0, 2.0, (4,)), "Box[4] in [-1, 2]"),
        (spaces.Box(-jnp.inf, 1.0, ()), "Box[]"),
        (
            spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple([spaces.Discrete(4)])}),
            "a: Discrete(2)\nb: (Discrete(4))",
        ),
        (None, "None"),
    ):
        assert catalogue._space(space) == words


def test_environments_whose_data_are_missing_are_listed_with_what_they_need(monkeypatch):
    def without_data():
        raise ValueError("it needs the package nothing")

    monkeypatch.setattr(gymnax, "registered_envs", ["CartPole-v1"])
    monkeypatch.setattr(registry, "OWN", {"Missing-v0": without_data})
    found = {entry.name: entry for entry in catalogue._made()}
    assert found["Missing-v0"].observations == "it needs the package nothing"
    assert found["CartPole-v1"].actions == "Discrete(2)"
    state = catalogue._state()
    monkeypatch.setattr(catalogue, "DATA_PACKAGES", ("json",))  # one that is there
    assert catalogue._state() != state


def test_what_a_shell_completes():
    def offered(words, begun):
        return {
            x.value
            for x in ShellComplete(purerl_command, {}, "purerl", "_PURERL_COMPLETE").get_completions(words, begun)
        }

    assert {"ppo", "pqn"} <= offered(["train"], "p") and "dqn" not in offered(["train"], "p")
    assert {"pretrain"} == offered(["text"], "pre") and "grpo" in offered(["text", "train"], "g")


# --- what is on disk -----------------------------------------------------------------------------------------------


def test_other_files_beside_checkpoints_are_none(tmp_path):
    for name in ("9.safetensors", "10.safetensors", "best.safetensors", "11.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in checkpoint.paths(tmp_path)] == ["10.safetensors", "9.safetensors"]


def test_runs_that_do_not_exist_are_refused():
    loaded = loading.Loaded(*[None] * 12)._replace(hp=jnp.arange(2.0), state=SimpleNamespace(iteration=np.zeros(2)))
    for run in (-1, 2):
        with pytest.raises(ValueError, match=rf"run is {run}; there are 2, from 0"):
            loaded.one(run)
    plan, nothing = SimpleNamespace(num_runs=2, name_of="seed {}".format), files.Metrics(np.zeros(0), np.zeros(0), {})
    for run in (-1, 2):
        with pytest.raises(ValueError, match=rf"a checkpoint notes runs \[{run}\]; there are 2"):
            record.Record(plan, nothing, {"ended": f'{{"{run}": 3}}'})
    known = record.Record(plan, nothing, {"ended": '{"0": 3}'})  # before the first row
    assert list(known.call_broken(np.array([4, 5]))) == [
        "seed 1: not finite at iteration 5; excluded from the means from here on"
    ]


def test_states_that_do_not_fit_are_refused(monkeypatch):
    state = np.zeros(1000, np.float32)
    for there in (None, 8000):
        monkeypatch.setattr(devices.replay, "device_bytes", lambda there=there: there)
        devices.check_memory(state, 2)
    with pytest.raises(ValueError, match=r"the states of 3 runs need 0.0 GB, .*: lower --capacity or --seeds"):
        devices.check_memory(state, 3)


def test_a_time_limit_only_ever_extends_that_of_the_environment():
    @dataclasses.dataclass
    class Limited:
        max_steps_in_episode: int

    assert plans._longer((), 5) == () and plans._longer(Limited(3), 5) == Limited(5)
    assert plans._longer(Limited(7), 5) == Limited(7)


def test_the_first_signal_asks_and_the_second_stops():
    said, before = [], [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stream.Interrupts(said.append) as interrupts:
        assert not interrupts.asked
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.asked and said == ["finishing this chunk, then saving; Ctrl-C again stops at once"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def elsewhere():
        with stream.Interrupts():
            found.append(signal.getsignal(signal.SIGINT))

    found = []  # signals are the main thread's
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == before[:1]


def test_states_of_wrapped_environments_are_drawn():
    class Drawn(Environment):
        name, default_params = "drawn", 0.5
        render = staticmethod(lambda state, params: np.full((2, 2, 3), params * state))

    class Channels:
        name, default_params, obs_shape = "channels", None, (2, 2, 1)
        get_obs = staticmethod(lambda state: np.full((2, 2, 1), state, bool))

    wrapped = TimeLimit(StickyActions(Drawn()), 5)
    draw, pace = render.painter(wrapped, 0.5)
    assert draw(Timed(Sticky(1.0, 0, False), 3)).tolist() == np.full((2, 2, 3), 128).tolist() and pace == 10
    on, off = (render.painter(Channels(), None)[0](state) for state in (True, False))
    assert on.shape[-1] == 3 and (on != off).all(-1).any()
    for shape in ((2, 2), (2, 2, 4), (2, 0, 3)):
        with pytest.raises(ValueError, match=r"render returns an array of shape \(2, .*; it must be \[height"):
            render._as_image(np.zeros(shape))
    with pytest.raises(ValueError, match=r"an image from 0 to 256; it must be in \[0, 255\]"):
        render._as_image(np.full((2, 2, 3), 256) * (np.arange(3) > 0))


def test_a_picture_of_several_panels(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    curve = lambda label, seeds, gone: report.Curve(label, np.array([1, 2]), np.ones((2, seeds)), np.ones(seeds), gone)
    panels = [report.Panel(name, "", [curve("a", 2, 1), curve("b", 5, 0)]) for name in ("x", "y")]
    nothing = report.Panel("z", "", [report.Curve("c", np.array([1]), np.full((1, 2), np.nan), np.full(2, np.nan), 0)])
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    monkeypatch.setattr(plt.Figure, "savefig", lambda figure, path, **_: path.touch())  # drawing takes seconds
    report.picture(tmp_path / "a.png", [*panels, nothing], columns=2)
    monkeypatch.undo()
    axes = figures[0].axes
    assert [axis.get_title(loc="left").partition(",")[0] for axis in axes[:3]] == [
        "x: IQM of 3 to 5 seeds",
        "y: IQM of 3 to 5 seeds",
        "z: IQM of 2 seeds",
    ]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["a (1 broken excluded)", "b"]
    assert axes[2].get_legend() is None and [axis.axison for axis in axes] == [True, True, True, False]
    plt.close(figures[0])
