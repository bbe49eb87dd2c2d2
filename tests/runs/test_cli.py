"""The command line: what is printed, the exit code, and what is refused before anything runs."""

import functools
import importlib
import importlib.util
import io
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from commands import ANSWERS, OWN, command, copy_of_own, train

import purerl
from purerl import bellman, build, envs, exploration, losses, training
from purerl.agents.parts import sequences
from purerl.agents.parts.declarations import Choice, declaration_of
from purerl.cli import main as cli
from purerl.envs.fields import acquisition, portfolio
from purerl.runs import catalogue, devices, evaluation, execute, files, report, sweeps
from purerl.runs.arguments import Count
from purerl.runs.progress import Progress
from purerl.text import objectives


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A working directory with the user's file in it."""
    monkeypatch.chdir(tmp_path)
    return copy_of_own(tmp_path)


@pytest.mark.parametrize("arguments, code, said", ANSWERS, ids=[" ".join(a) or "nothing" for a, *_ in ANSWERS])
def test_answers(arguments, code, said, capsys):
    assert command(*arguments) == code
    assert said in "".join(capsys.readouterr())


# --- what is refused ------------------------------------------------------------------------------------------------


def readable(error):
    """One line, and one more that names a line of the user's file."""
    lines = error.rstrip("\n").split("\n")
    place = re.compile(r"  \w+\.py:\d+, in \S+: ")
    return error.startswith("purerl: error: ") and (len(lines) == 1 or (len(lines) == 2 and place.match(lines[1])))


BAD = [
    (["CartPole"], "there is no environment 'CartPole'; did you mean CartPole-v1"),
    (["CartPole-v1", "--zq", "1"], "No such option '--zq'. `purerl train ppo --help` lists them"),
    (["CartPole-v1", "--clip", "-1"], "PPO.clip is -1.0; it must be a number > 0"),
    (["CartPole-v1", "--clip", "many"], "'many' is not a number"),
    (["CartPole-v1", "--num-epochs", "0"], "PPO.num_epochs is 0; it must be an integer >= 1"),
    (["CartPole-v1", "--normalize-advantage", "all"], "'all' is not one of 'minibatch', 'batch', 'none'"),
    (
        ["CartPole-v1", "--num-minibatches", "3"],
        "num_minibatches is 3; it must divide 512: num_envs x rollout_length",
    ),
    (["CartPole-v1", "--num-envs", "0"], "'0' is not a positive whole number"),
    (["CartPole-v1", "--seeds", "-2"], "'-2' is not a positive whole number"),
    (
        ["CartPole-v1", "--steps", "511"],
        "--steps is 511; one iteration is num_envs x rollout_length = 4 x 128 = 512",
    ),
    (["CartPole-v1", "--time-limit", "1e10"], "'1e10' is too large; it must be below 2147483648"),
    (["CartPole-v1", "--rollout-length", "2147483648"], "'2147483648' is too large"),
    (["CartPole-v1", "--steps", "1e400"], "'1e400' is not a positive whole number"),
    (["CartPole-v1", "--steps", "1e30"], "iterations of 512; there can be 2147483647"),
    (["CartPole-v1", "--num-epochs", "1" + 10 * "0"], "PPO.num_epochs is 10000000000; it must be below 2147483648"),
    (["CartPole-v1", "--save-every", "nan"], "'nan' is not in the range x>=0"),
    (["CartPole-v1", "--env-param", "max_steps_in_episode=99999999999"], "it must be in [-2147483648, 2147483647]"),
    (["CartPole-v1", "--env-param", "length=1e39"], "length is 1e+39; the largest float32 is 3.4e+38"),
    (["CartPole-v1", "--policy", "cauchy"], "'cauchy' is not one of 'normal', 'tanh-normal', 'beta'"),
    (["jumanj/Snake-v1"], "there is no package 'jumanj' of environments; allowed are brax, jumanji"),
    (
        ["CartPole-v1", "--network", "big"],
        "--network is 'big'; allowed are mlp, minatar-cnn, nature-cnn, or your own FILE.py:name",
    ),
    (
        ["CartPole-v1", "--memory", "elephant"],
        "'elephant' is not one of 'none', 'gru', 'lstm', 'min-gru', 'transformer'",
    ),
    (
        ["CartPole-v1", "--memory", "transformer", "--memory-size", "12"],
        "transformer: width is 12; it must be a multiple",
    ),
    (
        ["CartPole-v1", "--memory", "gru", "--num-minibatches", "8"],
        "num_minibatches is 8; it must divide 4: num_envs, since the network has memory",
    ),
    (["CartPole-v1", "--observe", "0,4"], "keep is (0, 4); it must be entries of 0 .. 3"),
    (["CartPole-v1", "--observe", "-1"], "-1 is not in the range x>=0"),
    (["CartPole-v1", "--env-param", "lenght=1"], "--env-param: there is no parameter 'lenght'; allowed are max_ste"),
    (["CartPole-v1", "--env-param", "length"], "'length' is not NAME=VALUE"),
    (["CartPole-v1", "--env-param", "length=long"], "'long' is not a number, true or false"),
    (["CartPole-v1", "--env-param", "length=1", "--env-param", "length=2"], "--env-param: length is given twice"),
    (["CartPole-v1", "--env-param", "max_steps_in_episode=9,8"], "max_steps_in_episode is structure, and has one val"),
    (["CartPole-v1", "--env-param", "max_steps_in_episode=9.5"], "is 9.5; it must be a whole number"),
    (["Pendulum-v1", "--env-param", "max_torque=1,2"], "--env-param: max_torque changes the space of actions"),
    (["Inventory-v0", "--env-param", "capacity=0"], "Inventory: capacity is 0; it must lie in [1, 1073741824]"),
    (["Inventory-v0", "--env-param", "penalty=4,9,0"], "Inventory: penalty is 0.0; it must be positive and finite"),
    (["Newsvendor-v0", "--env-param", "std=0"], "Newsvendor: std is 0.0; it must be positive and finite"),
    (["TrafficSignal-v0", "--env-param", "room=0"], "TrafficSignal: room is 0; it must lie in [1, 1073741824]"),
    (["TrafficSignal-v0", "--env-param", "arrival=1.2"], "arrival is array([0.3, 0.3]) in the environment, and no num"),
    (["Battery-v0", "--env-param", "capacity=4,0"], "Battery: capacity is 0.0; it must lie in [1.17"),
    (["Battery-v0", "--env-param", "efficiency=0.9,1.2"], "Battery: efficiency is 1.2; it must lie in [1.17"),
    (["Execution-v0", "--env-param", "volatility=1,-1"], "Execution: volatility is -1.0; it must lie in [0, 3.4"),
    (["CarFollowing-v0", "--env-param", "interval=0"], "CarFollowing: interval is 0.0; it must lie in [1.17"),
    (["Highway-v0", "--env-param", "politeness=0.5,1.2"], "Highway: politeness is 1.2; it must lie in [0, 1]"),
    (["own.py:with_a_gap_in_prices"], "Battery: prices are nan in hour 3; each hour needs a price, finite and not 0\n"),
    (["own.py:with_a_probability_above_1"], "arrival is (0.3, 1.2); it must lie in [0, 1]\n  own.py:"),
    (["own.py:timeless"], "timeless: is_truncated: 'dict' object has no attribute 'time'; the one of gymnax compares"),
    (["CartPole-v1", "--network", "minatar-cnn"], "MinAtarCNN: obs has shape (4, 4)"),
    (["CartPole-v1", "--value-clip", "none,0.2"], "--value-clip: none is structure"),
    (["CartPole-v1", "--devices", "99"], "--devices is 99; there are"),
    (["CartPole-v1", "--stop-when", "nan"], "--stop-when is nan; it must be a finite return"),
    (["CartPole-v1", "--chunks", "0"], "'0' is not a positive whole number"),
    (["CartPole-v1", "--save-every", "-1"], "-1.0 is not in the range x>=0"),
    (["CartPole-v1", "--dir", "taken"], "taken exists and is not empty; give another --dir, or remove it first"),
    (["CartPole-v1", "--dir", "own.py"], "own.py exists and is not empty; give another --dir, or remove it first"),
    (["CartPole-v1", "--dir", "/proc/nothing"], "/proc/nothing cannot be made: No such file or directory"),
    (["CartPole-v1", "--wandb", "x"], "--wandb needs wandb, which is not installed: pip install 'purerl[wandb]'"),
    (["CartPole-v1", "--seed", "3000000000"], "'3000000000' is not a whole number from 0 to 2147483647"),
    (["CartPole-v1", "--hidden", "64,0"], "'0' is not a positive whole number"),
    (["CartPole-v1", "--learning-rate", "1e-3,"], "'1e-3,' is not a number, nor numbers with commas between"),
    (["CartPole-v1", "--learning-rate", "1e-3,nan"], "PPO.learning_rate is nan; it must be a number >= 0"),
    (["own.py:not_an_agent"], "own.py:not_an_agent must be a function without arguments that returns a gymnax Env"),
    (["CartPole-v1", "--network", "own.py:bandit"], "--network is own.py:bandit; it must be a function without"),
    (["missing.py:f"], "missing.py:f: there is no file missing.py"),
    (["own.py:broken_env"], "has no attribute 'nothing_of_this_name'\n  own.py:"),
    (["own.py:nothing"], "own.py has no 'nothing'; it has"),
    ([], "Missing argument 'ENV'"),
]


BAD_VALUES = [
    (["dqn", "Pendulum-v1"], "dqn is for discrete actions; the environment has Box"),
    (["iqn", "CartPole-v1", "--memory", "gru"], "--memory: iqn takes no network with memory"),
    (["pqn", "CartPole-v1", "--noise"], "--noise: pqn has no part that draws it"),
    (
        ["dqn", "CartPole-v1", "--backup", "mean"],
        "'mean' is not one of 'max', 'double', 'munchausen', 'soft', 'rescaled'",
    ),
    (
        ["dqn", "CartPole-v1", "--capacity", "1000000000000"],
        "DQN.capacity is 1000000000000; it must be below 2147483648",
    ),
    (
        ["dqn", "CartPole-v1", "--burn-in", "4"],
        "sequence_length or burn_in is given; they are for a network with memory",
    ),
    (["c51", "CartPole-v1", "--low", "5", "--high", "1"], "c51: low is 5.0 and high is 1.0; low must be below high"),
]


@pytest.mark.parametrize("arguments, said", BAD_VALUES, ids=[" ".join(a) for a, _ in BAD_VALUES])
def test_bad_input_to_agents_that_learn_values(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("train", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


@pytest.mark.parametrize("arguments, said", BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(arguments, said, own, monkeypatch, capsys):
    taken = own.with_name("taken")
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    monkeypatch.setattr(execute, "stream", lambda *_: pytest.fail("it began to run"))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a))
    assert command("train", "ppo", *arguments) == 2
    error = capsys.readouterr().err
    assert readable(error) and said in error, error
    assert sorted(p.name for p in own.parent.iterdir()) == ["own.py", "taken"]


@pytest.mark.parametrize(
    "env, read, package, file",
    [
        ("Portfolio-v0", portfolio.sp500_stocks, "skfolio", "datasets/data/sp500_dataset.csv.gz"),
        ("Acquisition-v0", acquisition.mni_slices, "nilearn",
         "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"),
        ("Glimpses-v0", None, "scikit-learn", "datasets/data/digits.csv.gz"),
    ],
)  # fmt: skip
def test_data_that_are_missing_or_empty_are_one_line(env, read, package, file, tmp_path, monkeypatch, capsys):
    folders = {"missing": None, "without": tmp_path / "without", "empty": tmp_path / "empty"}
    (folders["empty"] / file).parent.mkdir(parents=True)
    (folders["empty"] / file).write_bytes(b"")
    find = importlib.util.find_spec
    for case, said in (
        ("missing", f"needs the package {package}: pip install 'purerl[data]'"),
        ("without", f"is not where it was expected in {package}: "),
        ("empty", f"{Path(file).name} is not a"),
    ):
        spec = folders[case] and SimpleNamespace(submodule_search_locations=[str(folders[case])])
        names = ("skfolio", "nilearn", "sklearn")
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *a, s=spec: s if name in names else find(name, *a)
        )
        if read:
            read.cache_clear()
        assert command("train", "ppo", env) == 2
        error = capsys.readouterr().err
        assert readable(error) and said in error and error.count("\n") == 1, error


@pytest.mark.parametrize(
    "agent, said",
    [
        ("own.py:only_continuous", "only_continuous needs a Box action space"),
        ("own.py:not_an_agent", "must be a function that declares its family, such as @purerl.declare("),
        ("own.py:absent", "own.py has no 'absent'; it has"),
        ("own.py:mine --normalize-reward", "--normalize-reward needs a discount; Mine has no gamma"),
        (
            "ppo --reward own.py:not_a_reward",
            "--reward is own.py:not_a_reward; it must be FILE.py:name of a purerl Reward, of a",
        ),
        (
            "ppo --reward own.py:absent",
            "it has Mine, mine, Wrapped, wrapped, untrained, only_continuous, not_an_agent, of_transitions, doubled,",
        ),
        (
            "ppo --reward own.py:of_transitions_with_a_mistake",
            "AttributeError: 'Transition' object has no attribute 'rewards'\n  own.py:",
        ),
        (
            "ppo --reward own.py:of_info",
            ', in of_info: return tr.info["cost"]; --info names the entries of info to keep',
        ),
        ("ppo --reward own.py:of_hparams", "a function of hyperparameters must call its parameter hp"),
        ("own.py:clashing", "clashing: steps is an option of every run and of the agent; rename it in Clashing"),
        ("ppo --reward own.py:entropy", "reward reports entropy, which the learner reports itself"),
    ],
)
def test_own_agents_that_do_not_fit(agent, said, own, capsys):
    assert command("train", *agent.split(), "CartPole-v1") == 2
    error = capsys.readouterr().err
    assert readable(error) and said in error


def test_an_error_in_a_users_file_names_its_line_and_debug_shows_all(tmp_path, monkeypatch, capsys):
    """A second line has the place, also where the file was only imported; the traceback stays out unless asked for."""
    monkeypatch.setenv("JAX_TRACEBACK_FILTERING", "")
    inside = "def bandit():\n    raise ValueError('no arms')\n"
    for name, code, line in (("in.py", inside, "in.py:2, in bandit: raise"), ("at.py", "int('x')", "at.py:1, in <mod")):
        (tmp_path / name).write_text(code)
        words = ["train", "ppo", f"{tmp_path / name}:bandit"]
        assert command(*words) == 2
        error = capsys.readouterr().err
        assert readable(error) and error.split("\n")[1].strip().startswith(line), error
        assert command(*words, "--debug") == command("--debug", *words) == 2
        traced = capsys.readouterr().err
        assert traced.count("Traceback (most recent call last)") >= 2 and traced.endswith(error)
    assert cli._without_debug(["a", "--", "--debug"]) == (["a", "--", "--debug"], False)


# --- what runs ------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_own_files_train_and_the_picture_is_written(own, monkeypatch, capsys):
    """PPO with the user's network in the user's environment: one rate does not learn, the other does."""
    words = ["own.py:wrapped", "own.py:bandit", "--network", "own.py:torso", "--steps", "2e4", "--seeds", "3"]
    monkeypatch.setenv("COLUMNS", "120")
    assert command("train", *words, "--rate", "0.0,0.05", "--num-envs", "8") == 0
    out, error = capsys.readouterr()
    rows = [line for line in out.split("\n") if line.startswith("│ 0")]
    assert len(rows) == 2 and " rate " in out
    returns = [float(row.split("│")[2]) for row in rows]
    assert abs(returns[0]) < 0.2 and returns[1] > 0.9
    assert "2 configurations x 3 seeds" in error and "compiling" in error and "iteration" in error
    directory = own.with_name("runs") / "own.wrapped-own.bandit"
    assert (directory / "curve.png").stat().st_size > 10_000
    assert [p.read_text() for p in (directory / "code").iterdir()] == [OWN.read_text()]


def test_a_process_is_set_up_as_nobody_else_has_said(tmp_path, monkeypatch):
    """Flags that are named in XLA_FLAGS stay; the cache of compiled programs is one for this kind of processor."""
    names = ["jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"]
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        devices.set_up_jax()
        assert Path(jax.config.jax_compilation_cache_dir) == tmp_path / "purerl" / "jax" / files.processor()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert os.environ["XLA_FLAGS"].split() == ["--xla_cpu_multi_thread_eigen=true", *devices.FLAGS[1:]]
    devices.set_up_jax()
    assert jax.config.jax_compilation_cache_dir == before[names[0]]  # a cache that is there is kept


def test_a_time_limit_may_exceed_the_environments_own(tmp_path, monkeypatch):
    planned = []
    monkeypatch.setattr(execute, "execute", lambda plan, *_, **how: planned.append(plan))
    for limit in (1000, 20):
        assert train(tmp_path / f"{limit}", "--time-limit", limit, agent=f"{OWN}:untrained") == 0
    assert [plan.env_params.max_steps_in_episode for plan in planned] == [1000, 500]
    for plan, limit in zip(planned, (1000, 20), strict=True):
        _, state = plan.env.reset_env(jax.random.key(0), plan.env_params)
        at = lambda t, state=state: state._replace(env=state.env.replace(time=t), time=t)
        ends = [bool(plan.env.is_truncated(at(t), plan.env_params)) for t in (limit - 1, limit)]
        assert ends == [False, True]


def test_evaluation_ends_at_the_time_limit_of_a_run_whose_environment_has_none(monkeypatch):
    limits = []

    def played(env, env_params, agent, state, key, episodes, limit, greedy, at_once):
        limits.append(limit)
        return training.evaluation.Evaluation(jnp.zeros(1), jnp.zeros(1), jnp.ones(1, bool))

    monkeypatch.setattr(training, "evaluate", played)
    parts = {"num_runs": 1, "env_params_of": lambda hp: (), "config": {"time_limit": 40}}
    run = SimpleNamespace(
        plan=SimpleNamespace(**parts),
        broken={},
        env=None,
        agent=lambda hp: None,
        hp=0.0,
        state=SimpleNamespace(agent=0.0),
    )
    run.one = lambda r: run
    for limit in (None, 9):
        evaluation.play(run, 1, 0, limit)
    assert limits == [40, 40, 9, 9]  # greedy and stochastic


def test_the_command_line_trains_in_32_bits(monkeypatch, capsys):
    """Dtypes of states are fixed, whatever the default of jax is."""
    monkeypatch.setattr(devices, "FLAGS", ())
    jax.config.update("jax_enable_x64", True)
    try:
        devices.set_up_jax()
        assert not jax.config.read("jax_enable_x64")
    finally:
        jax.config.update("jax_enable_x64", False)
    assert "JAX_ENABLE_X64 is set and has no effect here" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_help_on_a_console_without_greek_letters(encoding, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert command("train", "ppo", "--help") == 0
    sys.stdout.flush()
    assert b"--gamma" in written.getvalue()


def test_the_cache_of_compiled_programs_can_be_left_out(tmp_path, monkeypatch):
    """Before anything is compiled: jax decides at its first program."""
    used, decided = [], []
    monkeypatch.setattr(devices, "reset_cache", lambda: decided.append(jax.config.jax_enable_compilation_cache))
    monkeypatch.setattr(build, "environment", lambda name: (used.append(decided[:]), envs.make("CartPole-v1"))[1])
    monkeypatch.setattr(execute, "execute", lambda *_, **how: used.append(jax.config.jax_enable_compilation_cache))
    for name, flags in (("a", []), ("b", ["--no-compilation-cache"])):
        assert train(tmp_path / name, *flags, agent=f"{OWN}:untrained") == 0
    assert used == [[], True, [False], False] and jax.config.jax_enable_compilation_cache


def test_a_notebook_has_the_cache_by_one_call(tmp_path):
    names = ["jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"]
    before = {name: getattr(jax.config, name) for name in names}
    try:
        assert purerl.runs.use_compilation_cache() == Path(before[names[0]])  # where jax was told to
        assert purerl.runs.use_compilation_cache(tmp_path) == tmp_path
        jax.jit(lambda x: x + 0.125).lower(1.0).compile()  # compiled at once, and not stored
        jax.config.update(names[1], 0.0)
        jax.jit(lambda x: x + 0.25).lower(1.0).compile()
        assert [path.suffix for path in tmp_path.glob("*-cache")] or list(tmp_path.iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        devices.reset_cache()


WORDS = [
    ("dqn", "backup", "max", bellman.max_backup),
    ("dqn", "backup", "double", bellman.double_backup),
    ("dqn", "backup", "munchausen", bellman.munchausen_backup(0.03)),
    ("dqn", "backup", "soft", bellman.soft_backup(0.03)),
    ("dqn", "backup", "rescaled", bellman.transformed_backup(bellman.double_backup, np.sign, np.sign)),
    ("dqn", "td_loss", "squared", losses.squared),
    ("dqn", "td_loss", "huber", losses.huber),
    ("dqn", "explore", "epsilon-greedy", exploration.epsilon_greedy),
    ("dqn", "explore", "boltzmann", exploration.boltzmann),
    ("ddpg", "process", "gaussian", exploration.gaussian_noise),
    ("ddpg", "process", "ornstein-uhlenbeck", exploration.ornstein_uhlenbeck),
    *[("grpo", "normaliser", word, part) for word, part in sequences.NORMALISERS.items()],
    *[("grpo", "ratio", word, part) for word, part in sequences.RATIOS.items()],
    *[("grpo", "scale", word, part) for word, part in objectives.SCALES.items()],
]


def test_every_word_is_tested():
    agents = [getattr(purerl, name) for name in purerl.agents.names()]
    parts = [(name, part) for make in agents for name, part in declaration_of(make).parts.items()]
    chosen = {(name, word) for name, part in parts if isinstance(part, Choice) for word in part.values}
    assert {(name, word) for _, name, word, _ in WORDS} == chosen


@pytest.mark.parametrize("agent, name, word, part", WORDS, ids=[word for _, _, word, _ in WORDS])
def test_a_word_is_the_part_that_it_names(agent, name, word, part, monkeypatch):
    """What the agent's constructor is given: the function itself, or one that the same function has made."""
    module, given = importlib.import_module(f"purerl.agents.{agent}"), []
    make = getattr(module, agent)

    @functools.wraps(make)
    def spy(*args, **kwargs):
        given.append(kwargs[name])

    monkeypatch.setattr(module, agent, spy)
    env, env_params = purerl.make("Pendulum-v1" if agent == "ddpg" else "CartPole-v1")
    asked = [env.name, f"--{name.replace('_', '-')}", word, "--network", "mlp"]
    job = cli.purerl_command.commands["train"].get_command(None, agent).make_context(agent, asked).params
    make = build.agent_function(agent)
    build.agent(make, env.action_space(env_params), options=job)(declaration_of(make).hp)
    assert [function.__qualname__ for function in given] == [part.__qualname__]


@pytest.mark.parametrize("agent", ["ppo", "a2c", "reinforce"])
def test_every_field_of_a_config_is_a_documented_option(agent):
    import dataclasses

    config = {"ppo": purerl.PPO, "a2c": purerl.A2C, "reinforce": purerl.REINFORCE}[agent]
    page = CliRunner().invoke(cli.purerl_command, ["train", agent, "--help"], terminal_width=200).output
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in page and field.metadata["doc"].split(";")[0][:30] in page


def planned(monkeypatch, *arguments):
    """The plan that a command would train."""
    plans = []
    monkeypatch.setattr(execute, "train", lambda plan, *_, **__: plans.append(plan))
    assert command("train", *arguments) == 0
    return plans[0]


def test_limits_and_sticky_actions_are_those_that_are_asked_for(monkeypatch):
    env = planned(monkeypatch, "ppo", "CartPole-v1", "--sticky-actions", 0.5, "--time-limit", 7).env
    assert isinstance(env, envs.StickyActions) and env.probability == 0.5
    assert isinstance(env.env, envs.TimeLimit) and env.env.max_steps == 7


def test_parameters_of_the_environment_are_those_that_are_given(tmp_path):
    """Floats are swept, ints are structure; they are in the table of runs, in the manifest, and in a loaded run."""
    given = ["--env-param", "force_mag=0.1,100", "--env-param", "max_steps_in_episode=6"]
    assert train(tmp_path / "run", *given, agent=f"{OWN}:untrained", seeds=2) == 0
    run = purerl.runs.load(tmp_path / "run")
    assert run.plan.swept == ["env_force_mag"] and run.manifest["env_params"]["force_mag"] == [0.1, 100.0]
    assert run.manifest["env_params"]["max_steps_in_episode"] == 6 == run.env_params.max_steps_in_episode
    assert [run.one(r).env_params.force_mag for r in range(4)] == pytest.approx([0.1, 0.1, 100, 100])
    weak, strong = run.metrics.columns["episode_length"].reshape(5, 2, 2).mean((0, 2))
    assert strong < 5.5 and weak == 6  # a push of 100 N and the pole falls
    assert "0,0,0.1," in (tmp_path / "run" / "metrics.csv").read_text().split("\n")[1]


def test_hyperparameters_are_those_that_are_given(monkeypatch):
    plan = planned(monkeypatch, "dqn", "CartPole-v1", "--learning-rate", "0.5,0.25", "--gamma", 0.75, "--n-step", 3)
    assert [float(hp.learning_rate) for hp in plan.grid] == [0.5, 0.25]
    assert [(float(hp.gamma), hp.n_step) for hp in plan.grid] == 2 * [(0.75, 3)]


@pytest.mark.parametrize("agent, name, steps", [("ppo", "anneal_steps", 1e6), ("dqn", "explore_steps", 5e5)])
def test_horizons_are_a_share_of_the_run(agent, name, steps, monkeypatch):
    assert getattr(planned(monkeypatch, agent, "CartPole-v1", "--steps", 1e6).hp(), name) == steps


def test_checkpoints_are_half_a_minute_apart():
    made = cli.purerl_command.commands["train"].get_command(None, "ppo").make_context("ppo", ["CartPole-v1"])
    assert made.params["save_every"] == 30.0


def test_a_run_is_never_written_over_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "execute", lambda *_, **how: None)
    for _ in range(2):
        assert command("train", "ppo", "CartPole-v1") == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["ppo-CartPole-v1", "ppo-CartPole-v1-2"]
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    capsys.readouterr()
    # a name that was asked for is not changed in silence
    assert command("train", "ppo", "CartPole-v1", "--dir", "runs/ppo-CartPole-v1") == 2
    assert "runs/ppo-CartPole-v1 holds another run; give another" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*.json")}


def test_a_path_that_is_taken_gets_a_number(tmp_path):
    path = tmp_path / "a.png"
    assert report.unused(path) == path
    path.touch()
    (tmp_path / "a-2.png").touch()
    assert report.unused(path) == tmp_path / "a-3.png"


def test_progress_on_a_terminal_and_off_it():
    from rich.console import Console

    for terminal in (True, False):
        console = Console(record=True, force_terminal=terminal, width=120, file=open(os.devnull, "w"))  # noqa: SIM115
        with Progress(10, 100, console) as progress:
            with progress.compiling():
                pass
            for iteration in range(1, 11):
                progress.update(iteration, 7.0)
        text = console.export_text()
        assert "compiling" in text if not terminal else True
        assert "10/10" in text and "steps/s" in text and "return 7.0" in text


def test_new_writes_an_example_that_trains(tmp_path, monkeypatch, capsys):
    """Every command that it shows is planned, whole; nothing is written over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps, "resume", lambda *_, **__: None)
    for kind in ("agent", "env", "reward"):
        assert command("new", kind, f"{kind}.py") == 0
        said = capsys.readouterr().err
        shown = [line.strip() for line in Path(f"{kind}.py").read_text().split("\n") if line.startswith("    purerl ")]
        assert len(shown) == 2 and f"written: {kind}.py; next: {shown[0]}" in said
        for line in shown:
            assert planned(monkeypatch, *line.split()[2:]).num_runs in (8, 16)
        before = Path(f"{kind}.py").read_text()
        assert command("new", kind, f"{kind}.py") == 2 and "exists; give another name" in capsys.readouterr().err
        assert before == Path(f"{kind}.py").read_text()
    assert command("new", "env", "my env.py") == 0 and "train ppo 'my env.py':my_env" in capsys.readouterr().err
    for name, said in (("own.txt", "its ending must be .py"), ("no/own.py", "there is no directory no")):
        assert command("new", "env", name) == 2 and said in capsys.readouterr().err


def test_words_of_the_command_line(monkeypatch, tmp_path, capsys):
    """Counts with units, an option by its initials, environments that a shell completes, and a module."""
    counts = {"100k": 100_000, "1M": 10**6, "1.5M": 1_500_000, "5e5": 500_000}
    for word, count in counts.items():
        assert Count(total=True).convert(word, None, None) == count
    for word in ("1m", "k", "1.0001k", "1kk"):
        with pytest.raises(click.BadParameter, match="is not a positive whole number"):
            Count().convert(word, None, None)
    assert command("train", "ppo", "CartPole-v1", "--lr", "1") == 2
    assert "No such option '--lr'. Did you mean --learning-rate?" in capsys.readouterr().err
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = [catalogue.Entry("CartPole-v1", "a", "b", "c"), catalogue.Entry("brax/...", "", "", "")]
    monkeypatch.setattr(catalogue, "_made", lambda: made)
    assert catalogue.environments() == made
    monkeypatch.setattr(catalogue, "_made", lambda: pytest.fail("it is in the cache"))
    assert catalogue.environments() == made
    assert [item.value for item in catalogue.complete(None, None, "Cart")] == ["CartPole-v1"]
    assert [(x.value, x.type) for x in catalogue.complete(None, None, "own")] == [("own", "file")]
    (tmp_path / "purerl" / f"environments-{catalogue._state()}.json").write_text("[[1]]")
    monkeypatch.setattr(catalogue, "_made", lambda: made[:1])
    assert catalogue.environments() == made[:1]  # what cannot be read is made again
