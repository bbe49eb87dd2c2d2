#!/usr/bin/env bash
# What a GPU does: 2,048 seeds of CartPole, ten million steps of MinAtar-Breakout with 32 seeds, environments to 2^20,
# brax's robots beside brax's own trainer, and MinAtar's five games by PQN and DQN, ten seeds each.
#
#   pip install -c constraints.txt -e '.[cuda,brax]' && bash benchmarks/gpu.sh
#
# Each part prints a table and writes JSON, and throughput.py pictures, with the card's name and the date, under results/.
set -euo pipefail
cd "$(dirname "$0")"
out=${OUT:-results/gpu}
python - <<'PYTHON'
import jax

device = jax.devices()[0]
if device.platform != "gpu":
    raise SystemExit(f"jax sees {device.platform}, not a GPU; pip install -c constraints.txt -e '.[cuda,brax]'")
PYTHON
python throughput.py training --dir "$out" --env CartPole-v1 --envs 4 --seeds 1,32,2048
python throughput.py training --dir "$out" --env Breakout-MinAtar --torso cnn --envs 64 --seeds 32 --steps 1e7
python throughput.py acting --dir "$out" --env CartPole-v1 --largest 1048576 --factor 16
python throughput.py acting --dir "$out" --env Breakout-MinAtar --largest 65536 --factor 16
python physics.py --algorithm ppo
python physics.py --algorithm sac
protocol="--frames 5e6 --seeds 10 --sticky 0.1 --all-actions --cap 100000"
python minatar.py --agent pqn $protocol
python minatar.py --agent dqn --envs 64 $protocol
