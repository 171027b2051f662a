"""museval, and its BSSEval alone, also where the ffmpeg program is missing, which its import looks for."""

import importlib.util
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

__all__ = ["import_museval", "museval_bss_eval"]


def museval_bss_eval(
    references: NDArray[Any],
    estimates: NDArray[Any],
    *,
    window: float = 44100,
    hop: float = 44100,
    framewise: bool = False,
    n_taps: int = 512,
) -> NDArray[np.float64]:
    """SDR, ISR, SIR and SAR [shape=(4, stem, frame)] of stems [shape=(stem, channel, time)]; skips without museval."""
    *scores, _ = _metrics().bss_eval(
        np.swapaxes(references, 1, 2),
        np.swapaxes(estimates, 1, 2),
        window=window,
        hop=hop,
        framewise_filters=framewise,
        filters_len=n_taps,
    )
    return np.stack(scores)


def import_museval() -> Any:
    """The whole of museval, for what decodes nothing; skips without it.

    Its import only looks whether there are programs of these names; where there are none, it is shown something else.
    """
    with pytest.MonkeyPatch.context() as patch:
        if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
            patch.setattr(shutil, "which", lambda name: f"(no {name})")
        return pytest.importorskip("museval", reason="museval is not installed")


@cache
def _metrics() -> Any:
    """museval/metrics.py by its path: `museval/__init__.py` is not run."""
    package = importlib.util.find_spec("museval")
    if package is None or not package.submodule_search_locations:
        pytest.skip("museval is not installed")
    file = Path(package.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("museval_metrics_of_museval", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
