"""purerl text: pretraining, training by reinforcement, generation and evaluation, on a model of a few numbers."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from commands import StopAfter, command, same_bits, snapshot
from text_runs import REWARD, TASK, pretrain, train

import purerl
from purerl.runs import execute, files
from purerl.text import assembly, data, generation, huggingface, tokens


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """Two models on sums, for two learning rates."""
    directory = tmp_path_factory.mktemp("text") / "pretrained"
    assert pretrain(directory, "--learning-rate", "1e-2,1e-3") == 0
    return directory


@pytest.fixture(scope="session")
def trained(pretrained):
    """One of them, trained by reinforcement."""
    directory = pretrained.with_name("trained")
    assert train(directory, pretrained, *REWARD) == 0
    return directory


def test_the_best_model_is_on_disk_with_its_tokenizer(pretrained):
    metrics = files.read_metrics(pretrained / "metrics.csv", 2)
    assert metrics.columns["validation_perplexity"].shape == (5, 2) and metrics.steps[-1] == 320
    model, params, tokenizer = assembly.load_model(pretrained)
    assert model.shape[:5] == (tokenizer.size, 8, 8, 1, 1) and tokenizer.decode(tokenizer.encode("1+2=3")) == "1+2=3"
    held_out = validation_by_hand(model, params, tokenizer)
    np.testing.assert_allclose(held_out, metrics.columns["validation_perplexity"].min(), rtol=1e-5)


def test_the_best_model_of_all_chunks_is_stored(pretrained, tmp_path):
    """A learning rate that ruins a good model: the first chunk is the best."""
    directory = tmp_path / "ruined"
    assert pretrain(directory, "--model", pretrained, "--learning-rate", 3, "--warmup-updates", 9, "--patience", 9) == 0
    values = files.read_metrics(directory / "metrics.csv", 1).columns["validation_perplexity"][:, 0]
    assert values.argmin() < 4 and values[-1] > values.min()
    np.testing.assert_allclose(validation_by_hand(*assembly.load_model(directory)), values.min(), rtol=1e-5)


def validation_by_hand(model, params, tokenizer):
    """exp of the mean over the held-out sums' tokens, one sum at a time."""
    _, held_out = data.split(assembly.read("addition:1"), 0.05)
    logs = []
    for prompt, (reference,) in zip(*held_out, strict=True):
        x, y = tokenizer.encode(prompt), [*tokenizer.encode(reference), tokenizer.end]
        ids = np.array([x]), np.array([len(x)]), np.array([y])
        logs += np.asarray(generation.completion_log_probs(model, params, *ids))[0].tolist()
    return np.exp(-np.mean(logs))


def test_pretraining_ends_where_validation_does_not_improve(tmp_path, capsys):
    directory = tmp_path / "early"
    assert pretrain(directory, "--learning-rate", 0, "--patience", 2) == 0
    assert "stopped early" in capsys.readouterr().err
    assert files.read_metrics(directory / "metrics.csv", 1).columns["loss"].shape == (3, 1)


def test_pretraining_goes_on_from_a_model(pretrained, tmp_path):
    directory = tmp_path / "on"
    assert pretrain(directory, "--model", pretrained, "--learning-rate", 0) == 0
    before, after = (assembly.load_model(path)[1] for path in (pretrained, directory))
    np.testing.assert_array_equal(before["wte"]["weight"], after["wte"]["weight"])


def test_texts_are_learned_in_windows(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("the cat sat on the mat\n" * 20)
    assert pretrain(tmp_path / "run", "--learning-rate", 3e-2, data=text, count=3200) == 0
    assert (tmp_path / "run" / "code").is_dir()
    tokenizer, words = assembly.load_model(tmp_path / "run")[2], text.read_text()
    assert tokenizer.decode(tokenizer.encode(words)) == words
    share = np.unique(list(words), return_counts=True)[1] / len(words)
    found = files.read_metrics(tmp_path / "run" / "metrics.csv", 1).columns["validation_perplexity"][-1, 0]
    assert 1 < found < 0.5 * np.exp(-(share * np.log(share)).sum())  # a letter tells of the next one


def test_training_is_a_run_like_any_other(trained, pretrained, tmp_path, monkeypatch, capsys):
    metrics = files.read_metrics(trained / "metrics.csv", 1)
    assert {"episode_return", "exact", "weighted/exact", "policy_loss", "length"} <= metrics.columns.keys()
    total = metrics.columns["exact"] + metrics.columns["weighted/distinct"]
    np.testing.assert_allclose(total, metrics.columns["episode_return"], rtol=1e-5)
    cut = tmp_path / "cut"
    monkeypatch.setattr(execute, "Interrupts", StopAfter(1))
    assert train(cut, pretrained, *REWARD) == 130
    monkeypatch.undo()
    assert command("resume", cut) == 0
    same_bits(trained, cut)
    assert "sample: " in capsys.readouterr().err
    assert command("evaluate", trained, "--episodes", 4) == 0
    assert command("plot", trained, "--metric", "exact", "--out", tmp_path / "plot.png") == 0


def test_the_trained_model_is_written_for_others(trained, pretrained):
    run = purerl.runs.load(trained)
    model, params, _ = assembly.load_model(trained)
    same = lambda x, y: np.testing.assert_array_equal(np.asarray(x)[0], y)
    same(run.state.agent.params["model"]["wte"]["weight"], params["wte"]["weight"])
    assert np.abs(params["wte"]["weight"] - assembly.load_model(pretrained)[1]["wte"]["weight"]).max() > 0.01
    same(
        run.state.agent.params["model"]["h"][0]["attn"]["c_attn"]["weight"], params["h"][0]["attn"]["c_attn"]["weight"]
    )
    assert huggingface.load(trained / "model")[0].shape == model.shape


def test_a_reward_of_strings_of_ones_own(pretrained, tmp_path):
    own, log = tmp_path / "reward.py", tmp_path / "log.jsonl"
    own.write_text(
        "import json\n\n\n"
        "def size(prompts, completions):\n"
        f"    with open({str(log)!r}, 'a') as file:\n"
        "        file.write(json.dumps([prompts, completions]) + '\\n')\n"
        "    return [len(text) for text in completions]\n"
    )
    assert train(tmp_path / "run", pretrained, "--reward", f"{own}:size", "--kl-cost", 0.1, agent="rloo") == 0
    columns = files.read_metrics(tmp_path / "run" / "metrics.csv", 1).columns
    assert np.isfinite(columns["kl"]).all()
    given = [json.loads(line) for line in log.read_text().splitlines()]
    sizes = [len(text) for _, completions in given for text in completions]
    assert len(sizes) == 4 * 8 and len(set(sizes)) > 1 and max(sizes) <= 3
    assert all(re.fullmatch(r"\d\+\d=", text) for prompts, _ in given for text in prompts)
    np.testing.assert_allclose(columns["episode_return"].mean(), np.mean(sizes), rtol=1e-6)


def test_generation_greedy_by_beams_and_sampled(trained, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("1+1=\n2+2=\n")
    greedy = ["text", "generate", trained, "3+4=", "--prompts-from", prompts, "--max-tokens", 3]
    said = []
    for how in (["--temperature", 0], ["--beam", 1], ["--beam", 2], ["--samples", 2, "--top-k", 3, "--top-p", 0.9]):
        assert command(*greedy, *how) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and [line[:4] for line in said[0].splitlines()] == ["3+4=", "1+1=", "2+2="]
    assert len(said[3].splitlines()) == 6


OPTIONS = [
    ([], {0, 1, 2, 3}),
    (["--top-k", 3], {1, 2, 3}),
    (["--top-p", 0.6], {3}),
    (["--min-p", 0.3], {2, 3}),
    (["--temperature", 0.05], {3}),
    (["--temperature", 9, "--top-k", 3], {1, 2, 3}),
    (["--temperature", 0], {3}),
]


@pytest.mark.parametrize("options, drawn", OPTIONS, ids=[" ".join(map(str, o)) or "none" for o, _ in OPTIONS])
def test_tokens_are_drawn_as_the_options_say(options, drawn, pretrained, monkeypatch):
    """Of four whose probabilities are 0.03, 0.09, 0.24 and 0.64."""
    choices = []

    def spy(model, params, tokenizer, prompts, key, max_tokens, choose, **_):
        choices.append(choose)
        return generation.Texts(["" for _ in prompts], [True for _ in prompts])

    monkeypatch.setattr(generation, "write", spy)
    assert command("text", "generate", pretrained, "1", *options) == 0
    logits = jnp.broadcast_to(jnp.arange(4.0), (1000, 4))
    assert set(choices[0](jax.random.key(0), logits).tolist()) == drawn


def test_a_model_that_is_not_named_is_that_of_the_data(pretrained, tmp_path, monkeypatch, capsys):
    """One whose pretraining was stopped is finished first; that of other data is not taken."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pretrained, tmp_path / "runs" / "pretrain-addition-1")
    trained, resumed = [], []
    monkeypatch.setattr(execute, "train", lambda plan, *_, **__: trained.append(plan))
    monkeypatch.setattr(execute, "resume", lambda directory, *_, **__: resumed.append(directory.name))
    sums = ["text", "train", "grpo", "addition:1", *TASK, "--no-evaluate"]
    assert command(*sums) == 0 and resumed == []
    assert "that of runs/pretrain-addition-1 is taken" in capsys.readouterr().err
    (tmp_path / "runs" / "pretrain-addition-1" / "curve.png").unlink()
    assert command(*sums) == 0 and resumed == ["pretrain-addition-1"]
    model = tmp_path / "runs" / "pretrain-addition-1"
    assert [plan.config["text"]["model"] for plan in trained] == 2 * [str(model / "model")]
    shutil.copytree(pretrained, tmp_path / "runs" / "pretrain-addition-2")
    assert command("text", "train", "grpo", "addition:2", *TASK, "--no-evaluate") == 2
    said = "runs/pretrain-addition-2 is of addition:1, not of addition:2: give --model"
    assert said in capsys.readouterr().err and len(trained) == 2 and len(resumed) == 1


def test_evaluation_before_and_after(trained, pretrained, tmp_path, capsys):
    out = tmp_path / "texts.jsonl"
    assert command("text", "evaluate", trained, "--best-of", 2, "--temperature", "0,0.5", "--out", out) == 0
    said = capsys.readouterr().out
    rows = ["before, greedy", "before, temperature 0.5", "before, best of 2", "after, greedy", "after, best of 2"]
    assert all(re.search(rf"{name} +│", said) for name in rows) and "perplexity" in said and "BLEU" not in said
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 10 and {"prompt", "references", *rows} <= lines[0].keys()
    capsys.readouterr()
    for name, model in (("before", pretrained), ("after", trained)):
        assert command("text", "generate", model, lines[0]["prompt"], "--max-tokens", 3, "--temperature", 0) == 0
        assert capsys.readouterr().out.strip() == lines[0]["prompt"] + lines[0][f"{name}, greedy"]
    assert any(line["before, temperature 0.5"] != line["after, temperature 0.5"] for line in lines)


def damaged(source, directory, **changes):
    """A copy of a model's folder with other files; None removes one."""
    shutil.copytree(source, directory)
    for name, content in changes.items():
        path = directory / name.replace("_", ".")
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    return directory


@pytest.fixture(scope="session")
def wrong(pretrained, tmp_path_factory):
    """Inputs with a mistake, by name."""
    folder, model = tmp_path_factory.mktemp("wrong"), pretrained / "model"
    (folder / "empty.txt").write_text("")
    (folder / "bad.jsonl").write_text('{"prompt": "a", "reference": "b"}\n{"prompt": "c"}\n')
    more = folder / "more"
    tokens.byte_tokenizer().save(more)
    tensors = damaged(model, folder / "tensors")
    weights = safetensors.numpy.load_file(tensors / "model.safetensors")
    safetensors.numpy.save_file({**weights, "extra.weight": np.zeros(2)}, tensors / "model.safetensors")
    return {
        "empty": folder / "empty.txt",
        "jsonl": folder / "bad.jsonl",
        "other tokenizer": damaged(model, folder / "other", tokenizer_json=(more / "tokenizer.json").read_bytes()),
        "hostile": damaged(model, folder / "hostile", model_safetensors=b"\x80\x04cos\nsystem\n."),
        "no tokenizer": damaged(model, folder / "none", tokenizer_json=None),
        "tensors": tensors,
        "pretrained": pretrained,
        "folder": model,
        "missing": folder / "missing",
    }


MISTAKES = [
    (["pretrain", "missing"], "missing"),
    (["pretrain", "empty"], "empty.txt"),
    (["pretrain", "jsonl"], "bad.jsonl, line 2"),
    (["pretrain", "addition:x"], "addition:N"),
    (["pretrain", "addition:1", "--tokenizer", "words"], "bytes, characters, bpe:SIZE"),
    (["pretrain", "addition:1", "--tokenizer", "characters", "--heads", "3"], "width is 128; it must be a multiple"),
    (["pretrain", "addition:1", "--tokenizer", "bytes", "--tokens", "10"], "at least one"),
    (["train", "grpo", "nosuch.txt", "--model", "pretrained", "--max-prompt", "4"], "nosuch.txt"),
    (["train", "grpo", "addition:1", "--model", "missing"], "has no model"),
    (["train", "grpo", "addition:1", "--model", "other tokenizer", *TASK], "tokenizer"),
    (["train", "grpo", "addition:1", "--model", "hostile", *TASK], "model.safetensors"),
    (["train", "grpo", "addition:1", "--model", "no tokenizer", *TASK], "tokenizer.json"),
    (["train", "grpo", "addition:1", "--model", "tensors", *TASK], "extra.weight"),
    (["train", "grpo", "addition:1", "--model", "pretrained", *TASK, "--max-prompt", "9"], "the model's context"),
    (["train", "grpo", "addition:1", "--model", "pretrained", *TASK, "--reward", "blue"], "allowed are exact, bleu"),
    (["train", "grpo", "addition:1", "--model", "pretrained", *TASK, "--reward", "bleu:x"], "not a number"),
    (["train", "grpo", "addition:1", "--model", "pretrained", *TASK, "--max-prompt", "2"], "none has a prompt"),
    (["train", "nosuch", "addition:1"], "no agent 'nosuch'"),
    (["train", "dqn", "addition:1", "--model", "pretrained"], "dqn"),
    (["generate", "missing"], "has no model"),
    (["generate", "pretrained", "1+1=1+1=", "--max-tokens", "3"], "it must have at most 5"),
    (["generate", "pretrained", "A"], "'A'"),
    (["generate", "pretrained", "1", "--beam", "2", "--samples", "2"], "excludes --samples"),
    (["generate", "pretrained", "1", "--beam", "2", "--min-p", "0"], "excludes --samples"),
    (["generate", "pretrained", "1", "--length-penalty", "1"], "there is no --beam"),
    (["evaluate", "folder"], "DATA has to be named"),
    (["train", "grpo", "addition:1", "--model", "pretrained", "--completions", "12"], "a multiple of --group-size, 8"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda x: " ".join(x[:4]) if isinstance(x, list) else "")
def test_mistakes_are_one_line_and_change_nothing(arguments, said, wrong, tmp_path, capsys):
    before = snapshot(wrong["pretrained"])
    words = [str(wrong.get(word, word)) for word in arguments]
    where = ["--dir", tmp_path / "new"] if arguments[0] in ("pretrain", "train") else []
    capsys.readouterr()
    assert command("text", *words, *where) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("purerl: error: ") and said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists() and snapshot(wrong["pretrained"]) == before


@pytest.mark.parametrize("words", ["", "pretrain", "train", "train grpo", "generate", "evaluate"])
def test_help_says_what_each_command_does(words, capsys):
    assert command("text", *words.split(), "--help") == 0
    assert "Usage: " in capsys.readouterr().out
