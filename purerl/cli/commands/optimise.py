"""purerl optimise: a learning-rate schedule for a training, found by reinforcement."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import click

from purerl import agents
from purerl.cli.errors import one_line
from purerl.cli.flags import execution_options, prepare

OPTIMISE = """Find a learning-rate schedule for the training of a model, by reinforcement.

    An agent trains your model many times. In each training it sees losses and gradients, and changes the learning rate
    at every step so that the validation loss at the end is low. The result is a table: a rate for each update.

    \b
    purerl optimise mlp teacher-student               # models and data of this package: nothing else is needed
    purerl optimise mlp digits --optimizer adam       # pip install 'purerl[data]'
    purerl optimise own.py:network own.py:data --loss own.py:loss --updates 1000

    MODEL is mlp, cnn, gru or transformer, or FILE.py:name, a flax module or anything with `init(key, x)` and
    `apply(params, x)`. DATA is teacher-student or two-spirals, which are synthetic; digits, breast-cancer or mnist, of
    the extra `data`; a folder of IDX files such as Fashion-MNIST's; or FILE.py:name, arrays (x, y) or a function that
    returns them. Integers y are classes.

    The run's directory has `schedule.csv`, `schedule.json`, `schedule.png` and `comparison.csv`. In your own training:

    \b
    from purerl.envs.training_control import schedules
    optimizer = optax.sgd(schedules.load("runs/optimise-mlp-digits/schedule.csv"), momentum=0.9)
    optimizer = schedules.optimizer("runs/optimise-mlp-digits/schedule.json")    # with all settings of the training

    The table compares it with the best constant rate and the best cosine, each tuned with as many trainings as the
    search took, on fresh trainings: other initial parameters and minibatches, and test examples that no search saw.

    The first command above takes 105 s of processor time, half of it to compile on one core (two cores, not cached).
    In 100 fresh trainings the mean test loss is 0.572 with the best constant rate, 0.558 with the schedule.
    """


class Sections(click.Command):
    """A command whose help has its options in sections."""

    def __init__(self, *args: Any, sections: dict[str, Sequence[click.Parameter]], **kwargs: Any):
        super().__init__(*args, params=[p for params in sections.values() for p in params], **kwargs)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, params in self.sections.items():
            rows = [row for p in params if isinstance(p, click.Option) and (row := p.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(rows)


def optimise_command(agent: str) -> click.Command:
    """The command that searches with one agent."""
    prepare(quick=True)
    from purerl.runs import comparison, execute, files, optimisation, plans

    with one_line():
        agents.check_name(agent)
        training, search, own = optimisation.parameters(agent)
    execution = execution_options("runs/optimise-MODEL-DATA")

    def invoke(**given: Any) -> None:
        how = {p.name or "": given.pop(p.name or "") for p in execution if p.expose_value}
        with one_line():
            config, inner = optimisation.config_of(given)
            plan = plans.plan_of({**config, "inner": inner._asdict()})  # its errors come before the first training
            if how["directory"]:
                files.check_new(how["directory"])
            if inner.rate is None:
                inner = comparison.with_rate(inner, given["seed"], how["devices"])
                plan = plans.plan_of({**config, "inner": inner._asdict()})
            comparison.finish(execute.train(plan, **how), how["devices"])

    return Sections(
        "optimise",
        sections={
            "Options of the training": training,
            "Options of the search": search,
            "Options of the run": execution,
            f"Options of the agent, {agent}": own,
        },
        callback=invoke,
        help=inspect.cleandoc(OPTIMISE),
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


class Optimise(click.Command):
    """The command of the agent that `--agent` names, whose hyperparameters are options too."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        given = [x.partition("=")[2] for x in args if x.startswith("--agent=")]
        given += [after for word, after in itertools.pairwise(args) if word == "--agent"]
        return optimise_command(given[-1] if given else "ppo").make_context(info_name, args, parent, **extra)


optimise = Optimise("optimise", help=inspect.cleandoc(OPTIMISE), params=[click.Argument(["model"])])
