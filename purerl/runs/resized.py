"""Runs that go on with another number of environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl.runs import checkpoint, files, milestones, report
from purerl.runs.plan import Plan, initializer, like
from purerl.runs.plans import plan_with


def resized(plan: Plan, num_envs: int) -> Plan:
    """The plan with another number of environments, and as many steps in an iteration as before.

    Raises:
      ValueError: if that is not possible.
    """
    config = plan.config
    if "num_envs" not in config or config.get("text"):
        raise ValueError(f"--num-envs is {num_envs}; it is for runs of `purerl train`")
    if config["episodic"] or plan.agent(plan.grid[0]).episodic:
        raise ValueError(f"--num-envs is {num_envs}; this run's blocks are whole episodes, whose longest would change")
    block = plan.steps_per_update
    if block % num_envs:
        raise ValueError(f"--num-envs is {num_envs}; it must divide {block}, the steps of an iteration, which stay")
    return plan_with({**config, "num_envs": num_envs, "rollout_length": block // num_envs}, plan.files)


def _converted(plan: Plan, leaves: dict[str, np.ndarray], shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    """The state on the host `leaves` with the environments of `plan`, which begin new episodes.

    What belongs to an environment begins anew: its position, and in the training reward what has a value for each. A
    state that has that number of environments stays as it is.
    """
    kind = lambda x: (tuple(x.shape), np.dtype(x.dtype))
    if {name: kind(x) for name, x in leaves.items()} == {name: kind(x) for name, x in shapes.items()}:
        return leaves
    for name, x in shapes.items():
        free = name.startswith((".position", ".reward"))
        if not free and (name not in leaves or kind(leaves[name]) != kind(x)):
            there = f"{leaves[name].dtype}{list(leaves[name].shape)}" if name in leaves else "nothing"
            raise ValueError(
                f"--num-envs: the state of this agent depends on the number of environments: {name} is {there}, and "
                f"would be {np.dtype(x.dtype)}{list(x.shape)}"
            )
    at = int(leaves[".iteration"].max())
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 2**31 + at))(plan.run_keys())  # not those of a beginning
    fresh = checkpoint.to_host(jax.jit(initializer(plan))(plan.hp(at), keys))
    stays = lambda name: not name.startswith(".position") and name in leaves and kind(leaves[name]) == kind(fresh[name])
    return {name: leaves[name] if stays(name) else x for name, x in fresh.items()}


def resize(plan: Plan, directory: Path, before: Plan) -> None:
    """Write the config of a plan from `resized`, and convert every checkpoint of the directory.

    Raises:
      ValueError: if the state depends on the number of environments; nothing is changed.
    """
    folder = directory / files.CHECKPOINTS
    best = [path for path in [folder / f"{milestones.BEST}.safetensors"] if path.is_file()]
    shapes = checkpoint.shapes_of(like(plan))
    new = {}
    for path in [*checkpoint.paths(folder), *folder.glob(f"{milestones.KEPT}/*.safetensors"), *best]:
        try:
            leaves, notes = checkpoint.read(path)
        except checkpoint.Damaged:
            continue
        if (converted := _converted(plan, leaves, shapes)) is not leaves:
            new[path] = converted, notes
    manifest = files.read_manifest(directory)
    differs = {name: [before.config[name], plan.config[name]] for name in ("num_envs", "rollout_length")}
    at = max([int(leaves[".iteration"].max()) for leaves, _ in new.values()], default=0)
    if plan.config["num_envs"] != before.config["num_envs"]:
        envs, length = (plan.config[name] for name in differs)
        report.note(f"new episodes begin in {envs} environments; blocks of {length} steps")
        change = {"iteration": at, "differs": differs}
        files.write_json(directory / files.MANIFEST, {**manifest, "resumed": [*manifest["resumed"], change]})
    files.write_config(directory, plan.config)
    for path, (leaves, notes) in new.items():
        checkpoint.save(path, leaves, {name: text for name, text in notes.items() if name not in ("digest", "purerl")})
