"""Faults of the system that take its help."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if sys.platform == "win32" or mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    command = [mount, "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this system does not let root mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def unprivileged() -> list[str]:
    """What to put before a command so that the modes of files apply to it, also for root."""
    if sys.platform == "win32":
        pytest.skip("modes of files as on POSIX")
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may do anything, and there is no setpriv to stop it")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
