"""Inner training steps a second of `TrainingControl`, for 1 to many networks at once, and of a loop in PyTorch.

    python benchmarks/papers/training_control_speed.py [--networks 1,16,256,4096] [--torch PYTHON] [--record | --report]

The inner training: a 64-32-10 tanh network on 1,797 images of 8 x 8 pixels (random ones, so that no package is needed),
minibatches of 32, Adam, 400 training, 200 validation and 200 test images, K = 10 updates in a step of the environment.
A step includes the losses of training and validation parts, gradient norms and observations. `--torch` is a Python with
PyTorch: the same network, minibatches and optimiser there, one network after another, on a CPU, with nothing but the
updates; the time of 256 networks is 256 times that of one. Many networks are stepped at once and in chunks of 64
(`lax.map`): their losses on all 800 examples of 64 + 32 + 10 numbers need 330 KiB each, which for many networks fit no
cache. Here the networks are split over all cores that the process may use, if their number divides; PyTorch is measured
with one thread and with as many. `--record` needs `--torch`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import sections
from sections import recorded

NUM, INPUTS, WIDTH, CLASSES, BATCH, UPDATES = 1797, 64, 32, 10, 32, 10
CHUNK = 64
WARM_UP = 200  # updates of PyTorch that are not timed


def of_torch(seconds: float) -> dict[str, float]:
    """Updates a second of a plain loop in PyTorch, with its own Adam."""
    import torch  # pyright: ignore[reportMissingImports]

    threads = len(os.sched_getaffinity(0))
    best = {}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(NUM, INPUTS, generator=generator)
        y = torch.randint(0, CLASSES, (NUM,), generator=generator)
        model = torch.nn.Sequential(
            torch.nn.Linear(INPUTS, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, CLASSES)
        )  # fmt: skip
        optimizer, loss_of = torch.optim.Adam(model.parameters(), 1e-3), torch.nn.CrossEntropyLoss()
        order = torch.randperm(400, generator=generator)
        updates, start = 0, math.inf
        while updates <= WARM_UP or time.perf_counter() - start < seconds:
            if updates == WARM_UP:
                start = time.perf_counter()
            at = BATCH * (updates % (400 // BATCH))
            rows = order[at : at + BATCH]
            optimizer.zero_grad()
            loss_of(model(x[rows]), y[rows]).backward()
            optimizer.step()
            updates += 1
        best[f"torch, {count} threads"] = (updates - WARM_UP) / (time.perf_counter() - start)
    return best


def of_purerl(counts: list[int], seconds: float) -> dict[str, float]:
    """Updates a second of all networks together, their memory, and compilations after the first step."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from purerl import networks
    from purerl.envs.training_control.data import Data
    from purerl.envs.training_control.environment import TrainingControl, TrainingControlParams
    from purerl.envs.training_control.models import with_head
    from purerl.envs.training_control.optimizers import ADAM, Settings

    generator = np.random.default_rng(0)
    data = Data(generator.random((NUM, INPUTS), np.float32), generator.integers(0, CLASSES, NUM).astype(np.int32))
    model = with_head(networks.MLP((WIDTH,)), CLASSES)
    env = TrainingControl(model, data, 400, 200, 200, updates_per_step=UPDATES, batch_size=BATCH, budget=1000)
    params = TrainingControlParams(Settings(1e-3, optimizer=ADAM), max_steps_in_episode=1000)
    kept = ("log_loss", "diverged")

    def one(state, action):
        obs, state, reward, terminated, info = env.step_env(None, state, action, params)
        return state, obs, reward, terminated, {name: info[name] for name in kept}

    def stepped(mesh, at_once):
        split = PartitionSpec("networks")
        several = lambda state, actions: jax.lax.map(lambda x: one(*x), (state, actions), batch_size=at_once)
        return jax.jit(jax.shard_map(several, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False))

    found = {}
    for count, at_once in [(n, k) for n in counts for k in sorted({n, min(n, CHUNK)}, reverse=True)]:
        devices = jax.devices()[: math.gcd(count, len(jax.devices()))]
        mesh = Mesh(np.array(devices), ("networks",))
        split, step = NamedSharding(mesh, PartitionSpec("networks")), stepped(mesh, at_once // len(devices))
        keys = jax.device_put(jax.random.split(jax.random.key(0), count), split)
        _, state = jax.jit(jax.vmap(lambda key: env.reset_env(key, params)))(keys)
        size = sum(x.nbytes for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
        name = f"purerl, {count}" + (f" in chunks of {at_once}" if at_once < count else "")
        found[f"{name}, bytes a network"] = size / count
        actions = [jax.device_put(np.full(count, i, np.int32), split) for i in range(3)]
        for _ in range(2):  # the second has the first's results as arguments, which are laid out in another way
            state, *_ = step(state, actions[1])
        before = step._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            state, *rest = step(state, actions[(2, 0)[steps % 2]])
            jax.block_until_ready(rest)
            steps += 1
        found[name] = steps * UPDATES * count / (time.perf_counter() - start)
        found[f"{name}, compilations"] = step._cache_size() - before  # pyright: ignore[reportAttributeAccessIssue]
    return found


def measure(given: Any) -> dict[str, Any]:
    """The machine, and both, one after the other."""
    from tabular import describe  # lies in the folder above

    found = of_purerl([int(x) for x in given.networks.split(",")], given.seconds)
    if given.torch:
        code = "import json, sys; sys.path.append(sys.argv[1]); import training_control_speed as speed; "
        code += f"print(json.dumps(speed.of_torch({given.seconds})))"
        out = subprocess.run([given.torch, "-c", code, sections.HERE], check=True, capture_output=True, text=True)
        found |= json.loads(out.stdout)
    return describe() | {"updates_per_second": {name: round(x, 1) for name, x in found.items()}}


def section(found: sections.Found) -> str:
    """The section of CONTROL.md."""
    about = found["."]["cpu"]
    cores, speed = about["devices"], about["updates_per_second"]
    best = max((x for name, x in speed.items() if name.startswith("torch")), default=math.nan)
    counts = [name.split(", ")[1] for name in speed if name.endswith("compilations")]
    rows = [
        f"| {n} | {speed[f'purerl, {n}']:,.0f} | {speed[f'purerl, {n}'] / best:.1f} "
        f"| {speed[f'purerl, {n}, bytes a network'] / 1024:.1f} | {speed[f'purerl, {n}, compilations']:.0f} |"
        for n in counts
    ]
    return "\n".join([
        "## Speed",
        "",
        "`python benchmarks/papers/training_control_speed.py --torch PYTHON`. Inner updates a second of all networks "
        f"together (64-32-10, minibatches of 32, Adam), with all that a step of the environment computes besides, on "
        f"{cores} core{'s' if cores > 1 else ''} of {about['cpu']}, and of a loop in PyTorch in the same run, "
        f"which does nothing but updates: {best:,.0f} a second. Compilations are those after a changed rate. "
        "Chunks are those of `lax.map`: while its losses are computed a network needs 330 KiB more than it keeps.",
        "",
        "| networks | updates a second | times PyTorch | KiB a network | compilations |",
        "|---|---|---|---|---|",
        *rows,
    ])  # fmt: skip


def main() -> None:
    """Measure, then report."""
    parser = sections.parser(__doc__)
    parser.add_argument("--networks", default="1,16,256,4096", help="numbers of networks at once")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has PyTorch")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement [5]")

    def compute(root: Path, given: Any) -> None:
        if given.record and not given.torch:
            parser.error("--record needs --torch: the section compares with PyTorch")
        recorded.save(root / "cpu.json", measure(given))

    sections.main(parser, "training-control-speed", "CONTROL.md", "speed", compute, section)


if __name__ == "__main__":
    main()
