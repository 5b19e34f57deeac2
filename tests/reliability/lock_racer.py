"""A driver in a race: for each line ``PATH TIME`` on its input, tries to take the lock at that time.

It says how that went, and keeps a lock it won until the next line, which is empty.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gfm_pipeline.campaign.lock import CampaignLock
from gfm_pipeline.core.errors import CampaignLocked


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


say("ready")
for line in sys.stdin:
    path, moment = line.split()
    while time.time() < float(moment):
        pass
    try:
        with CampaignLock(Path(path)):
            say("won")
            sys.stdin.readline()
    except CampaignLocked as error:
        say(f"locked {error.exit_code} {error}")
        sys.stdin.readline()
    say("let go")
