#!/bin/bash
# Two nodes with eight GPUs each: a process for each GPU. Slurm tells each process its place.
#   sbatch examples/cluster/slurm.sh configs/minilm_movies.py
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=02:00:00
# Two minutes before the time is over, every process gets SIGTERM and the run writes a checkpoint. The job is queued
# again, and --resume continues.
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -u
config=$1
name=$(basename "$config" .py)

srun tlx run "$config" --out "runs/$name" --resume
# 130: the run was stopped and can be continued.
if [ $? -eq 130 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
