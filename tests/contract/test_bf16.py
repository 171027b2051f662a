"""What bfloat16 costs: the SDR of trained networks against the true stems, beside float32's.

Random networks would not tell: their estimates are as wrong as they are, whatever they are rounded to. So a small
network of each family is trained on seconds of a song, until its stems are as good as those of the best published ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_makers import STEMS, make_song
from processor import has_bf16
from unbraid import Options, Separator
from unbraid.datatypes import FloatArray
from unbraid.evaluation.scores import usdr
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.families import family
from unbraid.models.hdemucs.config import HDemucsConfig
from unbraid.models.htdemucs.config import HTDemucsConfig
from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.weights.folder import write_model
from unbraid.weights.model_file import ModelFile, NetworkPart

torch = pytest.importorskip("torch")

# What HT Demucs scores on MUSDB (ht-demucs, table 1). Training leaves a stem alone once it is as good, since what
# rounding does to an SDR grows with that: an independent error of relative size r takes 10 log10(1 + r² 10^(SDR / 10))
# off, so a stem of 19 dB, which no song outside of a training set has, would lose ten times as much as one of 9 dB.
TARGET_DB = 9.0
LEFT_DB = 2.5  # what an Open-Unmix network may lack of what true magnitudes give; see `targets_of`
FLOOR_DB = 6.0  # batch normalisation goes by averages over the last steps, afterwards
MOST_CHANGE_DB = 0.02
MOST_ERROR = 2e-2
MOST_STEPS = 400
SEGMENT = 2 * 44100
# All kinds of layers that the published ones have. The scales of what residual branches and the Transformer add begin
# at 0.1 instead of 1e-3 or 1e-4, so that few steps of training do not leave these without effect.
#
# Demucs has 20 channels, not 16: convolutions of kernel 8 and stride 4 over 16 or 24 channels without padding, and over
# 8 or 12 with padding 2, come out wrong altogether (relative error 1.1) in bfloat16 on processors with AMX. It is
# oneDNN's brg_conv_fwd:avx10_1_512_amx, in OpenVINO 2026.4.1 and PyTorch 2.13 alike. The published widths are right.
BRANCH_SCALE = 0.1
SIZES: dict[str, Any] = {"segment_samples": SEGMENT, "dconv_init": BRANCH_SCALE}
CONFIGS = {
    "htdemucs": HTDemucsConfig(STEMS, **SIZES, hidden_channels=16, bottom_channels=128, dconv_mode=3),
    "hdemucs": HDemucsConfig(STEMS, **SIZES, hidden_channels=16),
    "demucs": DemucsConfig(STEMS, **SIZES, hidden_channels=20),
    "openunmix": OpenUnmixConfig(STEMS, (TargetConfig(hidden_size=128),) * len(STEMS)),
}
LEARNING_RATE = 3e-3
WARM_UP_STEPS = 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_bf16(), reason="this processor has no bfloat16"),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def make_module(name: str, config: Any) -> Any:
    from unbraid.models.demucs.network import DemucsNetwork
    from unbraid.models.hdemucs.network import HDemucsNetwork
    from unbraid.models.htdemucs.network import HTDemucsNetwork
    from unbraid.models.openunmix.network import OpenUnmixNetwork

    kinds: dict[str, Any] = {"htdemucs": HTDemucsNetwork, "hdemucs": HDemucsNetwork, "demucs": DemucsNetwork}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        module = {**kinds, "openunmix": OpenUnmixNetwork}[name](config)
        for key, parameter in module.named_parameters():
            if ".gamma_" in key:
                parameter.fill_(BRANCH_SCALE)
    for layer in module.modules():
        if isinstance(layer, torch.nn.LSTM):
            layer.dropout = 0.0  # the network is to know its song by heart
    return module


def transform_of(name: str, config: Any) -> Any:
    """The transform with chunks that do not overlap: those that the network is trained on."""
    return replace(family(name).transform(config), overlap=0.0)


def windows(transform: Any, stems: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
    """The window of each chunk of the mix and the true stems in it, brought to a level as the pipeline does."""
    mix = stems.sum(axis=0)
    if transform.normalises:
        mono = mix.mean(axis=0, dtype=np.float64)
        mean, deviation = np.float32(mono.mean()), np.float32(mono.std(ddof=1))
        mix, stems = (mix - mean) / deviation, (stems - mean) / deviation
    n = min(transform.segment, mix.shape[-1])
    before, length = transform.window(n)
    padded = np.pad(mix, ((0, 0), (before, length - n - before)))
    starts = range(0, mix.shape[-1] - n + 1, n)
    return [(padded[:, start : start + length], stems[..., start : start + n]) for start in starts]


def samples_of(outputs: tuple[Any, ...], transform: Any, n: int) -> Any:
    """The samples of the stems [shape=(stem, channel, n)] as `transform.inverse` makes them, with gradients."""
    if len(outputs) == 1:
        return outputs[0][0].narrow(-1, (outputs[0].shape[-1] - n) // 2, n)
    spectra, waves = outputs[0][0].unflatten(1, (-1, 2)), outputs[1][0]
    n_fft, hop = transform.config.n_fft, transform.config.hop
    spec = torch.nn.functional.pad(torch.complex(spectra[:, :, 0], spectra[:, :, 1]), (0, 0, 0, 1))
    # Squares of Hann windows that are n_fft / 4 apart sum to 3/2.
    frames = torch.fft.irfft(spec.mT, n_fft, norm="ortho") * torch.hann_window(n_fft) * (2 / 3)
    pieces = frames.unflatten(-1, (4, hop))
    added = sum(torch.nn.functional.pad(pieces[..., k, :], (0, 0, k, 3 - k)) for k in range(4))
    return added.flatten(-2).narrow(-1, 3 * hop // 2, n) + waves[..., :n]


def distances(outputs: tuple[Any, ...], transform: Any, truth: FloatArray) -> Any:
    """How far each stem is off: mean absolute error of samples, or of Open-Unmix's magnitudes, over their mean."""
    if isinstance(transform.config, OpenUnmixConfig):
        found = outputs[0][0]
        wanted = torch.from_numpy(np.concatenate([transform.forward(stem)[0] for stem in truth]))
    else:
        found, wanted = samples_of(outputs, transform, truth.shape[-1]), torch.from_numpy(truth)
    axes = tuple(range(1, wanted.dim()))
    return (found - wanted).abs().mean(axes) / wanted.abs().mean(axes)


def sdrs(truth: FloatArray, found: FloatArray) -> FloatArray:
    return np.array([usdr(*pair) for pair in zip(truth, found, strict=True)])


def through_inverse(outputs: tuple[Any, ...], transform: Any, window: FloatArray, truth: FloatArray) -> FloatArray:
    """The samples that `Separator` will make of a network's outputs."""
    each = tuple({i: 1.0} for i in range(len(truth)))
    found: FloatArray = transform.inverse(outputs, window, each, n=truth.shape[-1], index=0)
    return found


def targets_of(transform: Any, window: FloatArray, truth: FloatArray) -> FloatArray:
    """How good each stem is to become, in dB. An Open-Unmix network cannot surpass the magnitudes of the true stems."""
    targets = np.full(len(truth), TARGET_DB)
    if not isinstance(transform.config, OpenUnmixConfig):
        return targets
    magnitudes = np.stack([transform.forward(stem)[0][0] for stem in truth])
    return np.minimum(targets, sdrs(truth, through_inverse((magnitudes[None],), transform, window, truth)) - LEFT_DB)


def train(name: str, config: Any, stems: FloatArray, *, most_steps: int = MOST_STEPS) -> Any:
    """Train a network until all stems of all chunks are as good as the target."""
    transform = transform_of(name, config)
    examples = windows(transform, stems)
    inputs = [tuple(torch.from_numpy(array) for array in transform.forward(window)) for window, _ in examples]
    module = make_module(name, config)
    optimizer = torch.optim.Adam(module.parameters(), LEARNING_RATE)
    reached = np.zeros((len(examples), len(stems)))
    targets = np.stack([targets_of(transform, *example) for example in examples])
    for step in range(most_steps):
        i = step % len(examples)
        window, truth = examples[i]
        outputs = module(*inputs[i])
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        arrays = tuple(output.detach().numpy() for output in outputs)
        reached[i] = sdrs(truth, through_inverse(arrays, transform, window, truth))
        if (reached >= targets).all():
            break
        below = torch.from_numpy(reached[i] < targets[i])
        loss = distances(outputs, transform, truth)[below].sum()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP_STEPS)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()
    else:
        pytest.fail(f"after {most_steps} steps, stems are at {reached.round(1).tolist()} dB")
    return module.eval()


def write(folder: Path, name: str, config: Any, module: Any) -> None:
    state = {key: tensor.detach().numpy() for key, tensor in module.state_dict().items()}
    write_model(folder, ModelFile(name, STEMS, config.sample_rate, (NetworkPart(name, config),), 0, ""), state)


def separated(folder: Path, mix: FloatArray, precision: str) -> FloatArray:
    options = Options(overlap=0.0)
    with Separator(
        folder, options=options, engine="openvino", precision=precision, threads=1, cache=False
    ) as separator:
        assert separator.engine.precision == precision
        stems = separator.separate(mix)
    return np.stack([stems[stem] for stem in STEMS])


def song() -> FloatArray:
    """Two seconds of a song [shape=(stem, channel, time)]."""
    # Of this one, true magnitudes give every stem TARGET_DB and LEFT_DB more, so that Open-Unmix need not aim lower.
    stems = make_song(SEGMENT / 44100, seed=12)
    return np.stack([stems[stem] for stem in STEMS])


@pytest.mark.parametrize("name", ["htdemucs", "hdemucs", "demucs"])
def test_training_sees_what_the_separator_computes(name: str) -> None:
    config, stems = CONFIGS[name], song()
    transform = transform_of(name, config)
    ((window, truth),) = windows(transform, stems)
    with torch.inference_mode():
        outputs = make_module(name, config).eval()(*(torch.from_numpy(array) for array in transform.forward(window)))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        found = samples_of(outputs, transform, truth.shape[-1]).numpy()
    expected = through_inverse(tuple(output.numpy() for output in outputs), transform, window, truth)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", CONFIGS)
def test_bf16_leaves_the_sdr_as_it_is(name: str, tmp_path: Path) -> None:
    config, truth = CONFIGS[name], song()
    write(tmp_path / "model", name, config, train(name, config, truth))
    mix = truth.sum(axis=0)
    f32, bf16 = (separated(tmp_path / "model", mix, precision) for precision in ("f32", "bf16"))
    scores = sdrs(truth, f32), sdrs(truth, bf16)
    print(f"{name}: SDR {scores[0].round(3)} in float32, {scores[1].round(3)} in bfloat16")  # noqa: T201
    assert scores[0].min() >= FLOOR_DB
    assert np.abs(scores[1] - scores[0]).max() < MOST_CHANGE_DB
    assert np.linalg.norm(bf16 - f32) <= MOST_ERROR * np.linalg.norm(f32)
