"""One command from a text to a trained model, on a model of a few numbers."""

import re

import click
from commands import command

from purerl.runs import pretraining

SIZES = ["--tokenizer", "characters", "--layers", 1, "--heads", 1, "--width", 8, "--context", 8, "--batch", 4]


def test_one_command_pretrains_trains_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = "addition:1"
    run, own = pretraining.parameters()
    words = [data, *map(str, SIZES), "--tokens", "96", "--chunks", "2"]
    given = click.Command("small", params=[*run, *own]).make_context("small", words).params
    small = {p.name: given[p.name] for p in run} | {"hyperparameters": {p.name: given[p.name] for p in own}}
    monkeypatch.setattr(pretraining, "defaults", lambda source: small)
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
