"""How far two folders of 16-bit WAV files of the same names are apart: ``python -m bench.difference THEIRS OURS``."""

from __future__ import annotations

import json
import sys
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["difference"]


def _samples(path: Path) -> NDArray[np.int32]:
    """Samples of a file [shape=(time, channel)], in steps of 16 bits."""
    with wave.open(str(path)) as file:
        assert file.getsampwidth() == 2, path
        frames = file.readframes(file.getnframes())
        return np.frombuffer(frames, "<i2").reshape(-1, file.getnchannels()).astype(np.int32)


def difference(theirs: Path, ours: Path) -> dict[str, dict[str, float]]:
    """Lengths, and difference in steps of 16 bits, of each file."""
    found = {}
    for path in sorted(theirs.glob("*.wav")):
        a, b = _samples(path), _samples(ours / path.name)
        n = min(len(a), len(b))
        steps = np.abs(a[:n] - b[:n])
        found[path.stem] = {
            "n_theirs": len(a),
            "n_ours": len(b),
            "max_steps": int(steps.max()),
            "rms_steps": float(np.sqrt(np.square(steps, dtype=float).mean())),
            "rms_stem_steps": float(np.sqrt(np.square(a, dtype=float).mean())),
            "share_of_equal_samples": float((steps == 0).mean()),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(difference(Path(sys.argv[1]), Path(sys.argv[2]))))
