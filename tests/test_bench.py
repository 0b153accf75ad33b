"""What `make bench` leaves out of the service is still there to be left out."""

import subprocess
import sys
from pathlib import Path

from bench.without import PATHS


def test_each_fast_path_can_be_left_out() -> None:
    """A substitution whose target has moved would measure nothing: it fails."""
    command = [sys.executable, "-m", "bench.without", ",".join(PATHS), "--version"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
