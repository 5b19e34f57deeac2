"""Speed of training steps here and in HydraGNN, in turns: the table of ``benchmarks/against_hydragnn.py``.

Each side is a process that builds its model once and then waits; it trains a few batches whenever it is told to and
answers the processor time. So all sides see the same load of the machine. As a program, this is our side: settings as
JSON on the first line of standard input, then a line per turn.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import IO, Any

HERE = Path(__file__).parent
PACKAGES = ("torch", "torch_geometric", "e3nn", "numpy")


@dataclass(frozen=True)
class Structures:
    """A set of structures, a part of a file: every ``stride``-th record, in batches of ``batch``."""

    file: str
    records: int
    batch: int


SETS = {
    "molecules (acac)": Structures("acac/train_300K.xyz", 96, 16),
    "crystals (Cu)": Structures("mlearn/Cu_train.xyz", 48, 8),
}
# Our name, and HydraGNN's. Its PNA is not here: it sees distances as edge features only, and HydraGNN refuses
# these with forces as gradients of the energy. Its PNAPlus computes them itself.
NAMES = {
    "SchNet": "SchNet", "EGNN": "EGNN", "PaiNN": "PAINN", "PNAPlus": "PNAPlus", "DimeNet++": "DimeNet", "MACE": "MACE",
}  # fmt: skip
OPTIONS = {"MACE": {"l_max": 1, "correlation": 2}}  # those of HydraGNN's published configuration


class Side:
    """A process that trains on request."""

    def __init__(self, command: Sequence[str], asked: dict[str, Any], log: Path, env: dict[str, str], cwd: str) -> None:
        self._log = open(log, "w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
        )  # fmt: skip
        self._send(json.dumps(asked))

    def _send(self, line: str) -> None:
        pipe = self._process.stdin
        if pipe is None:
            raise RuntimeError("there is no pipe")
        pipe.write(f"{line}\n")
        pipe.flush()

    def turn(self) -> dict[str, Any] | None:
        """Return the answer to one request; None if the process is gone."""
        try:
            self._send("go")
        except OSError:
            return None
        for line in self._process.stdout or ():
            if line.startswith("{"):  # libraries print, too
                found: dict[str, Any] = json.loads(line)
                return found
        return None

    def why(self, what: str = "") -> str:
        """Return the last line with ``what`` that the process wrote on standard error."""
        self._log.seek(0)
        lines = (line.strip() for line in reversed(self._log.readlines()))
        return next((line for line in lines if line and what in line), "it said nothing")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._log.close()


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def versions(checkout: Path) -> str:
    """Return what was compared."""
    found = [f"Python {platform.python_version()}", *map(_version, PACKAGES)]
    commit = subprocess.run(
        ["git", "-C", str(checkout), "log", "-1", "--format=%h of %as"], capture_output=True, text=True, check=False
    )
    return f"HydraGNN {commit.stdout.strip() or 'of unknown version'}, {', '.join(found)}"


def compare(checkout: Path, folder: Path, asked: dict[str, Any], compiled: bool, turns: int) -> list[str]:
    """Return the cells of one row: structures per second of processor time of each side, and our ratios."""
    paths = os.pathsep.join([str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours, child = str(HERE / "against_hydragnn_speed.py"), str(HERE / "against_hydragnn_child.py")
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    sides = {"HydraGNN": ([sys.executable, child], {"paced": True}, {"PYTHONPATH": paths})}
    sides["eager"] = ([sys.executable, ours], {"compiled": False}, {})
    if compiled:
        sides["compiled"] = ([sys.executable, ours], {"compiled": True}, cache)
    answers: dict[str, list[dict[str, Any]]] = {title: [] for title in sides}
    with ExitStack() as open_sides, tempfile.TemporaryDirectory() as place:  # HydraGNN writes logs where it runs
        running: dict[str, Side] = {}
        for title, (command, more, env) in sides.items():
            running[title] = Side(command, asked | more, folder / f"{title}.log", env, place)
            open_sides.callback(running[title].close)
        for _ in range(turns + 1):  # the first is not counted
            for title, side in running.items():
                found = side.turn() if title in answers else None
                if found is not None:
                    answers[title].append(found)
                elif title in answers:
                    print(f"{title} of {asked['name']} ended: {side.why()}", file=sys.stderr)
                    del answers[title]
        if answers.get("compiled") and not answers["compiled"][-1]["compiled"]:
            print(
                f"compiled of {asked['name']} ran eagerly: {running['compiled'].why('without compilation')}",
                file=sys.stderr,
            )
            del answers["compiled"]
    rates = {title: median(one["structures"] / one["seconds"] for one in found[1:]) for title, found in answers.items()}
    parameters = [
        f"{answers[title][0]['parameters']:,}" if title in answers else "-" for title in ("HydraGNN", "eager")
    ]
    cells = [*parameters, *(f"{rates[title]:.1f}" if title in rates else "-" for title in sides)]
    for title in list(sides)[1:]:
        both = title in rates and "HydraGNN" in rates
        cells.append(f"{rates[title] / rates['HydraGNN']:.2f}" if both else "-")
    return cells


def width_of(settings: Any, parameters: int) -> int:
    """Return the width, a multiple of four, whose model has the number of parameters that is nearest."""
    from gfm_pipeline.models import ModelSpec, Potential

    def excess(hidden: int) -> int:
        model = Potential(
            ModelSpec(settings.algorithm, hidden, settings.layers, settings.cutoff, options=settings.options)
        )
        return abs(sum(p.numel() for p in model.parameters()) - parameters)

    return min(range(4, 257, 4), key=excess)


def serve() -> None:
    """Train on request: our side."""
    import torch

    from gfm_pipeline.apps.train.compiled import compiled_pass
    from gfm_pipeline.apps.train.device import keep_freed_memory
    from gfm_pipeline.apps.train.setup import prepare
    from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, OptimiserSettings, TrainSpec

    asked = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    keep_freed_memory()
    sizes = {name: asked[name] for name in ("hidden", "layers", "cutoff")}
    settings = ModelSettings(asked["name"], **sizes, options=asked.get("options", OPTIONS.get(asked["name"], {})))
    if "parameters" in asked:
        settings = replace(settings, hidden=width_of(settings, asked["parameters"]))
    spec = TrainSpec(
        task="speed",
        model=settings,
        optimiser=OptimiserSettings(asked["learning_rate"], asked["batch"], 10.0),
        datasets=(DatasetRef("b", asked["dataset"]),),
        seed=0,
        output="unused",
        budget_graphs=10**9,
        validate_every=10**9,
    )
    trainer = prepare(spec)
    if asked["compiled"]:
        trainer.training_pass = compiled_pass(trainer.model)
    out: IO[str] = os.fdopen(os.dup(1), "w")
    steps = max(1, asked["structures"] // asked["batch"])
    for _ in sys.stdin:
        started = time.process_time()
        for _ in range(steps):
            trainer.step()
        seconds = time.process_time() - started
        answer = {"seconds": seconds, "structures": steps * asked["batch"], "parameters": trainer.n_parameters}
        answer["hidden"] = settings.hidden
        answer["compiled"] = trainer.training_pass.compiled
        print(json.dumps(answer), file=out, flush=True)
    trainer.close()


if __name__ == "__main__":
    serve()
