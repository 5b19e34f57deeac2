"""A program for ranks: saves something when it is asked to leave, and takes a while for it."""

import os
import signal
import sys
import time
from pathlib import Path

asked: list[int] = []
signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))
Path(f"ready.{os.environ['RANK']}").touch()
while not asked:
    time.sleep(0.05)
time.sleep(1)
Path(f"saved.{os.environ['RANK']}").touch()
sys.exit(21)
