"""Training of language models by reinforcement as runs: options, plans, samples of text and the model on disk."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np

from purerl import agents, build, rewards
from purerl.agents.parts.declarations import declaration_of
from purerl.agents.parts.families import POLICY_GRADIENT
from purerl.core import Reward
from purerl.runs import options
from purerl.runs.arguments import Count, Range
from purerl.runs.plan import Rows, Watch
from purerl.runs.stream import returns_so_far
from purerl.text import assembly, huggingface, tokens
from purerl.text import rewards as text_rewards
from purerl.text.assembly import Parts, Settings
from purerl.text.environment import ended_by_token
from purerl.text.generation import generate, sample

SAMPLES = 5  # texts shown during a run
HELP = {  # in words of texts, where those of the hyperparameter are of environments
    "anneal_steps": "tokens over which the learning rate falls to 0, those after an end included; None keeps it",
    "group_size": "completions of each prompt, which are compared with each other",
    "num_minibatches": "gradient steps a pass; must divide --completions",
    "mask_truncated": "leave completions without an end token out of the loss",
    "dynamic_sampling": "sample until --completions are in groups whose rewards are not all equal, then learn; an "
    "update without a gradient step logs 0 for its loss",
    "max_length": "as --max-tokens, which sets it",
}
OFFERED = (  # options as of `purerl train`
    "seeds", "seed", "stop_when", "chunks", "isolate_seeds", "keep_every", "tensorboard", "wandb", "mlflow",
)  # fmt: skip


def parameters(make: Any, agent: str) -> tuple[list[click.Parameter], list[click.Option]]:
    """The options of `purerl text train AGENT`: those of the run, and the agent's hyperparameters.

    Raises:
      ValueError: if there is no such agent, or it has no policy over tokens.
    """
    of_run, own = options.parameters(agent)
    if declaration_of(make).family is not POLICY_GRADIENT:
        raise ValueError(f"{agent} does not train language models; allowed are {', '.join(agents.of_sequences())}, "
                         "or your own FILE.py:name of the policy-gradient family")  # fmt: skip
    say = partial(click.Option, show_default=True)
    parts = {*declaration_of(make).parts}
    kept = [p for p in of_run if p.name in (*OFFERED, *parts)]
    smaller = {"seeds": 1, "learning_rate": 3e-4}  # than elsewhere: a language model is larger, and is pretrained
    for p in [*kept, *own]:
        p.default = smaller.get(p.name, p.default)
        if isinstance(p, click.Option):
            p.help, p.hidden = HELP.get(p.name or "", p.help), p.name == "max_length"
            p.show_default = "all of the run" if p.name == "anneal_steps" else p.show_default
    default = Settings("", "")
    run = [
        click.Argument(["data"], metavar="DATA"),
        click.Option(["--model"], metavar="FOLDER", help="the language model: the folder of a run of `purerl text`, or "
                     "of GPT-2 in Hugging Face's format  [default: that of runs/pretrain-DATA, which is made if it is "
                     "not there]"),
        click.Option(["--reward"], metavar="TERMS", help="NAME or NAME:WEIGHT, separated by commas: "
            f"{', '.join(assembly.TERMS)}; or FILE.py:name, as of `purerl train`, or a function (prompts, completions) "
            "of lists of strings that returns their scores  [default: exact for a task with known answers, otherwise "
            "bleu,rouge-l]"),
        say(["--updates"], type=Count(), default=200, help="updates of the model"),
        say(["--completions", "num_envs"], type=Count(), default=64, help="completions sampled for each update"),
        click.Option(["--max-prompt"], type=Count(), help="tokens of a prompt; longer ones are left out  [default: the "
                     f"most in DATA, up to {assembly.MAX_PROMPT}]"),
        click.Option(["--max-tokens"], type=Count(), help="tokens of a completion  [default: the most in DATA, up to "
                     f"{assembly.MAX_TOKENS}]"),
        say(["--temperature"], type=Range(0, min_open=True), default=default.temperature,
            help="of the softmax that is sampled and trained"),
        *kept,
    ]  # fmt: skip
    return run, own


def config_of(agent: str, given: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The complete config of a run from the values of `parameters`."""
    of_run, _ = options.parameters(agent)
    others = click.Command("defaults", params=[p for p in of_run if p.name != "env"])
    config = others.make_context("defaults", []).params
    values = dict(given)
    data, updates, reward = values.pop("data"), values.pop("updates"), values.pop("reward")
    reward = reward or ("exact" if assembly.is_task(data) else "bleu,rouge-l")
    own = reward if ".py:" in reward else None
    folder = assembly.model_folder(values.pop("model"))
    sizes = {name: values.pop(name) for name in ("max_prompt", "max_tokens")}
    if None in sizes.values():
        most = assembly.longest(assembly.read(data), tokens.load(folder), assembly.separator(data))
        sizes = {name: size or known for (name, size), known in zip(sizes.items(), most, strict=True)}
    settings = Settings(
        model=str(folder),
        data=assembly.absolute(data),
        reward=Settings("", "").reward if own else reward,
        **sizes,
        temperature=values.pop("temperature"),
    )
    group = hyperparameters.get("group_size", 1)
    if values["num_envs"] % group:
        raise ValueError(f"--completions is {values['num_envs']}; it must be a multiple of --group-size, {group}")
    blocks = {"rollout_length": settings.max_tokens, "steps": updates * values["num_envs"] * settings.max_tokens}
    text = {"env": f"text/{assembly.short_name(data)}", "reward": own, "text": settings._asdict()}
    return {"agent": agent, **config, **values, **blocks, **text, "hyperparameters": dict(hyperparameters)}


def parts_of_agent(make: Any) -> dict[str, Any]:
    """Parts of an agent that depend on the environment: which completions ended by themselves, for `ended`."""
    known = inspect.signature(getattr(make, "func", make)).parameters
    return {"ended": ended_by_token} if "ended" in known else {}


def left_out(parts: Parts) -> str:
    """What a title says of the pairs that are too long; "" if none is."""
    count, kept = parts.left_out, len(parts.task.prompts)
    return f", {kept:,} of {kept + count:,} prompts (--max-prompt and --max-tokens allow longer ones)" if count else ""


def reward_of(name: str, parts: Parts) -> Callable[[Any], Reward]:
    """`hp -> Reward` of FILE.py:name: as of `purerl train`, or a function (prompts, completions) of lists of strings.

    Raises:
      ValueError: for any other object.
    """
    made = build.from_file(name)
    of_strings = ["prompts", "completions"]
    if callable(made) and not isinstance(made, Reward) and [*inspect.signature(made).parameters] == of_strings:
        term = rewards.term(text_rewards.host(made, parts.tokenizer, parts.task), f"--reward {name}")
        return lambda hp: term
    try:
        return build.reward(name)
    except ValueError as error:
        raise ValueError(f"{error}, or of a function (prompts, completions) of lists of strings") from None


def watch(parts: Parts, settings: Settings, num_runs: int, name_of: Callable[[int], str]) -> Watch:
    """Now and then, and at the end, a sample of text and the model on disk: those of the run with the best return."""
    prompt, length = jnp.asarray(parts.task.prompts[:1]), jnp.asarray(parts.task.prompt_length[:1])

    @jax.jit
    def write(params, run, key):
        params = jax.tree.map(lambda x: x[run], params["model"])
        choose = sample(settings.temperature)
        return generate(parts.model, params, key, prompt, length, settings.max_tokens, parts.task.end, choose)

    def after(directory: Path, rows: Rows, state: Callable[[], Any], last: bool) -> Iterator[str]:
        if last or len(rows) % 20 == 0:
            learner, returns = state(), returns_so_far(rows)
            sound = ~np.isnan(returns) & (np.asarray(learner.nonfinite)[:num_runs] == 0)
            best = int(np.where(sound, returns, -np.inf).argmax())
            text = write(learner.agent.params, best, jax.random.key(len(rows)))
            begun = parts.tokenizer.decode(parts.task.prompts[0][: int(length[0])].tolist())
            yield f"sample: {begun}{parts.tokenizer.decode(text.tokens[0, : int(text.length[0])].tolist())}"
            params = jax.tree.map(lambda x: x[best], learner.agent.params["model"])
            huggingface.save(directory / assembly.MODEL, parts.model.shape, params, parts.tokenizer)
        if last and num_runs > 1:
            yield f"the model in {directory / assembly.MODEL}: {name_of(best)}, the run with the best return at the end"

    return Watch(after=after)
