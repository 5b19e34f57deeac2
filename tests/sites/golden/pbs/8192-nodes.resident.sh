#!/bin/bash
#PBS -N demo-d001
#PBS -A abc123
#PBS -l select=8192
#PBS -l walltime=24:00:00
#PBS -j oe
#PBS -o /scratch/campaigns/demo/jobs/demo-d001.out
#PBS -r n
#PBS -l place=scatter:excl

cd /scratch/campaigns/demo || exit 1
export TMPDIR=/tmp
export PATH=/env/bin:"$PATH"

exec gfm-pipeline resume /scratch/campaigns/demo
