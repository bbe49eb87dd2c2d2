"""Plans: the checked configs of runs, and the functions that their names stand for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import build, normalize, rewards, training
from purerl.agents.parts.declarations import declaration_of, options_of
from purerl.runs import (
    env_parameters,
    files,
    loggers,
    milestones,
    optimisation,
    options,
    populations,
    pretraining,
    text_training,
)  # fmt: skip
from purerl.runs.devices import check_memory
from purerl.runs.plan import Plan, Watch, check_updates, grid_of, keys_of, points_of, updates_per_chunk
from purerl.runs.sources import NAMES, renamed, sources
from purerl.text import assembly


def _longer(env_params: Any, limit: int) -> Any:
    """Parameters whose own time limit, if they have one, does not end episodes before `limit`."""
    own = getattr(env_params, "max_steps_in_episode", None)
    if own is None or own >= limit:
        return env_params
    return dataclasses.replace(env_params, max_steps_in_episode=limit)


def _bounds(space: Any) -> Any:
    """What a space says of itself; gymnax's have no readable `repr`."""
    inside = getattr(space, "spaces", None)
    if inside is not None:
        return [_bounds(x) for x in (inside.values() if hasattr(inside, "values") else inside)]
    return {name: np.asarray(x).tolist() for name, x in vars(space).items() if name in ("n", "shape", "low", "high")}


def plan_of(config: dict[str, Any]) -> Plan:
    """Check every argument and assemble every part; nothing is compiled.

    Args:
      config: values by the names of `options.parameters`, the agent's hyperparameters under "hyperparameters"; under
        "points", values of some of these for each configuration, in place of every combination of them.
    Raises:
      ValueError: if one is invalid; the message names the argument, the given value and the allowed ones.
    """
    if config.get("kind") == pretraining.KIND:
        return pretraining.plan_of(config)
    config = {**config, "hyperparameters": dict(config["hyperparameters"]), "horizons": config.get("horizons", [])}
    agent_function = build.agent_function(config["agent"])
    config_class = type(declaration_of(agent_function).hp)
    values, steps, seeds = config["hyperparameters"], config["steps"], config["seeds"]
    num_envs, rollout_length = config["num_envs"], config["rollout_length"]
    for field in dataclasses.fields(config_class):
        if field.metadata.get("share") is not None and values[field.name] is None:
            values[field.name] = (field.metadata["share"] * steps,)
    if values.get("sequence_length") == 1 and config["memory"] != "none":
        values["sequence_length"] = rollout_length  # replayed sequences start where blocks start
    if values.get("dynamic_sampling"):
        values["max_length"] = rollout_length  # of the sequences in its buffer
    if steps < num_envs * rollout_length:
        raise ValueError(
            f"--steps is {steps}; one iteration is num_envs x rollout_length = {num_envs} x {rollout_length} = "
            f"{num_envs * rollout_length} steps, and there must be at least one"
        )
    if config["normalize_reward"] and "gamma" not in values:
        raise ValueError(f"--normalize-reward needs a discount; {config_class.__name__} has no gamma")
    if config["stop_when"] is not None and not math.isfinite(config["stop_when"]):
        raise ValueError(f"--stop-when is {config['stop_when']}; it must be a finite return")
    loggers.check(config)
    settings = assembly.Settings(**config["text"]) if config.get("text") else None
    text = assembly.assemble(settings) if settings else None
    inner = optimisation.restored(config["inner"]) if config.get("inner") else None
    if inner:
        env, env_params = optimisation.assemble(inner)
    else:
        env, env_params = (text.env, text.env.default_params) if text else build.environment(config["env"])
    if config["observe"]:
        from purerl.envs import Observe

        env = Observe(env, config["observe"])
    if config["time_limit"] or config["sticky_actions"] is not None:
        from purerl.envs import StickyActions, TimeLimit

        if config["time_limit"]:
            env, env_params = TimeLimit(env, config["time_limit"]), _longer(env_params, config["time_limit"])
        env = StickyActions(env, config["sticky_actions"]) if config["sticky_actions"] is not None else env
    env_params, floats = env_parameters.checked(env_params, config["env_param"])
    of_environment = {env_parameters.PREFIX + name: numbers for name, numbers in floats.items()}
    if clash := sorted(of_environment.keys() & values.keys()):
        raise ValueError(f"--env-param: {config_class.__name__} has a hyperparameter {clash[0]}; rename it")
    extended = env_parameters.extended(config_class, tuple(floats)), {**values, **of_environment}
    grid, swept, labels = points_of(*extended, config["points"]) if config.get("points") else grid_of(*extended)
    values_of = lambda hp: tuple(getattr(hp, name) for name in of_environment)
    worlds = list({values_of(hp): env_parameters.of_hp(env_params, hp) for hp in grid}.values())
    if config["env_param"]:
        env_parameters.check_worlds(env, worlds)
    env_params, spaces = worlds[0], {repr(_bounds(env.action_space(world))) for world in worlds}
    if len(spaces) > 1:
        raise ValueError(f"--env-param: {', '.join(floats)} changes the space of actions; give one value at a time")
    space = env.action_space(env_params)
    config["network"] = config["network"] or build.torso_for(env.observation_space(env_params))
    layers = {name: config[name] for name in ("hidden", "activation", "layer_norm")}
    memory = build.memory(config["memory"], config["memory_size"], config["context"])
    body = build.body(config["network"], **layers, memory=memory)
    chosen = {name: config[name] for name in options_of(agent_function)}
    if text:
        named = {"subject": text.policy, "network": lambda policy, hp: text.network}
        agent = build.agent(
            agent_function, space, body, chosen, **named, **text_training.parts_of_agent(agent_function)
        )
    else:
        agent = build.agent(agent_function, space, body, chosen)
    if text:
        own = text_training.reward_of(config["reward"], text) if config["reward"] else lambda hp: text.reward
    else:
        own = build.reward(config["reward"]) if config["reward"] else None
    info = ("index", "ended") if text else config["info"] or ()
    returns = "training" if text else "environment"

    def make(hp):
        parts = ([own(hp)] if own else []) + ([normalize.rewards(hp.gamma)] if config["normalize_reward"] else [])
        training_reward = rewards.chain(*parts) if len(parts) > 1 else (parts or [None])[0]
        blocks = {"episodic": config["episodic"], "group_size": config.get("group_size"), "info": info}
        blocks |= {"reward": training_reward, "returns": returns}
        own_params = env_parameters.of_hp(env_params, hp)
        return training.learner(env, own_params, agent(hp), num_envs, rollout_length, **blocks)

    keys = keys_of(config["seed"], seeds)
    state = jax.eval_shape(lambda key: make(grid[0]).init(key), keys[0])  # the shapes are the same for all runs
    jax.eval_shape(lambda state: make(grid[0]).step(state), state)
    if floats:
        try:
            jax.eval_shape(lambda hp, key: make(hp).step(make(hp).init(key)), grid[0], keys[0])
        except jax.errors.ConcretizationTypeError as error:
            raise ValueError(f"--env-param: the environment uses {', '.join(floats)} as structure, such as in an `if`: "
                             "return it with its parameters from FILE.py:name instead") from error  # fmt: skip
    population = populations.population_of(config["population"]) if config.get("population") else None
    check_memory(state, seeds * len(grid) + bool(population))  # a copy is made of one member after another
    step_size = num_envs * rollout_length
    num_updates = check_updates("--steps", steps, step_size)
    every = updates_per_chunk(config, num_updates, seeds * len(grid) * steps)
    config["updates_per_chunk"] = every
    named = [name for name in NAMES if config[name]]
    words = [options.absolute(config[name]) for name in named]
    config |= zip(named, words, strict=True)
    short = lambda name: Path(name).name if build.is_own(name) else name
    stem = lambda name: short(name).replace(".py:", ".").rpartition("/")[2]  # of text/DATA and brax/ENV the end
    used = build.own_files(words)
    if settings:
        used += [*assembly.files_of(settings.model), *assembly.files_of(settings.data)]
    if inner:
        used += optimisation.files_of(inner)
    plan = Plan(
        config=config,
        title=f"{short(config['agent'])} on {short(config['env'])}" + (text_training.left_out(text) if text else ""),
        name=f"{stem(config['agent'])}-{stem(config['env'])}",
        env=env,
        env_params=env_params,
        agent=agent,
        make=make,
        grid=grid,
        swept=swept,
        labels=labels,
        keys=keys,
        num_updates=num_updates,
        every=every,
        steps_per_update=step_size,
        files={path: path for path in used},
        population=population,
    )
    if config["evaluate_every"]:
        sizes = num_updates, every, plan.num_runs
        plan = plan._replace(
            watch=Watch(measure=milestones.evaluator(env, plan.env_params_of, agent, plan.hp, config, *sizes))
        )
    if inner:
        what = f"{short(config['agent'])} on the training of {' on '.join(map(short, (inner.model, inner.data)))}"
        unit = f"steps, each of {inner.updates // inner.changes} updates of the model"
        return plan._replace(name=config["env"].replace("/", "-"), title=what, unit=unit)
    if not (text and settings):
        return plan
    return plan._replace(
        unit="tokens, those after an end included",
        watch=text_training.watch(text, settings, plan.num_runs, plan.name_of),
    )


def plan_with(config: dict[str, Any], used: Mapping[str, str]) -> Plan:
    """The plan of a config with other files than those that it names; see `sources.sources`."""
    back = {file: path for path, file in used.items()}
    plan = plan_of(renamed(config, used))
    return plan._replace(
        config=renamed(plan.config, back), files={back.get(file, file): file for file in plan.files.values()}
    )


def plan_of_directory(
    directory: Path, same_files: bool = True, code: str | Path | None = None, option: str = "--code "
) -> Plan:
    """The plan of a run on disk.

    Args:
      code, option: see `sources.sources`.
    Raises:
      ValueError: if the directory holds no run or one of another version; if a user's file that it names has changed
        since, unless `same_files` is False; or if that file lies in the directory itself, since its origin is unknown.
    """
    stored = files.read_config(directory)
    files.check_no_search(directory, stored)
    if stored.get("kind") == files.SWEEP:
        names = ", ".join(str(directory / name) for name in stored.get("members", ()))
        raise ValueError(f"{directory} is a sweep of several programs; name one of them: {names}")
    used = sources(directory, stored, files.read_manifest(directory)["made_with"]["files"], code, same_files, option)
    given = renamed(stored, used)
    if stored.get("kind") == pretraining.KIND:
        config = {
            **options.restored({"until": None, **given}, *pretraining.parameters(), "pretraining"),
            "kind": pretraining.KIND,
        }
    else:
        config = options.restore(given)
    return plan_with(renamed(config, {file: path for path, file in used.items()}), used)
