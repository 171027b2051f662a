"""Hybrid Demucs and HT Demucs as torch modules, beside the original classes and what these computed.

The reference (small random networks and their output) is not part of this repository: see CONTRIBUTING.md. The
comparison with the classes themselves runs where the package `demucs` is installed.
"""

import importlib
import math
import os
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demucs_networks import PUBLISHED, random_kwargs
from unbraid.errors import ModelError
from unbraid.models.families import family
from unbraid.models.hdemucs.config import HDemucsConfig, UNetConfig
from unbraid.models.htdemucs.config import HTDemucsConfig, TransformerConfig

torch = pytest.importorskip("torch", reason="torch is not installed")
from hybrid_networks import SMALL, is_hybrid, make, random_inputs, relative_error, run, shaken  # noqa: E402

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[4] / "shared"))
GOLDEN = SHARED / "golden" / "demucs"
CONFIGS: dict[str, Any] = {"hdemucs": HDemucsConfig, "htdemucs": HTDemucsConfig}
CLASSES = {"hdemucs": "HDemucs", "htdemucs": "HTDemucs"}
HYBRID = {name: (kind, kwargs) for name, (kind, kwargs) in PUBLISHED.items() if kind in CONFIGS}


def drawn(name: str, seed: int) -> dict[str, Any]:
    """Arguments of a network that upstream can run: the hop is the product of the strides where branches meet."""
    rng = np.random.default_rng(seed)
    while True:
        kwargs = random_kwargs(name, rng)
        stride, n_layers = (2, rng.integers(2, 6)) if kwargs["stride"] == 2 else (4, rng.integers(2, 5))
        kwargs.update(kernel_size=2 * stride, nfft=int(4 * stride**n_layers), channels=int(rng.choice([8, 8, 12])))
        kwargs["channels_time"] = rng.choice([None, None, None, 16])
        if name == "htdemucs":
            kwargs.update(t_sparse_self_attn=False, t_sparse_cross_attn=False, t_max_positions=10000)
        elif kwargs["hybrid"]:
            kwargs["depth"] = int(n_layers + rng.integers(3))
        try:
            CONFIGS[name].from_kwargs(kwargs)
        except ModelError:
            continue
        return kwargs


@pytest.mark.parametrize("name", HYBRID)
def test_tensors_of_published_networks(name: str) -> None:
    kind, kwargs = HYBRID[name]
    has_expected_tensors(CONFIGS[kind].from_kwargs(kwargs))


@pytest.mark.parametrize("kind", CONFIGS)
def test_tensors_of_random_networks(kind: str) -> None:
    rng = np.random.default_rng(0)
    n_checked = 0
    while n_checked < 15:
        try:
            config = CONFIGS[kind].from_kwargs(random_kwargs(kind, rng))
        except ModelError:
            continue
        has_expected_tensors(config)
        n_checked += 1


def has_expected_tensors(config: UNetConfig) -> None:
    with torch.device("meta"):
        state = make(config).state_dict()
    kind = "htdemucs" if isinstance(config, HTDemucsConfig) else "hdemucs"
    assert [(name, tuple(tensor.shape)) for name, tensor in state.items()] == list(family(kind).shapes(config).items())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("n", [80, 81, 95])
def test_outputs(name: str, n: int) -> None:
    config = SMALL[name]
    inputs = random_inputs(config, n, n_batch=2)
    outputs = run(shaken(make(config)), *inputs)
    assert [output.shape for output in outputs] == [(2, len(config.stems), *given.shape[1:]) for given in inputs]
    assert all(output.isfinite().all() and output.std() > 0 for output in outputs)


@pytest.mark.parametrize("name", SMALL)
def test_the_same_again_and_inputs_left_alone(name: str) -> None:
    config = SMALL[name]
    module = shaken(make(config))
    inputs = random_inputs(config, 95)
    copies = [given.clone() for given in inputs]
    first = run(module, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, run(module, *inputs), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_is_its_examples(name: str) -> None:
    config = SMALL[name]
    module = shaken(make(config)).double()
    inputs = [given.double() for given in random_inputs(config, 95, n_batch=3)]
    together = run(module, *inputs)
    for i in range(3):
        for all_of_them, alone in zip(together, run(module, *(given[i : i + 1] for given in inputs)), strict=True):
            assert relative_error(all_of_them[i : i + 1], alone) < 1e-12


@pytest.mark.parametrize("name", SMALL)
def test_level_and_mean_of_each_input_pass_through(name: str) -> None:
    """But for 1e-5 on the standard deviation, which is around 3 and 0.2 here."""
    config = SMALL[name]
    module = shaken(make(config)).double()
    inputs = [given.double() for given in random_inputs(config, 95)]
    changes = [(7.0, -2.0), (0.25, 0.1)]
    changed = [scale * given + shift for given, (scale, shift) in zip(inputs, changes, strict=False)]
    for before, after, (scale, shift) in zip(run(module, *inputs), run(module, *changed), changes, strict=False):
        assert relative_error(after, scale * before + shift) < 1e-3
        assert relative_error(after, before) > 0.1


@pytest.mark.parametrize("name", ["hdemucs", "htdemucs"])
def test_each_branch_hears_the_other(name: str) -> None:
    config = SMALL[name]
    module = shaken(make(config))
    spectrum, mix = random_inputs(config, 95)
    spectra, waves = run(module, spectrum, mix)
    other_spectra, _ = run(module, spectrum, mix.flip(2))
    _, other_waves = run(module, spectrum.flip(3), mix)
    assert relative_error(other_spectra, spectra) > 1e-2
    assert relative_error(other_waves, waves) > 1e-2


def test_bands_with_the_same_weights_are_one_band() -> None:
    config = SMALL["bands"]
    whole_config = replace(config, multi_freqs=())
    banded, whole = shaken(make(config)).double(), make(whole_config).double().eval()
    state = banded.state_dict()
    n_banded = 0
    for name, value in whole.state_dict().items():
        if name in state:
            value.copy_(state[name])
            continue
        branch, i, *rest = name.split(".")
        bands = [f"{branch}.{i}.layers.{k}.{'.'.join(rest)}" for k in range(3)]
        for band in bands:
            state[band].copy_(state[bands[0]])
        if value.shape != state[bands[0]].shape:  # in one band the decoder's convolution sees neighbouring bins
            value.zero_()
            value[:, :, 1:2] = state[bands[0]]
        else:
            value.copy_(state[bands[0]])
        n_banded += 1
    assert n_banded > 0
    inputs = [given.double() for given in random_inputs(config, 640)]
    for found, expected in zip(run(banded, *inputs), run(whole, *inputs), strict=True):
        assert relative_error(found, expected) < 1e-12


def test_bands_have_weights_of_their_own() -> None:
    config = SMALL["bands"]
    module = shaken(make(config)).double()
    (spectrum, mix) = (given.double() for given in random_inputs(config, 640))
    before, _ = run(module, spectrum, mix)
    with torch.no_grad():
        module.decoder[-1].layers[2].conv_tr.weight.mul_(2)
    after, _ = run(module, spectrum, mix)
    # The topmost of the bands (0.3, 0.6) of the decoder's 32 bins begins at bin 19, with the overlap below.
    changed = (after - before).abs().amax((0, 1, 2, 4)) > 1e-9
    assert not changed[: 2 * 19 - 1].any()
    assert changed[2 * 19 - 1 :].all()


@pytest.mark.parametrize("rescale", [0, 0.1])
@pytest.mark.parametrize("name", ["hdemucs", "bands", "htdemucs"])
def test_weights_before_training(name: str, rescale: float) -> None:
    config = replace(SMALL[name], rescale=rescale, dconv_init=0.02)
    torch.manual_seed(1)
    plain = make(replace(config, rescale=0)).state_dict()
    torch.manual_seed(1)
    n_rescaled = 0
    module = make(config)
    convolutions = {
        name
        for name, part in module.named_modules()
        if "Conv" in type(part).__name__ and type(part).__name__ != "DConv"
    }
    for tensor_name, value in module.state_dict().items():
        part, _, kind = tensor_name.rpartition(".")
        scale = 1.0
        if rescale and part in convolutions and not part.startswith("channel_"):
            scale = float((plain[f"{part}.weight"].std() / rescale) ** 0.5)
            n_rescaled += 1
        torch.testing.assert_close(value, plain[tensor_name] / scale)
        if kind == "scale":
            assert (value == (1e-4 if "crosstransformer" in tensor_name else 0.02)).all()
    assert (n_rescaled > 0) == bool(rescale)


def test_embeddings_before_training() -> None:
    torch.manual_seed(0)
    config = replace(SMALL["htdemucs"], hidden_channels=64, n_fft=512, emb_smooth=False)
    transformer = TransformerConfig(n_layers=1, positions="scaled", max_positions=200)
    module = make(replace(config, bottom_channels=0, transformer=transformer))
    assert module.freq_emb(128).detach().std() == pytest.approx(1, rel=0.05)
    assert module.crosstransformer.position_embeddings(200).detach().std() == pytest.approx(0.2, rel=0.05)


def test_the_frequency_embedding_counts_with_its_weight() -> None:
    module = make(SMALL["hdemucs"])
    torch.testing.assert_close(module.freq_emb(4), 10 * module.freq_emb.embedding.weight[:4])
    seen = []
    module.encoder[0].register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    module.encoder[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    run(module.eval(), *random_inputs(SMALL["hdemucs"], 80))
    expected = 0.2 * module.freq_emb(8).detach().T[None, :, :, None]
    torch.testing.assert_close(seen[1] - seen[0], expected.expand_as(seen[0]), atol=1e-5, rtol=1e-4)


def test_training_reaches_every_tensor() -> None:
    for config in SMALL.values():
        module = shaken(make(config)).train()
        sum(output.square().mean() for output in module(*random_inputs(config, 95))).backward()
        without = {name for name, value in module.named_parameters() if value.grad is None or not value.grad.any()}
        # Where the branches meet nothing is left for the waveform's decoder to take from the Transformer.
        assert all(name.startswith("crosstransformer.layers_t") for name in without), without


@pytest.mark.parametrize(
    ("config", "n_inputs", "message"),
    [
        (SMALL["hdemucs"], 1, "takes the mix's samples too"),
        (replace(SMALL["hdemucs"], kernel_size=8, stride=4), 2, "n_fft / 4 must be the product of the strides"),
        (replace(SMALL["bands"], multi_freqs=(0.02,)), 2, "multi_freqs must leave every band at least 4 of 64 bins"),
        (
            replace(SMALL["htdemucs"], transformer=TransformerConfig(n_heads=4, positions="scaled", max_positions=5)),
            2,
            "max_positions must be at least",
        ),
    ],
)
def test_what_cannot_be_run(config: UNetConfig, n_inputs: int, message: str) -> None:
    inputs = random_inputs(config, 320)[:n_inputs]
    with pytest.raises(ModelError, match=message):
        run(make(config), *inputs)


def spectrum_of(mix: Any, n_fft: int) -> Any:
    """STFT [shape=(1, 2 * channel, n_fft / 2, frame)] with real and imaginary parts as channels, frame = ceil(n / hop).

    A frame is centred 1/2 hop after its place on the grid of hops; both ends are reflected.
    """
    hop = n_fft // 4
    n_frames = math.ceil(mix.shape[-1] / hop)
    edge = 3 * hop // 2
    padded = torch.nn.functional.pad(mix, (edge, edge + n_frames * hop - mix.shape[-1]), mode="reflect")
    parts = torch.stft(padded, n_fft, hop, window=torch.hann_window(n_fft), normalized=True, return_complex=True)
    parts = parts[:, :-1, 2 : 2 + n_frames]
    return torch.stack((parts.real, parts.imag), dim=1).flatten(0, 1)[None]


def waves_of(spectra: Any, n: int) -> Any:
    """Samples [shape=(stem, channel, n)] of the stems' spectrograms (1, stem, 2 * channel, n_fft / 2, frame)."""
    n_bins, n_frames = spectra.shape[3:]
    hop = n_bins // 2
    parts = torch.complex(spectra[0, :, 0::2].contiguous(), spectra[0, :, 1::2].contiguous())
    parts = torch.nn.functional.pad(parts, (2, 2, 0, 1)).flatten(0, 1)
    window, edge = torch.hann_window(2 * n_bins), 3 * hop // 2
    waves = torch.istft(parts, 2 * n_bins, hop, window=window, normalized=True, length=n_frames * hop + 2 * edge)
    return waves[:, edge : edge + n].view(spectra.shape[1], -1, n)


@pytest.mark.slow  # the whole way is tested in tests/golden; this one says where an error is
@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference outputs in '{GOLDEN}'")
@pytest.mark.parametrize(
    ("name", "package", "n", "normalised"),
    [
        ("htdemucs_forward", "htdemucs", 343980, False),
        ("htdemucs", "htdemucs", 343980, True),
        ("htdemucs_6s", "htdemucs_6s", 343980, True),
        ("hdemucs", "hdemucs", 441000, True),
    ],
)
def test_output_of_the_original(name: str, package: str, n: int, normalised: bool) -> None:
    """The first chunk of a track alone, up to where the next one overlaps it (3/4)."""
    kind = package.split("_")[0]
    stub = type(CLASSES[kind], (), {})
    with torch.serialization.safe_globals([(stub, f"demucs.{kind}.{CLASSES[kind]}"), Fraction]):
        content = torch.load(GOLDEN / f"{package}.th", weights_only=True)
    config = CONFIGS[kind].from_kwargs(content["kwargs"])
    module = make(config).eval()
    module.load_state_dict(content["state"])
    mix = torch.from_numpy(np.load(SHARED / "golden" / "spleeter" / "mixture.npy").T.copy())
    mono = mix.mean(0)
    mean, deviation = (mono.mean(), mono.std() + 1e-8) if normalised else (0, 1)
    chunk = (mix[:, :n] - mean) / deviation
    spectra, waves = run(module, spectrum_of(chunk, config.n_fft), chunk[None])
    stems = (waves[0] + waves_of(spectra, n)) * deviation + mean
    expected = np.load(GOLDEN / f"{name}.npz")
    for window, start in (("w0", 0), ("w1", 242550)):
        theirs = torch.from_numpy(expected[window])
        assert relative_error(stems[..., start : start + theirs.shape[-1]], theirs) < 1e-5


def original(kind: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(f"demucs.{kind}", reason=f"demucs.{kind} is not installed", exc_type=ImportError)
        return getattr(importlib.import_module(f"demucs.{kind}"), CLASSES[kind])


def run_original(module: Any, spectrum: Any, mix: Any) -> tuple[Any, Any]:
    """Run upstream's network alone: without its STFT, and with the inverse's part of the samples left out."""
    seen = {}

    def keep(_: Any, spectra: Any) -> Any:
        seen["spectra"] = spectra
        return spectra

    module._spec = lambda _: spectrum
    module._magnitude = lambda z: z
    module._mask = keep
    module._ispec = lambda z, length: z.new_zeros(z.shape[0], len(module.sources), module.audio_channels, length)
    module.use_train_segment = False
    with torch.no_grad():
        waves = module(mix)
    return seen["spectra"], waves


def compare(kind: str, kwargs: dict[str, Any], seed: int, *, n: int, tolerance: float, dtype: Any) -> bool:
    """The same weights before training for a seed, and the same output with others; or refused by both."""
    config = CONFIGS[kind].from_kwargs(kwargs)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = original(kind)(**kwargs)
    torch.manual_seed(seed)
    ours = make(config)
    if not any(layer.n_bands for layer in config.layers()):  # they draw each band's weights twice
        for expected, found in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    shaken(theirs, seed).to(dtype)
    ours.to(dtype).eval().load_state_dict(theirs.state_dict())
    inputs = [
        given.to(dtype) for given in random_inputs(config, n, n_batch=2 if dtype is torch.float64 else 1, seed=seed)
    ]
    mix = inputs[1] if is_hybrid(config) else torch.zeros(inputs[0].shape[0], config.n_channels, n, dtype=dtype)
    try:
        outputs = run(ours, *inputs)
    except ModelError:  # bands with fewer bins than the kernel
        with pytest.raises((AssertionError, RuntimeError)):
            run_original(theirs, inputs[0], mix)
        return False
    for found, expected in zip(outputs, run_original(theirs, inputs[0], mix), strict=False):
        assert relative_error(found, expected) < tolerance, (kwargs, seed)
    return True


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("kind", CONFIGS)
def test_same_numbers_as_the_original_classes(kind: str, part: int) -> None:
    n_run = 0
    for seed in range(10 * part, 10 * part + 10):
        kwargs = drawn(kind, seed)
        hop = kwargs["nfft"] // 4
        n = int(np.random.default_rng(seed).integers(3 * hop, 3 * hop + 2000))
        n_run += compare(kind, kwargs, seed, n=n, tolerance=1e-12, dtype=torch.float64)
    assert n_run >= 8


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", [name for name in HYBRID if "sparse" not in name])
def test_published_networks_with_fewer_channels(name: str) -> None:
    kind, kwargs = HYBRID[name]
    kwargs = {**kwargs, "channels": 8}
    if kwargs.get("bottom_channels"):
        kwargs["bottom_channels"] = 32
    assert compare(kind, kwargs, 0, n=20000, tolerance=1e-12, dtype=torch.float64)
    assert compare(kind, kwargs, 1, n=250001, tolerance=1e-5, dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", ["htdemucs", "hdemucs_mmi"])
def test_published_networks_as_they_are(name: str) -> None:
    assert compare(*HYBRID[name], 0, n=343980, tolerance=1e-5, dtype=torch.float32)
