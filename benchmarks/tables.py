"""Run benchmarks and write what they print into docs/performance.md, between their markers.

    python benchmarks/tables.py              # the quick ones: `make bench`
    python benchmarks/tables.py balance      # by name, slow ones too
    python benchmarks/tables.py --list

A marker is a pair of comments, ``<!-- bench NAME -->`` and ``<!-- end NAME -->``; what is between them is replaced. A
benchmark that fails leaves its table as it was, and the exit code says so. Below each table stand the day, the machine
and the versions.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark whose output is a table of the page.

    Parameters
    ----------
    command
        Arguments of Python, from the root of the repository.
    quick
        Whether it takes two minutes or less; then `make bench` runs it.
    """

    command: tuple[str, ...]
    quick: bool = True


BENCHMARKS = {
    "commands": Benchmark(("benchmarks/overhead.py",)),
    "precision": Benchmark(("benchmarks/precision.py",)),
    "balance": Benchmark(("benchmarks/balance.py",)),
}
PACKAGES = ("torch", "numpy", "ase", "scikit-learn", "optuna", "torch_geometric")


def footer() -> str:
    """Return the day, the machine and the versions, as a line below a table."""
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return f"Measured {date.today()} on {os.cpu_count()} cores: Python {platform.python_version()}, {packages}."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def marks(name: str) -> tuple[str, str]:
    """Return what is before and after a table."""
    return f"<!-- bench {name} -->\n", f"<!-- end {name} -->"


def replaced(page: str, name: str, output: str) -> str:
    """Return the page with the output of a benchmark between its markers.

    Tables stand as they are; other text is a block of code.

    Raises
    ------
    ValueError
        When the page has not exactly one pair of markers.
    """
    first, last = marks(name)
    if page.count(first) != 1 or page.count(last) != 1 or page.index(first) > page.index(last):
        raise ValueError(f"docs/performance.md needs one pair of markers for {name}: {first.strip()} and {last}.")
    lines = output.strip().splitlines()
    text = "\n".join(line if _is_page_text(line) else f"    {line}".rstrip() for line in lines)
    before, after = page[: page.index(first) + len(first)], page[page.index(last) :]
    return f"{before}\n{text}\n\n{after}"


def _is_page_text(line: str) -> bool:
    return not line or line.startswith(("|", "Measured "))


def main() -> int:
    """Run what is asked for, and return 1 when some benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks; none: the quick ones")
    parser.add_argument("--list", action="store_true", help="say which there are")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"There is no benchmark {unknown[0]!r}. Known are {', '.join(BENCHMARKS)}.")
    if options.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:12}{'quick' if benchmark.quick else 'slow ':8}python {' '.join(benchmark.command)}")
        return 0
    failed = 0
    for name in options.names or [name for name, benchmark in BENCHMARKS.items() if benchmark.quick]:
        command = [sys.executable, *BENCHMARKS[name].command]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{name} failed; its table is as it was.", file=sys.stderr)
            failed = 1
            continue
        text = f"{done.stdout.strip()}\n\n{footer()}"
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8")
        print(f"{name} is written.")
    return failed


if __name__ == "__main__":
    sys.exit(main())
