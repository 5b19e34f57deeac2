"""Run the quick part of the suite on every Python from 3.10 to 3.13 that this machine has (``make test-versions``).

Each version has an environment of its own in ``build/versions``, made of wheels. torch is installed from a wheel
in the folder that ``--torch`` names, and from nowhere else: one more build of it for each version would be gigabytes.
Where there is none for a version, what needs torch is left out, and counted.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "versions"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
QUICK = (
    "campaign",
    "core",
    "docs",
    "engine",
    "search",
    "sites",
)  # of tests/: seconds each, and no programs are started
TOOLS = {"pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "psutil"}  # of the extra `dev`: what QUICK needs
SOURCES = ("core", "pipeline", "apps", "models", "sites")
IMPORT_ALL = """
import importlib, pkgutil, sys
left_out = []
names = [*sys.argv[1:]]
for name in names:
    try:
        package = importlib.import_module(name)
        if hasattr(package, "__path__") and name in sys.argv:
            found = [f"{name}.{inner.name}" for inner in pkgutil.iter_modules(package.__path__)]
            names += [inner for inner in found if inner not in names and not inner.endswith("__main__")]
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "torch_geometric", "mpi4py", "tblite"):
            raise
        left_out.append(name)
print(len([name for name in sys.modules if name.partition(".")[0] == "gfm_pipeline"]), len(left_out))
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one version: a line for people, and whether it is a failure."""

    text: str
    failed: bool = False


def interpreters(version: str) -> Iterator[Path]:
    """Yield the interpreters of this version on the path and of pyenv; shims of versions that are not chosen fail."""
    folders = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from (folder / f"python{version}" for folder in folders)
    yield from (found / "bin" / "python" for found in sorted(pyenv.glob(f"{version}.*"), reverse=True))


def find(version: str) -> Path | None:
    """Return the first interpreter that runs and is of this version; None where there is none."""
    for path in interpreters(version):
        if not path.exists():
            continue
        asked = subprocess.run(
            [path, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return path
    return None


def torch_wheel(version: str, folder: Path | None) -> Path | None:
    """Return the wheel of torch for a version in a folder; None where there is none."""
    tag = f"cp{version.replace('.', '')}"
    return next(iter(sorted(folder.glob(f"torch-*-{tag}-*.whl"), reverse=True)), None) if folder else None


def requirements() -> list[str]:
    """Return what is installed besides torch, from ``setup.cfg``."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = setup["options"]["install_requires"].split("\n")
    tools = [line for line in setup["options.extras_require"]["dev"].split("\n") if line in TOOLS]
    return [line for line in [*needed, *tools] if line and not line.startswith(("torch>", "#"))]


def packages() -> list[str]:
    """Return the packages of ``setup.cfg``."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup["options"]["packages"].split()


def prepare(version: str, python: Path, wheel: Path | None) -> Path:
    """Make or renew the environment of a version; return its interpreter.

    Raises
    ------
    subprocess.CalledProcessError
        When something cannot be installed from wheels.
    """
    home = FOLDER / version
    if not (home / "bin" / "python").exists():
        subprocess.run([python, "-m", "venv", home], check=True)
    own = home / "bin" / "python"
    # The pins are those of one version; wheels of the others may be of other releases.
    pinned = (ROOT / "constraints.txt").read_text().splitlines() if version == "3.11" else []
    pins = [line for line in pinned if not line.startswith("torch==")]
    limits = FOLDER / f"{version}.constraints.txt"
    # Where no wheel of torch is given, a package that wants one is an error, not a download.
    limits.write_text("\n".join(pins if wheel else [*pins, "torch<0"]) + "\n")
    install = [own, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--prefer-binary"]
    if wheel:
        subprocess.run([*install, "-c", limits, wheel], check=True)
    subprocess.run([*install, "--only-binary", ":all:", "-c", limits, "setuptools>=69", *requirements()], check=True)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", "-e", ROOT], check=True)
    return own


def needs_torch(path: Path) -> bool:
    """Whether a file of tests imports torch, or a module of ours that does."""
    ours = "|".join(("models", r"apps\.train\.(?!convergence)", r"apps\.calibrate", r"apps\.calculator"))
    return re.search(rf"^(import|from) (torch|gfm_pipeline\.({ours}))", path.read_text(), re.MULTILINE) is not None


def check(version: str, torch: Path | None) -> Outcome:
    """Compile, import and test on one version."""
    python = find(version)
    if python is None:
        return Outcome("not found on this machine: nothing was run")
    wheel = torch_wheel(version, torch)
    try:
        own = prepare(version, python, wheel)
    except subprocess.CalledProcessError as error:
        return Outcome(f"could not be set up ({error.returncode}): {python}", failed=True)
    compiled = subprocess.run([own, "-m", "compileall", "-q", *SOURCES], cwd=ROOT, check=False)
    imported = subprocess.run(
        [own, "-W", "error", "-c", IMPORT_ALL, *packages()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if compiled.returncode or imported.returncode:
        print(imported.stderr, file=sys.stderr)
        return Outcome("does not compile, or cannot be imported", failed=True)
    modules, without = imported.stdout.split()
    files = [path for name in QUICK for path in sorted((ROOT / "tests" / name).glob("test_*.py"))]
    files = [path for path in files if "from ranked import" not in path.read_text()]  # these start many programs
    left_out = [] if wheel else [path for path in files if needs_torch(path)]
    chosen = [path for path in files if path not in left_out]
    tested = subprocess.run([own, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen], cwd=ROOT, check=False)
    text = f"{modules} modules imported, {len(chosen)} files of tests {'failed' if tested.returncode else 'passed'}"
    if not wheel:
        text += f"; without torch: {without} modules and {len(left_out)} files of tests left out"
    return Outcome(text, failed=tested.returncode != 0)


def main(arguments: Sequence[str]) -> int:
    """Check the versions that were asked for; return 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS, help="such as 3.10 (all)")
    parser.add_argument("--torch", type=Path, help="folder with wheels of torch")
    chosen = parser.parse_args(arguments)
    FOLDER.mkdir(parents=True, exist_ok=True)
    outcomes = {version: check(version, chosen.torch) for version in chosen.versions}
    print()
    for version, outcome in outcomes.items():
        print(f"Python {version}: {outcome.text}")
    return int(any(outcome.failed for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
