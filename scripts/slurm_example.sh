#!/usr/bin/env bash
# One training run over several machines under Slurm: `sbatch scripts/slurm_example.sh --config configs/kaggle.yaml`.
# Every argument goes to train_kaggle.sh; without --cpu each machine gives all of its GPUs. The repository, the data and the
# runs have to lie on a file system that all machines share. Adapt the lines below to your cluster.
#SBATCH --job-name=kronos
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # not piped into head: closing the pipe early fails under pipefail
first=${hosts%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs that share a machine need two ports

where=(--multi-gpu)
for argument in "$@"; do
  [ "$argument" != --cpu ] || where=()
done

# SLURM_NODEID is known inside the step only: bash, not this script, puts it in. The run saves and ends before the job's time is
# over (11.7 of 12 hours), and the same sbatch line, submitted again, goes on with it.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'exec bash train_kaggle.sh --machine-rank "$SLURM_NODEID" "$@"' train_kaggle.sh \
  --num-machines "$SLURM_JOB_NUM_NODES" --main-process-ip "$first" --main-process-port "$port" \
  --set training.time_limit=11.7 ${where[@]+"${where[@]}"} "$@"
