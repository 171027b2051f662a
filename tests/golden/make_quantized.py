"""Golden kit: packages of small networks, quantised and packed by the real programs.

Run with diffq==0.2.4 and demucs==4.1.0 (`pip install diffq demucs`): `python make_quantized.py quantized`. Networks are
random and seeded. Beside each NAME.th, NAME.json has the first digits of the SHA-256 of every parameter as diffq
restores it.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from demucs.demucs import Demucs
from demucs.states import get_state, load_model
from diffq import DiffQuantizer, UniformQuantizer

KWARGS = {"sources": ["drums", "bass"], "channels": 8, "depth": 2, "dconv_depth": 1, "dconv_attn": 1, "dconv_lstm": 1}
# The options that Demucs gives the quantisers, but for smaller sizes.
QUANTIZERS = {
    "diffq": lambda model: DiffQuantizer(model, min_size=0.0015, group_size=8),
    "uniform": lambda model: UniformQuantizer(model, min_size=0.0015, bits=6, float16=True),
}


def make(folder: Path, name: str) -> None:
    torch.manual_seed(sum(map(ord, name)))
    model = Demucs(**KWARGS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    quantizer = QUANTIZERS[name](model)
    if name == "diffq":
        for quantized in quantizer._qparams:
            logit = quantized.logit.data
            logit.copy_(torch.linspace(-9, -1.2, logit.numel())[torch.randperm(logit.numel())])  # 2 to 5 bits
    state = get_state(model, quantizer)
    quantizer.detach()
    package = {"klass": Demucs, "args": (), "kwargs": KWARGS, "state": state, "training_args": {"quant": {}}}
    torch.save(package, folder / f"{name}.th")
    restored = load_model(folder / f"{name}.th").state_dict()
    hashes = {key: hashlib.sha256(value.numpy().tobytes()).hexdigest()[:16] for key, value in restored.items()}
    (folder / f"{name}.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(exist_ok=True)
    for one in QUANTIZERS:
        make(target, one)
