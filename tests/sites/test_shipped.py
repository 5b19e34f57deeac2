"""Every site that is shipped: complete, consistent within itself, and with a source for what it claims."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from gfm_pipeline.core.contracts.attempts.launch import DeviceSelection
from gfm_pipeline.sites.cores import format_cores, parse_cores
from gfm_pipeline.sites.enums import DriverMode, GpuRuntime
from gfm_pipeline.sites.launch import launch_line, launcher_binds, pool_line, task_environment
from gfm_pipeline.sites.registry import load_site, shipped
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.sites.task_shape import default_shape, node_layout

NAMES = ["aurora", "frontier", "local", "lumi", "pbs", "perlmutter", "polaris", "slurm"]
MACHINES = ["aurora", "frontier", "lumi", "perlmutter", "polaris"]
SLURM = ["frontier", "lumi", "perlmutter", "slurm"]


def model(name: str) -> SiteModel:
    return load_site(name).model


@pytest.fixture(autouse=True)
def _nothing_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_all_are_there():
    assert shipped() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_under_its_name(name):
    assert model(name).name == name


@pytest.mark.parametrize("name", MACHINES)
def test_every_gpu_has_cores_of_its_own(name):
    node = model(name).node
    groups = [parse_cores(text) for text in node.gpu_cores]
    assert len(groups) == node.gpus
    everything = [core for group in groups for core in group]
    assert len(everything) == len(set(everything))
    assert not set(everything) & set(node.reserved_cores)
    siblings = node.cores * (2 if node.threads_per_core == 2 else 1)
    assert max(everything) < siblings
    assert len({len(group) for group in groups}) == 1


@pytest.mark.parametrize("name", MACHINES)
def test_ranks_get_the_gpu_beside_their_cores(name):
    site = model(name)
    layout = node_layout(site, default_shape(site, 1))
    assert len(layout) == site.node.gpus
    for place in layout:
        assert place.gpu is not None
        assert place.cores == format_cores(parse_cores(site.node.gpu_cores[place.gpu]))


def test_ranks_of_frontier_are_where_the_user_guide_says():
    """Example 1 of the guide: `-n8 -c7 --gpus-per-task=1 --gpu-bind=closest` deals cores in order, GPUs follow."""
    layout = node_layout(model("frontier"), default_shape(model("frontier"), 1))
    assert [place.gpu for place in layout] == [4, 5, 2, 3, 6, 7, 0, 1]
    assert [place.cores for place in layout] == [f"{8 * i + 1}-{8 * i + 7}" for i in range(8)]


def test_ranks_of_perlmutter_count_backwards():
    layout = node_layout(model("perlmutter"), default_shape(model("perlmutter"), 1))
    assert [place.gpu for place in layout] == [3, 2, 1, 0]
    assert [parse_cores(place.cores)[0] for place in layout] == [0, 16, 32, 48]


def test_masks_of_lumi_are_its_lists_of_cores():
    site = model("lumi")
    masks = next(a for a in site.launch.template if "mask_cpu" in a).partition("mask_cpu:")[2].split(",")
    as_cores = [format_cores(bit for bit in range(64) if int(mask, 16) >> bit & 1) for mask in masks]
    assert as_cores == [place.cores for place in node_layout(site, default_shape(site, 1))]


def test_list_of_cores_of_aurora_is_the_documented_one():
    site = model("aurora")
    line = launch_line(site, default_shape(site, 2), ["a", "b"])
    documented = "1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100"
    assert f"--cpu-bind=list:{documented}" in line
    assert line[:5] == ["mpiexec", "-n", "24", "-ppn", "12"]


@pytest.mark.parametrize("name", [n for n in NAMES if n != "local"])
def test_every_queue_says_where_its_limits_are_from(name):
    site = model(name)
    for queue in site.scheduler.queues.values():
        assert queue.as_of == "2026-11"
        assert queue.source
        assert queue.source.startswith("https://") or not queue.verified
    assert site.scheduler.default_queue in site.scheduler.queues


@pytest.mark.parametrize("name", [n for n in NAMES if n != "local"])
def test_bins_leave_no_gap_and_do_not_overlap(name):
    site = model(name)
    for queue in site.scheduler.queues.values():
        ranges = sorted((b.min_nodes, b.max_nodes) for b in queue.bins)
        for (_, below), (above, _) in pairwise(ranges):
            assert above == below + 1
        assert ranges[-1][1] <= site.nodes


@pytest.mark.parametrize("name", ["frontier"])
def test_bins_of_frontier(name):
    hours = {1: 2, 91: 2, 92: 6, 183: 6, 184: 12, 1881: 12, 5644: 12, 5645: 12, 9472: 12}
    bins = model(name).scheduler.queues["batch"].bins
    found = {n: next(b.max_hours for b in bins if b.min_nodes <= n <= b.max_nodes) for n in hours}
    assert found == hours
    assert not model(name).scheduler.queues["debug"].chaining


@pytest.mark.parametrize("name", SLURM)
def test_nothing_is_left_to_variables_of_the_job(name):
    """srun takes what its line does not say from SLURM_*; each of those options stands in the line or is scrubbed."""
    site = model(name)
    given = {argument.partition("=")[0] for argument in site.launch.template}
    wanted = {"--nodes", "--ntasks", "--ntasks-per-node", "--cpus-per-task", "--cpu-bind", "--kill-on-bad-exit"}
    assert wanted | {"--nodelist", "--export"} <= given
    if site.node.gpus:
        assert "--threads-per-core" in given
        assert given & {"--gpus-per-task", "--gpus-per-node"}
        assert "--gpu-bind" in given
    read = ["NTASKS_PER_NODE", "CPU_BIND", "GPUS_PER_NODE", "GPUS_PER_TASK", "EXACT", "EXCLUSIVE", "OVERLAP", "GRES"]
    assert {f"SLURM_{v}" for v in read} <= set(site.launch.scrub)
    assert {"SRUN_CPUS_PER_TASK", "SLURM_STEP_GRES", "SLURM_EXPORT_ENV"} <= set(site.launch.scrub)
    # These say which job this is; without them there is no step to start.
    assert not {"SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CONF"} & set(site.launch.scrub)


@pytest.mark.parametrize("name", SLURM)
def test_a_pool_of_workers_takes_the_whole_node_and_shares_it(name):
    site = model(name)
    pool = site.launch.pool_template
    assert {"--overlap", "--no-kill", "--kill-on-bad-exit=0", "--cpu-bind=none", "--ntasks-per-node=1"} <= set(pool)
    if site.node.gpus:
        assert f"--gpus-per-node={site.node.gpus}" in pool
        assert "--gpu-bind=none" in pool
        assert f"--cpus-per-task={site.node.usable_threads}" in pool_line(site, ["a", "b"])


@pytest.mark.parametrize("name", MACHINES)
def test_lines_are_filled_without_rest(name):
    site = model(name)
    line = launch_line(site, default_shape(site, 4), [f"n{i}" for i in range(4)])
    assert not [argument for argument in [*line, *pool_line(site, ["n0"])] if re.search(r"[{}]", argument)]
    assert str(4 * site.node.gpus) in " ".join(line)


def test_gpus_are_bound_by_slurm_on_frontier_and_by_ranks_on_perlmutter():
    frontier, perlmutter = model("frontier"), model("perlmutter")
    assert frontier.launch.device is DeviceSelection.SCHEDULER
    assert {"--gpus-per-task=1", "--gpu-bind=closest"} <= set(frontier.launch.template)
    assert perlmutter.launch.device is DeviceSelection.RANK
    assert {"--gpus-per-node=4", "--gpu-bind=none"} <= set(perlmutter.launch.template)
    assert not [a for a in perlmutter.launch.template if a.startswith("--gpus-per-task")]
    assert all(launcher_binds(site) for site in (frontier, perlmutter))


@pytest.mark.parametrize("name", MACHINES)
def test_masks_of_other_makers_are_removed(name):
    """Parsl sets all three; on ROCm a second one is applied on top of the first and no GPU is left."""
    gpu = model(name).gpu
    masks = {"ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}
    assert {gpu.visible_variable, *gpu.unset} == masks
    right = {
        GpuRuntime.ROCM: "ROCR_VISIBLE_DEVICES",
        GpuRuntime.CUDA: "CUDA_VISIBLE_DEVICES",
        GpuRuntime.XPU: "ZE_AFFINITY_MASK",
    }
    assert gpu.visible_variable == right[gpu.runtime]


def test_the_network_of_frontier_is_for_several_nodes_only():
    site = model("frontier")
    assert task_environment(site, 1)["NCCL_NET"] == "Socket"
    assert {task_environment(site, nodes)["NCCL_NET"] for nodes in (2, 128, 8192)} == {"OFI"}


def test_alt_read_goes_with_its_option_of_the_job_and_the_step():
    site = model("frontier")
    assert site.environment["FI_CXI_RDZV_PROTO"] == "alt_read"
    for where in (site.scheduler.directives, site.launch.template):
        assert "--network=disable_rdzv_get" in where


def test_a_profile_wins_over_what_the_network_would_get():
    site = load_site("frontier", sets=["site.profile=hydragnn-rocm-7.13"]).model
    assert task_environment(site, 2)["NCCL_NET"] == "Socket"
    assert task_environment(site, 2)["NCCL_NET_PLUGIN"] == "none"


@pytest.mark.parametrize("name", [n for n in NAMES if n != "local"])
def test_drivers_live_in_the_job(name):
    site = model(name)
    assert site.driver.mode is DriverMode.RESIDENT
    low, high = site.driver.rendezvous_ports
    assert high < 32768, "ephemeral ports may be taken by anyone"
    assert not set(range(low, high)) & set(range(*site.driver.worker_ports))


def test_perlmutter_always_names_a_qos():
    assert all(queue.qos for queue in model("perlmutter").scheduler.queues.values())


@pytest.mark.parametrize("name", NAMES)
def test_no_account_is_shipped(name):
    assert model(name).scheduler.account is None


@pytest.mark.parametrize("name", MACHINES)
def test_every_letter_refers_to_a_source(name):
    """Comments cite their sources as [X]; the head of the file lists them with an address."""
    text = load_site(name).main.read_text()
    listed = set(re.findall(r"^#\s+\[([A-Z])\] .*https://", text, re.MULTILINE))
    cited = set(re.findall(r"\[([A-Z])\]", re.sub(r"^#\s+\[[A-Z]\] .*https://.*$", "", text, flags=re.MULTILINE)))
    assert cited
    assert cited <= listed
    assert "tried on the machine" in text


def test_no_site_names_a_path_of_somebody():
    for name in NAMES:
        text = Path(load_site(name).main).read_text()
        assert not re.search(r"/(home|ccs/home|root)/[a-z]", text)


@pytest.mark.parametrize("name", ["slurm", "pbs"])
def test_generic_sites_become_a_machine_by_extension(name, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"extends: {name}\nnodes: 4\nnode: {{cores: 32}}\n")
    site = load_site(str(mine)).model
    assert site.name == "mine"
    assert site.scheduler.kind == name
    line = launch_line(site, default_shape(site, 2), ["a", "b"])
    assert any(argument in line for argument in ("--cpus-per-task=32", "-ppn"))
