"""Write random HT Demucs packages of the published sizes, in the form in which Demucs publishes its own.

Run with the interpreter of an environment that holds demucs 4.1.0::

    DEMUCS_ENV/bin/python bench/peer_demucs.py FOLDER

``FOLDER/single`` then holds two networks for ``demucs --repo FOLDER/single -n NAME``, of the published size and of the
paper's smaller one, and ``FOLDER/bag`` four of the published size joined like htdemucs_ft: each speaks for one stem.
``unbraid models import`` takes them, too. Speed does not depend on the values of the weights, so nothing has to be
downloaded. The values are drawn so that no layer is without effect and the stems are about as loud as the mix, which
makes the outputs of the two programs comparable.
"""

from __future__ import annotations

import pathlib
import sys
from fractions import Fraction

SEED = 20260101
STEMS = ["drums", "bass", "other", "vocals"]
SEGMENT_S = Fraction(39, 5)
SAMPLE_RATE = 44100
# Of the innermost layers: 512 in all published HT Demucs; 0 leaves 384, the first of Table 2 with this segment.
BOTTOM_CHANNELS = {"bench_htdemucs": 512, "bench_htdemucs_384": 0}
BAG, N_BAG = "bench_ft", 4
SHAKEN = 0.1  # biases, norms, and the layer scales that begin near zero
LOUDNESS = 0.4  # of a stem, where the mix has 1


def draw(bottom_channels: int, seed: int) -> dict[str, object]:
    """Draw a network, as a package of Demucs with half precision weights."""
    import torch
    from demucs.htdemucs import HTDemucs

    torch.manual_seed(seed)
    options = {
        "sources": STEMS,
        "channels": 48,
        "bottom_channels": bottom_channels,
        "t_layers": 5,
        "segment": SEGMENT_S,
        "samplerate": SAMPLE_RATE,
    }
    model = HTDemucs(**options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "scale" in name:
                parameter.add_(torch.randn(parameter.shape) * SHAKEN)
        loudness = model(torch.randn(1, 2, int(SEGMENT_S * SAMPLE_RATE))).std()
        for decoder in (model.decoder, model.tdecoder):
            for parameter in decoder[-1].conv_tr.parameters():
                parameter.mul_(LOUDNESS / loudness)
    state = {name: value.half() for name, value in model.state_dict().items()}
    print(f"{sum(value.numel() for value in state.values()) / 1e6:.1f} M parameters", flush=True)
    return {"klass": HTDemucs, "args": (), "kwargs": options, "state": state, "training_args": {}}


def write_packages(folder: pathlib.Path) -> None:
    """Write ``folder/single`` and ``folder/bag``."""
    import torch

    single, bag = folder / "single", folder / "bag"
    for each in (single, bag):
        each.mkdir(parents=True, exist_ok=True)
    for name, bottom_channels in BOTTOM_CHANNELS.items():
        torch.save(draw(bottom_channels, SEED), single / f"{name}.th")
    names = [f"{BAG}{i}" for i in range(N_BAG)]
    for i, name in enumerate(names):
        torch.save(draw(BOTTOM_CHANNELS["bench_htdemucs"], SEED + 1 + i), bag / f"{name}.th")
    weights = [[float(i == j) for j in range(N_BAG)] for i in range(N_BAG)]
    (bag / f"{BAG}.yaml").write_text(f"models: {names}\nweights: {weights}\n")


if __name__ == "__main__":
    write_packages(pathlib.Path(sys.argv[1]))
