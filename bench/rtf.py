"""Real-time factor on one core, as in section 5.1 of the HT Demucs paper: 40 s of Gaussian noise.

From array to arrays, in a process of its own that may use one core only; the model is loaded and has run once before.
Each runs in its own environment: ``python -m bench.rtf ours MODEL_FOLDER PRECISION`` and
``python bench/rtf.py demucs REPO NAME``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ != "__main__" or __package__:
    from bench import machine
    from bench.beside_demucs import SINGLE, make_models, model_folder, packages
    from bench.machine import has_bf16
    from bench.measure import Setting, log, median, run

__all__ = ["measure"]

SECONDS, WARM_S, SAMPLE_RATE = 40, 8, 44100
# Table 2, by the width of the Transformer, for 7.8 s and a depth of 5; on a core of a Xeon at 2.20 GHz.
PAPER = {"384": 1.49, "512": 1.77}


def measure(setting: Setting) -> dict[str, Any]:
    """Alternate theirs and ours on both networks."""
    assert setting.demucs is not None
    found: dict[str, Any] = {"machine": machine.measure(setting), "seconds": SECONDS, "paper": PAPER, "factors": {}}
    make_models(setting)
    script = setting.repository / "bench" / "rtf.py"
    for width, name in (("384", f"{SINGLE}_384"), ("512", SINGLE)):
        folder = model_folder(setting, name)
        theirs = [setting.demucs / "bin" / "python", script, "demucs", packages(setting) / "single", name]
        commands = {"theirs": theirs}
        for precision in ("f32", "bf16") if has_bf16() else ("f32",):
            commands[precision] = [setting.python, "-m", "bench.rtf", "ours", folder, precision]
        taken: dict[str, list[float]] = {kind: [] for kind in commands}
        for _ in range(setting.rounds):
            for kind, command in commands.items():
                env = {"UNBRAID_HOME": str(setting.results / "demucs" / "home-one-core")}
                output = run(command, env=env, cwd=setting.repository).output
                taken[kind].append(float(json.loads(output.splitlines()[-1])) / SECONDS)
                log(f"width {width}, {kind}: real-time factor {taken[kind][-1]:.3f}")
        ratios = {
            kind: median(a / b for a, b in zip(taken["theirs"], each, strict=True)) for kind, each in taken.items()
        }
        found["factors"][width] = {"factors": taken, "ratio": ratios}
    return found


def _timed(separate: Callable[[Any], Any]) -> float:
    """Seconds for the noise; before that, some is separated that does not count."""
    import numpy as np

    noise = np.random.default_rng(0).standard_normal((2, SECONDS * SAMPLE_RATE)).astype(np.float32)
    separate(noise[:, : WARM_S * SAMPLE_RATE])
    start = time.perf_counter()
    separate(noise)
    return time.perf_counter() - start


def _ours(folder: str, precision: str) -> float:
    from unbraid import Options, Separator

    separator = Separator(folder, precision=precision, options=Options(overlap=0.25))
    print(separator.engine.describe(), flush=True)
    return _timed(lambda noise: separator.separate(noise, sample_rate=SAMPLE_RATE))


def _demucs(repo: str, name: str) -> float:
    import torch
    from demucs.api import Separator

    torch.set_num_threads(1)
    separator = Separator(name, repo=Path(repo), device="cpu", shifts=0, overlap=0.25)
    return _timed(lambda noise: separator.separate_tensor(torch.from_numpy(noise)))


if __name__ == "__main__":
    # Before any library starts threads.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps({"ours": _ours, "demucs": _demucs}[sys.argv[1]](*sys.argv[2:])))
