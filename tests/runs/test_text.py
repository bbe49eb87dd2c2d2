"""purerl text: pretraining, training by reinforcement, generation and evaluation, on a model of a few numbers."""

import json
import re
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from commands import StopAfter, command, same_bits, snapshot
from text_runs import REWARD, SIZES, TASK, pretrain, train

import purerl
from purerl.runs import comparison, devices, execute, files, pretraining, sweeps, text_training, writing
from purerl.runs import evaluation as evaluation_of_runs
from purerl.text import assembly, evaluation, generation, huggingface, models, tokens
from purerl.text.environment import ended_by_token
from purerl.text.huggingface import WEIGHTS


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
    assert metrics.columns["validation_perplexity"].shape == (5, 2)
    assert metrics.steps[-1] == 240  # 10 updates of 4 sums, of 6 tokens at most
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
    _, held_out = assembly.held_out("addition:1", assembly.read("addition:1"), 0.05)
    logs = []
    for prompt, (reference,) in zip(*held_out, strict=True):
        x, y = tokenizer.encode(prompt), [*tokenizer.encode(reference), tokenizer.end]
        ids = np.array([x]), np.array([len(x)]), np.array([y])
        logs += np.asarray(generation.completion_log_probs(model, params, *ids))[0].tolist()
    return np.exp(-np.mean(logs))


@pytest.mark.parametrize(("stop", "chunks"), [(["--patience", 2], 3), (["--until", 50], 1)], ids=lambda x: str(x))
def test_pretraining_ends_where_validation_does_not_improve_or_is_good_enough(stop, chunks, tmp_path, capsys):
    directory = tmp_path / "early"
    assert pretrain(directory, "--learning-rate", 0, *stop) == 0
    assert "stopped early" in capsys.readouterr().err
    assert files.read_metrics(directory / "metrics.csv", 1).columns["loss"].shape == (chunks, 1)


def test_a_task_is_assembled_in_chunks_and_says_what_is_too_long(pretrained, monkeypatch):
    monkeypatch.setattr(assembly, "LOGITS", 60)
    parts = assembly.assemble(assembly.Settings(str(pretrained), "addition:1", max_prompt=4, max_tokens=2))
    kept = [texts for texts in assembly.read("addition:1").references if len(texts[0]) == 1]
    assert parts.left_out == 90 - len(kept) > 0 and len(parts.task.prompts) == len(kept)
    assert f", {len(kept)} of 90 prompts" in text_training.left_out(parts)
    assert text_training.left_out(parts._replace(left_out=0)) == ""
    size, width = parts.model.shape.vocab_size, parts.model.shape.width
    head = models.Head(jnp.ones((50, width)), parts.params["wte"]["weight"], jnp.ones(()))
    program = jax.make_jaxpr(parts.policy.log_prob)(head, jnp.zeros(50, int))
    assert not re.search(rf"\[(1,)?50,{size}\]", str(program)) and f",{size}]" in str(program)


def test_what_is_not_given_is_that_of_the_data(pretrained):
    assert [pretraining.defaults(name)["tokenizer"] for name in ("pydoc", "sorting:3")] == ["bpe:1000", "characters"]
    sizes = {"max_prompt": 4, "max_tokens": 3, "updates": 1, "num_envs": 8, "temperature": 1.0}
    given = {"model": str(pretrained), "reward": None, **sizes}
    config = lambda name: text_training.config_of("grpo", {**given, "data": name}, {})
    assert [config(name)["text"]["reward"] for name in ("pydoc", "sorting:3")] == ["bleu,rouge-l", "exact"]
    assert pretraining.defaults("pydoc")["until"] is None and pretraining.defaults("sorting:3")["until"] > 1


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


def test_the_metrics_of_a_training_are_those_of_its_rewards(trained):
    metrics = files.read_metrics(trained / "metrics.csv", 1)
    assert {"episode_return", "exact", "weighted/exact", "policy_loss", "length"} <= metrics.columns.keys()
    total = metrics.columns["exact"] + metrics.columns["weighted/distinct"]
    np.testing.assert_allclose(total, metrics.columns["episode_return"], rtol=1e-5)


@pytest.mark.wide
def test_training_is_a_run_like_any_other(trained, pretrained, tmp_path, monkeypatch, capsys):
    cut = tmp_path / "cut"
    monkeypatch.setattr(execute, "Interrupts", StopAfter(1))
    assert train(cut, pretrained, *REWARD) == 130
    monkeypatch.undo()
    assert command("resume", cut) == 0
    same_bits(trained, cut)
    assert "sample: " in capsys.readouterr().err
    assert command("evaluate", trained, "--episodes", 4) == 0
    assert command("plot", trained, "--metric", "exact", "--out", tmp_path / "plot.png") == 0


def test_a_run_goes_on_with_the_devices_and_flags_of_its_beginning(trained, pretrained, tmp_path, monkeypatch):
    """Of XLA: with others, the bits of a resumed run would not be those of one that was not stopped."""
    seen = []
    monkeypatch.setattr(devices, "set_up_jax", lambda *how: seen.append(how))
    places = (sweeps, "resume"), (sweeps, "repeat"), (comparison, "finish"), (evaluation_of_runs, "evaluate")
    for module, name in places:
        monkeypatch.setattr(module, name, lambda *_, **__: True)
    (tmp_path / "config.json").write_text('{"format": 1, "agent": "ppo", "text": null}')
    search = tmp_path / "search"
    search.mkdir()
    (search / "config.json").write_text('{"format": 1, "agent": "ppo", "inner": {"model": "mlp"}}')
    assert train(tmp_path / "run", pretrained, "--learning-rate", "x") == 2 and seen == [(True, False)]
    assert command("optimise", "mlp", "x") == 2 and seen[1:] == [(False, True)]
    text, plain, quick = (True, False), (False, False), (False, True)
    runs = {trained: text, pretrained: text, tmp_path: plain, tmp_path / "none": plain, search: quick}
    for run, how in runs.items():
        seen.clear()
        assert [command(name, run) for name in ("resume", "repeat", "evaluate")] == [0, 0, 0] and seen == 3 * [how]


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
    capsys.readouterr()
    assert command("text", "generate", trained, "3+4=", "--temperature", 0) == 0  # as long as the context allows
    assert capsys.readouterr().out.startswith(said[0].splitlines()[0])
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
    assert (
        command("text", "evaluate", trained, "--code", "run", "--best-of", 2, "--temperature", "0,0.5", "--out", out)
        == 0
    )
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


def test_what_an_evaluation_asks_for(trained, pretrained, tmp_path, monkeypatch, capsys):
    """Which prompts, models, temperatures and keys; and what is judged by which model."""
    written, judged = [], []

    def write(model, params, tokenizer, prompts, key, max_tokens, choose):
        written.append((params, prompts, jax.random.key_data(key).tolist(), max_tokens, choose))
        return generation.Texts(
            [str(i + len(written)) for i in range(len(prompts))], [i == 0 for i in range(len(prompts))]
        )

    def perplexity(model, params, tokenizer, prompts, texts, ended):
        judged.append((params, texts, ended))
        return 1.0

    numbers = dict.fromkeys(["bleu", "rouge1", "rouge2", "rougeL", "chrf", "exact"], 1.0)
    monkeypatch.setattr(generation, "write", write)
    monkeypatch.setattr(evaluation, "perplexity", perplexity)
    monkeypatch.setattr(evaluation, "quality", lambda texts, references: numbers)
    monkeypatch.setattr(evaluation, "diversity", lambda texts: dict.fromkeys(writing.DIVERSITY, 1.0))
    monkeypatch.setattr(evaluation, "best_by_references", lambda tries, references: tries[-1])
    weights = lambda params: np.asarray(params["wte"]["weight"]).tolist()
    before, after = (weights(assembly.load_model(path)[1]) for path in (pretrained, trained))
    assert command("text", "evaluate", trained, "--examples", 3) == 0
    assert [weights(x[0]) for x in written] == [before, before, after, after] and before != after
    assert [weights(x[0]) for x in judged] == [before] * 4
    texts = assembly.read("addition:1", "test").prompts
    assert {*written[0][1]} == {texts[0], texts[4], texts[9]} and written[0][3] == 3
    pairs, tiny, tokenizer = tmp_path / "pairs.csv", tmp_path / "tiny", tokens.byte_tokenizer()
    pairs.write_text("prompt,reference\n" + "".join(f"p{i},{i}\n" for i in range(40)))
    model = models.gpt2(models.GPT2(tokenizer.size, 16, 8, 1, 1))
    huggingface.save(tiny, model.shape, model.init(jax.random.key(0)), tokenizer)
    written.clear(), judged.clear()
    assert (
        command("text", "evaluate", tiny, pairs, "--temperature", "0,0.5", "--best-of", 2, "--judge", pretrained) == 0
    )
    assert [getattr(x[4], "temperature", 0) for x in written] == [0, 0.5, 0.5, 0.5]
    assert written[2][2] != written[3][2] and all(text.endswith("\n") for text in written[0][1]) and written[0][3] == 3
    assert all(weights(x[0]) == before for x in judged) and judged[0][2] == [True] * 4  # copies of the prompts
    assert judged[0][1] == [text.removesuffix("\n") for text in written[0][1]]
    assert judged[1][1:] == (["1", "2", "3", "4"], [True, False, False, False])
    monkeypatch.setattr(writing, "_separator", lambda model: "\n")
    monkeypatch.setattr(generation, "write", lambda *given, **_: (written.append(given), write(*given))[1])
    assert command("text", "generate", tiny, "ab", "--max-tokens", 2) == 0
    assert written[-2][3] == ["ab\n"] and capsys.readouterr().out.endswith("ab\n6\n")


def test_what_a_training_is_assembled_of(pretrained, tmp_path, monkeypatch):
    plans, temperatures, make = [], [], models.policy_network
    monkeypatch.setattr(execute, "train", lambda plan, *_, **__: plans.append(plan))

    def network(*given):
        temperatures.append(given[3])
        return make(*given)

    monkeypatch.setattr(models, "policy_network", network)
    job = ["text", "train", "grpo", "addition:1", "--model", pretrained, *TASK, "--no-evaluate", "--seeds", 2]
    assert command(*job, "--temperature", 0.5) == 0
    assert temperatures == [0.5] and plans[0].config["text"]["temperature"] == 0.5
    assert plans[0].name == "grpo-addition-1"  # and not in a folder text
    assert text_training.parts_of_agent(purerl.grpo) == {"ended": ended_by_token}
    assert text_training.parts_of_agent(purerl.rloo) == {}
    run = ["text", "pretrain", "addition:1", *SIZES, "--tokens", 240]
    assert command(*run) == 0 and plans[1].num_updates == 10
    assert plans[1].config["hyperparameters"]["anneal_updates"] == (10.0,)
    # the model on disk is that of the run with the best return, which may have ended, and is not broken
    _, params, _ = assembly.load_model(pretrained)
    two = jax.tree.map(lambda x: jnp.stack([x, x + 1]), {"model": params})
    learner = lambda *broken: SimpleNamespace(agent=SimpleNamespace(params=two), nonfinite=jnp.array(broken))
    row = lambda episodes, returns: {"episodes": np.array(episodes), "episode_return": np.array(returns)}
    none = generation.Completions(jnp.zeros((1, 3), int), jnp.zeros(1, int), jnp.zeros((1, 3)), jnp.zeros(1, bool))
    monkeypatch.setattr(text_training, "generate", lambda *_: none)
    rows = [row([100, 100], [0.1, 0.9]), row([100, 0], [0.5, np.nan])]
    for state, best in ((learner(0, 0), 1), (learner(0, 2), 0)):
        said = [*plans[0].watch.after(tmp_path, rows, lambda state=state: state, True)]
        found = assembly.load_model(tmp_path)[1]
        np.testing.assert_array_equal(found["wte"]["weight"], two["model"]["wte"]["weight"][best])
        assert f"seed {best}" in said[-1]


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
    (folder / "one.csv").write_text("prompt,reference\na,b\n")
    (folder / "bad.jsonl").write_text('{"prompt": "a", "reference": "b"}\n{"prompt": "c"}\n')
    more = folder / "more"
    tokens.byte_tokenizer().save(more)
    tensors = damaged(model, folder / "tensors")
    weights = safetensors.numpy.load_file(tensors / WEIGHTS)
    safetensors.numpy.save_file({**weights, "extra.weight": np.zeros(2)}, tensors / WEIGHTS)
    nan = damaged(model, folder / "nan")
    broken = {**weights, "transformer.wpe.weight": np.full((8, 8), np.nan, np.float32)}
    safetensors.numpy.save_file(broken, nan / WEIGHTS)
    return {
        "not finite": nan,
        "one": folder / "one.csv",
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
    (["pretrain", "one"], "one.csv is too small for a part of it to be held out"),
    (["pretrain", "sorting:9"], "a whole number from 1 to 8"),
    (["pretrain", "addition:1", "--model", "pretrained", "--layers", "2"], "--layers is 2; it is of a new model"),
    (["pretrain", "addition:1", "--validation", "nan"], "is not in the range"),
    (["generate", "not finite", "1+1="], "wpe.weight is not finite"),
    (["generate", "pretrained", "--prompts-from", "empty"], "empty.txt is empty"),
    (["generate", "pretrained", "1", "--beam", "2", "--temperature", "0.5"], "excludes --samples, --temperature"),
    (["generate", "pretrained", "1", "--temperature", "nan"], "is not in the range"),
    (["generate", "pretrained", "1", "--max-tokens", "9"], "max_tokens is 9; it must be below 8, the model's context"),
    (["evaluate", "pretrained", "--temperature", "0,-1"], "--temperature is 0, -1; it must be 0 or above"),
    (["pretrain", "missing"], "missing"),
    (["pretrain", "empty"], "empty.txt"),
    (["pretrain", "jsonl"], "bad.jsonl, line 2"),
    (["pretrain", "addition:x"], "addition:N"),
    (["pretrain", "addition:1", "--tokenizer", "words"], "bytes, characters, bpe:SIZE"),
    (["pretrain", "addition:1", "--tokenizer", "characters", "--heads", "3"], "width is 64; it must be a multiple"),
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
