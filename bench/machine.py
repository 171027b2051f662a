"""What the machine is that the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

from bench.measure import Setting, run
from bench.tables import BF16_FLAGS

__all__ = ["has_bf16", "measure"]

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "bf16")
_PACKAGES = ("unbraid", "numpy", "scipy", "openvino", "av", "soundfile", "soxr")
_PEER_PACKAGES = {"spleeter": ("spleeter", "tensorflow", "numpy", "norbert"), "demucs": ("demucs", "torch", "numpy")}


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() if key == "model name" else ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(key)), "")


def _flags() -> tuple[str, ...]:
    return tuple(sorted(set(_cpuinfo("flags").split()) | set(_cpuinfo("features").split())))


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16, so that our default precision is not float32."""
    return bool(BF16_FLAGS & set(_flags()))


def _versions(python: Path, packages: tuple[str, ...], *, cwd: Path) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, platform\nprint('Python', platform.python_version())\n"
        f"for name in {packages!r}:\n"
        "    try: print(name, m.version(name))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    words = (line.split() for line in run([python, "-c", code], cwd=cwd).output.splitlines())
    return {line[0]: line[1] for line in words if len(line) == 2}


def measure(setting: Setting) -> dict[str, Any]:
    """Describe processor, memory, system and versions."""
    commit = run(["git", "-C", setting.repository, "rev-parse", "--short", "HEAD"]).output.strip()
    changes = run(["git", "-C", setting.repository, "status", "--porcelain", "--", "src"]).output.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit + (" and changes" if changes else ""),
        "processor": _cpuinfo("model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in _FLAGS if flag in _flags()],
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}, {' '.join(platform.libc_ver())}",
        "load": round(os.getloadavg()[0], 2),
        "ours": _versions(setting.python, _PACKAGES, cwd=setting.results),
        "theirs": _peer("spleeter", setting),
        "demucs": _peer("demucs", setting),
    }


def _peer(name: str, setting: Setting) -> dict[str, str]:
    folder: Path | None = getattr(setting, name)
    return {} if folder is None else _versions(folder / "bin" / "python", _PEER_PACKAGES[name], cwd=setting.results)
