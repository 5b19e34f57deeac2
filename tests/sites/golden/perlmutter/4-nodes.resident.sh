#!/bin/bash
#SBATCH -J demo-d001
#SBATCH -A abc123
#SBATCH -q regular
#SBATCH -N 4
#SBATCH -t 48:00:00
#SBATCH -C gpu
#SBATCH -o /scratch/campaigns/demo/jobs/demo-d001.out
#SBATCH --no-requeue
#SBATCH --no-kill
#SBATCH --signal=B:USR1@300
#SBATCH --gpus-per-node=4

cd /scratch/campaigns/demo || exit 1
type module >/dev/null 2>&1 || . /etc/profile
module load pytorch/2.8.0 || { echo 'gfm-pipeline: module pytorch/2.8.0 cannot be loaded' >&2; exit 2; }
export TMPDIR=/tmp
export PATH=/env/bin:"$PATH"

exec gfm-pipeline resume /scratch/campaigns/demo
