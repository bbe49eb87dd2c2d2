#!/usr/bin/env bash
# 1,024 seeds of PPO on 64 accelerators: 8 nodes of 8, one process for each accelerator, 16 seeds on each.
#
#   sbatch docs/scripts/slurm.sh
#
# Every process runs the same command; jax reads from SLURM where process 0 is and which number each has. The directory
# lies on a file system that all nodes share. A job that ran into its time limit, or lost a node, goes on from its last
# checkpoint when it is submitted again.
#SBATCH --job-name=purerl
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=06:00:00
#SBATCH --signal=TERM@120
set -euo pipefail

run=${RUN:-runs/ppo-CartPole-v1-scale}

# a process that is lost ends the others, and with them the step; --kill-on-bad-exit ends it at once
if [ -e "$run/config.json" ]; then
  srun --kill-on-bad-exit=1 purerl resume "$run" --distributed --peer-timeout 120 --save-every 300
else
  srun --kill-on-bad-exit=1 purerl train ppo CartPole-v1 --seeds 1024 --steps 1e9 --dir "$run" \
    --distributed --peer-timeout 120 --save-every 300
fi
