"""Does a reader's memory grow with its file? Each format is read from a file of N and of ten times N structures.

    python benchmarks/readers.py [--structures 1000] [--only TestExtxyz,TestAlexandria] [--folder DIR]

Files are written by the writers of the readers' conformance tests (`tests/apps/readers`), one class a layout:
structures of four atoms with energy and, where the format has them, forces. Each file is read in a process of its own,
and records are dropped as they come. Memory is the kernel's peak of the process while it reads (VmHWM, reset before),
less what it held before, with six structures of the same format read to warm up, and less the pages of files that are
mapped (LMDB), which the kernel takes back as it likes. `hdf5` holds the conformers of a
molecule at a time, and these files are one molecule: it may grow with the molecule, not with the file. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

READERS = Path(__file__).resolve().parent.parent / "tests" / "apps" / "readers"
KIB = 1024.0  # the kernel's figures are in KiB
WARM = 6  # structures
LOOK = 50  # structures between looks at how much is mapped


def layouts() -> list[tuple[str, str]]:
    """Return module and class of every layout the conformance tests can write."""
    sys.path[:0] = [str(READERS), str(READERS.parent), str(READERS.parent.parent)]
    from conformance import Conformance

    found = []
    for path in sorted(READERS.glob("test_reader_*.py")):
        module = importlib.import_module(path.stem)
        for name, cls in vars(module).items():
            is_test = isinstance(cls, type) and issubclass(cls, Conformance) and cls.__module__ == path.stem
            if is_test and not getattr(cls, "__abstractmethods__", None):
                found.append((path.stem, name))
    return found


def made(module: str, name: str, structures: int, folder: Path) -> Any:
    """Write ``structures`` of a layout; return their source."""
    sys.path[:0] = [str(READERS), str(READERS.parent), str(READERS.parent.parent)]
    import conformance

    conformance.N_RECORDS = structures
    loaded = importlib.import_module(module)
    loaded.__dict__["N_RECORDS"] = structures
    if hasattr(loaded, "prepare"):
        loaded.prepare(pytest.MonkeyPatch())  # never undone: the process writes and ends
    test = getattr(loaded, name)()
    folder.mkdir()
    path = test.write(folder, conformance.Expected(test.periodic))
    return test.source(path)


def memory(name: str) -> float:
    """Return a figure of this process in MiB: VmRSS, what it holds, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) / KIB


def write_or_read(words: list[str]) -> None:
    """Write a file, or read one and print what that took: the work of one process."""
    what, module, name, structures, folder = words
    from dataclasses import asdict

    from gfm_pipeline.apps.ingest.readers.registry import get_reader
    from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings

    if what == "write":
        source = made(module, name, int(structures), Path(folder))
        (Path(folder).parent / f"{structures}.json").write_text(json.dumps(asdict(source)))
        return

    def read(number: str) -> tuple[int, float, float]:
        source = SourceSettings(**json.loads((Path(folder) / f"{number}.json").read_text()))
        begin, good, mapped = time.process_time(), 0, 0.0
        for number_of, item in enumerate(get_reader(source.reader).read(source, 0, 1, 0)):
            good += not isinstance(item, BadRecord)
            if number_of % LOOK == 0:
                mapped = max(mapped, memory("RssFile"))
        return good, time.process_time() - begin, mapped

    read(str(WARM))
    gc.collect()
    before, mapped = memory("VmRSS"), memory("RssFile")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    good, seconds, most_mapped = read(structures)
    peak = memory("VmHWM") - before - max(0.0, most_mapped - mapped)
    print(json.dumps([good, seconds, max(0.0, peak)]))


def child(*words: str) -> str:
    """Run a process of this program; return what it printed last."""
    done = subprocess.run([sys.executable, __file__, "--child", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return (done.stdout.strip().splitlines() or [""])[-1]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=1000, help="in the smaller file")
    parser.add_argument("--only", default="", help="names of classes, with commas between")
    parser.add_argument("--folder", type=Path, default=None, help="where files are written; default: temporary")
    parser.add_argument("--child", nargs=5, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.child:
        write_or_read(options.child)
        return 0
    few, many = options.structures, 10 * options.structures
    print(f"{'layout':34s} {'structures/s':>12s}  MiB of {few:,}  MiB of {many:,}")
    for module, name in layouts():
        if options.only and name not in options.only.split(","):
            continue
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            label = f"{module.removeprefix('test_reader_')}: {name.removeprefix('Test')}"
            try:
                for number in (WARM, few, many):
                    child("write", module, name, str(number), f"{folder}/files-{number}")
                (_, _, small), (good, seconds, large) = (
                    json.loads(child("read", module, name, str(number), folder)) for number in (few, many)
                )
            except RuntimeError as error:
                print(f"{label:34s} not measured: {error}")
                continue
            rate = good / max(seconds, 1e-9)
            short = "" if good == many else f"  ({good:,} records)"
            print(f"{label:34s} {rate:12,.0f}  {small:10.1f}  {large:11.1f}{short}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
