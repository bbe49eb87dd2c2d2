"""Commands on text from beginning to end, on a model of a few numbers."""

import json
import re

import click
import jax
import numpy as np
from commands import StopAfter, command, same_bits
from text_runs import REWARD, SIZES, pretrain, train

import purerl
from purerl.runs import execute, pretraining
from purerl.text import assembly, generation, huggingface, models, tokens


def test_pretraining_stopped_and_resumed_is_uninterrupted(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert pretrain(whole, "--learning-rate", "1e-2,1e-3") == 0
    monkeypatch.setattr(execute, "Interrupts", StopAfter(2))
    assert pretrain(cut, "--learning-rate", "1e-2,1e-3") == 130
    monkeypatch.undo()
    assert command("resume", cut) == 0
    same_bits(whole, cut)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (whole / "model" / name).read_bytes() == (cut / "model" / name).read_bytes()


def test_pairs_have_the_copy_of_the_prompt_as_a_row(tmp_path, capsys):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("prompt,reference\n" + "".join(f"{a}+{b},{a + b}\n" for a in range(5) for b in range(4)))
    tiny, tokenizer = tmp_path / "tiny", tokens.byte_tokenizer()
    model = models.gpt2(models.GPT2(tokenizer.size, 8, 8, 1, 1))
    huggingface.save(tiny, model.shape, model.init(jax.random.key(0)), tokenizer)
    assert command("text", "evaluate", tiny, pairs, "--judge", tiny) == 0
    assert re.search(r"copy of the prompt +│ +0.0", capsys.readouterr().out)


def test_one_command_pretrains_trains_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = "addition:1"
    run, own = pretraining.parameters()
    words = [data, *map(str, SIZES), "--tokens", "96", "--chunks", "2"]
    given = click.Command("small", params=[*run, *own]).make_context("small", words).params
    small = {p.name: given[p.name] for p in run} | {"hyperparameters": {p.name: given[p.name] for p in own}}
    monkeypatch.setattr(pretraining, "defaults", lambda source: pretraining.complete(small))
    sizes = ["--updates", 2, "--completions", 8, "--group-size", 4, "--chunks", 1]
    assert command("text", "train", "grpo", data, *sizes) == 0
    out, error = capsys.readouterr()
    assert "a small one is pretrained in runs/pretrain-addition-1" in error
    assert re.search(r"before, greedy +│", out) and re.search(r"after, greedy +│", out)
    assert command("text", "train", "grpo", data, *sizes, "--no-evaluate") == 0
    assert "that of runs/pretrain-addition-1 is taken" in capsys.readouterr().err
    (tmp_path / "addition-1.txt").write_text("a b c\n" * 9)
    assert command("text", "train", "grpo", "addition-1.txt") == 2
    assert "runs/pretrain-addition-1 is of addition:1, not of" in capsys.readouterr().err
    assert (tmp_path / "runs" / "grpo-addition-1-2" / "model" / "model.safetensors").exists()


def test_every_seed_of_a_run_is_scored_and_their_mean(tmp_path, capsys):
    pretrained, trained, out = tmp_path / "pretrained", tmp_path / "trained", tmp_path / "texts.jsonl"
    assert pretrain(pretrained, "--learning-rate", "1e-2") == 0
    assert train(trained, pretrained, *REWARD, "--seeds", 2) == 0
    capsys.readouterr()
    assert command("text", "evaluate", trained, "--temperature", "0,1", "--out", out) == 0
    said = capsys.readouterr().out
    row = lambda name: [float(x) for x in re.findall(rf"{name} +│ +([\d.]+) │ +([\d.]+) │ +([\d.]+)", said)[0]]
    first, second, mean = (row(f"after, {name}, temperature 1") for name in ("seed 0", "seed 1", "mean of seeds"))
    np.testing.assert_allclose(mean, np.mean([first, second], 0), atol=0.11)
    run, lines = purerl.runs.load(trained), [json.loads(line) for line in out.read_text().splitlines()]
    _, _, tokenizer = assembly.load_model(trained)
    for seed in range(2):
        params = run.one(seed).state.agent.params["model"]
        prompts = [line["prompt"] for line in lines]
        model = assembly.load_model(trained)[0]
        texts = generation.write(model, params, tokenizer, prompts, jax.random.key(0), 3, generation.greedy).texts
        assert texts == [line[f"after, seed {seed}, greedy"] for line in lines]
    assert any(line["after, seed 0, temperature 1"] != line["after, seed 1, temperature 1"] for line in lines)
