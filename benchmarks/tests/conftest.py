"""The benchmarks' modules can be imported, and the tests' tiny backbone is known."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from spdnet.tests.tiny import register_tiny

register_tiny()
