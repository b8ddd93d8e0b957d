#!/bin/bash
# A run that outlives the time limits of a SLURM cluster: sbatch docs/slurm.sh
#SBATCH --job-name=purejaxppo
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120

# SLURM sends SIGUSR1 to the step 120 s before the limit. The run saves and exits with 128 + 10 = 138, and the job is
# queued again. After the failure of a node SLURM queues it again by itself. Both times the run continues.

run=${RUN_DIR:-runs/$SLURM_JOB_ID}
config=${CONFIG:-CartPole-v1}

if [ -e "$run/config.toml" ]; then
    srun purejaxppo resume "$run"
else
    srun purejaxppo train "$config" --out "$run"
fi
code=$?
if [ "$code" -eq 138 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
