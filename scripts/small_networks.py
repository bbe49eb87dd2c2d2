"""Train every architecture of `purerl.envs.training_control.supernetwork`, and write the table that it reads.

    python scripts/small_networks.py FOLDER

One compiled program trains 324 architectures with two seeds each at once. The results of each of the 18 parts are
kept in FOLDER, and a run that was stopped continues with what is missing. All of them take some minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs.training_control import supernetwork as small

CHUNK = 324


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    parts = small.architectures().reshape(-1, CHUNK, small.LAYERS, 3)
    keys = jax.random.split(jax.random.key(small.KEY), small.SEEDS)
    train = jax.jit(jax.vmap(jax.vmap(small.correct, (0, None)), (None, 0)))
    for i, part in enumerate(parts):
        path = folder / f"{i:02d}.npy"
        if path.exists():
            continue
        start, used = time.perf_counter(), time.process_time()
        found = np.asarray(train(keys, jnp.asarray(part)), np.uint16)
        np.save(path, found)
        accuracy = found[..., 0].mean(-1) / small.NUM_JUDGED
        print(
            f"part {i + 1} of {len(parts)}: {time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of "
            f"processors; validation accuracy {accuracy.min():.3f} to {accuracy.max():.3f}, mean {accuracy.mean():.3f}",
            flush=True,
        )
    validation, test = np.moveaxis(np.concatenate([np.load(folder / f"{i:02d}.npy") for i in range(len(parts))]), -1, 0)
    np.savez_compressed(small.TABLE, validation=validation, test=test)
    print(f"{small.TABLE.name}: {small.TABLE.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
