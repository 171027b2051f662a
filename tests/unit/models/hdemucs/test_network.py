"""The U-Nets over spectrogram and waveform, written out in NumPy.

Their residual branches and the Transformer, which have tests of their own, are the module's.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unbraid.models.hdemucs.bands import Band, decoder_bands, encoder_bands
from unbraid.models.hdemucs.config import UNetConfig

torch = pytest.importorskip("torch", reason="torch is not installed")
from hybrid_networks import SMALL, is_hybrid, make, random_inputs, run, shaken  # noqa: E402

Array = np.ndarray[Any, Any]
State = dict[str, Array]

# One example is an array (channel, bin, time) here, that of the waveform's branch with one bin.


def gelu(x: Array) -> Array:
    y: Array = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    return y


def glu(x: Array) -> Array:
    signal, gate = np.split(x, 2)
    y: Array = signal / (1 + np.exp(-gate))
    return y


def two_axes(weight: Array) -> Array:
    """A kernel over time alone as one over one bin."""
    return weight if weight.ndim == 4 else weight[:, :, None]


def conv(x: Array, state: State, name: str, strides: tuple[int, int] = (1, 1)) -> Array:
    weight = two_axes(state[f"{name}.weight"])
    _, _, height, width = weight.shape
    n_rows, n_columns = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:], (height, width), strides, strict=True))
    y = np.empty((len(weight), n_rows, n_columns))
    for row in range(n_rows):
        for column in range(n_columns):
            top, left = row * strides[0], column * strides[1]
            seen = x[:, top : top + height, left : left + width]
            y[:, row, column] = np.tensordot(weight, seen, axes=3)
    return y + state[f"{name}.bias"][:, None, None]


def conv_transposed(x: Array, state: State, name: str, strides: tuple[int, int]) -> Array:
    weight = two_axes(state[f"{name}.weight"])
    _, n_out, height, width = weight.shape
    y = np.zeros((n_out, (x.shape[1] - 1) * strides[0] + height, (x.shape[2] - 1) * strides[1] + width))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            top, left = row * strides[0], column * strides[1]
            y[:, top : top + height, left : left + width] += np.tensordot(x[:, row, column], weight, axes=1)
    return y + state[f"{name}.bias"][:, None, None]


def norm(x: Array, state: State, name: str, n_groups: int) -> Array:
    if f"{name}.weight" not in state:
        return x
    groups = np.split(x, n_groups)
    y = np.concatenate([(group - group.mean()) / np.sqrt(group.var() + 1e-5) for group in groups])
    return y * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def padded(x: Array, bins: int, steps: int, right: int | None = None) -> Array:
    return np.pad(x, ((0, 0), (bins, bins), (steps, steps if right is None else right)))


class Written:
    """A network written out: `encoder`, `decoder`, `tencoder` and `tdecoder` of `config`, without bands."""

    def __init__(self, config: UNetConfig, module: Any) -> None:
        self.config = config
        self.module = module
        self.state = {name: value.numpy() for name, value in module.state_dict().items()}

    def branch(self, x: Array, name: str) -> Array:
        """The residual branch, on each bin as on an example."""
        parts = dict(self.module.named_modules())
        if f"{name}.dconv" not in parts:
            return x
        with torch.inference_mode():
            y: Array = parts[f"{name}.dconv"](torch.from_numpy(x.transpose(1, 0, 2).copy())).numpy()
        return y.transpose(1, 0, 2)

    def rewritten(self, x: Array, name: str, context: int, normed: str) -> Array:
        if f"{name}.rewrite.weight" not in self.state:
            return x
        over_bins = self.state[f"{name}.rewrite.weight"].ndim == 4
        y = conv(padded(x, context if over_bins else 0, context), self.state, f"{name}.rewrite")
        return glu(norm(y, self.state, f"{name}.{normed}", self.config.norm_groups))

    def encode(self, x: Array, name: str, kernel: int, stride: int, padding: int, extra: Array | None) -> Array:
        over_bins = self.state[f"{name}.conv.weight"].ndim == 4
        if over_bins:
            y = conv(padded(x, padding, 0), self.state, f"{name}.conv", (stride, 1))
        else:
            right = padding + -x.shape[2] % stride
            y = conv(padded(x, 0, padding, right), self.state, f"{name}.conv", (1, stride))
        if extra is not None:
            y = y + extra
        y = gelu(norm(y, self.state, f"{name}.norm1", self.config.norm_groups))
        return self.rewritten(self.branch(y, name), name, self.config.context_enc, "norm2")

    def decode(self, x: Array, name: str, stride: int, padding: int, length: int, last: bool) -> tuple[Array, Array]:
        inner = self.branch(self.rewritten(x, name, self.config.context, "norm1"), name)
        return self.decode_bare(inner, name, stride, padding, length, last), inner

    def decode_bare(self, x: Array, name: str, stride: int, padding: int, length: int, last: bool) -> Array:
        over_bins = self.state[f"{name}.conv_tr.weight"].ndim == 4
        y = conv_transposed(x, self.state, f"{name}.conv_tr", (stride, 1) if over_bins else (1, stride))
        y = norm(y, self.state, f"{name}.norm2", self.config.norm_groups)
        y = y[:, padding : y.shape[1] - padding] if over_bins else y[:, :, padding : padding + length]
        return y if last else gelu(y)

    def run(self, x: Array, wave: Array | None, bottom: Callable[[Array, Array | None], Any]) -> Any:
        """Give spectra (stem * map, bin, frame) and waves (stem * channel, 1, time) of normalised inputs."""
        config, layers = self.config, self.config.layers()
        kernel, stride = config.kernel_size, config.stride
        saved, saved_waves, lengths, wave_lengths = [], [], [], []
        for i, layer in enumerate(layers):
            lengths.append(x.shape[2])
            extra = None
            if wave is not None and not layer.along_time:
                wave_lengths.append(wave.shape[2])
                if layer.merges:
                    right = kernel // 4 + -wave.shape[2] % stride
                    wave = extra = conv(
                        padded(wave, 0, kernel // 4, right), self.state, f"tencoder.{i}.conv", (1, stride)
                    )
                else:
                    wave = self.encode(wave, f"tencoder.{i}", kernel, stride, kernel // 4, None)
                    saved_waves.append(wave)
            padding = 0 if layer.merges else layer.kernel_size // 4
            x = self.encode(x, f"encoder.{i}", layer.kernel_size, layer.stride, padding, extra)
            if i == 0 and config.freq_emb:
                vectors = self.state["freq_emb.embedding.weight"] * config.emb_scale * config.freq_emb
                x = x + vectors.T[:, :, None]
            saved.append(x)
        x, wave = bottom(x, wave)
        n_time = len(wave_lengths)
        for i, layer in reversed(list(enumerate(layers))):
            j = len(layers) - 1 - i
            padding = 0 if layer.merges else layer.kernel_size // 4
            x, inner = self.decode(x + saved[i], f"decoder.{j}", layer.stride, padding, lengths[i], i == 0)
            if i < n_time:
                name, rest = f"tdecoder.{n_time - 1 - i}", (stride, kernel // 4, wave_lengths[i], i == 0)
                if layer.merges:
                    wave = self.decode_bare(inner, name, *rest)
                else:
                    wave, _ = self.decode((0 if wave is None else wave) + saved_waves[i], name, *rest)
        return x, wave


def normalised(x: Array) -> tuple[Array, float, float]:
    mean, deviation = float(x.mean()), float(x.std(ddof=1))
    return (x - mean) / (1e-5 + deviation), mean, deviation


@pytest.mark.parametrize("name", [name for name, config in SMALL.items() if not config.multi_freqs])
def test_written_out_in_numpy(name: str) -> None:
    config = SMALL[name]
    module = shaken(make(config)).double()
    inputs = [given.double() for given in random_inputs(config, 61)]

    def bottom(x: Array, wave: Array | None) -> tuple[Any, Any]:
        if not name.startswith("htdemucs"):
            return 0, 0
        assert wave is not None
        arrays = (torch.from_numpy(array.copy()) for array in (x[None], wave[None, :, 0]))
        with torch.inference_mode():
            x_out, wave_out = module.bottom(*arrays)
        return x_out[0].numpy(), wave_out[0].numpy()[:, None]

    x, mean, deviation = normalised(inputs[0][0].numpy())
    wave, wave_mean, wave_deviation = normalised(inputs[1][0].numpy()) if is_hybrid(config) else (None, 0.0, 1.0)
    spectra, waves = Written(config, module).run(x, None if wave is None else wave[:, None], bottom)
    found = run(module, *inputs)
    spectra = spectra * deviation + mean
    np.testing.assert_allclose(found[0][0].flatten(0, 1), spectra, rtol=1e-9, atol=1e-9)
    if is_hybrid(config):
        waves = waves[:, 0] * wave_deviation + wave_mean
        np.testing.assert_allclose(found[1][0].flatten(0, 1), waves, rtol=1e-9, atol=1e-9)


def test_bands_of_the_encoder() -> None:
    # What demucs 4.1.0 cuts.
    assert encoder_bands(2048, (0.2, 0.5), 8, 4) == (Band(0, 410, 2), Band(406, 1026), Band(1022, 2048, 0, 2))
    assert encoder_bands(512, (0.2, 0.5), 8, 4) == (Band(0, 102, 2), Band(98, 254), Band(250, 512, 0, 2))
    assert encoder_bands(128, (0.31, 0.6), 4, 2) == (Band(0, 41, 1), Band(39, 77), Band(75, 128, 0, 1))
    for bands in (encoder_bands(n, (0.31, 0.6), 8, 4) for n in range(80, 400, 4)):
        n_steps = [(band.n_below + band.stop - band.start + band.n_above - 8) / 4 + 1 for band in bands]
        assert all(n == int(n) for n in n_steps)
        assert sum(n_steps) == bands[-1].stop / 4


def test_bands_of_the_decoder() -> None:
    assert decoder_bands(512, (0.2, 0.5)) == (Band(0, 102), Band(102, 256), Band(256, 512))
    assert decoder_bands(128, (0.31, 0.6)) == (Band(0, 40), Band(40, 77), Band(77, 128))
