#!/bin/bash
#SBATCH -J demo-d001
#SBATCH -A abc123
#SBATCH -N 1
#SBATCH -t 24:00:00
#SBATCH -o /scratch/campaigns/demo/jobs/demo-d001.out
#SBATCH --no-requeue
#SBATCH --no-kill
#SBATCH --signal=B:USR1@300
#SBATCH --exclusive

cd /scratch/campaigns/demo || exit 1
export TMPDIR=/tmp
export PATH=/env/bin:"$PATH"

exec gfm-pipeline resume /scratch/campaigns/demo
