"""The trainable networks beside the pipeline's NumPy, and what goes into and out of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unbraid.errors import ModelError, UsageError
from unbraid.models.demucs.config import DemucsConfig
from unbraid.models.families import family
from unbraid.models.hdemucs.config import HDemucsConfig
from unbraid.models.htdemucs.config import HTDemucsConfig, TransformerConfig
from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.models.spleeter.config import SharedUNetConfig, SpleeterConfig

torch = pytest.importorskip("torch", reason="torch is not installed")
from hybrid_networks import SMALL as HYBRID  # noqa: E402
from hybrid_networks import UNET, relative_error, shaken  # noqa: E402
from unbraid.training import networks, tensors  # noqa: E402
from unbraid.training.networks import Trainable, example_samples, make_trainable  # noqa: E402

Array = np.ndarray[Any, Any]
STEMS = ("drums", "bass", "other", "vocals")
OLD: dict[str, Any] = {
    **{"hidden_channels": 4, "depth": 2, "lstm_layers": 1, "context": 1, "gelu": False, "norm_starts": 2},
    **{"dconv_mode": 0, "normalize": False, "resample": False},
}
BLOCK: dict[str, Any] = {"n_fft": 256, "hop": 64, "n_frames": 64, "n_bins": 64, "conv_n_filters": (2, 3, 4, 5, 6, 7)}
TARGETS = (TargetConfig(hidden_size=6, max_bin=20), TargetConfig(hidden_size=5, max_bin=33, unidirectional=True))
UNMIX = OpenUnmixConfig(STEMS[:2], TARGETS, sample_rate=1000, n_fft=64, hop=16, n_iterations=0)
AMPLITUDE: dict[str, Any] = {**UNET, "depth": 4, "norm_starts": 2, "complex_as_channels": False}
MASKS: dict[str, Any] = {"n_wiener_iterations": -1, "n_wiener_iterations_training": -1}

# Family, configuration, and samples of an example: odd ones, and shorter ones than a frame's half.
FORMS: dict[str, tuple[str, Any, int]] = {
    "demucs v1": ("demucs", DemucsConfig(STEMS, version=1, **OLD), 501),
    "demucs v1, upsampling": ("demucs", DemucsConfig(STEMS, version=1, **OLD, upsample=True), 500),
    "demucs v2": ("demucs", DemucsConfig(STEMS, version=2, **{**OLD, "normalize": True, "resample": True}), 503),
    "demucs v2, not normalised": ("demucs", DemucsConfig(STEMS, version=2, **OLD), 500),
    "demucs v3": (
        "demucs",
        DemucsConfig(STEMS, hidden_channels=8, depth=3, norm_starts=1, dconv_mode=3, dconv_attn=2, dconv_lstm=2,
                     dconv_comp=2, lstm_layers=1),
        501,
    ),
    **{f"hybrid, {name}": (name.split(",")[0].split()[0] if name.startswith("ht") else "hdemucs", config, 389)
       for name, config in HYBRID.items()},
    "hybrid, shorter than its padding": ("hdemucs", HYBRID["hdemucs"], 9),
    "hybrid, late": ("hdemucs", HDemucsConfig(STEMS, **UNET, depth=4, norm_starts=2, hybrid_old=True), 389),
    "hybrid, magnitudes": ("hdemucs", HDemucsConfig(STEMS, **AMPLITUDE), 389),
    "hybrid, late magnitudes": ("hdemucs", HDemucsConfig(STEMS, **AMPLITUDE, hybrid_old=True), 384),
    "hybrid, masks": ("hdemucs", HDemucsConfig(STEMS, **AMPLITUDE, **MASKS), 389),
    "hybrid, residual": ("hdemucs", HDemucsConfig(STEMS, **AMPLITUDE, wiener_residual=True), 389),
    "spectrogram only, complex": ("hdemucs", HDemucsConfig(STEMS, **UNET, depth=4, hybrid=False), 389),
    "htdemucs of any length": ("htdemucs", replace(HYBRID["htdemucs"], use_train_segment=False), 389),
    "htdemucs, learnt positions": (
        "htdemucs",
        replace(HYBRID["htdemucs"], segment_samples=400, transformer=TransformerConfig(n_layers=2, n_heads=4,
                positions="scaled", max_positions=200)),
        389,
    ),
    "spleeter": ("spleeter", SpleeterConfig(STEMS, **BLOCK), 63 * 64 + 256),
    "spleeter, softmax, magnitudes, average": (
        "spleeter",
        SpleeterConfig(STEMS, **BLOCK, network="unet.softmax_unet", separation_exponent=1, mask_extension="average"),
        63 * 64 + 256,
    ),
    "spleeter, roots": ("spleeter", SpleeterConfig(STEMS, **BLOCK, separation_exponent=0.5), 63 * 64 + 256),
    "shared": (
        "spleeter",
        SpleeterConfig(STEMS, **BLOCK, network="unet.shared_unet", mask_extension="average",
                       shared_unet=SharedUNetConfig(n_bins=64, widths=(4, 6), fold_bins=2, tdf_divisor=2)),
        63 * 64 + 256,
    ),
    "openunmix": ("openunmix", UNMIX, 500),
    "openunmix, mono": ("openunmix", replace(UNMIX, n_channels=1), 512),
    "openunmix, softmask": ("openunmix", replace(UNMIX, softmask=True), 500),
    "openunmix, residual, half": ("openunmix", replace(UNMIX, residual=True, hop=32), 511),
}  # fmt: skip
ON_MAGNITUDES = [name for name, (kind, _, _) in FORMS.items() if kind in ("spleeter", "openunmix")]
# Short tracks would be filled up to the length in training, of which there is no need here.
FORMS = {
    name: (kind, replace(config, segment_samples=400), n) if name.startswith("hybrid, ht") else (kind, config, n)
    for name, (kind, config, n) in FORMS.items()
}
# Past the layer where the branches meet, nothing of the waveform's is used but what the other branch has seen of it.
MERGED = "hybrid, htdemucs, where the branches meet"
SHORT = "hybrid, shorter than its padding"
each_form = pytest.mark.parametrize("form", FORMS)


def made(form: str, seed: int = 0) -> Trainable:
    """The network with weights that all matter, in evaluation."""
    kind, config, n_samples = FORMS[form]
    trainable = make_trainable(kind, config, n_samples=n_samples)
    shake(trainable, seed)
    return trainable.eval()


def shake(trainable: Trainable, seed: int = 0) -> None:
    shaken(trainable.network, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, value in trainable.network.named_buffers():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif name.endswith("running_mean"):
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))


def mixes(trainable: Trainable, n_batch: int = 2, seed: int = 0) -> Any:
    """Noise that begins with silence [shape=(batch, channel, time)]."""
    generator = torch.Generator().manual_seed(seed)
    mix = 0.3 * torch.randn(n_batch, trainable.n_channels, trainable.n_samples, generator=generator) + 0.02
    mix[..., : trainable.n_samples // 8] = 0
    return mix


def by_pipeline(trainable: Trainable, mix: Array) -> Array:
    """Stems [shape=(stem, channel, time)] of a track as short as an example, by the transform's NumPy."""
    transform: Any = family(trainable.family).transform(trainable.config).with_options(overlap=0)
    n = trainable.n_samples
    n_before, n_window = transform.window(n)
    window = np.pad(mix, ((0, 0), (n_before, n_window - n_before - n)))
    with torch.inference_mode():
        outputs = trainable.network(*(torch.from_numpy(array) for array in transform.forward(window)))
    arrays = [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
    each = [{i: 1.0} for i in range(len(trainable.stems))]
    stems: Array = transform.inverse(arrays, window, each, n=n, index=0)
    return stems


@each_form
def test_separates_as_the_pipeline_does(form: str) -> None:
    trainable = made(form)
    mix = mixes(trainable)
    before = mix.clone()
    with torch.no_grad():
        stems = trainable.separate(mix)
    assert stems.shape == (2, len(trainable.stems), trainable.n_channels, trainable.n_samples)
    assert torch.equal(mix, before)
    for one, found in zip(mix.numpy(), stems.numpy(), strict=True):
        expected = by_pipeline(trainable, one)
        assert np.abs(expected).max() > 1e-3
        assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("form", ["spleeter", "openunmix, softmask"])
def test_a_whisper_is_shared_out_as_the_pipeline_does(form: str) -> None:
    """So quiet that what is added to shares matters."""
    trainable = made(form)
    mix = 1e-6 * mixes(trainable, n_batch=1)
    with torch.no_grad():
        found = trainable.separate(mix)[0].numpy()
    expected = by_pipeline(trainable, mix[0].numpy())
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


@each_form
def test_gradients_reach_every_parameter(form: str) -> None:
    trainable = made(form).train()
    trainable.separate(mixes(trainable)).abs().mean().backward()
    parameters = dict(trainable.network.named_parameters())
    for name in [name for name in parameters if form == MERGED and name.startswith("crosstransformer.layers_t.")]:
        assert parameters.pop(name).grad is None
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # They are 0 for biases before a normalisation, and for memory and attention where there is but one step.
        assert parameter.ndim == 1 or parameter.grad.any() or form == SHORT, name


@pytest.mark.parametrize("form", ["demucs v3", "hybrid, hdemucs", "htdemucs of any length", "spleeter", "openunmix"])
def test_a_mix_may_be_learnt_too(form: str) -> None:
    trainable = made(form)
    mix = mixes(trainable).requires_grad_()
    trainable.separate(mix).abs().mean().backward()
    assert mix.grad.isfinite().all() and mix.grad.any()


@pytest.mark.parametrize("form", ["demucs v1", "hybrid, hdemucs", "hybrid, magnitudes", "spleeter", "openunmix"])
def test_stems_are_float32_where_the_network_runs_in_bfloat16(form: str) -> None:
    trainable = made(form)
    mix = mixes(trainable)
    with torch.no_grad():
        expected = trainable.separate(mix)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = trainable.separate(mix)
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < 0.05


@pytest.mark.parametrize("form", ON_MAGNITUDES)
def test_magnitudes_are_those_of_the_pipeline(form: str) -> None:
    trainable = made(form)
    assert trainable.on_magnitudes
    stems = torch.stack([mixes(trainable, seed=seed) for seed in range(len(trainable.stems))], dim=1)
    mix = stems.sum(1)
    with torch.no_grad():
        estimated, true = trainable.magnitudes(mix, stems)
    transform: Any = family(trainable.family).transform(trainable.config)
    for i in range(len(mix)):
        (seen,) = transform.forward(mix[i].numpy())
        with torch.inference_mode():
            expected = trainable.network(torch.from_numpy(seen))[0]
        assert relative_error(estimated[i], expected) <= 1e-4
        for j in range(len(trainable.stems)):
            (expected,) = transform.forward(stems[i, j].numpy())
            assert relative_error(true[i, j], torch.from_numpy(expected[0])) <= 1e-5


@pytest.mark.parametrize("form", [name for name in FORMS if name.startswith(("spleeter", "shared"))])
def test_errors_of_spectra_are_those_of_the_masked_mix(form: str) -> None:
    trainable = made(form)
    stems = torch.stack([mixes(trainable, seed=seed) for seed in range(len(trainable.stems))], dim=1)
    mix = stems.sum(1)
    errors, energies = trainable.errors(mix, stems)
    errors.sum().backward()
    assert all(torch.isfinite(one.grad).all() for one in trainable.network.parameters() if one.grad is not None)
    transform: Any = family(trainable.family).transform(trainable.config)
    n_bins, epsilon = trainable.config.n_bins, 1e-10
    for i in range(len(mix)):
        spec = complex_spectrogram(mix[i].numpy(), trainable.config)[..., :n_bins]
        np.testing.assert_allclose(energies[i], np.square(np.abs(spec)).sum(), rtol=1e-4)
        (seen,) = transform.forward(mix[i].numpy())
        with torch.inference_mode():
            estimates = trainable.network(torch.from_numpy(seen))[0].numpy()
        shares = estimates**trainable.config.separation_exponent + epsilon
        for j, mask in enumerate(shares / shares.sum(0)):
            true = complex_spectrogram(stems[i, j].numpy(), trainable.config)[..., :n_bins]
            expected = np.square(np.abs(mask * spec - true)).sum()
            np.testing.assert_allclose(errors[i, j].detach(), expected, rtol=1e-3)


def complex_spectrogram(samples: np.ndarray, config: Any) -> np.ndarray:
    """By NumPy's FFT, frame after frame [shape=(channel, frame, bin)]."""
    n = np.arange(config.n_fft)
    window = np.sin(np.pi * n / config.n_fft) ** 2
    starts = range(0, samples.shape[-1] - config.n_fft + 1, config.hop)
    return np.stack([np.fft.rfft(window * samples[:, start : start + config.n_fft]) for start in starts], axis=1)


def test_only_some_families_have_errors_of_spectra() -> None:
    trainable = made("openunmix")
    mix = mixes(trainable)
    with pytest.raises(UsageError, match="family 'openunmix' are not trained on spectra"):
        trainable.errors(mix, mix[:, None])


def test_waveform_families_have_no_magnitudes() -> None:
    trainable = made("demucs v3")
    mix = mixes(trainable)
    assert not trainable.on_magnitudes
    with pytest.raises(UsageError, match="family 'demucs' are not trained on magnitudes"):
        trainable.magnitudes(mix, mix[:, None])


@each_form
def test_what_the_pipeline_normalises_is_known(form: str) -> None:
    trainable = made(form)
    assert trainable.normalises == (trainable.family not in ("spleeter", "openunmix"))
    assert trainable.stems == trainable.config.stems


def test_em_begins_with_the_phase_of_the_mix() -> None:
    kind, config, n = FORMS["openunmix"]
    trainable, refined = made("openunmix"), make_trainable(kind, replace(config, n_iterations=2), n_samples=n).eval()
    tensors.load_arrays(refined, tensors.state_arrays(trainable))
    mix = mixes(trainable)
    with torch.no_grad():
        assert torch.equal(refined.separate(mix), trainable.separate(mix))


@pytest.mark.parametrize(
    ("form", "n_samples"), [("spleeter", 4287), ("hybrid, htdemucs", 401), ("demucs v3", 0), ("openunmix", -1)]
)
def test_impossible_examples_are_refused(form: str, n_samples: int) -> None:
    kind, config, _ = FORMS[form]
    with pytest.raises(UsageError, match="an example must be"):
        make_trainable(kind, config, n_samples=n_samples)


def test_a_mix_of_another_length_is_refused() -> None:
    trainable = made("demucs v3")
    with pytest.raises(UsageError, match=r"a mix must be \(batch, 2 channels, 501 samples\), got \(1, 2, 500\)"):
        trainable.separate(torch.zeros(1, 2, 500))
    with pytest.raises(UsageError, match=r"got \(2, 501\)"):
        trainable.separate(torch.zeros(2, 501))


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown family of models 'tasnet'"):
        make_trainable("tasnet", None, n_samples=100)


def test_lengths_of_examples() -> None:
    assert example_samples("spleeter", SpleeterConfig(STEMS)) == 511 * 1024 + 4096
    assert example_samples("demucs", DemucsConfig(STEMS)) == 40 * 44100
    assert example_samples("demucs", DemucsConfig(STEMS), 11) == 11 * 44100
    assert example_samples("hdemucs", HDemucsConfig(STEMS), 0.00015) == 7
    assert example_samples("htdemucs", HTDemucsConfig(STEMS, segment_samples=343980)) == 343980
    assert example_samples("htdemucs", HTDemucsConfig(STEMS, segment_samples=343980), 7.8) == 343980
    assert example_samples("htdemucs", HTDemucsConfig(STEMS, use_train_segment=False), 5) == 5 * 44100
    assert example_samples("openunmix", UNMIX) == 6000
    assert example_samples("openunmix", UNMIX, 2.5) == 2500
    with pytest.raises(UsageError, match=r"segment_s must be left out, or 7\.8 as this network is made for, got 5"):
        example_samples("htdemucs", HTDemucsConfig(STEMS, segment_samples=343980), 5)
    with pytest.raises(UsageError, match="segment_s must be left out"):
        example_samples("spleeter", SpleeterConfig(STEMS), 10)
    with pytest.raises(UsageError, match="segment_s must be positive, got 0"):
        example_samples("demucs", DemucsConfig(STEMS), 0)


@each_form
def test_weights_go_out_and_in_under_the_names_of_a_model_folder(form: str) -> None:
    trainable, other = made(form), made(form, seed=1)
    arrays = tensors.state_arrays(trainable)
    shapes = family(trainable.family).shapes(trainable.config)
    assert {name: array.shape for name, array in arrays.items()} == shapes
    assert list(arrays) == list(shapes)
    mix = mixes(trainable)
    with torch.no_grad():
        expected = trainable.separate(mix)
        assert relative_error(other.separate(mix), expected) > 1e-3
        tensors.load_arrays(other, arrays)
        assert torch.equal(other.separate(mix), expected)
    assert set(trainable.state_dict()) == {f"network.{name}" for name in trainable.network.state_dict()}


def test_arrays_are_copies() -> None:
    trainable = made("spleeter")
    arrays = tensors.state_arrays(trainable)
    before = {name: array.copy() for name, array in arrays.items()}
    shake(trainable, seed=1)
    assert all(np.array_equal(arrays[name], before[name]) for name in arrays)


def test_halves_can_be_loaded_and_counts_left_out() -> None:
    trainable = made("openunmix")
    arrays = {
        name: array.astype(np.float16)
        for name, array in tensors.state_arrays(trainable).items()
        if not name.endswith("num_batches_tracked")
    }
    tensors.load_arrays(trainable, arrays)
    for name, array in tensors.state_arrays(trainable).items():
        assert name not in arrays or np.array_equal(array, arrays[name].astype(np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drums.fc1.weight": None}, "'drums.fc1.weight' is missing"),
        ({"drums.fc1.weight": np.zeros((6, 41))}, r"'drums.fc1.weight' must be \(6, 40\), got \(6, 41\)"),
        ({"drums.bn1.bias": np.full(6, np.nan)}, "'drums.bn1.bias' is not finite"),
        ({"piano.fc1.weight": np.zeros(3)}, "this network has no 'piano.fc1.weight'"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(change: dict[str, Any], message: str) -> None:
    trainable = made("openunmix")
    before = tensors.state_arrays(trainable)
    wrong = {name: value + 1 for name, value in before.items()} | change
    with pytest.raises(ModelError, match=message):
        tensors.load_arrays(trainable, {name: value for name, value in wrong.items() if value is not None})
    assert all(np.array_equal(value, before[name]) for name, value in tensors.state_arrays(trainable).items())


@each_form
def test_a_seed_decides_the_weights_and_leaves_torch_alone(form: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    kind, config, n = FORMS[form]
    one, other = (make_trainable(kind, config, n_samples=n) for _ in range(2))
    shake(other)
    kept, rescale = dict(other.network.named_parameters()), None if kind == "openunmix" else 0.1
    networks.initialise(one, seed=3, rescale=rescale)
    networks.initialise(other, seed=3, rescale=rescale)
    assert torch.equal(torch.rand(3), expected)
    state = one.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.network.state_dict().items())
    assert all(parameter is kept[name] for name, parameter in other.network.named_parameters())
    networks.initialise(other, seed=4, rescale=rescale)
    assert any(not torch.equal(value, state[name]) for name, value in other.network.state_dict().items())


@pytest.mark.parametrize("form", ["demucs v3", "hybrid, htdemucs", "hybrid, hdemucs", "spleeter"])
def test_rescaling_brings_convolutions_closer_to_one_deviation(form: str) -> None:
    """By s -> sqrt(s · reference), whatever the configuration says."""
    trainable = made(form)

    def deviations(rescale: float | None) -> dict[str, tuple[float, float]]:
        networks.initialise(trainable, seed=0, rescale=rescale)
        found = {}
        for name, module in trainable.network.named_modules():
            kinds = torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.ConvTranspose1d
            if isinstance(module, kinds) and not name.startswith("channel_"):  # which HT Demucs makes afterwards
                found[name] = float(module.weight.detach().std()), float(module.bias.detach().norm())
        return found

    off, on = deviations(None), deviations(0.2)
    assert deviations(0) == off
    for name, (std, bias) in off.items():
        assert on[name][0] == pytest.approx((std * 0.2) ** 0.5, rel=1e-4)
        assert on[name][1] == pytest.approx(bias / (std / 0.2) ** 0.5, rel=1e-4)
    # What a network begins with is rescaled as its configuration says.
    begun = tensors.state_arrays(make_trainable(*FORMS[form][:2], n_samples=FORMS[form][2]))
    networks.initialise(trainable, seed=0, rescale=None if form == "spleeter" else 0.1)
    assert all(np.array_equal(value, begun[name]) for name, value in tensors.state_arrays(trainable).items())


def test_rescaling_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="Open-Unmix has none"):
        networks.initialise(made("openunmix"), seed=0, rescale=0.1)
    networks.initialise(made("openunmix"), seed=0, rescale=0)
    with pytest.raises(UsageError, match="rescale must be 0 or more, got -1"):
        networks.initialise(made("spleeter"), seed=0, rescale=-1)


def with_stems(config: Any, stems: tuple[str, ...]) -> Any:
    """The configuration with other stems."""
    if isinstance(config, OpenUnmixConfig):
        targets = dict(zip(config.stems, config.targets, strict=True))
        return replace(config, stems=stems, targets=tuple(targets.get(stem, TARGETS[0]) for stem in stems))
    if getattr(config, "shared_unet", None) is not None:
        return replace(config, stems=stems, shared_unet=replace(config.shared_unet, n_stems=len(stems)))
    return replace(config, stems=stems)


@each_form
def test_stems_keep_their_weights_where_others_go_and_new_ones_come(form: str) -> None:
    kind, config, n = FORMS[form]
    old_stems, new_stems = (*STEMS[:3], "vocals"), ("vocals", "bass")
    old = make_trainable(kind, with_stems(config, old_stems), n_samples=n)
    shake(old)
    arrays = tensors.state_arrays(old)
    new = make_trainable(kind, with_stems(config, new_stems), n_samples=n)
    kept, fresh = tensors.transfer(new, arrays, old.config)
    assert kept == list(family(kind).shapes(new.config)) and not fresh
    mix = mixes(old.eval())
    with torch.no_grad():
        if kind != "spleeter":
            if not config.__dict__.get("softmask"):  # whose shares depend on all stems
                assert relative_error(new.eval().separate(mix), old.separate(mix)[:, [3, 1]]) <= 1e-5
        elif config.network == "unet.unet":  # the estimates; their shares depend on all stems
            estimates = [one.eval().magnitudes(mix, mix[:, None])[0] for one in (new, old)]
            assert relative_error(estimates[0], estimates[1][:, [3, 1]]) <= 1e-5


@each_form
def test_a_new_stem_keeps_its_random_weights(form: str) -> None:
    kind, config, n = FORMS[form]
    old = make_trainable(kind, with_stems(config, ("drums", "bass")), n_samples=n)
    shake(old)
    new = make_trainable(kind, with_stems(config, ("piano", "drums")), n_samples=n)
    random = tensors.state_arrays(new)
    kept, fresh = tensors.transfer(new, tensors.state_arrays(old), old.config)
    assert fresh and sorted(kept + fresh) == sorted(random)
    now, mix = tensors.state_arrays(new), mixes(new)
    if kind == "openunmix" or (kind == "spleeter" and config.shared_unet is None):
        prefix = "piano." if kind == "openunmix" else "stems.0."
        assert all(name.startswith(prefix) and np.array_equal(now[name], random[name]) for name in fresh)
        return
    for name in fresh:  # half of each is new
        assert 0.3 < (now[name] == random[name]).mean() < 0.7, name
    if kind != "spleeter":
        with torch.no_grad():
            drums, found = old.eval().separate(mix)[:, 0], new.eval().separate(mix)
            assert relative_error(found[:, 1], drums) <= 1e-5
            assert relative_error(found[:, 0], drums) > 1e-2


def test_tensors_of_other_shapes_stay_random() -> None:
    kind, config, n = FORMS["demucs v3"]
    old, new = made("demucs v3"), make_trainable(kind, replace(config, n_channels=1), n_samples=n)
    kept, fresh = tensors.transfer(new, tensors.state_arrays(old), old.config)
    outer = [f"decoder.2.{len(list(new.network.decoder)[-1]) - 1}.{kind}" for kind in ("weight", "bias")]
    assert fresh == ["encoder.0.0.weight", *outer]
    assert "lstm.linear.weight" in kept


def test_frozen_parameters_do_not_learn() -> None:
    trainable = made("demucs v3")
    names = tensors.freeze(trainable, ["encoder.*", "lstm.linear.bias"])
    parameters = dict(trainable.network.named_parameters())
    assert names == [name for name in parameters if name.startswith("encoder.") or name == "lstm.linear.bias"]
    assert {name for name, parameter in parameters.items() if not parameter.requires_grad} == set(names)
    trainable.separate(mixes(trainable)).abs().mean().backward()
    assert {name for name, parameter in parameters.items() if parameter.grad is None} == set(names)
    with pytest.raises(UsageError, match=r"no parameter fits the pattern 'bottleneck\.\*'"):
        tensors.freeze(trainable, ["decoder.*", "bottleneck.*"])
    assert parameters["decoder.0.0.weight"].requires_grad  # nothing was done


@pytest.mark.parametrize("form", ["spleeter", "openunmix"])
def test_frozen_batch_norms_keep_their_statistics(form: str) -> None:
    trainable = made(form)

    def moved() -> bool:
        before = {name: value.clone() for name, value in trainable.network.named_buffers()}
        trainable.separate(mixes(trainable))
        return any(not torch.equal(value, before[name]) for name, value in trainable.network.named_buffers())

    assert not moved()
    trainable.train()
    assert moved()
    tensors.set_batch_norm(trainable, "frozen")
    assert trainable.training and not moved()
    trainable.eval()
    trainable.train()
    assert not moved()
    tensors.set_batch_norm(trainable, "live")
    assert moved()
    with pytest.raises(UsageError, match="batch_norm must be live or frozen, got 'dead'"):
        tensors.set_batch_norm(trainable, "dead")


def test_open_unmix_is_told_how_loud_bins_are() -> None:
    trainable = made("openunmix")
    networks.initialise(trainable, seed=0, rescale=None)
    mean, std = np.linspace(1, 2, 33), np.linspace(0, 4, 33)
    networks.set_input_statistics(trainable, mean, std)
    arrays = tensors.state_arrays(trainable)
    # A spectrum with these statistics comes out with mean 0 and deviation 1.
    seen = np.stack([mean - std, mean + std])[:, :20]
    out = (seen + arrays["drums.input_mean"]) * arrays["drums.input_scale"]
    np.testing.assert_allclose(out[:, 1:], [[-1] * 19, [1] * 19], rtol=1e-5)
    assert arrays["bass.input_mean"].shape == (33,)
    assert arrays["bass.input_scale"][0] == pytest.approx(1 / (1e-4 * 4))
    assert np.all(arrays["drums.output_mean"] == 1) and np.all(arrays["drums.output_scale"] == 1)


def test_statistics_that_make_no_sense_are_refused() -> None:
    ones = np.ones(33)
    with pytest.raises(UsageError, match="family 'demucs' have no input statistics"):
        networks.set_input_statistics(made("demucs v3"), ones, ones)
    with pytest.raises(UsageError, match="statistics must be of 33 bins"):
        networks.set_input_statistics(made("openunmix"), ones[:20], ones[:20])
    for mean, std in ((ones * np.inf, ones), (ones, 0 * ones)):
        with pytest.raises(UsageError, match="statistics must be finite, and some deviation above 0"):
            networks.set_input_statistics(made("openunmix"), mean, std)
