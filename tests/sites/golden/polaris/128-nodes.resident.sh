#!/bin/bash
#PBS -N demo-d001
#PBS -A abc123
#PBS -q prod
#PBS -l select=128:system=polaris
#PBS -l walltime=24:00:00
#PBS -j oe
#PBS -o /scratch/campaigns/demo/jobs/demo-d001.out
#PBS -r n
#PBS -l place=scatter
#PBS -l filesystems=home:eagle

cd /scratch/campaigns/demo || exit 1
type module >/dev/null 2>&1 || . /etc/profile
module use /soft/modulefiles
module load conda
conda activate
export TMPDIR=/tmp
export PATH=/env/bin:"$PATH"

exec gfm-pipeline resume /scratch/campaigns/demo
