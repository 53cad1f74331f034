#!/usr/bin/env bash
# Runs a study on Ray inside a Slurm allocation: one Ray node on each machine of it.
#
#   sbatch --nodes 2 --gpus-per-node 4 scripts/cluster/slurm.sh scripts/studies/digits.yaml --out /shared/runs/digits --gpus_per_run 0.25
#
# What follows the script's name is for `cl-ac study`. When the allocation ends before the study, submit the same command
# again: finished runs are kept, and the others go on from their checkpoints. CL_AC_VENV names the environment, ./.venv
# if absent; it must be on a disk that all machines have, or at the same place on each.
#SBATCH --job-name=cl-ac-study
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
set -euo pipefail
bin="$(realpath "${CL_AC_VENV:-.venv}")/bin"
port="${RAY_PORT:-6379}"

# The batch script runs on the first machine, and the study's driver with it: there the head of the cluster stands.
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
address="$head:$port"
start=("$bin/ray" start --block --disable-usage-stats --num-cpus "$SLURM_CPUS_PER_TASK")
one=(srun --overlap --nodes 1 --ntasks 1 --cpus-per-task "$SLURM_CPUS_PER_TASK")

"${one[@]}" --nodelist "$head" "${start[@]}" --head --port "$port" --include-dashboard false &
until (exec 3<> "/dev/tcp/$head/$port") 2> /dev/null; do
    sleep 1
done
for machine in $(scontrol show hostnames "$SLURM_JOB_NODELIST" | tail -n +2); do
    "${one[@]}" --nodelist "$machine" "${start[@]}" --address "$address" &
done
# Runs begin with the first machine that is there; others are taken in as they come.
"$bin/cl-ac" study "$@" --engine ray --address "$address"
