"""How far two folders of WAV files of the same names are apart: ``python -m bench.difference THEIRS OURS``.

Run with an interpreter that holds unbraid. Files are of 16 bits or of floats, in which steps of 16 bits have fractions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["difference"]


def _samples(path: Path) -> NDArray[np.float64]:
    """Samples of a file [shape=(time, channel)], in steps of 16 bits."""
    import soundfile

    with soundfile.SoundFile(path) as file:
        assert file.subtype in ("PCM_16", "FLOAT"), (path, file.subtype)
        samples: NDArray[np.float64] = file.read(dtype="float64", always_2d=True)
    return samples * 32768


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
            "max_steps": float(steps.max()),
            "rms_steps": float(np.sqrt(np.square(steps).mean())),
            "rms_stem_steps": float(np.sqrt(np.square(a).mean())),
            "share_of_equal_samples": float((steps < 0.5).mean()),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(difference(Path(sys.argv[1]), Path(sys.argv[2]))))
