"""What an installation costs in megabytes and seconds. Leaves the environment that the rest is measured in."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from bench.measure import Setting, folder_megabytes, log, run

__all__ = ["environment", "measure"]

N_LARGEST = 8


def environment(setting: Setting) -> Path:
    """Folder of the environment that `measure` makes."""
    return setting.results / "environment"


def measure(setting: Setting) -> dict[str, Any]:
    """Build and download all wheels of the base install, then install them into a new environment."""
    wheels, folder = setting.results / "wheels", environment(setting)
    for old in (wheels, folder):
        shutil.rmtree(old, ignore_errors=True)
    log("downloading the base install")
    run([sys.executable, "-m", "venv", folder])
    pip: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    empty = folder_megabytes(folder)
    # Always what the index has, never what pip has kept, so that the time is a new user's.
    download = run([*pip, "--no-cache-dir", "wheel", "-w", wheels, setting.repository])
    install = run([*pip, "install", "--no-index", "--find-links", wheels, "unbraid"])
    sizes = {path.name.split("-")[0]: path.stat().st_size / 1e6 for path in wheels.glob("*.whl")}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:N_LARGEST]
    found = {
        "download_mb": sum(sizes.values()),
        "n_packages": len(sizes),
        "own_wheel_mb": sizes.get("unbraid"),
        "largest_mb": {name: sizes[name] for name in largest},
        "disk_mb": folder_megabytes(folder) - empty,
        "download_s": download.wall_s,
        "install_s": install.wall_s,
        "theirs_disk_mb": folder_megabytes(setting.spleeter) - empty if setting.spleeter else None,
    }
    shutil.rmtree(wheels)
    log(f"download {found['download_mb']:.0f} MB, on disk {found['disk_mb']:.0f} MB, {install.wall_s:.0f} s")
    return found
