"""One driver per campaign, whatever the moment, the clock and the file system."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gfm_pipeline.campaign import lock as lock_module
from gfm_pipeline.campaign.folder import driving
from gfm_pipeline.campaign.holder import is_dead, this_process
from gfm_pipeline.campaign.journal import read
from gfm_pipeline.campaign.lock import CampaignLock, read_holder, unlock
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.errors import CampaignLocked, StorageError
from gfm_pipeline.core.records import to_plain

RACER = Path(__file__).parent / "lock_racer.py"
ROUNDS = 50
HOUR = 3600.0


class Racer:
    """A process that takes the lock when told."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(RACER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.answer() == "ready"

    def tell(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def answer(self):
        return self.process.stdout.readline().strip()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=10)


@pytest.fixture(scope="module")
def racers():
    made = [Racer(), Racer()]
    yield made
    for racer in made:
        racer.close()


def race(racers, path):
    """Let both take the lock at the same instant; return who it named as holder, and what both said."""
    moment = time.time() + 0.005
    for racer in racers:
        racer.tell(f"{path} {moment}")
    said = [racer.answer() for racer in racers]
    holder = read_holder(path)
    for racer in racers:
        racer.tell("")
    assert [racer.answer() for racer in racers] == ["let go"] * 2
    return holder, said


def dead_holder(number):
    """Return the record of a driver that ended; each is another one."""
    return json.dumps(to_plain(this_process()) | {"pid": 2**22 + 1 + number, "process_started": "1"})


@pytest.mark.parametrize("before", ["free", "dead holder"])
def test_of_two_drivers_that_start_at_the_same_instant_exactly_one_wins(before, racers, tmp_path):
    path = tmp_path / "driver.lock"
    winners = set()
    for number in range(ROUNDS):
        if before == "dead holder":
            path.write_text(dead_holder(number))
        (holder, _), said = race(racers, path)
        won = [i for i, text in enumerate(said) if text == "won"]
        assert len(won) == 1, said
        winner = racers[won[0]].process.pid
        assert holder.pid == winner
        assert said[1 - won[0]].startswith(f"locked 75 The campaign is already being driven (pid {winner} on")
        assert list(tmp_path.iterdir()) == []  # both let go, and nothing of the dead one is left
        winners.add(won[0])


def test_who_sees_a_corpse_that_is_replaced_meanwhile_is_refused(racers, tmp_path, monkeypatch):
    """The moment that matters: both have read the dead holder's record, then the other one replaces it."""
    path = tmp_path / "driver.lock"
    path.write_text(dead_holder(0))
    truth = lock_module.is_dead

    def slowly(holder, age=0.0):
        verdict = truth(holder, age)
        if holder.pid > 2**22 and not hasattr(slowly, "done"):
            slowly.done = True
            racers[0].tell(f"{path} 0")
            assert racers[0].answer() == "won"
        return verdict

    monkeypatch.setattr(lock_module, "is_dead", slowly)
    with pytest.raises(CampaignLocked, match=f"pid {racers[0].process.pid} "), CampaignLock(path):
        pass
    assert read_holder(path)[0].pid == racers[0].process.pid
    racers[0].tell("")
    assert racers[0].answer() == "let go"


def test_a_driver_that_died_while_it_replaced_a_corpse_is_replaced_too(tmp_path):
    path = tmp_path / "driver.lock"
    path.write_text(dead_holder(0))
    kill_there = (
        "import os, sys; from pathlib import Path; from gfm_pipeline.campaign import lock;"
        "lock.write_atomic = lambda *_: os.kill(os.getpid(), 9);"
        f"lock.CampaignLock(Path({str(path)!r})).__enter__()"
    )
    assert subprocess.run([sys.executable, "-c", kill_there], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2  # the corpse, and the lock of who died replacing it
    with CampaignLock(path) as lock:
        assert lock.replaced.pid == 2**22 + 1
        assert read_holder(path)[0].pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_zombie_is_dead(tmp_path):
    path = tmp_path / "driver.lock"
    code = f"import sys; sys.path[:] = {sys.path!r};" + (
        "from pathlib import Path; from gfm_pipeline.campaign.lock import CampaignLock; import os;"
        f"CampaignLock(Path({str(path)!r})).__enter__(); os._exit(9)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while "Z" not in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2][:4]:
        time.sleep(0.02)  # ended, and not yet waited for: as in a container without an init process
    with CampaignLock(path) as lock:
        assert lock.replaced.pid == process.pid
    process.wait()


@pytest.mark.parametrize("shift", [-HOUR, HOUR], ids=["an hour back", "an hour ahead"])
def test_a_heartbeat_of_another_clock_decides_nothing(shift, tmp_path):
    path = tmp_path / "driver.lock"
    moment = time.time() + shift
    with CampaignLock(path) as lock:
        lock._stop.set()
        os.utime(path, (moment, moment))
        with pytest.raises(CampaignLocked, match="already being driven") as caught, CampaignLock(path):
            pass
        assert "heartbeat -" not in str(caught.value)
    path.write_text(dead_holder(0))
    os.utime(path, (moment, moment))
    with CampaignLock(path) as lock:
        assert lock.replaced is not None
    path.write_text(json.dumps(to_plain(this_process()) | {"host": "elsewhere", "boot_id": "another"}))
    os.utime(path, (moment, moment))
    with pytest.raises(CampaignLocked, match="unlock --force"), CampaignLock(path):
        pass
    assert path.exists()


def test_who_is_dead():
    me = to_plain(this_process())

    def verdict(age=100.0, **changes):
        return is_dead(type(this_process())(**(me | changes)), age)

    assert verdict() is False
    assert verdict(process_started="1") is True  # the pid is another process's by now
    assert verdict(pid=2**22 + 1) is True
    assert verdict(boot_id="before", age=100.0) is True  # rebooted since
    assert verdict(boot_id="before", age=1.0) is None  # a machine of the same name beats right now
    assert verdict(host="elsewhere", boot_id="another", age=1e9) is None
    assert verdict(pid_namespace="pid:[1]") is None  # a container of the same name
    assert verdict(host="renamed") is False  # the same boot and the same process table, whatever the host is called
    assert verdict(host="renamed", process_started="1") is True
    assert verdict(host="renamed", pid_namespace="pid:[1]", pid=2**22 + 1) is None  # a container's process
    assert verdict(host="renamed", pid_namespace="", pid=2**22 + 1) is None  # the first version told no container
    assert verdict(pid_namespace="", process_started="1") is True
    assert verdict(format=99, process_started="1") is None


def test_neither_flock_nor_hard_links_are_needed(tmp_path, monkeypatch):
    """A campaign lives on file systems that have neither: nothing of ours asks for them."""

    def refused(*_, **__):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    import fcntl

    for module, name in ((os, "link"), (os, "symlink"), (fcntl, "flock"), (fcntl, "lockf")):
        monkeypatch.setattr(module, name, refused)
    with driving(tmp_path / "campaign", "small") as campaign:
        campaign.journal.append("driver-ended", {"outcome": "x"})
    assert len(list(read(tmp_path / "campaign" / "journal.jsonl"))) == 2

    root = Path(lock_module.__file__).parents[1]
    sources = [p for folder in ("", "apps", "models", "sites", "core") for p in (root / folder).rglob("*.py")]
    assert len(sources) > 30
    wanted = re.compile(r"os\.link\(|hardlink_to|(?<!sym)link_to|copyfile.*link|flock|lockf")
    found = [p.name for p in sources if wanted.search(re.sub(r'""".*?"""|#.*', "", p.read_text(), flags=re.DOTALL))]
    assert found == []


def test_a_disk_that_refuses_leaves_no_lock_behind(tmp_path, monkeypatch):
    path = tmp_path / "driver.lock"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock_module.os, "fsync", full)
    with pytest.raises(StorageError, match=re.escape(str(path))), CampaignLock(path):
        pass
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    with CampaignLock(path):
        pass


def test_a_driver_that_lost_its_lock_writes_nothing_more(tmp_path):
    root = tmp_path / "campaign"
    with driving(root, "small") as campaign:
        lock = root / "driver.lock"
        other = json.dumps(to_plain(this_process()) | {"pid": 1})
        lock.write_text(other)  # `unlock --force`, and then a driver on another host
        with pytest.raises(CampaignLocked, match="belongs to pid 1 ") as caught:
            campaign.journal.append("driver-ended", {"outcome": "x"})
        assert caught.value.exit_code == 75
    assert lock.read_text() == other
    assert [e.kind for e in read(root / "journal.jsonl")] == ["campaign-created"]


@pytest.fixture
def held(tmp_path):
    """Return a campaign folder and a function that puts a lock there."""
    root = tmp_path / "campaign"
    with driving(root, "small"):
        pass
    path = root / "driver.lock"

    def hold(**changes):
        path.write_text(json.dumps(to_plain(this_process()) | changes))
        return root

    return hold


def test_unlock(held, capsys):
    dead, free = held(pid=2**22 + 1), held
    lock = dead / "driver.lock"
    assert invoke(["unlock", str(dead)]) == 0
    assert "pid 4194305" in capsys.readouterr().out
    assert not lock.exists()
    assert invoke(["unlock", str(dead)]) == 0
    assert "not locked" in capsys.readouterr().out

    alive = free()
    for arguments in (["unlock", str(alive)], ["unlock", "--force", str(alive)]):
        assert invoke(arguments) == 2
        assert f"The driver is alive (pid {os.getpid()}" in capsys.readouterr().err
        assert lock.exists()

    elsewhere = free(host="elsewhere", boot_id="another")
    assert invoke(["unlock", str(elsewhere)]) == 2
    assert "unlock --force" in capsys.readouterr().err
    assert lock.exists()
    assert invoke(["unlock", "--force", str(elsewhere)]) == 0
    assert not lock.exists()


def test_a_torn_lock_can_be_unlocked(held, monkeypatch):
    monkeypatch.setattr(lock_module, "TORN_SECONDS", 0.2)
    root = held()
    lock = root / "driver.lock"
    lock.write_text("")
    unlock(lock, force=False)
    assert not lock.exists()
