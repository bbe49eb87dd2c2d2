"""purerl optimise: the search for the schedule of a training of a few numbers, and what is on disk after it."""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import StopAfter, command, same_bits

from purerl.envs.training_control import data as data_sets
from purerl.envs.training_control import schedules
from purerl.runs import comparison, execute, files, optimisation, sources
from purerl.runs.optimisation import Inner

OWN = Path(__file__).parents[1] / "trainings.py"
SMALL = ["--updates", 4, "--changes", 2, "--batch-size", 4, "--parallel", 4, "--trainings", 16, "--seeds", 2,
         "--compared", 3, "--agent-hidden", 4, "--agent-num-epochs", 1, "--agent-num-minibatches", 1]  # fmt: skip


def optimise(*arguments, model=f"{OWN}:network", data=f"{OWN}:data"):
    return command("optimise", model, data, *SMALL, *arguments)


@pytest.fixture(scope="module", autouse=True)
def few():
    """As few trainings as possible."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RATES": np.logspace(-2, 0, 3), "FIRST": 2, "CHOICE": 2, "AT_ONCE": 8}.items():
            patch.setattr(comparison, name, value)
        yield


@pytest.fixture(scope="module")
def optimised(tmp_path_factory):
    """A run without a rate of the user's."""
    directory = tmp_path_factory.mktemp("optimise") / "whole"
    assert optimise("--loss", f"{OWN}:loss", "--dir", directory, "--chunks", 4) == 0
    return directory


def test_the_schedule_is_on_disk_with_its_cost(optimised):
    names = {path.name for path in optimised.iterdir()}
    assert names >= {"schedule.csv", "schedule.json", "schedule.png", "comparison.csv", "curve.png", "code"}
    rows = list(csv.DictReader((optimised / "schedule.csv").open()))
    assert [row["update"] for row in rows] == ["0", "2"] and len(rows[0]) == 2
    stored = json.loads((optimised / "schedule.json").read_text())
    assert stored["schedule"]["learning_rate"] == [float(row["learning_rate"]) for row in rows]
    # two agents of 16 trainings, and two trainings of two rates before them
    inner = Inner(**{**files.read_config(optimised)["inner"], "control": ("learning_rate",)})
    assert inner.sweep == 4 and optimisation.trainings_of(files.read_config(optimised), inner, 2) == 36
    assert comparison.cost_of(files.read_config(optimised), inner, 2) == 36 + 2 * (2 + 2)
    assert comparison.cost_of(files.read_config(optimised), inner, 6) == 6 * (16 + 2 + 2) + 4  # three values, two seeds
    assert 0.01 * 0.5**2 <= stored["schedule"]["learning_rate"][0] <= 2


def test_the_schedule_trains_a_model_without_agents(optimised):
    """A loop in NumPy with the loaded rates gives the losses of the comparison."""
    env, env_params = optimisation.assemble(optimisation.restored(files.read_config(optimised)["inner"]))
    schedule, (x, y) = schedules.load(optimised / "schedule.csv"), map(np.asarray, env._data)

    @jax.jit
    def begin(key):
        state = env.reset_env(key, env_params)[1]
        indices = [env._minibatches(state.order_key, jnp.asarray(first), 2, 36, 4) for first in (0, 2)]
        return state.params["params"], state.parts, state.parts.train[jnp.concatenate(indices)]

    def loss(dense, rows):
        logits = x[rows] @ dense["kernel"] + dense["bias"]
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -logits[np.arange(len(rows)), y[rows]].mean(), np.exp(logits) - np.eye(2)[y[rows]]

    dense, parts, minibatches = jax.device_get(begin(comparison.stream(0, comparison.COMPARE, 3)[1]))
    momentum = jax.tree.map(np.zeros_like, dense)
    for update, rows in enumerate(minibatches):
        error = loss(dense, rows)[1] / len(rows)
        grads = {"bias": error.sum(0), "kernel": x[rows].T @ error}
        momentum = {name: 0.9 * m + grads[name] for name, m in momentum.items()}
        dense = {name: p - float(schedule(update)) * momentum[name] for name, p in dense.items()}
    table = list(csv.DictReader((optimised / "comparison.csv").open()))
    (row,) = [row for row in table if row["schedule"] == "found by ppo" and row["training"] == "1"]
    np.testing.assert_allclose(float(row["test_loss"]), loss(dense, parts.test)[0], rtol=1e-4)
    np.testing.assert_allclose(float(row["validation_loss"]), loss(dense, parts.validation)[0], rtol=1e-4)
    assert set(parts.test.tolist()) == set(range(48, 60)) and len(table) == 3 * 3
    assert schedules.load(optimised / "schedule.json")(3) == schedules.load(optimised / "schedule.csv")(3)


def test_a_resumed_search_finds_the_same_schedule(optimised, tmp_path, monkeypatch):
    directory = tmp_path / "resumed"
    with monkeypatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(1))
        assert optimise("--loss", f"{OWN}:loss", "--dir", directory, "--chunks", 4) == 130
    assert not (directory / "schedule.csv").exists() and command("resume", directory) == 0
    same_bits(optimised, directory)
    for name in ("schedule.csv", "schedule.json", "comparison.csv"):
        assert (directory / name).read_text() == (optimised / name).read_text()


def test_a_training_that_ended_counts_until_its_end():
    table = {"learning_rate": np.array([[0.1, 0.4], [0.4, 9.0]], np.float32)}
    found = comparison.averaged(table, np.array([[True, True], [True, False]]))
    np.testing.assert_allclose(found["learning_rate"], [0.2, 0.4], rtol=1e-5)


def test_few_trainings_have_no_verdict(capsys):
    """The bootstrap interval of three differences of one sign lies on one side of 0, one time in four by chance."""

    def row(name, losses):
        results = {x: np.array(losses) for x in comparison.FINAL} | {"diverged": np.zeros(len(losses), bool)}
        return comparison.Row(name, {}, results)

    for count, verdict in ((3, "too few trainings to say; lower in 3 of 3"), (10, "lower; lower in 10 of 10")):
        comparison.show("one", [row("constant", [1.0] * count), row("found", [0.5] * count)], "accuracy")
        assert f"[-0.5000, -0.5000], {verdict} trainings" in capsys.readouterr().out


def test_data_are_drawn_and_models_fit_their_numbers():
    """Of one column, with what an agent may change besides the rate."""
    control = ("learning_rate", "dropout")
    inner = Inner("mlp", f"{OWN}:drawn", optimizer="adam", width=3, updates=4, changes=2, batch_size=4, control=control)
    env, env_params = optimisation.assemble(inner._replace(rate=0.3))
    obs, state = jax.eval_shape(env.reset_env, jax.random.key(0), env_params)
    assert obs.shape == (18,) and env.action_space(env_params).shape == (2,) and state.data.y.shape == (60, 1)
    assert env_params.settings.learning_rate == 0.3 and env_params.settings.optimizer == 3
    assert optimisation.assemble(inner)[0] is env and optimisation.scheduled(inner) == control


def test_the_files_of_a_training_are_of_code_and_data(tmp_path):
    """A changed file is another training; a folder named as a data set is not meant by that name."""
    (tmp_path / "train-images-idx3-ubyte").touch()
    images, labels = (str(tmp_path / f"train-{name}") for name in ("images-idx3-ubyte", "labels-idx1-ubyte.gz"))
    assert optimisation.files_of(Inner("mlp", str(tmp_path), loss=f"{OWN}:loss")) == sorted([images, labels, str(OWN)])
    assert optimisation.files_of(Inner("mlp", f"{OWN}:data")) == [str(OWN)]
    assert optimisation.files_of(Inner("mlp", "digits")) == []
    copies = {images: "/copies/train-images-idx3-ubyte", labels: "/copies/train-labels-idx1-ubyte.gz"}
    moved = {place: sources.renamed({"inner": {"data": place}}, copies)["inner"] for place in (str(tmp_path), "digits")}
    assert moved == {str(tmp_path): {"data": "/copies"}, "digits": {"data": "digits"}}


def test_what_is_printed_trains_as_the_search_did(tmp_path):
    """All settings that have a schedule, and those that have none, are in the Python that is printed."""
    say = lambda **settings: comparison.usage(tmp_path, Inner("mlp", "digits", **settings))
    load = f'schedules.load("{tmp_path}/schedule.csv")'
    assert say(optimizer="rmsprop") == f"optimizer = optax.rmsprop({load}, 0.9, eps_in_sqrt=False)"
    assert say(momentum=0.5) == f"optimizer = optax.sgd({load}, momentum=0.5)"
    whole = f'optimizer = schedules.optimizer("{tmp_path}/schedule.json")'
    assert say(weight_decay=0.1) == whole == say(control=("momentum",)) == say(control=("weight_decay",))
    dropout = f'schedules.load("{tmp_path}/schedule.csv", "dropout")'
    assert say(control=("weight_decay", "dropout")) == f"{whole}; dropout = {dropout}"
    assert say(optimizer="/a/own.py:lion") == f"optimizer = optax.chain(lion, optax.scale_by_schedule({load}))"


def test_data_that_are_drawn_have_the_classes_of_all_draws():
    found = optimisation._data(f"{OWN}:rarely_of_three_classes", 0)
    some = next(x for x in (optimisation._sample(found, seed) for seed in range(9)) if x.y.max() == 1)
    assert optimisation._num_outputs(found, some, 0) == 3


def test_a_directory_that_is_not_new_is_refused_before_any_training(tmp_path, monkeypatch, capsys):
    (tmp_path / "notes").touch()
    monkeypatch.setattr(comparison, "with_rate", lambda *_: pytest.fail("it trained"))
    assert optimise("--dir", tmp_path) == 2
    assert "exists and is not empty; give another --dir" in capsys.readouterr().err


def test_truths_are_two_classes():
    y = optimisation._data(f"{OWN}:truths", 0).y
    assert y.dtype == np.int32 and sorted(set(y.tolist())) == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "digit"}, "there is no data set 'digit'"),
        ({"model": "mpl"}, "there is no model 'mpl'; allowed are mlp, cnn"),
        ({"model": f"{OWN}:wide"}, "the model gives outputs of shape (4, 5) for 4 examples; it must be (4, 2)"),
        ({"model": "cnn"}, "must be [batch, height, width, channels]"),
        ({"more": ["--loss", f"{OWN}:infinite"]}, "the inner loss is inf at the start; it must be finite"),
        ({"more": ["--loss", f"{OWN}:below_zero"]}, "at the start; it must be finite and positive"),
        (
            {"model": f"{OWN}:network_of_one", "more": ["--loss", f"{OWN}:of_one_logit"]},
            "it must be (4, 2), a logit for each class, which the score needs; other outputs need an Objective",
        ),
        ({"data": f"{OWN}:words"}, "data.x are float32 and data.y <U4; they must be real numbers"),
        ({"data": f"{OWN}:ragged"}, "has rows of unequal lengths"),
        ({"data": f"{OWN}:nobody"}, "data.y (0,); they must be [n, ...] and [n], n ≥ 1"),
        ({"data": f"{OWN}:three"}, "the data have 3 examples, and --train 3, --validation 0 and --test 0 must fit"),
        ({"more": ["--test", 50]}, "the data have 60 examples, and --train -2, --validation 12 and --test 50 must fit"),
        ({"model": "mlp", "data": f"{OWN}:numbers_of_years"}, "the integers y go up to 2024, for 60 examples"),
        ({"more": ["--control", "momentum", "--optimizer", "rmsprop"]}, "momentum, which has no effect with"),
        ({"more": ["--control", "weight_decay", "--optimizer", f"{OWN}:lion"]}, "weight_decay, which has no effect"),
        ({"more": ["--weight-decay", 0.1, "--optimizer", f"{OWN}:lion"]}, "--weight-decay is 0.1, which has no effect"),
        ({"more": ["--control", "label_smoothing", "--loss", f"{OWN}:loss"]}, "smoothing, which has no effect on"),
        ({"model": "mlp", "data": f"{OWN}:drawn", "more": ["--control", "label_smoothing"]}, "effect on squared error"),
        ({"more": ["--agent-hidden", "4/8"]}, "Invalid value for '--agent-hidden': '4/8'"),
        ({"more": ["--agent-num-epochs", "1,2"]}, "'1,2' is not a valid integer"),
        ({"more": ["--rate", "inf"]}, "is not in the range 1e-06<=x<=10"),
        ({"more": ["--weight-decay", "inf"]}, "is not in the range 0<=x<inf"),
        ({"more": ["--loss", f"{OWN}:mean_loss"]}, "the loss of 4 examples has shape (); it must have (4,)"),
        ({"more": ["--updates", 0]}, "'0' is not a positive whole number"),
        ({"more": ["--changes", 3]}, "--changes is 3; it must divide --updates, which is 4"),
        ({"more": ["--trainings", 2]}, "--trainings is 2; it must be at least --parallel, which is 4"),
        ({"more": ["--train", 70]}, "the data have 60 examples"),
        ({"more": ["--control", "rate"]}, "--control is rate; allowed are learning_rate, momentum"),
        ({"more": ["--optimizer", "adm"]}, "--optimizer is 'adm'; allowed are sgd, momentum"),
        ({"more": ["--rate", 0]}, "0.0 is not in the range 1e-06<=x<=10"),
        ({"more": ["--agent", "pop"]}, "there is no agent 'pop'"),
    ],
    ids=lambda x: "",
)
def test_bad_input_is_one_line(arguments, message, capsys):
    more = arguments.pop("more", [])
    assert optimise(*more, **arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_an_agent_that_learns_from_long_blocks_needs_more_trainings(capsys):
    few = ["--updates", 4, "--changes", 2, "--parallel", 4, "--trainings", 16]
    assert command("optimise", f"{OWN}:network", f"{OWN}:data", "--agent", "dqn", *few) == 2
    assert "--trainings is 16; it must be at least 20 for this agent, which learns" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr(data_sets.importlib.util, "find_spec", lambda name: None)
    assert optimise(data="digits") == 2
    assert "the data set digits needs the package scikit-learn: pip install 'purerl[data]'" in capsys.readouterr().err


def test_help_has_the_options_of_the_agent(capsys):
    assert command("optimise", "--agent", "dqn", "--help") == 0
    out = capsys.readouterr().out
    assert "--agent-batch-size" in out and "--batch-size" in out and "schedules.load" in out
    assert "Options of the agent, dqn" in out
