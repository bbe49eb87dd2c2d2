"""Killed at any moment, or in the dark: what is on the disk goes on to the same bits as a run that nobody disturbed."""

import commands
import pytest
from commands import command, same_bits
from moments import recorded, restore

from purerl import training
from purerl.runs import checkpoint, files, report

REPLACED = ["half {}.part", "written {}.part", "synced {}.part", "moved {}"]
APPENDED = ["begun metrics.csv", "half metrics.csv", "nearly metrics.csv", "written metrics.csv", "synced metrics.csv"]


def replaced(name, again=""):
    return [text.format(name) + again for text in REPLACED]


def saved(iteration, again=""):
    return [text + again for text in APPENDED] + replaced(f"checkpoints/{iteration:09d}.safetensors")


CREATED = ["made .", "made checkpoints", "made code", "half code/OWN", "written code/OWN",
           *replaced("manifest.json"), *replaced("config.json")[:-1]]  # fmt: skip
TRAINED = ["moved config.json", *saved(4), *saved(8, " (2)"), *saved(12, " (3)"),
           "removed checkpoints/000000004.safetensors", *replaced("manifest.json", " (2)")]  # fmt: skip
RESUMED = ["moved checkpoints/000000008.safetensors.damaged", *replaced("metrics.csv"), *APPENDED]


@pytest.fixture(scope="module", autouse=True)
def one_program():
    """Every test here resumes the same run: its program is compiled once, and no picture is drawn."""
    compile_run, kept = training.compile_run, []

    def once(make, hp, key=None, state=None):
        kept.extend([] if kept else [make, compile_run(make, hp, key, state)])
        state = training.loop._init(kept[0], hp, key) if state is None else state
        return kept[1]._replace(state=state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "compile_run", once)
        patch.setattr(report, "picture", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of three chunks, each of them saved, and its moments."""
    directory = tmp_path_factory.mktemp("runs") / "a"
    with recorded(directory) as moments:
        assert commands.train_own(directory, "--save-every", 0, steps=384, chunks=3) == 0
    (code,) = (directory / "code").iterdir()
    return directory, {name.replace(code.name, "OWN"): moment for name, moment in moments.items()}


@pytest.fixture(scope="module")
def resumed(undisturbed, tmp_path_factory):
    """The moments of resuming where the second of two checkpoints is damaged."""
    directory = tmp_path_factory.mktemp("runs") / "a"
    restore(undisturbed[1]["moved checkpoints/000000008.safetensors"].killed, directory)
    newest = checkpoint.paths(directory / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    with recorded(directory) as moments:
        assert command("resume", directory, "--save-every", 0) == 0
    return moments


def goes_on(files, directory, whole):
    restore(files, directory)
    assert command("resume", directory, "--save-every", 0) == 0
    same_bits(directory, whole)
    assert [p.name for p in directory.rglob("*") if p.suffix == ".part"] == []


def test_every_moment_is_in_the_tables(undisturbed, resumed):
    assert list(undisturbed[1]) == CREATED + TRAINED
    assert list(resumed)[: len(RESUMED)] == RESUMED


@pytest.mark.parametrize("moment", CREATED)
def test_killed_before_there_is_a_run_is_one_line(moment, undisturbed, tmp_path, capsys):
    restore(undisturbed[1][moment].killed, tmp_path / "a")
    assert command("resume", tmp_path / "a") == 2
    assert "a is not the directory of a run: it has no config.json" in capsys.readouterr().err


@pytest.mark.parametrize("moment", [name for name in TRAINED if not name.startswith("synced")])
def test_killed_and_resumed_is_uninterrupted(moment, undisturbed, tmp_path):
    goes_on(undisturbed[1][moment].killed, tmp_path / "a", undisturbed[0])
    assert list((tmp_path / "a").rglob("*.damaged")) == []


@pytest.mark.parametrize("moment", RESUMED)
def test_killed_while_it_is_resumed_and_resumed_is_uninterrupted(moment, undisturbed, resumed, tmp_path):
    goes_on(resumed[moment].killed, tmp_path / "a", undisturbed[0])


@pytest.mark.parametrize("moment", [name for name in TRAINED if not name.startswith(("begun", "half", "nearly"))])
def test_without_power_and_resumed_is_uninterrupted(moment, undisturbed, tmp_path):
    """What was not waited for with fsync is lost by half; names are where they were moved to."""
    goes_on(undisturbed[1][moment].cut_off, tmp_path / "a", undisturbed[0])
    assert list((tmp_path / "a").rglob("*.damaged")) == []


def test_half_a_header_is_no_table(tmp_path):
    (tmp_path / "m.csv").write_text("run,se")
    files.cut_metrics(tmp_path / "m.csv", 4)
    assert not (tmp_path / "m.csv").exists()
