#!/bin/bash
#SBATCH -J demo-b001
#SBATCH -A abc123
#SBATCH -p batch
#SBATCH -q normal
#SBATCH -N 4
#SBATCH -t 02:00:00
#SBATCH -C nvme
#SBATCH -o /scratch/campaigns/demo/jobs/demo-b001.out
#SBATCH --no-requeue
#SBATCH --no-kill
#SBATCH --core-spec=8
#SBATCH --threads-per-core=1
#SBATCH --network=disable_rdzv_get

cd /scratch/campaigns/demo || exit 1
type module >/dev/null 2>&1 || . /etc/profile
module load PrgEnv-gnu/8.7.0 || { echo 'gfm-pipeline: module PrgEnv-gnu/8.7.0 cannot be loaded' >&2; exit 2; }
module load cpe/26.03 || { echo 'gfm-pipeline: module cpe/26.03 cannot be loaded' >&2; exit 2; }
module load miniforge3/23.11.0-0 || { echo 'gfm-pipeline: module miniforge3/23.11.0-0 cannot be loaded' >&2; exit 2; }
module load rocm/7.1.1 || { echo 'gfm-pipeline: module rocm/7.1.1 cannot be loaded' >&2; exit 2; }
module load rccl-net-plugin || { echo 'gfm-pipeline: module rccl-net-plugin cannot be loaded' >&2; exit 2; }
module load craype-accel-amd-gfx90a || { echo 'gfm-pipeline: module craype-accel-amd-gfx90a cannot be loaded' >&2; exit 2; }
export LD_LIBRARY_PATH=$CRAY_LD_LIBRARY_PATH:$LD_LIBRARY_PATH
export MIOPEN_USER_DB_PATH=/tmp/miopen-$USER-$SLURM_JOB_ID
export MIOPEN_CUSTOM_CACHE_DIR=$MIOPEN_USER_DB_PATH
mkdir -p $MIOPEN_USER_DB_PATH
export TMPDIR=/tmp
export PATH=/env/bin:"$PATH"

scontrol show hostnames "$SLURM_JOB_NODELIST" > /scratch/campaigns/demo/parsl/demo-b001/nodes || { echo 'gfm-pipeline: the names of the nodes cannot be written' >&2; exit 2; }
trap 'exit 1' USR1
launch() {
  for pause in 5 10 20 40 80 160; do
    local from=$(wc -c < /scratch/campaigns/demo/jobs/demo-b001.out)
    "$@" && return
    tail -c +$((from + 1)) /scratch/campaigns/demo/jobs/demo-b001.out | grep -Eq 'Unable to (confirm allocation|create step)\b.*: (Unable to contact slurm controller|Socket timed out on)' || break
    sleep "$pause"
  done
  echo 'gfm-pipeline: a worker pool failed, so the job ends' >&2
  kill -USR1 $$
}
launch srun --nodes=4 --ntasks=4 --ntasks-per-node=1 --cpus-per-task=56 --threads-per-core=1 --gpus-per-node=8 --gpu-bind=none --cpu-bind=none --overlap --no-kill --kill-on-bad-exit=0 --export=ALL python -P -m gfm_pipeline.apps.runtime.forked_pool --block_id=demo-b001 &
wait
