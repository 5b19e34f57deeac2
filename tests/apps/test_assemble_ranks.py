"""Joining by several ranks of an MPI job: the same dataset, byte for byte, and failures that end all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from gfm_pipeline.apps.dataset import Columns, Dataset
from gfm_pipeline.apps.dataset.inspect import verify
from gfm_pipeline.apps.dataset.store.bp_step import together
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.assembly.writer import DatasetWrite
from gfm_pipeline.apps.ingest.read import read_shard_program
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import AssembleSpec, ReadShardSpec, SourceSettings, Split
from gfm_pipeline.core.contracts.layout import CHUNK, LAYOUT_FILE
from gfm_pipeline.core.contracts.task import ERROR_FILE, RESULT_FILE, ExitCode
from gfm_pipeline.core.records import to_plain

SECONDS = 120


def _launcher() -> tuple[str, dict[str, str]]:
    """Return mpiexec and the variables its ranks need: those of the mpich wheel, or else the machine's."""
    if find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed: pip install mpi4py mpich")
    try:
        wheel = metadata.distribution("mpich")
    except metadata.PackageNotFoundError:
        if (found := which("mpiexec")) is None:
            pytest.skip("there is no mpiexec: pip install mpich")
        return found, {}
    files = {Path(str(file)).name: Path(str(file.locate())).resolve() for file in wheel.files or ()}
    return str(files["mpiexec"]), {"MPI4PY_LIBMPI": str(files["libmpi.so.12"])}


def run_ranks(
    folder: Path, spec: AssembleSpec, ranks: int, program: str = "", more: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program, or Python text that calls it, by so many ranks, with ``more`` variables."""
    mpiexec, variables = _launcher()
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(to_plain(spec)))
    what = ["-c", program] if program else ["-m", "gfm_pipeline.apps.ingest.assemble_mpi"]
    command = [mpiexec, "-n", str(ranks), sys.executable, *what, "spec.json"]
    environment = {**os.environ, **variables, **(more or {})}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> AssembleSpec:
    """Return what joins 5,400 made-up dimers: three chunks of training, one of each of the others."""
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(4)
    frames = []
    for k, (length, energy, force) in enumerate(zip(*rng.uniform(0.9, 1.1, size=(3, 5400)), strict=True)):
        frames.append(
            f"2\nProperties=species:S:1:pos:R:3:forces:R:3 energy={energy - 5:.9f} run=r{k % 50}\n"
            f"{'CNO'[k % 3]} 0 0 0 {force:.9f} 0 0\nH {length:.9f} 0 0 {-force:.9f} 0 0\n"
        )
    (folder / "dimers.extxyz").write_text("".join(frames))
    source = SourceSettings("dimers", "ase", (str(folder / "dimers.extxyz"),), group_key="run")
    read_shard_program(ReadShardSpec(source, 0, 3, str(folder / "0")), Task(folder))
    return AssembleSpec(source, (str(folder / "0"),), 0.1, 0.1, 0.2, 5, "")


def here(spec: AssembleSpec, output: Path) -> AssembleSpec:
    return replace(spec, output=str(output))


@pytest.mark.parametrize("files", [1, 3])
def test_two_ranks_give_the_dataset_of_one_process(tmp_path: Path, shards: AssembleSpec, files: int) -> None:
    spec = replace(shards, shard_mb=512.0 if files == 1 else 0.7)
    alone = assemble_program(here(spec, tmp_path / "alone" / "dimers"), Task(tmp_path))
    done = run_ranks(tmp_path / "attempt", here(spec, tmp_path / "ranks" / "dimers"), 2)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    one, several = (Dataset.open(tmp_path / k / "dimers", digests=True) for k in ("alone", "ranks"))
    assert len(list((tmp_path / "ranks" / "dimers").glob("*.bp"))) == files
    contents = [json.loads((tmp_path / k / "dimers" / LAYOUT_FILE).read_text())["content"] for k in ("alone", "ranks")]
    assert contents[0] == contents[1]
    result = json.loads((tmp_path / "attempt" / RESULT_FILE).read_text())
    assert result["statistics"] == to_plain(alone.statistics)
    if not together():
        assert several.digest == one.digest == result["digest"] == alone.digest
    assert [p.name for p in (tmp_path / "ranks").iterdir()] == ["dimers"]


TOGETHER = """
import sys
from gfm_pipeline.apps.ingest import assemble_mpi
assert assemble_mpi.together(), "ADIOS2 is not built with MPI"
sys.exit(assemble_mpi.main())
"""


@pytest.fixture
def collective() -> dict[str, str]:
    """Return the variables that give ranks an ADIOS2 built with MPI, or skip."""
    place = os.environ.get("GFM_ADIOS2_MPI")
    if not place:
        pytest.skip("GFM_ADIOS2_MPI is not set: there is no ADIOS2 built with MPI (docs/data.md says how to build one)")
    return {"PYTHONPATH": place}


@pytest.mark.parametrize(("ranks", "files"), [(2, 1), (3, 3)])
def test_ranks_that_write_each_file_together_give_the_same_content(
    tmp_path: Path, shards: AssembleSpec, collective: dict[str, str], ranks: int, files: int
) -> None:
    spec = replace(shards, shard_mb=512.0 if files == 1 else 0.7)
    alone = assemble_program(here(spec, tmp_path / "alone" / "dimers"), Task(tmp_path))
    done = run_ranks(tmp_path / "attempt", here(spec, tmp_path / "ranks" / "dimers"), ranks, TOGETHER, collective)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    one, several = (Dataset.open(tmp_path / k / "dimers", digests=True) for k in ("alone", "ranks"))
    assert one.layout == several.layout  # the digest of the content is part of it
    assert len(several.files) == files
    assert to_plain(several.statistics) == to_plain(alone.statistics)
    for split in Split:
        a, b = one.columns(split), several.columns(split)
        for name in Columns.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    verify(several)


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_rank_that_fails_while_all_write_one_file_ends_all(
    tmp_path: Path, shards: AssembleSpec, collective: dict[str, str], how: str
) -> None:
    program = FAILING.format(rank=1, where="writer.IndexWriter.add", how={"raise": RAISE, "kill": KILL}[how])
    done = run_ranks(tmp_path / "attempt", here(shards, tmp_path / "dimers"), 2, program, collective)
    assert done.returncode != 0
    assert not (tmp_path / "dimers").exists()
    assert not (tmp_path / "attempt" / RESULT_FILE).exists()


FAILING = """
import os, signal, sys
from mpi4py import MPI
from gfm_pipeline.apps.dataset.store import index
from gfm_pipeline.apps.ingest import assemble, assemble_mpi
from gfm_pipeline.apps.ingest.assembly import writer
from gfm_pipeline.core.errors import DataError

def fail(*_):
    {how}

if MPI.COMM_WORLD.Get_rank() == {rank}:
    {where} = fail
sys.exit(assemble_mpi.main())
"""
RAISE, KILL = "raise DataError('This cell has no volume.')", "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("rank", "where", "how"),
    [
        (0, "assemble._scatter", RAISE),
        (1, "writer.IndexWriter.add", RAISE),
        (1, "assemble_mpi.help_assemble", RAISE),  # before it listens to the others
        (0, "assemble.render", RAISE),  # after all have written
        (1, "writer.IndexWriter.add", KILL),
    ],
)
def test_a_rank_that_fails_ends_all_and_nothing_is_published(
    tmp_path: Path, shards: AssembleSpec, rank: int, where: str, how: str
) -> None:
    program = FAILING.format(rank=rank, where=where, how=how)
    done = run_ranks(tmp_path / "attempt", here(shards, tmp_path / "dimers"), 2, program)
    assert done.returncode != 0
    assert not (tmp_path / "dimers").exists()
    assert not (tmp_path / "attempt" / RESULT_FILE).exists()
    if how == KILL:
        return
    error = json.loads((tmp_path / "attempt" / ERROR_FILE).read_text())
    assert "no volume" in error["message"]
    if where != "assemble_mpi.help_assemble":  # the job is aborted there, and what it began stays, unpublished
        assert [p.name for p in tmp_path.iterdir()] == ["attempt"]
        assert done.returncode == ExitCode.PERMANENT


@pytest.mark.parametrize("n", [1, CHUNK, 5 * CHUNK + 7])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_chunks_are_divided_without_gap_or_overlap(n: int, size: int) -> None:
    work = DatasetWrite(Path(), Path(), "x", [], {}, {}, {Split.TRAIN: n})
    numbers = [k for rank in range(size) for k in work.counts(rank, size)[Split.TRAIN]]
    assert numbers == list(range(-(-n // CHUNK)))
    assert sum(work.sizes(rank, size)[Split.TRAIN] for rank in range(size)) == n
