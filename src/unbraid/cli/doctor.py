"""`unbraid doctor`: what is installed, what it can do, and where things are."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["doctor"]

_PACKAGES = ("numpy", "scipy", "openvino", "onnx", "av", "soundfile", "soxr", "safetensors", "onnxruntime", "torch")
_SETTINGS = (
    *("UNBRAID_MODEL", "UNBRAID_HOME", "UNBRAID_OFFLINE", "UNBRAID_MIRROR"),
    *("MODEL_PATH", "GITHUB_HOST", "GITHUB_REPOSITORY", "GITHUB_RELEASE"),
)


def doctor() -> None:
    """Print versions, engines, devices, folders and models; for bug reports, and to see what is missing."""
    import unbraid
    from unbraid.engines.select import available_engines
    from unbraid.weights.overview import overview
    from unbraid.weights.places import cache_folder, models_folder

    print(f"unbraid {unbraid.__version__}, Python {platform.python_version()} on {platform.platform()}")
    print(f"  program     {sys.executable}")
    print(f"  processors  {os.cpu_count()}")
    print("Packages")
    for package in _PACKAGES:
        print(f"  {package:<12}{_version(package)}")
    print("Engines")
    for engine in available_engines():
        state = f"{engine.version} on {', '.join(engine.devices)}" if engine.problem is None else engine.problem
        print(f"  {engine.name:<12}{state}")
    print("Folders and settings")
    cache = cache_folder()
    print(f"  models      {models_folder()}")
    print(f"  cache       {cache} ({_size(cache)} of compiled networks; may be deleted at any time)")
    for name in _SETTINGS:
        print(f"  {name} = {os.environ.get(name, '(not set)')}")
    print("Models here ('unbraid models list' shows all)")
    for row in overview():
        if row.is_here:
            print(f"  {row.name:<23}{row.state}: {', '.join(row.stems)}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _size(folder: Path) -> str:
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    return f"{total / 1e6:.0f} MB"
