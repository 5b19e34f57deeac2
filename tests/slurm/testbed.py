"""A real Slurm on one machine: virtual nodes shaped like Frontier's and Perlmutter's, with pretend GPUs.

    python tests/slurm/testbed.py [FRONTIER_NODES PERLMUTTER_NODES]    hold one until Ctrl-C; prints its SLURM_CONF

Everything of a test bed lies in one temporary folder: its own munged with its own key and socket, slurmctld, and one
slurmd a node, all on free ports, so that several test beds run beside each other. Needs root and Debian's packages
slurmctld, slurmd, slurm-client and munge (22.05 or newer, built for several slurmd on a host, as Debian's are).

It shows placement of jobs and steps, allocation of GPUs, time limits, signals and failing nodes. It cannot show the
binding of processes to cores or to the closest GPU (``TaskPlugin=task/none``: a pretend node has more cores than the
machine), nor QOS or ``sacct`` (there is no database).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bed_leftovers import HELD, clean, folder_of, hosts_locked, kill_all, remember_hosts
from bed_nodes import FRONTIER, PERLMUTTER, gres_conf, slurm_conf

PORTS = range(12_000, 19_000)  # below the ports that Linux hands out by itself
MOST_PORTS = 64  # of a test bed
START_SECONDS = 120.0  # on a busy machine; three test beds may start at once
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel")
DAEMON_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def missing() -> str | None:
    """Return why no test bed can run here, or None."""
    if os.geteuid() != 0:
        return "the Slurm test bed needs root"
    absent = [name for name in DAEMONS if shutil.which(name, path=DAEMON_PATH) is None]
    if absent:
        return f"{', '.join(absent)} missing (on Debian: apt-get install slurmctld slurmd slurm-client munge)"
    return None


class TestBed:
    """A running Slurm; a context manager.

    Parameters
    ----------
    frontier, perlmutter
        Number of nodes of each shape: ``fr1``, ``fr2`` ... in partition ``batch``, ``pm1`` ... in partition ``gpu``.
    slurmd_timeout
        Seconds after which a node that does not answer is down.
    """

    __test__ = False  # not a test class

    def __init__(self, frontier: int = 4, perlmutter: int = 4, slurmd_timeout: int = 10) -> None:
        self.counts = {FRONTIER: frontier, PERLMUTTER: perlmutter}
        self.slurmd_timeout = slurmd_timeout
        self.folder = Path()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._guard: socket.socket | None = None  # holds the ports

    @property
    def nodes(self) -> list[str]:
        """Names of all nodes."""
        return [name for shape, count in self.counts.items() for name in shape.names(count)]

    @property
    def conf(self) -> Path:
        """The configuration, for ``SLURM_CONF``."""
        return self.folder / "slurm.conf"

    def environment(self, **more: str) -> dict[str, str]:
        """Return the caller's environment, made to speak with this Slurm."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        return kept | {"SLURM_CONF": str(self.conf)} | more

    def __enter__(self) -> TestBed:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop it, and leave nothing."""
        self.stop()

    def start(self) -> None:
        """Start munged, slurmctld and the nodes; return when all nodes are idle."""
        # Sockets lie in it: their paths must be short, and the parents not writable to everyone unless sticky.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-bed-", dir="/tmp"))
        self.folder.chmod(0o755)
        self._held = open(self.folder / HELD, "w")  # noqa: SIM115 - held as long as this process lives
        fcntl.flock(self._held, fcntl.LOCK_EX)
        try:
            self._configure()
            self._start_munged()
            self._start_daemon("slurmctld", self.folder, "slurmctld", "-D", "-c", "-f", str(self.conf))
            for node in self.nodes:
                self.start_node(node)
            self.wait_idle(START_SECONDS)
        except BaseException:  # whatever it is, Ctrl-C too: no daemon may outlive the tests; raised again
            self.stop()
            raise

    def stop(self) -> None:
        """End everything, processes of jobs included, and remove the folder and the names in /etc/hosts."""
        for process in self._daemons.values():
            process.kill()
            process.wait()
        self._daemons.clear()
        clean(self.folder)
        if self._guard is not None:
            self._guard.close()
        with hosts_locked() as lines:
            lines[:] = [line for line in lines if folder_of(line) != self.folder]
        self._held.close()

    # ---------------------------------------------------------------- faults

    def start_node(self, node: str) -> None:
        """Start the slurmd of ``node``."""
        self._spool(node).mkdir(exist_ok=True)
        self._start_daemon(node, self._spool(node), "slurmd", "-D", "-N", node)

    def kill_slurmd(self, node: str) -> None:
        """Kill the slurmd of ``node``; what runs there goes on until Slurm notices."""
        process = self._daemons.pop(node)
        process.kill()
        process.wait()

    def fail_node(self, node: str) -> None:
        """Kill everything on ``node`` at once, as a loss of power does."""
        self.kill_slurmd(node)
        places = [self._spool(node), self.folder / "log" / f"slurmd.{node}.log"]
        kill_all(places, SLURM_CONF=str(self.conf), SLURMD_NODENAME=node)

    def repair_node(self, node: str) -> None:
        """Bring a failed node back."""
        self.start_node(node)
        self.wait_idle(START_SECONDS, [node])

    @contextmanager
    def stopped_controller(self) -> Iterator[None]:
        """Stop slurmctld for a while, as a busy one seems to be: commands wait, nothing is refused."""
        controller = self._daemons["slurmctld"]
        os.kill(controller.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(controller.pid, signal.SIGCONT)

    # ---------------------------------------------------------------- looking

    def command(self, *words: str, seconds: float = 60.0, check: bool = True) -> str:
        """Run a Slurm command; return what it printed."""
        done = subprocess.run(
            words, env=self.environment(), capture_output=True, text=True, timeout=seconds, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """Return the state of each node."""
        lines = self.command("sinfo", "-h", "-N", "-o", "%N %T", seconds=15, check=False).splitlines()
        return dict(line.split() for line in lines)

    def wait_idle(self, seconds: float, nodes: Sequence[str] | None = None) -> None:
        """Return when ``nodes`` (default: all) are idle."""
        wanted = set(self.nodes if nodes is None else nodes)
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            states = self.states()
            if wanted <= {node for node, state in states.items() if state == "idle"}:
                return
            time.sleep(0.2)
        logs = "".join(tail(path) for path in sorted(self.folder.glob("log/*.log")))
        raise AssertionError(
            f"the nodes of the Slurm test bed did not become idle in {seconds:.0f} s: {states}\n{logs}"
        )

    def jobs(self) -> list[str]:
        """Return ``id name state`` of every job that has not ended."""
        return self.command("squeue", "-h", "-o", "%i %j %T").splitlines()

    def batch(
        self, script: str, folder: Path, nodes: int = 1, partition: str = "batch", options: Sequence[str] = ()
    ) -> str:
        """Submit the text of a shell script that runs in ``folder`` and prints to ``out.ID`` there; return its id."""
        path = folder / "script.sh"
        path.write_text(f"#!/bin/bash\n{script}")
        return self.command(
            "sbatch", "--parsable", f"--partition={partition}", f"--nodes={nodes}", "--exclusive", "--time=5",
            f"--chdir={folder}", "--output=out.%j", *options, str(path),
        ).strip()  # fmt: skip

    def wait_end(self, job: str, seconds: float = 60.0) -> str:
        """Wait for a job to end; return its state."""
        give_up = time.monotonic() + seconds
        state = ""
        while time.monotonic() < give_up:
            state = self.command("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()
            if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
                return state
            time.sleep(0.1)
        raise AssertionError(f"job {job} is still {state} after {seconds:.0f} s")

    def clear(self) -> None:
        """Cancel every job and wait until all nodes are idle."""
        self.command("scancel", "--user=root", check=False)
        self.wait_idle(60)

    # ---------------------------------------------------------------- starting

    def _spool(self, node: str) -> Path:
        return self.folder / f"spool.{node}"

    def _start_daemon(self, label: str, where: Path, *words: str) -> None:
        """Start a daemon that dies with this process."""
        program = shutil.which(words[0], path=DAEMON_PATH)
        assert program is not None, words[0]
        with open(self.folder / "log" / f"{label}.out", "ab") as log:
            self._daemons[label] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", program, *words[1:]],
                env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd=where,
            )  # fmt: skip

    def _start_munged(self) -> None:
        """Start a munged of our own: another socket, another key, so that no other Slurm is touched."""
        place = self.folder / "munge"
        place.mkdir(mode=0o755)
        key = place / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = [f"--{name}-file={place / name}" for name in ("key", "pid", "log", "seed")]
        self._start_daemon(
            "munged",
            place,
            "munged",
            "--foreground",
            "--force",
            "--num-threads=2",
            f"--socket={place / 'socket'}",
            *files,
        )

    def _configure(self) -> None:
        for name in ("state", "log", "dev"):
            (self.folder / name).mkdir()
        for gpu in range(8):
            os.mknod(self.folder / "dev" / f"gpu{gpu}", 0o600 | 0o020000, os.makedev(1, 3))
        self._guard, ports = free_ports(1 + len(self.nodes))
        self.conf.write_text(slurm_conf(self.folder, ports, self.counts, self.slurmd_timeout))
        (self.folder / "gres.conf").write_text(gres_conf(self.folder, self.counts))
        remember_hosts(self.folder, self.nodes)


def tail(path: Path, lines: int = 8) -> str:
    """Return the end of a log, under its name."""
    return f"--- {path.name}\n" + "".join(
        f"{line}\n" for line in path.read_text(errors="replace").splitlines()[-lines:]
    )


def free_ports(count: int) -> tuple[socket.socket, list[int]]:
    """Return ports that nobody listens at, and the socket that holds them for this process.

    The socket is bound to the port before them, so that test beds that start at the same time choose others, though the
    daemons listen only a while later.
    """
    firsts = PORTS[:-MOST_PORTS:MOST_PORTS]
    for first in secrets.SystemRandom().sample(firsts, len(firsts)):
        guard = socket.socket()
        try:
            guard.bind(("", first))
            for port in range(first + 1, first + 1 + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            guard.close()
            continue
        return guard, list(range(first + 1, first + 1 + count))
    raise AssertionError("no free ports for the Slurm test bed")


if __name__ == "__main__":
    reason = missing()
    if reason is not None:
        sys.exit(reason)
    frontier, perlmutter = (int(word) for word in sys.argv[1:3]) if len(sys.argv) > 2 else (4, 4)
    with TestBed(frontier, perlmutter) as bed:
        print(f"export SLURM_CONF={bed.conf}", flush=True)  # noqa: T201
        with suppress(KeyboardInterrupt):
            signal.sigwait({signal.SIGTERM, signal.SIGINT})
