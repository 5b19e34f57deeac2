"""Machines for tests that must not change when a shipped site file does."""

from __future__ import annotations

from typing import Any

from gfm_pipeline.sites.schema import SiteModel

QUEUE = {"as_of": "2026-11-01", "source": "a test"}

FRONTIER: dict[str, Any] = {
    "name": "frontierlike",
    "description": "8 GPUs per node, bound by the scheduler",
    "nodes": 9472,
    "node": {
        "cores": 64,
        "reserved_cores": [0, 8, 16, 24, 32, 40, 48, 56],
        "gpus": 8,
        "gpu_cores": ["49-55", "57-63", "17-23", "25-31", "1-7", "9-15", "33-39", "41-47"],
        "rank_gpus": [4, 5, 2, 3, 6, 7, 0, 1],
    },
    "gpu": {"runtime": "rocm", "visible_variable": "ROCR_VISIBLE_DEVICES", "unset": ["CUDA_VISIBLE_DEVICES"]},
    "scheduler": {
        "kind": "slurm",
        "default_queue": "batch",
        "queues": {
            "batch": QUEUE
            | {
                "partition": "batch",
                "bins": [
                    {"min_nodes": 1, "max_nodes": 91, "max_hours": 2},
                    {"min_nodes": 92, "max_nodes": 183, "max_hours": 6},
                    {"min_nodes": 184, "max_nodes": 9472, "max_hours": 12},
                ],
            },
            "debug": QUEUE
            | {"qos": "debug", "chaining": False, "bins": [{"min_nodes": 1, "max_nodes": 9472, "max_hours": 2}]},
        },
        "directives": ["-S 8", "--network=disable_rdzv_get"],
        "constraint": "nvme",
    },
    "launch": {
        "template": [
            "srun",
            "--nodes={nodes}",
            "--ntasks={ranks}",
            "--ntasks-per-node={ranks_per_node}",
            "--cpus-per-task={cores_per_rank}",
            "--gpus-per-task=1",
            "--gpu-bind=closest",
            "--threads-per-core=1",
            "--cpu-bind=threads",
            "--kill-on-bad-exit=1",
            "--nodelist={nodelist}",
        ],
        "pool_template": ["srun", "--nodes={nodes}", "--ntasks={nodes}", "-c", "56", "--nodelist={nodelist}"],
        "device": "scheduler",
        "scrub": ["SLURM_CPU_BIND"],
        "max_steps": 100,
        "max_sub_node_nodes": 2048,
    },
    "environment": {"OMP_NUM_THREADS": "7", "NCCL_NET": "none"},
    "sized_environment": [
        {"max_nodes": 1, "exports": {"NCCL_NET": "Socket"}},
        {"min_nodes": 2, "exports": {"NCCL_NET": "OFI"}},
    ],
    "driver": {"mode": "resident", "spare_share": 0.01},
    "energy": {"node_watts": 2500, "idle_node_watts": 700, "pue": 1.1},
}

FRONTIER_PAID = FRONTIER | {"scheduler": FRONTIER["scheduler"] | {"account": "abc123"}}

PERLMUTTER: dict[str, Any] = {
    "name": "perlmutterlike",
    "description": "4 GPUs per node, in the reverse order of its cores",
    "nodes": 1792,
    "node": {
        "cores": 64,
        "threads_per_core": 2,
        "gpus": 4,
        "gpu_cores": ["48-63,112-127", "32-47,96-111", "16-31,80-95", "0-15,64-79"],
        "rank_gpus": [3, 2, 1, 0],
    },
    "gpu": {"runtime": "cuda", "visible_variable": "CUDA_VISIBLE_DEVICES"},
    "scheduler": {
        "kind": "slurm",
        "queues": {"regular": QUEUE | {"qos": "regular", "bins": [{"max_nodes": 1792, "max_hours": 48}]}},
        "default_queue": "regular",
    },
    "launch": {
        "template": [
            "srun",
            "--nodes={nodes}",
            "--ntasks={ranks}",
            "--gpus-per-node={gpus_per_node}",
            "--gpu-bind=none",
            "--cpu-bind=cores",
            "-c",
            "{cores_per_rank}",
            "--nodelist={nodelist}",
        ],
        "device": "rank",
    },
    "driver": {"mode": "pilot"},
}

TILES: dict[str, Any] = {
    "name": "tiles",
    "description": "A PBS machine without GPUs listed to cores",
    "nodes": 8,
    "node": {"cores": 10, "reserved_cores": [0, 5], "gpus": 4},
    "gpu": {"runtime": "xpu", "visible_variable": "ZE_AFFINITY_MASK"},
    "scheduler": {
        "kind": "pbs",
        "queues": {"prod": QUEUE | {"bins": [{"min_nodes": 2, "max_nodes": 8, "max_hours": 3}]}},
        "default_queue": "prod",
    },
    "launch": {
        "template": ["mpiexec", "-n", "{ranks}", "--cpu-bind=list:{core_list}", "--hosts", "{nodelist}"],
        "rank_variable": "PALS_RANKID",
        "local_rank_variable": "PALS_LOCAL_RANKID",
    },
}

PLAIN: dict[str, Any] = {"name": "here", "description": "A machine without a batch system"}

HOSTS: dict[str, Any] = {  # a batch system, no GPUs
    "name": "hosts",
    "description": "CPU nodes",
    "nodes": 20,
    "node": {"cores": 32},
    "threads_per_task": 4,
    "scheduler": {"kind": "slurm", "queues": {"all": QUEUE | {"bins": [{"max_nodes": 20, "max_hours": 24}]}}},
    "launch": {
        "template": ["srun", "--nodes={nodes}", "--ntasks={ranks}", "--cpu-bind=none", "-c", "{cores_per_rank}"]
    },
}


def site(plain: dict[str, Any], **changes: Any) -> SiteModel:
    """Return a site, with whole sections of it replaced."""
    return SiteModel.model_validate(plain | changes)
