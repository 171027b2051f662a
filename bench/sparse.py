"""Memory and time of HT Demucs' Transformer, dense and sparse, at the size of section 5.5 of the paper.

::

    python -m bench.sparse [--threads N]

runs each twice in processes of their own, for its memory and for its time, and prints a table. It needs PyTorch and
8 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

from bench.measure import log, run

# Attention as upstream computes it without fused kernels, with all pairs in memory; PyTorch's fused attention, which
# Unbraid uses; hashed attention, of which a tenth of all pairs remains.
ATTENTIONS = ("dense, all pairs", "dense, fused", "sparse")
TASKS = ("separation", "training")
SEGMENT_S = Fraction(61, 5)
OPTIONS: dict[str, Any] = {
    **{"sources": ["drums", "bass", "other", "vocals"], "segment": SEGMENT_S},
    **{"bottom_channels": 512, "t_layers": 7, "t_heads": 8, "t_sparsity": 0.9},
}
# For glibc: what is released goes back to the system at once, so that peaks are of what is in use. It takes time.
TRIMMED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def _input_shapes(config: Any) -> list[tuple[int, ...]]:
    """What the network gives its Transformer for one segment, found by running it without numbers."""
    import torch

    from unbraid.models.htdemucs.network import HTDemucsNetwork

    shapes: list[tuple[int, ...]] = []
    n_samples = config.segment_samples
    with torch.device("meta"), torch.no_grad():
        module = HTDemucsNetwork(config)
        module.crosstransformer.register_forward_pre_hook(lambda _, inputs: shapes.extend(x.shape for x in inputs))
        maps = config.n_channels * (2 if config.complex_as_channels else 1)
        spectrum = torch.empty(1, maps, config.n_fft // 2, -(-n_samples // config.hop))
        module(spectrum, torch.empty(1, config.n_channels, n_samples))
    return shapes


def _measure_one(attention: str, task: str, threads: int) -> dict[str, Any]:
    """Run the Transformer once, in this process."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from unbraid.models.htdemucs.config import HTDemucsConfig
    from unbraid.models.htdemucs.transformer import CrossTransformer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shapes = _input_shapes(HTDemucsConfig.from_kwargs(OPTIONS))
    sparse = attention == "sparse"
    switches = {name: sparse for name in ("t_sparse_self_attn", "t_sparse_cross_attn", "t_auto_sparsity")}
    config = HTDemucsConfig.from_kwargs({**OPTIONS, **switches})
    module = CrossTransformer(config.transformer, config.transformer_width).train(task == "training")
    inputs = [torch.randn(shape).requires_grad_(task == "training") for shape in shapes]

    def compute(*given: Any) -> None:
        with torch.inference_mode(task == "separation"):
            outputs = module(*given)
        if task == "training":
            sum(y.square().mean() for y in outputs).backward()

    with sdpa_kernel(SDPBackend.MATH) if attention == "dense, all pairs" else nullcontext():
        compute(*(x[..., :8].detach() for x in inputs))  # loads what is loaded once, and makes room for gradients
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        compute(*inputs)
        wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "peak_mb": (after.ru_maxrss - before.ru_maxrss) * _UNIT / 1e6,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_s": wall_s,
        "positions": [int(torch.Size(shape[2:]).numel()) for shape in shapes],
    }


def main() -> None:
    """Measure all and print a table; with --one, measure one."""
    parser = argparse.ArgumentParser(prog="python -m bench.sparse", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: one for every core")
    parser.add_argument("--one", nargs=2, metavar=("ATTENTION", "TASK"), help="only this, in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_measure_one(*arguments.one, arguments.threads)))
        return
    for task in TASKS:
        for attention in ATTENTIONS:
            words = [sys.executable, "-m", "bench.sparse", "--threads", arguments.threads, "--one", attention, task]
            at = Path(__file__).parent.parent
            memory, taken = (
                json.loads(run([str(word) for word in words], env=env, cwd=at).output.splitlines()[-1])
                for env in (TRIMMED, {})
            )
            log(
                f"{task:10} | {attention:16} | {memory['peak_mb']:6.0f} MB | {taken['cpu_s']:6.1f} s of processors"
                f" | {taken['wall_s']:6.1f} s | positions {taken['positions']}"
            )


if __name__ == "__main__":
    main()
