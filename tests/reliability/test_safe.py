"""Safe by default: who can read a campaign, who can speak to it, and what it would run of what it reads."""

from __future__ import annotations

import ast
import ipaddress
import os
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import pretended
import psutil
import pytest
import runs

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.execution.launcher import ParslLauncher
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.registry import load_site
from gfm_pipeline.sites.task_shape import TaskShape

ROOT = Path(__file__).parent.parent.parent
SECRET = "tiger-5b1e0c77-do-not-keep"  # noqa: S105 - made up


class Payload:
    """Runs a command when it is unpickled, as what a stranger sends may."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    from gfm_pipeline.apps.train.checkpoint import _read_tensors

    file, ran = tmp_path / "weights.pt", tmp_path / "ran"
    torch.save({"a": torch.zeros(2), "b": Payload(ran)}, file)
    with pytest.raises(IntegrityError, match=r"weights\.pt cannot be read"):
        _read_tensors(file)
    assert not ran.exists()
    torch.load(file, weights_only=False)  # the payload is a working one
    assert ran.exists()


def test_nothing_of_ours_unpickles():
    for path in [
        p for folder in ("pipeline", "apps", "models", "sites", "core") for p in (ROOT / folder).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called = ast.unparse(node.func)
            settings = {k.arg: ast.unparse(k.value) for k in node.keywords}
            # names that are looked for in the sources; nothing is unpickled here
            assert called not in {"pickle.load", "pickle.loads", "dill.load", "dill.loads", "joblib.load"}, path
            if called == "torch.load":
                assert settings.get("weights_only") == "True", path
            if called == "np.load":
                assert settings.get("allow_pickle") == "False", path


def sockets(process: psutil.Process) -> list[tuple[str, int]]:
    """Return where a process listens; IPv4 in its own notation, though an IPv6 socket names it otherwise."""
    found = process.net_connections(kind="inet")
    return [(c.laddr.ip.removeprefix("::ffff:"), c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Return a campaign that ran with a secret in its environment, and what its Parsl listened on meanwhile."""
    folder = tmp_path_factory.mktemp("live")
    arguments = pretended.write_campaign(folder, pretended.SHORT)
    with open(folder / "driver.log", "ab") as log:
        driver = subprocess.Popen(
            runs.command(*arguments),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "SECRET_TOKEN": SECRET},
            umask=0o022,
        )
    runs.wait_for(pretended.journal_of(folder), lambda e: isinstance(e, ev.TaskEnded))
    listening = []
    for process in [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            listening += sockets(process)
    keys = list(folder.glob("campaigns/*/parsl/**/*.key_secret"))
    modes = [stat.S_IMODE(p.parent.stat().st_mode) for p in keys]
    assert driver.wait(timeout=120) == 0, (folder / "driver.log").read_text()[-3000:]
    return folder, listening, modes


@pytest.mark.slow
def test_parsl_listens_on_loopback_within_the_ranges_of_the_site(live):
    _, listening, _ = live
    assert len(listening) >= 3  # tasks, results, commands and workers of each executor
    for address, port in listening:
        assert ipaddress.ip_address(address).is_loopback, (address, port)
        assert 54000 <= port <= 56000, (address, port)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Parsl leaves a socket unclosed
def test_workers_are_listened_for_on_the_interface_of_the_site_alone(tmp_path):
    found = [
        (name, a.address)
        for name, addresses in psutil.net_if_addrs().items()
        for a in addresses
        if a.family is socket.AF_INET and not a.address.startswith("127.")
    ]
    if not found:
        pytest.skip("this machine has the loopback interface only")
    name, address = found[0]
    site = load_site("local", (), ("site.driver.address=null", f"site.driver.interface={name}")).model
    size = SizeClass(TaskShape(0, 1, 0, 0), LaunchStrategy.SPAWN)
    with ParslLauncher(site, tmp_path, [size]) as launcher:
        interchange = psutil.Process(launcher._interchanges[0].pid)
        listening = [*sockets(psutil.Process()), *sockets(interchange)]  # results are heard here, workers there
    assert [a for a, _ in listening if not ipaddress.ip_address(a).is_loopback] == [address]
    assert len(listening) == 4


@pytest.mark.slow
def test_parsls_sockets_are_encrypted_with_keys_nobody_else_reads(live):
    _, _, modes = live
    assert modes, "no keys were made"
    assert all(mode & 0o077 == 0 for mode in modes)


@pytest.mark.slow
def test_a_secret_of_the_environment_is_kept_nowhere(live):
    folder, _, _ = live
    found = [p for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert found == []


@pytest.mark.slow
def test_a_campaign_is_its_owners_alone(live):
    folder, _, _ = live
    campaign = pretended.campaign_of(folder)
    assert stat.S_IMODE(campaign.stat().st_mode) == 0o700
