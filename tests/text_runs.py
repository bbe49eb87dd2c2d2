"""Runs of `purerl text` on sums, with a model of a few numbers."""

from commands import command

OF_MODEL = ["--tokenizer", "characters", "--layers", 1, "--heads", 1, "--width", 8]
SIZES = [*OF_MODEL, "--context", 8, "--batch", 4]
TASK = ["--updates", 4, "--completions", 8, "--group-size", 4, "--max-prompt", 4, "--max-tokens", 3, "--chunks", 2]


REWARD = ["--reward", "exact,distinct:0.5", "--learning-rate", "0.1"]  # so that the model becomes another one


def pretrain(directory, *arguments, data="addition:1", count=240):
    sizes = SIZES[len(OF_MODEL) :] if "--model" in arguments else SIZES
    return command("text", "pretrain", data, *sizes, "--tokens", count, "--chunks", 5, "--dir", directory, *arguments)


def train(directory, model, *arguments, agent="grpo", data="addition:1"):
    job = ["--model", model, *TASK, "--no-evaluate", "--dir", directory]
    return command("text", "train", agent, data, *job, *arguments)
