"""Batch scripts: read by bash and by a batch system's options, not only looked at."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from site_cases import FRONTIER, HOSTS, PLAIN, TILES, site

from gfm_pipeline.batch_systems.base import clock
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.sites.batch import BatchJob, block_script, expanded, resident_script

JOB = BatchJob("small-d001", 4, 1.5, "batch", "abc123", "/lustre/a campaign", "/lustre/campaign/100.out", "/env/bin")
DRIVE = ("gfm-pipeline", "resume", "/lustre/a campaign")
PROFILE = {
    "modules": ["rocm/7.1.1"],
    "prologue": ['export LD_LIBRARY_PATH="$CRAY_LD_LIBRARY_PATH:$LD_LIBRARY_PATH"'],
    "exports": {"FI_CXI_RX_MATCH_MODE": "hybrid", "ODD": "it's $HOME"},
}
STAGING = {"kind": "sbcast", "archive": "/lustre/env.tar.gz", "folder": "/mnt/bb/$USER", "unpack": "tar -xzf"}


def directives(script: str, mark: str) -> list[list[str]]:
    return [shlex.split(line.removeprefix(mark)) for line in script.splitlines() if line.startswith(mark)]


def job_of(queue: str, **changes) -> BatchJob:
    return BatchJob(**{**vars(JOB), "queue": queue, **changes})


def test_head_of_a_resident_job():
    script = resident_script(site(FRONTIER), JOB, DRIVE)
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    assert directives(script, "#SBATCH") == [
        ["-J", "small-d001"],
        ["-A", "abc123"],
        ["-p", "batch"],
        ["-N", "4"],
        ["-t", "01:30:00"],
        ["-C", "nvme"],
        ["-o", "/lustre/campaign/100.out"],
        ["--no-requeue"],
        ["--no-kill"],
        ["--signal=B:USR1@300"],
        ["-S", "8"],
        ["--network=disable_rdzv_get"],
    ]
    assert script.splitlines()[-1] == "exec gfm-pipeline resume '/lustre/a campaign'"


def test_head_of_a_chained_job_in_another_queue():
    script = resident_script(site(FRONTIER), job_of("debug", after="4711", account=None), DRIVE)
    found = directives(script, "#SBATCH")
    assert ["-q", "debug"] in found
    assert ["--dependency=afterany:4711"] in found
    assert "-A" not in [words[0] for words in found]


def test_head_of_pbs():
    scheduler = TILES["scheduler"] | {"select": "ngpus=4", "directives": ["-l filesystems=home:flare"]}
    script = resident_script(site(TILES, scheduler=scheduler), job_of("prod", after="9.srv"), DRIVE)
    assert directives(script, "#PBS") == [
        ["-N", "small-d001"],
        ["-A", "abc123"],
        ["-l", "select=4:ngpus=4"],
        ["-l", "walltime=01:30:00"],
        ["-j", "oe"],
        ["-o", "/lustre/campaign/100.out"],
        ["-W", "depend=afterany:9.srv"],
        ["-r", "n"],
        ["-l", "filesystems=home:flare"],
    ]
    assert "SBATCH" not in script


def run(script: str, folder: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run a script with pretended programs: each is the text of a bash script."""
    commands = folder / "bin"
    commands.mkdir(parents=True, exist_ok=True)
    for name, text in programs.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    (folder / "job.sh").write_text(script)
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "USER": "me", "OUT": str(folder)}
    return subprocess.run(
        ["bash", str(folder / "job.sh")], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def machine_with(**changes):
    return site(FRONTIER, **changes)


def test_the_shell_becomes_the_driver_in_its_environment(tmp_path):
    machine = machine_with(profiles={"default": PROFILE})
    job = job_of("batch", folder=str(tmp_path), programs=str(tmp_path / "bin"))
    driver = 'echo "$$ $1 $2|$FI_CXI_RX_MATCH_MODE|$ODD|$TMPDIR|$PWD" > "$OUT/seen"'
    module = "module() { [ $1 $2 = loadrocm/7.1.1 ] || true; }; export -f module"
    script = resident_script(machine, job, ("gfm-pipeline", "resume", "a campaign"))
    done = run(module + "\n" + script + "echo not reached\n", tmp_path, **{"gfm-pipeline": driver})
    assert (done.returncode, done.stdout) == (0, "")
    seen = (tmp_path / "seen").read_text().strip().partition(" ")[2]
    assert seen == f"resume a campaign|hybrid|it's $HOME|/tmp|{tmp_path}"


@pytest.mark.parametrize("module", ["module() { return 1; }", "true"])
def test_a_missing_module_ends_the_job_with_its_name(module, tmp_path):
    machine = machine_with(profiles={"default": PROFILE})
    script = resident_script(machine, job_of("batch", folder=str(tmp_path)), DRIVE)
    done = run(module + "\n" + script, tmp_path, **{"gfm-pipeline": 'touch "$OUT/seen"'})
    assert done.returncode == 2
    assert "gfm-pipeline: module rocm/7.1.1 cannot be loaded" in done.stderr
    assert not (tmp_path / "seen").exists()


NODES = {  # a pretended machine whose only node is this folder
    "sbcast": 'mkdir -p "$(dirname "$3")"; cp "$2" "$3" || exit 1; [ ! -e "$OUT/refuse" ]',
    "srun": 'while [[ $1 == --* ]]; do shift; done; echo "$@" >> "$OUT/steps"; exec "$@"',
    "conda-unpack": 'touch "$OUT/unpacked"',
    "gfm-pipeline": 'echo "$STAGED" > "$OUT/seen"',
}


def staged(tmp_path) -> str:
    environment = tmp_path / "made/bin"
    environment.mkdir(parents=True)
    (environment / "activate").write_text("export STAGED=yes\n")
    subprocess.run(["tar", "-czf", str(tmp_path / "env.tar.gz"), "-C", str(tmp_path / "made"), "bin"], check=True)
    staging = STAGING | {"archive": str(tmp_path / "env.tar.gz"), "folder": f"{tmp_path}/nodes/$USER"}
    return resident_script(machine_with(staging=staging), job_of("batch", folder=str(tmp_path)), DRIVE)


def test_the_environment_is_staged_and_activated(tmp_path):
    done = run(staged(tmp_path), tmp_path, **NODES)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen").read_text() == "yes\n"
    assert (tmp_path / "unpacked").exists()
    assert [p.name for p in (tmp_path / "nodes/me").iterdir()] == ["gfm-env"]  # the archive is gone


def test_a_copy_that_fails_ends_the_job_and_leaves_nothing_behind(tmp_path):
    script = staged(tmp_path)
    (tmp_path / "refuse").touch()
    done = run(script, tmp_path, **NODES)
    assert done.returncode == 2
    assert "did not reach every node" in done.stderr
    assert list((tmp_path / "nodes/me").iterdir()) == []
    assert not (tmp_path / "seen").exists()


def test_a_block_starts_its_pools_and_lives_as_long_as_they_do(tmp_path):
    nodes = tmp_path / "the nodes"
    script = block_script(
        machine_with(),
        job_of("batch", folder=str(tmp_path)),
        ['cp "$OUT/the nodes" "$OUT/first"', """sh -c 'sleep 0.2; touch "$OUT/second"'"""],
        str(nodes),
    )
    assert "--signal" not in script  # a pool would die of it; the driver elsewhere keeps the time
    done = run(script, tmp_path, scontrol="printf 'fr1\\nfr2\\n'")
    assert done.returncode == 0, done.stderr
    assert nodes.read_text() == (tmp_path / "first").read_text() == "fr1\nfr2\n"
    assert (tmp_path / "second").exists()


def block_of(tmp_path, *pools: str) -> str:
    job = job_of("batch", folder=str(tmp_path), output=str(tmp_path / "job.out"))
    text = block_script(machine_with(), job, pools, str(tmp_path / "nodes"))
    return f"exec >{tmp_path}/job.out 2>&1\n{text.replace('for pause in 5 10 20', 'for pause in 0 0 0')}"


def test_a_pool_that_fails_ends_the_block(tmp_path):
    """Nodes with some of their pools would be held to the end of the wall time."""
    began = time.monotonic()
    done = run(block_of(tmp_path, "sleep 60", "false"), tmp_path, scontrol="echo fr1")
    assert done.returncode == 1
    assert time.monotonic() - began < 30
    assert "a worker pool failed, so the job ends" in (tmp_path / "job.out").read_text()


def test_a_pool_is_launched_again_while_slurm_does_not_answer(tmp_path):
    enough = 'test $(wc -l < "$OUT/tries") -ge 3'
    pool = f"""sh -c 'echo >> "$OUT/tries"; {enough} || {{{{ echo "srun: error: {{words}}" >&2; exit 1; }}}}'"""
    silent = pool.format(words="Unable to confirm allocation for job 6: Socket timed out on send/recv operation.")
    done = run(block_of(tmp_path, silent), tmp_path, scontrol="echo fr1")
    assert done.returncode == 0, (tmp_path / "job.out").read_text()
    assert (tmp_path / "tries").read_text().count("\n") == 3
    (tmp_path / "tries").unlink()
    refused = pool.format(words="Unable to confirm allocation for job 6: Invalid job id specified")
    assert run(block_of(tmp_path, refused), tmp_path, scontrol="echo fr1").returncode == 1
    assert (tmp_path / "tries").read_text().count("\n") == 1


def test_a_block_of_pbs_names_every_node_once(tmp_path):
    nodes = tmp_path / "nodes"
    script = block_script(site(TILES), job_of("prod", folder=str(tmp_path)), ["true"], str(nodes))
    (tmp_path / "given").write_text("b\nb\na\nb\n")
    done = run(f"PBS_NODEFILE={tmp_path}/given\n{script}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert nodes.read_text() == "b\na\n"


def test_nothing_of_the_writers_environment_gets_in(monkeypatch):
    monkeypatch.setenv("GFM_SECRET_TOKEN", "hunter2")
    machine = machine_with(profiles={"default": PROFILE}, staging=STAGING)
    for script in (resident_script(machine, JOB, DRIVE), block_script(machine, JOB, ["pool"], "/n")):
        assert "hunter2" not in script
        assert "--export" not in script
        assert os.environ["HOME"] + "/" not in script


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30)


@given(TEXT, TEXT)
def test_any_text_is_one_word(name, folder):
    job = job_of("batch", name=name, folder=folder)
    script = resident_script(site(FRONTIER), job, ["gfm-pipeline", folder])
    assert directives(script, "#SBATCH")[0] == ["-J", name]
    assert shlex.split(script.splitlines()[-1]) == ["exec", "gfm-pipeline", folder]


def test_a_directive_cannot_begin_another_line():
    scheduler = FRONTIER["scheduler"] | {"directives": ["-S 8\nrm -rf x"]}
    with pytest.raises(ConfigError, match="control character"):
        resident_script(machine_with(scheduler=scheduler), JOB, DRIVE)
    with pytest.raises(ConfigError, match="control character"):
        resident_script(machine_with(), job_of("batch", name="a\nb"), DRIVE)
    wrong = {"default": {"exports": {"A;B": "1"}}}
    with pytest.raises(ConfigError, match="not a name of a variable"):
        resident_script(machine_with(profiles=wrong), JOB, DRIVE)


def test_a_machine_without_a_batch_system_has_no_scripts():
    with pytest.raises(ConfigError, match="no batch system"):
        resident_script(site(PLAIN), JOB, DRIVE)


def test_wall_times():
    found = [clock(h) for h in (0.25, 2, 11.99, 48, 1 / 3)]
    assert found == ["00:15:00", "02:00:00", "11:59:24", "48:00:00", "00:20:00"]


def test_variables_in_paths_are_the_only_shell_text(tmp_path):
    for text in ("/mnt/bb/$USER/x", "/a b/${USER}", "$(touch x)`id`'\"", "/plain"):
        told = subprocess.run(
            ["bash", "-c", f"printf %s {expanded(text)}"],
            env={"USER": "me you", "PATH": os.environ["PATH"]},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout == text.replace("${USER}", "me you").replace("$USER", "me you")
    assert list(tmp_path.iterdir()) == []


def test_sites_without_gpus_have_scripts_too():
    script = resident_script(site(HOSTS), job_of("all", nodes=2), DRIVE)
    assert ["-N", "2"] in directives(script, "#SBATCH")
    assert 'export PATH=/env/bin:"$PATH"' in script
