"""Open-Unmix's files: sizes found in the tensors, what versions before 1.1 left in them, and what is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unbraid.errors import ModelError
from unbraid.models.openunmix.config import OpenUnmixConfig, TargetConfig
from unbraid.models.openunmix.state import parameter_shapes, target_shapes
from unbraid.weights.convert.openunmix import read_openunmix, target_of

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[4] / "shared"))
GOLDEN = SHARED / "golden" / "demucs"
STEMS = ("vocals", "drums", "bass", "other")
SMALL = TargetConfig(hidden_size=4, max_bin=20)
State = dict[str, torch.Tensor]


def random_state(target: TargetConfig = SMALL, n_bins: int = 2049, n_channels: int = 2, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) if shape else torch.tensor(1234)
        for name, shape in target_shapes(target, n_bins, n_channels).items()
    }


def older(state: State, n_fft: int, sample_rate: int | float) -> State:
    """The same as versions before 1.1 wrote it: the transform's window, twice as one, and the sample rate."""
    window = torch.hann_window(n_fft)
    return {**state, "sample_rate": torch.tensor(sample_rate), "stft.window": window, "transform.0.window": window}


def write(folder: Path, **states: State) -> dict[str, Path]:
    files = {}
    for stem, state in states.items():
        files[stem] = folder / f"{stem}.pth"
        torch.save(state, files[stem])
    return files


def assert_same_bits(found: np.ndarray[Any, Any], expected: torch.Tensor) -> None:
    reference = expected.numpy()
    assert (found.dtype, found.shape) == (reference.dtype, reference.shape)
    assert found.tobytes() == reference.tobytes()


def test_stereo_at_44100_hz(tmp_path: Path) -> None:
    targets = (TargetConfig(hidden_size=6, max_bin=20, n_layers=2), SMALL)
    states = {stem: random_state(target, seed=i) for i, (stem, target) in enumerate(zip("ba", targets, strict=True))}
    converted = read_openunmix(write(tmp_path, **states))
    assert converted.family == "openunmix"
    assert converted.config == OpenUnmixConfig(("b", "a"), targets)
    assert list(converted.tensors) == list(parameter_shapes(converted.config))
    for stem, state in states.items():
        for name, tensor in state.items():
            assert_same_bits(converted.tensors[f"{stem}.{name}"], tensor)
    assert converted.notices == ("assumed as in the published models of these sizes: 44100 Hz, hop 1024",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("rate", [16000, 16000.0])
def test_mono_at_16000_hz_as_an_older_version_wrote_it(tmp_path: Path, zipped: bool, rate: float) -> None:
    target = TargetConfig(hidden_size=8, max_bin=513, n_layers=1)
    files = {}
    for seed, stem in enumerate(("speech", "noise")):
        files[stem] = tmp_path / f"{stem}.pth"
        state = older(random_state(target, 513, 1, seed), 1024, rate)
        torch.save(state, files[stem], _use_new_zipfile_serialization=zipped)
    converted = read_openunmix(files)
    assert converted.config == OpenUnmixConfig(
        ("speech", "noise"), (target, target), sample_rate=16000, n_fft=1024, hop=512, n_channels=1
    )
    assert list(converted.tensors) == list(parameter_shapes(converted.config))
    assert_same_bits(converted.tensors["noise.fc3.weight"], random_state(target, 513, 1, 1)["fc3.weight"])
    assert converted.notices == (
        "assumed as in the published models of these sizes: hop 512",
        "left out, since no part of the networks: sample_rate, stft.window, transform.0.window",
    )


def test_half_precision_stays(tmp_path: Path) -> None:
    state = {name: tensor.half() if tensor.ndim else tensor for name, tensor in random_state().items()}
    converted = read_openunmix(write(tmp_path, a=state))
    for name, tensor in state.items():
        assert_same_bits(converted.tensors[f"a.{name}"], tensor)


def test_a_single_stem_is_not_refined(tmp_path: Path) -> None:
    assert read_openunmix(write(tmp_path, vocals=random_state())).config.n_iterations == 0


def test_one_direction(tmp_path: Path) -> None:
    target = TargetConfig(hidden_size=5, max_bin=20, n_layers=2, unidirectional=True)
    assert read_openunmix(write(tmp_path, a=random_state(target))).config.targets == (target,)


def write_separator(folder: Path, **changes: Any) -> None:
    content = {"nfft": 64, "nhop": 24, "sample_rate": 48000.0, "nb_channels": 1, **changes}
    (folder / "separator.json").write_text(json.dumps(content))


def test_the_trainings_own_description_gives_rate_and_hop(tmp_path: Path) -> None:
    files = write(tmp_path, a=random_state(n_bins=33, n_channels=1), b=random_state(n_bins=33, n_channels=1))
    with pytest.raises(ModelError, match=r"a\.pth.*33 bins and 1 channel.*separator\.json"):
        read_openunmix(files)
    write_separator(tmp_path)
    converted = read_openunmix(files)
    assert (converted.config.sample_rate, converted.config.hop, converted.config.n_fft) == (48000, 24, 64)
    assert converted.notices == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nfft": 128}, r"separator\.json': nfft must be 64"),
        ({"nb_channels": 2}, r"separator\.json': nb_channels must be 1"),
        ({"nhop": 0}, r"separator\.json': nhop must be a positive whole number, got 0"),
        ({"nhop": 33}, "hop must be at most n_fft / 2 = 32, got 33"),
        ({"sample_rate": 1e400}, r"separator\.json': sample_rate must be .* got inf"),
        ({"sample_rate": float("nan")}, r"separator\.json': sample_rate must be"),
        ({"sample_rate": 0.5}, r"separator\.json': sample_rate must be"),
        ({"sample_rate": "48000"}, r"separator\.json': sample_rate must be"),
        ({"sample_rate": 44100}, r"a\.pth': it is for 48000 Hz, but .*separator\.json' for 44100"),
    ],
)
def test_a_description_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_separator(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        read_openunmix(write(tmp_path, a=older(random_state(n_bins=33, n_channels=1), 64, 48000)))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 60000])
def test_a_description_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "separator.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"separator\.json"):
        read_openunmix(write(tmp_path, a=random_state()))


def put(**tensors: Any) -> Callable[[State], State]:
    return lambda state: {**state, **tensors}


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(extra=torch.zeros(1)), "'extra'"),
        (put(**{"stft.windows": torch.zeros(4096)}), r"'stft\.windows'"),
        (put(**{"target_models.a.fc1.weight": torch.zeros(1)}), r"'target_models\.a\.fc1\.weight'"),
        (without("fc1.weight"), r"'fc1\.weight' is missing"),
        (without("output_mean"), "'output_mean' is missing"),
        (without("bn3.num_batches_tracked"), r"'bn3\.num_batches_tracked' is missing"),
        (without("lstm.bias_hh_l2_reverse"), r"'lstm\.bias_hh_l2_reverse' is missing"),
        (without("lstm.weight_ih_l1"), r"'lstm\.weight_ih_l1' is missing"),
        (without("lstm.weight_ih_l0_reverse"), r"lstm\.weight_ih_l0.*must have shape"),
        (put(**{"fc2.weight": torch.zeros(4, 4)}), r"'fc2\.weight' must have shape \(4, 8\)"),
        (put(**{"fc1.weight": torch.zeros(4, 41)}), r"'fc1\.weight' must have shape \(4, 40\)"),
        (put(**{"fc1.weight": torch.zeros(4)}), r"'fc1\.weight' must have 2 axes"),
        (put(**{"fc1.weight": torch.zeros(3, 40)}), "hidden_size must be even, got 3"),
        (put(input_mean=torch.zeros(0)), "max_bin must be from 1 to"),
        (put(input_mean=torch.zeros(2050), input_scale=torch.zeros(2050)), "max_bin|fc1"),
        (put(**{"bn1.bias": torch.zeros(4, dtype=torch.int64)}), r"'bn1\.bias' must be of floating point, got int64"),
        (put(note="text"), "'note' is no tensor"),
        (put(**{"stft.window": torch.hann_window(2048)}), r"'stft\.window' must be a Hann window of 4096"),
        (put(**{"transform.0.window": torch.hamming_window(4096)}), r"'transform\.0\.window' must be a Hann window"),
        (put(sample_rate=torch.zeros(2)), "'sample_rate' must be a whole number"),
        (put(sample_rate=torch.tensor(0.5)), "'sample_rate' must be a whole number"),
        (put(sample_rate=torch.tensor(0)), "sample_rate must be from 1 to"),
        (lambda state: {"epoch": 3, "state_dict": state}, "'epoch' is no tensor"),
        (lambda state: {}, "no tensors by name"),
        (lambda state: list(state.values()), "no tensors by name"),
        (lambda state: torch.zeros(3), "no tensors by name"),
    ],
)
def test_other_content_is_an_error_that_names_it(tmp_path: Path, change: Callable[[State], Any], message: str) -> None:
    path = tmp_path / "vocals.pth"
    torch.save(change(random_state()), path)
    with pytest.raises(ModelError, match=message) as raised:
        read_openunmix({"vocals": path})
    assert "vocals.pth" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_of_different_models_are_an_error(tmp_path: Path) -> None:
    files = write(tmp_path, a=random_state(), b=random_state(n_bins=1025))
    with pytest.raises(ModelError, match=r"b\.pth': it has 1025 bins and 2 channel.*a\.pth' has 2049"):
        read_openunmix(files)
    files = write(tmp_path, a=older(random_state(), 4096, 44100), b=older(random_state(), 4096, 48000))
    with pytest.raises(ModelError, match=r"b\.pth': it is for 48000 Hz, but .*a\.pth' for 44100"):
        read_openunmix(files)


def test_no_file_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"one \.pth file for each stem"):
        read_openunmix({})


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("vocals-b62c91ce.pth", "vocals"),
        ("umx_vocals.pth", "vocals"),
        ("speech_f5e0d9f9.pth", "speech"),
        ("umxhq-other.pth", "other"),
        ("other.pth", "other"),
        ("lead_vocals.pth", "lead_vocals"),
        ("umxl-lead_vocals-0123456789abcdef.pth", "lead_vocals"),
        ("umx.pth", "umx"),
        ("b62c91ce.pth", "b62c91ce"),
    ],
)
def test_targets_by_name(name: str, target: str) -> None:
    assert target_of(Path("drums") / name) == target


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference files in '{GOLDEN}'")
def test_files_that_open_unmix_wrote() -> None:
    paths = [GOLDEN / f"umx_{stem}.pth" for stem in STEMS]
    converted = read_openunmix({target_of(path): path for path in paths})
    about = json.loads((GOLDEN / "umx.json").read_text())
    assert converted.config == OpenUnmixConfig(
        tuple(about["targets"]), (TargetConfig(about["hidden_size"], about["max_bin"]),) * 4
    )
    count = 0
    for stem, path in zip(STEMS, paths, strict=True):
        for name, tensor in torch.load(path, weights_only=True).items():
            assert_same_bits(converted.tensors[f"{stem}.{name}"], tensor)
            count += 1
    assert count == len(converted.tensors)
    assert list(converted.tensors) == list(parameter_shapes(converted.config))
