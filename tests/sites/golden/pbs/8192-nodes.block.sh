#!/bin/bash
#PBS -N demo-b001
#PBS -A abc123
#PBS -l select=8192
#PBS -l walltime=24:00:00
#PBS -j oe
#PBS -o /scratch/campaigns/demo/jobs/demo-b001.out
#PBS -r n
#PBS -l place=scatter:excl

cd /scratch/campaigns/demo || exit 1
export TMPDIR=/tmp
export PATH=/env/bin:"$PATH"

awk '!seen[$0]++' "$PBS_NODEFILE" > /scratch/campaigns/demo/parsl/demo-b001/nodes || { echo 'gfm-pipeline: the names of the nodes cannot be written' >&2; exit 2; }
trap 'exit 1' USR1
launch() {
  "$@" && return
  echo 'gfm-pipeline: a worker pool failed, so the job ends' >&2
  kill -USR1 $$
}
launch mpiexec -n 8192 -ppn 1 python -P -m gfm_pipeline.apps.runtime.forked_pool --block_id=demo-b001 &
wait
