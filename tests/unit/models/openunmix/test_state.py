"""Names, shapes and order of an Open-Unmix model's tensors, beside what torch says of such layers."""

import importlib.util
import sys
import types

import pytest
import torch
from torch import nn

from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.models.openunmix.state import parameter_shapes, target_shapes

# Target, bins, channels: as in umxl, as in umxse, and what no published model has.
SIZES = [
    (TargetConfig(hidden_size=1024), 2049, 2),
    (TargetConfig(hidden_size=256, max_bin=513), 513, 1),
    (TargetConfig(hidden_size=6, max_bin=33, n_layers=1), 33, 2),
    (TargetConfig(hidden_size=7, max_bin=12, n_layers=2, unidirectional=True), 17, 1),
]


def shapes_in(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]


@pytest.mark.parametrize(("target", "n_bins", "n_channels"), SIZES)
def test_layers_have_what_torch_gives_them(target: TargetConfig, n_bins: int, n_channels: int) -> None:
    hidden, n_out = target.hidden_size, n_bins * n_channels
    with torch.device("meta"):  # shapes alone
        layers = {
            "fc1": nn.Linear(target.max_bin * n_channels, hidden, bias=False),
            "bn1": nn.BatchNorm1d(hidden),
            "lstm": nn.LSTM(
                hidden,
                hidden if target.unidirectional else hidden // 2,
                target.n_layers,
                bidirectional=not target.unidirectional,
            ),
            "fc2": nn.Linear(2 * hidden, hidden, bias=False),
            "bn2": nn.BatchNorm1d(hidden),
            "fc3": nn.Linear(hidden, n_out, bias=False),
            "bn3": nn.BatchNorm1d(n_out),
        }
    expected = shapes_in(nn.ModuleDict(layers))
    shapes = list(target_shapes(target, n_bins, n_channels).items())
    assert shapes[4:] == expected
    assert shapes[:4] == [
        ("input_mean", (target.max_bin,)),
        ("input_scale", (target.max_bin,)),
        ("output_scale", (n_bins,)),
        ("output_mean", (n_bins,)),
    ]


def test_stems_follow_each_other() -> None:
    small, large = TargetConfig(hidden_size=4, max_bin=9), TargetConfig(hidden_size=8, max_bin=5, n_layers=1)
    config = OpenUnmixConfig(("b", "a"), (small, large), n_fft=16, hop=4)
    expected = [(f"b.{name}", shape) for name, shape in target_shapes(small, 9, 2).items()]
    expected += [(f"a.{name}", shape) for name, shape in target_shapes(large, 9, 2).items()]
    assert list(parameter_shapes(config).items()) == expected


@pytest.mark.parity
@pytest.mark.parametrize(("target", "n_bins", "n_channels"), SIZES)
def test_open_unmix_itself_has_the_same(
    target: TargetConfig, n_bins: int, n_channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("openunmix") is None:
        pytest.skip("Open-Unmix is not installed: pip install openunmix")
    if importlib.util.find_spec("torchaudio") is None:  # which the networks do not use
        monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    from openunmix.model import OpenUnmix

    module = OpenUnmix(
        nb_bins=n_bins,
        nb_channels=n_channels,
        hidden_size=target.hidden_size,
        nb_layers=target.n_layers,
        unidirectional=target.unidirectional,
        max_bin=target.max_bin,
    )
    assert list(target_shapes(target, n_bins, n_channels).items()) == shapes_in(module)
