"""Speed of training steps here and in schnetpack, nequip and mace-torch, in turns, at equal numbers of parameters.

    python benchmarks/against_peers.py DATA --schnetpack-python VENV/bin/python --nequip-python ... --mace-python ...
    python benchmarks/against_peers.py DATA --algorithms PaiNN SchNet --sets "molecules (acac)" --compiled ...

DATA holds the folders acac and mlearn of the published sets. Every side trains in a process of its own, on one thread,
with the same malloc settings, the same structures, cutoff and batches, conservative forces, its own loss, its own
optimiser and its own averaged weights where it has them; all sides take turns. Ours has the width whose model has the
number of parameters nearest to that of the peer. A row of the table has both numbers, structures trained per second of
processor time (medians of the turns), and the ratio; ``--compiled`` adds our compiled pass, whose compilation (minutes)
is in a turn that does not count. A peer that is not installed is named, and the rest is compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from accuracy import ENVIRONMENT
from against_hydragnn import ingest, some
from against_hydragnn_speed import SETS, Side

OURS = Path(__file__).with_name("against_hydragnn_speed.py")
CUTOFF, LAYERS = 5.0, 3


@dataclass(frozen=True)
class Peer:
    """A program of ``equal_cost`` that trains the model of a peer, its package and settings, and ours beside it."""

    program: str
    package: str
    settings: dict[str, Any]
    layers: int = LAYERS
    options: dict[str, Any] = field(default_factory=dict)


_MACE = {"hidden_irreps": "64x0e + 64x1o", "max_ell": 2, "correlation": 2, "lr": 0.01}
_NEQUIP = {"layers": 4, "l_max": 1, "parity": True, "features": 32, "lr": 0.01, "ema": 0.99}
PEERS = {
    "PaiNN": Peer("schnetpack_side", "schnetpack", {"algorithm": "PaiNN", "hidden": 64, "layers": LAYERS}),
    "SchNet": Peer("schnetpack_side", "schnetpack", {"algorithm": "SchNet", "hidden": 64, "layers": LAYERS}),
    "NequIP": Peer("nequip_side", "nequip", _NEQUIP, 4, {"l_max": 1}),
    "MACE": Peer("mace_side", "mace", _MACE, 2, {"l_max": 1, "correlation": 2}),
}


def rate(answer: dict[str, Any]) -> float:
    """Return structures per second of processor time of a turn."""
    return float(answer["structures"] / answer["seconds"])


def row(name: str, title: str, asked: argparse.Namespace, python: str) -> list[str]:
    """Return the cells of one row."""
    peer, of = PEERS[name], SETS[title]
    with tempfile.TemporaryDirectory() as place, ExitStack() as open_sides:
        folder = Path(place)
        with redirect_stdout(sys.stderr):
            (file,) = some(asked.data, of, folder)
            dataset = ingest(folder, [file])
        common = {"train": file, "test": file, "cutoff": CUTOFF, "seed": 0, "output": str(folder / "unused")}
        task = common | {"steps": of.records // of.batch, "settings": peer.settings | {"batch": of.batch}}
        theirs = Side([python, "-m", f"equal_cost.{peer.program}"], task, folder / "peer.log", ENVIRONMENT, place)
        open_sides.callback(theirs.close)
        first = theirs.turn()
        if first is None:
            print(f"{name}: {peer.package} ended: {theirs.why()}", file=sys.stderr)
            return []
        ours = {"name": name, "layers": peer.layers, "cutoff": CUTOFF, "hidden": 0, "options": peer.options}
        ours |= {"parameters": first["parameters"], "batch": of.batch, "structures": of.records}
        ours |= {"learning_rate": 1e-3, "dataset": str(dataset.path)}
        sides = {"theirs": theirs}
        for kind in ("eager", "compiled")[: 1 + asked.compiled]:
            cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
            given = ours | {"compiled": kind == "compiled"}
            sides[kind] = Side([sys.executable, str(OURS)], given, folder / f"{kind}.log", ENVIRONMENT | cache, place)
            open_sides.callback(sides[kind].close)
        answers: dict[str, list[dict[str, Any]]] = {kind: [] for kind in sides}
        for _ in range(asked.turns + 1):  # the first is not counted
            for kind, side in sides.items():
                answer = side.turn()
                if answer is None:
                    raise SystemExit(f"{name}, {kind} ended: {side.why()}")
                answers[kind].append(answer)
        rates = {kind: median(rate(one) for one in found[1:]) for kind, found in answers.items()}
    of_ours = answers["eager"][0]
    cells = [title, f"{name} {of_ours['hidden']}", first["version"]]
    cells += [f"{of_ours['parameters']:,}", f"{first['parameters']:,}"]
    cells += [f"{rates[kind]:.1f}" for kind in sides]
    return cells + [f"{rates[kind] / rates['theirs']:.2f}" for kind in list(sides)[1:]]


def table(asked: argparse.Namespace) -> Iterator[str]:
    """Yield the table, and say on standard error what is not in it."""
    kinds = ("eager", "compiled")[: 1 + asked.compiled]
    head = [
        "structures",
        "ours",
        "peer",
        "our parameters",
        "its parameters",
        "peer, per s",
        *(f"{k}, per s" for k in kinds),
    ]
    head += [f"ratio, {kind}" for kind in kinds]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for name in asked.algorithms:
        python = getattr(asked, f"{PEERS[name].package}_python")
        if python is None:
            print(f"Left out: {name}: give --{PEERS[name].package}-python.", file=sys.stderr)
            continue
        for title in asked.sets:
            if cells := row(name, title, asked, python):
                yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the published sets")
    for package in dict.fromkeys(peer.package for peer in PEERS.values()):
        parser.add_argument(f"--{package}-python", help=f"interpreter of an environment with {package}")
    parser.add_argument("--algorithms", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="our compiled pass, too")
    asked = parser.parse_args()
    if not asked.data.is_dir():
        parser.error(f"There is no folder {asked.data}: name the one that holds acac and mlearn.")
    asked.data = asked.data.absolute()
    for line in table(asked):
        print(line, flush=True)


if __name__ == "__main__":
    main()
