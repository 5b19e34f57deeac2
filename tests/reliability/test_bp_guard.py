"""ADIOS2 hangs on truncated files: none is opened before its manifest was checked, whoever asks."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from adios2 import bindings as adios
from torch.nn import Identity

from gfm_pipeline.apps.dataset import BpFile, Columns, Dataset, write_bp
from gfm_pipeline.apps.dataset.store import bp as bp_module
from gfm_pipeline.apps.ingest.readers.hydragnn import HydragnnReader
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings, Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.evaluation import PredictSpec
from gfm_pipeline.core.contracts.training import DatasetRef
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import publishing, write_record

APPS = Path(bp_module.__file__).parents[2]


def calls(source: Path) -> set[str]:
    """Return the dotted names a module calls."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)}


def name(path: Path) -> str:
    """Return the name of a module as it is told apart from others here."""
    return path.name if path.parent.name == "store" else f"{path.parent.name}/{path.name}"


def test_adios_opens_files_in_one_module_only():
    users = {name(p) for p in APPS.rglob("*.py") if "adios" in {n for t in calls(p) for n in t.split(".")}}
    importers = {
        name(p) for p in APPS.rglob("*.py") if "adios2 import" in p.read_text() or "import adios2" in p.read_text()
    }
    # The check of a machine writes one file and reads it again, once every byte of it is there.
    # bp_step.py opens for writing only, rows.py selects in files that bp.py has opened.
    assert users | importers == {"bp.py", "bp_step.py", "rows.py", "preflight/files.py"}
    openers = {p.name for p in APPS.rglob("*.py") if "BpFile" in calls(p)}
    assert openers == {"dataset.py", "hydragnn.py", "rows.py"}  # a new one is to be added to the tests below


@pytest.fixture
def dataset(tmp_path):
    """Publish a dataset of one split a label, and return its folder."""
    rng = np.random.default_rng(0)
    sizes = np.array([2, 3, 1])
    n = int(sizes.sum())

    def columns():
        return Columns.build(
            numbers=np.ones(n),
            pos=rng.normal(size=(n, 3)),
            forces=rng.normal(size=(n, 3)),
            energy=rng.normal(size=3),
            cell=np.zeros((3, 3, 3)),
            pbc=np.zeros((3, 3), dtype=bool),
            natoms=sizes,
            group=np.arange(3),
            origin=np.arange(3),
        )

    counts = {str(split): 3 for split in Split}
    facts = DatasetStatistics(
        "demo", counts, counts, counts, ("H",), {"H": 0.0}, 1, "fit", 1.0, 1.0, {}, {}, 3, 0, {}
    )  # fmt: skip
    folder = tmp_path / "demo"
    with publishing(folder, "test") as place:
        write_bp(place / "demo.bp", "demo", {split: columns() for split in Split}, {1: 0.0})
        write_record(place / "statistics.json", facts)
    return folder


def reads(folder):
    """Return every way a program of ours comes to read a BP file of ``folder``."""
    source = SourceSettings("demo", "hydragnn", (str(folder / "demo.bp"),))
    checked = Dataset.open(folder)

    return {
        "dataset": lambda: Dataset.open(folder).columns(Split.TRAIN),
        "dataset opened before the damage": lambda: checked.columns(Split.TRAIN),
        "rows": lambda: Dataset.open(folder).rows(Split.TRAIN).close(),
        "file": lambda: BpFile(folder / "demo.bp").close(),
        "reader counts": lambda: HydragnnReader().count(source),
        "reader reads": lambda: list(HydragnnReader().read(source, 0, 1, 0)),
    }


WAYS = ["dataset", "dataset opened before the damage", "rows", "file", "reader counts", "reader reads"]


@pytest.mark.parametrize("way", WAYS)
def test_every_reader_refuses_before_adios_sees_the_file(way, dataset, monkeypatch):
    read = reads(dataset)[way]
    read()  # whole: it works

    class Never:
        def __init__(self):
            raise AssertionError("ADIOS2 was asked to open a damaged file")

    monkeypatch.setattr(bp_module.adios, "ADIOS", Never)
    data = dataset / "demo.bp" / "data.0"
    data.write_bytes(data.read_bytes()[:-100])
    if way == "reader counts":
        assert read() is None  # for want of a number, reading says how many
    elif way == "reader reads":
        (bad,) = read()  # set aside with the reason, as whatever a source holds that cannot be read
        assert isinstance(bad, BadRecord)
        assert "data.0 has" in bad.reason
    else:
        with pytest.raises(IntegrityError, match=r"data\.0 has"):
            read()


def test_a_program_refuses_a_damaged_dataset_with_one_sentence(dataset, tmp_path, monkeypatch):
    from gfm_pipeline.apps.calibrate import predict
    from gfm_pipeline.apps.runtime.program import Task

    assert adios is not None
    monkeypatch.setattr(predict, "load_model", lambda path: SimpleNamespace(potential=Identity()))
    data = dataset / "demo.bp" / "data.0"
    data.write_bytes(data.read_bytes()[:-100])
    spec = PredictSpec("m00", "nowhere", (DatasetRef("demo", str(dataset)),), str(tmp_path / "out"), 1)
    with pytest.raises(IntegrityError, match=r"data\.0 has .* bytes, its manifest says"):
        predict.predict(spec, Task(tmp_path))
    assert not (tmp_path / "out").exists()
