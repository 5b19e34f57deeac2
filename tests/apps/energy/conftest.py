"""The module of counter trees is beside the tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [p for p in (str(Path(__file__).parent),) if p not in sys.path]
