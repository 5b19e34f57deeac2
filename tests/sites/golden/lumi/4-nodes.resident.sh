#!/bin/bash
#SBATCH -J demo-d001
#SBATCH -A abc123
#SBATCH -p standard-g
#SBATCH -N 4
#SBATCH -t 48:00:00
#SBATCH -o /scratch/campaigns/demo/jobs/demo-d001.out
#SBATCH --no-requeue
#SBATCH --no-kill
#SBATCH --signal=B:USR1@300
#SBATCH --gpus-per-node=8
#SBATCH --exclusive

cd /scratch/campaigns/demo || exit 1
export MIOPEN_USER_DB_PATH=/tmp/miopen-$USER-$SLURM_JOB_ID
export MIOPEN_CUSTOM_CACHE_DIR=$MIOPEN_USER_DB_PATH
mkdir -p $MIOPEN_USER_DB_PATH
export TMPDIR=/tmp
export PATH=/env/bin:"$PATH"

exec gfm-pipeline resume /scratch/campaigns/demo
