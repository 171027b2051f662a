"""Our multichannel Wiener filter beside norbert's, which Spleeter calls for ``--mwf``.

Each runs in its own environment: ``python -m bench.wiener ours FILE`` and ``python bench/wiener.py norbert FILE``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

if __name__ != "__main__" or __package__:
    from bench.measure import Setting, log, median, run

__all__ = ["measure"]

SECONDS = 30
N_STEMS, N_FREQS, N_FRAMES = 4, 2049, SECONDS * 44100 // 1024
N_OURS = 5


def measure(setting: Setting) -> dict[str, Any]:
    """Filter 30 s of 4 stereo stems by both, one iteration, as Spleeter does."""
    file = setting.results / "wiener.npz"
    ours = json.loads(
        run([setting.python, "-m", "bench.wiener", "ours", file], cwd=setting.repository).output.splitlines()[-1]
    )
    found: dict[str, Any] = {"ours_s": median(ours), "seconds": SECONDS}
    if setting.spleeter:
        script = setting.repository / "bench" / "wiener.py"
        output = run([setting.spleeter / "bin" / "python", script, "norbert", file]).output
        found.update(json.loads(output.splitlines()[-1]))
        found["ratio"] = found["norbert_s"] / found["ours_s"]
    for left in (file, file.with_suffix(".ours.npy")):
        left.unlink(missing_ok=True)
    log(f"Wiener filter: {found}")
    return found


def _run_ours(file: Path) -> list[float]:
    """Draw a song, filter it, keep song and result; seconds of each run."""
    import os

    import numpy as np

    from unbraid.dsp.wiener import wiener

    rng = np.random.default_rng(0)
    shape = (N_STEMS, 1, N_FREQS, N_FRAMES)
    # Four sources with their own rise and fall in time and frequency, each at its own place between two loudspeakers.
    loudness = rng.gamma(0.3, 1, (N_STEMS, 1, N_FREQS, 1)) * rng.gamma(0.5, 1, (N_STEMS, 1, 1, N_FRAMES))
    sources = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * loudness
    angle = rng.uniform(0, np.pi / 2, (N_STEMS, 1))
    stems = sources * np.stack([np.cos(angle), np.sin(angle)], axis=1)[..., None]
    x = stems.sum(axis=0).astype(np.complex64)
    v = (np.abs(stems) * rng.uniform(0.5, 1.5, stems.shape)).astype(np.float32)
    taken = []
    for _ in range(N_OURS + 1):
        start = time.perf_counter()
        y = wiener(x, v, workers=os.cpu_count() or 1)
        taken.append(time.perf_counter() - start)
    np.savez(file, x=x, v=v)
    np.save(file.with_suffix(".ours.npy"), y)
    return taken[1:]


def _run_norbert(file: Path) -> dict[str, float]:
    """Filter the same song by norbert, in its axis order, and compare."""
    import norbert
    import numpy as np

    song = np.load(file)
    x = np.ascontiguousarray(song["x"].transpose(2, 1, 0))
    v = np.ascontiguousarray(song["v"].transpose(3, 2, 1, 0))
    start = time.perf_counter()
    y = norbert.wiener(v, x)
    taken = time.perf_counter() - start
    ours = np.load(file.with_suffix(".ours.npy")).transpose(3, 2, 1, 0)
    error = np.sqrt((np.abs(ours - y) ** 2).sum() / (np.abs(y) ** 2).sum())
    return {"norbert_s": taken, "relative_error": float(error)}


if __name__ == "__main__":
    run_one = {"ours": _run_ours, "norbert": _run_norbert}[sys.argv[1]]
    print(json.dumps(run_one(Path(sys.argv[2]))))
