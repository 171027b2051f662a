"""museval's BSSEval, without the rest of museval, whose import looks for the ffmpeg program."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

__all__ = ["museval_bss_eval"]


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
