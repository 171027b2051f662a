from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle_writer import Bundle, Entry, crc32c_masked, nested, numeric, write_bundle
from spleeter_checkpoint import FILTERS, spleeter_tensors
from unbraid.errors import ModelError
from unbraid.weights.convert.crc32c import crc32c, masked
from unbraid.weights.convert.tensorflow import latest_checkpoint, read_checkpoint, spleeter_state

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[4] / "shared"))
CHECKPOINTS = SHARED / "golden" / "spleeter" / "checkpoints"
STEMS = {
    "2stems": ("vocals", "accompaniment"),
    "4stems": ("vocals", "drums", "bass", "other"),
    "5stems": ("vocals", "piano", "drums", "bass", "other"),
}

Tensors = dict[str, np.ndarray[Any, Any]]


def small_tensors() -> Tensors:
    rng = np.random.default_rng(0)
    return {
        "layer/kernel": rng.standard_normal((2, 3, 2)).astype(np.float32),
        "layer/bias": rng.standard_normal(3).astype(np.float32),
        "layer_1/bias": np.array([1.5, -2], np.float16),
        "global_step": np.array(123456789012, np.int64),
        "counts": np.arange(5, dtype=np.int32),
        "empty": np.zeros((0, 4), np.float64),
    }


def test_reads_what_was_written(tmp_path: Path) -> None:
    tensors = small_tensors()
    read = read_checkpoint(write_bundle(tmp_path / "model.ckpt-12", tensors))
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


def test_reads_several_shards(tmp_path: Path) -> None:
    tensors = small_tensors()
    read = read_checkpoint(write_bundle(tmp_path / "model", tensors, n_shards=3))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


def test_tensors_are_maps_of_the_file_that_cannot_be_written_to(tmp_path: Path) -> None:
    # 16 MB, of which no copy is made to check them.
    tensors = {f"layer_{i}": np.full((1024, 1024), i, np.float32) for i in range(4)}
    prefix = write_bundle(tmp_path / "model", tensors, checksum=lambda raw: masked(crc32c(raw)))
    read_checkpoint(prefix)  # makes tables that stay
    tracemalloc.start()
    try:
        read = read_checkpoint(prefix)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after < 100_000
    assert peak < 10_000_000
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)
        with pytest.raises(ValueError, match="read-only"):
            read[name][0] = 0


def test_misaligned_tensors_are_read_too(tmp_path: Path) -> None:
    tensors = {"a": np.array([1, 2, 3], np.uint8), "b": np.array([1.5, -2.5], np.float64), "c": np.array([True])}
    read = read_checkpoint(write_bundle(tmp_path / "model", tensors))
    for name, tensor in tensors.items():
        assert read[name].flags.aligned
        assert not read[name].flags.writeable
        np.testing.assert_array_equal(read[name], tensor)


def test_every_damaged_byte_of_the_index_is_an_error(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "model", {"a": np.arange(3, dtype=np.float32), "b/c": np.zeros(2, np.int64)})
    path = tmp_path / "model.index"
    index = path.read_bytes()
    for at in range(len(index)):
        path.write_bytes(index[:at] + bytes([index[at] ^ 1 << at % 8]) + index[at + 1 :])
        with pytest.raises(ModelError, match=r"model\.index"):
            read_checkpoint(prefix)


def test_every_damaged_byte_of_the_data_is_an_error_that_names_the_tensor(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "model", {"a": np.arange(3, dtype=np.float32), "b/c": np.zeros(2, np.int64)})
    path = tmp_path / "model.data-00000-of-00001"
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(ModelError, match=f"tensor '{'a' if at < 12 else 'b/c'}' does not match its checksum"):
            read_checkpoint(prefix)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_every_truncation_is_an_error(tmp_path: Path, suffix: str) -> None:
    prefix = write_bundle(tmp_path / "model", {"a": np.arange(3, dtype=np.float32), "b/c": np.zeros(2, np.int64)})
    path = tmp_path / f"model{suffix}"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="fetch the checkpoint again"):
            read_checkpoint(prefix)


def entry(bundle: Bundle) -> Entry:
    return bundle.entries[b"layer/kernel"]


def change(**values: Any) -> Callable[[Bundle], None]:
    def forge(bundle: Bundle) -> None:
        for name, value in values.items():
            setattr(entry(bundle), name, value)

    return forge


def change_bundle(**values: Any) -> Callable[[Bundle], None]:
    def forge(bundle: Bundle) -> None:
        for name, value in values.items():
            setattr(bundle, name, value)

    return forge


def overlap(bundle: Bundle) -> None:
    entry(bundle).offset -= 4
    raw = bundle.shards[0][entry(bundle).offset :][: entry(bundle).size]
    entry(bundle).crc = crc32c_masked(raw)


def bad_name(bundle: Bundle) -> None:
    bundle.entries[b"\xff\xfe"] = bundle.entries.pop(b"layer/kernel")


def unsorted(bundle: Bundle) -> None:
    bundle.entries = dict(reversed(bundle.entries.items()))
    bundle.sort = False


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (change(shape=(2, 3, 3)), "'layer/kernel' of shape"),
        (change(shape=(1 << 30, 1 << 30, 1 << 30), size=1 << 92), "a number in it has no end|bytes"),
        (change(shape=(1 << 38,), size=1 << 40), "ends at byte .* but the file has"),
        (change(shape=(1 << 62, 0), size=0), "cannot have 0 bytes"),
        (change(shape=((1 << 64) - 1,), size=((1 << 64) - 1) * 4 % (1 << 64)), "cannot have"),
        (change(shape=(1,) * 40 + (12,)), "no definite shape"),
        (change(shape=(1 << 40, 0, 1 << 40), size=0, crc=crc32c_masked(b"")), "impossible shape"),
        (change(dtype=7), "not numeric"),
        (change(dtype=0), "not numeric"),
        (change(dtype=2), "cannot have 48 bytes"),
        (change(offset=1 << 50), "ends at byte"),
        (change(offset=0), "does not match its checksum|overlap"),
        (overlap, "overlap"),
        (change(crc=1), "does not match its checksum"),
        (change(shard=1), "data file 1 of 1"),
        (change(extra=nested(7, b"")), "slices"),
        (change(extra=b"\x0b"), "message in it is damaged"),
        (change(extra=nested(2, b"") + nested(2, b"")), "no definite shape"),
        (change(extra=b"\x12\x7f"), "message in it is damaged"),
        (change(extra=nested(4, b"xy")), "is no number"),
        (bad_name, "no name of a tensor"),
        (unsorted, "not in order"),
        (change_bundle(header=b""), "no header"),
        (change_bundle(header=numeric(1, 0)), "0 data files"),
        (change_bundle(header=numeric(1, 10**9)), "1000000000 data files"),
        (change_bundle(header=numeric(1, 1) + numeric(2, 1)), "big-endian"),
        (change_bundle(block_kind=1), "compressed"),
        (change_bundle(padding=b"\0" * 7), "do not join"),
        (change_bundle(header=numeric(1, 2)), "No such file"),
    ],
)
def test_forged_but_consistent_files_are_errors(tmp_path: Path, forge: Callable[[Bundle], None], message: str) -> None:
    prefix = write_bundle(tmp_path / "model", small_tensors(), forge=forge)
    with pytest.raises(ModelError, match=message):
        read_checkpoint(prefix)


def test_swapped_shards_are_an_error(tmp_path: Path) -> None:
    tensors = {name: np.full(4, i, np.float32) for i, name in enumerate("ab")}
    prefix = write_bundle(tmp_path / "model", tensors, n_shards=2)
    first, second = (tmp_path / f"model.data-0000{i}-of-00002" for i in (0, 1))
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    with pytest.raises(ModelError, match="tensor 'a' does not match its checksum"):
        read_checkpoint(prefix)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "model", small_tensors(), n_shards=2)
    (tmp_path / "model.data-00001-of-00002").unlink()
    with pytest.raises(ModelError, match=r"model\.data-00001-of-00002"):
        read_checkpoint(prefix)


@pytest.mark.parametrize("content", [b"", b"x" * 47, b"x" * 5000, bytes(40) + struct.pack("<Q", 0xDB4775248B80FB57)])
def test_other_files_are_no_index(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.index").write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot read checkpoint index"):
        read_checkpoint(tmp_path / "model")


def test_an_absent_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.index"):
        read_checkpoint(tmp_path / "model")
    (tmp_path / "model.index").mkdir()
    with pytest.raises(ModelError, match=r"model\.index"):
        read_checkpoint(tmp_path / "model")


def test_latest_checkpoint_is_the_one_named(tmp_path: Path) -> None:
    for name in ("model-1", "model-2"):
        write_bundle(tmp_path / name, small_tensors())
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "model-1"\nall_model_checkpoint_paths: "model-1"\n'
        'all_model_checkpoint_paths: "model-2"\n'
    )
    assert latest_checkpoint(tmp_path) == tmp_path / "model-1"


def test_latest_checkpoint_is_the_only_one_where_none_is_named(tmp_path: Path) -> None:
    write_bundle(tmp_path / "model.ckpt-77", small_tensors())
    assert latest_checkpoint(tmp_path) == tmp_path / "model.ckpt-77"
    write_bundle(tmp_path / "model.ckpt-78", small_tensors())
    with pytest.raises(ModelError, match="several checkpoints"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"model_checkpoint_path: \n",
        b'model_checkpoint_path: ""',
        b'model_checkpoint_path: ".."',
        b'model_checkpoint_path: "sub/.."',
        b'model_checkpoint_path: "C:model"',
        b'model_checkpoint_path: "absent"',
        b'all_model_checkpoint_paths: "model"',
        b"\xff\xfe\x00",
    ],
)
def test_a_checkpoint_file_that_names_nothing_is_an_error(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_bundle(folder / "model", small_tensors())
    write_bundle(tmp_path / "model", small_tensors())
    (folder / "checkpoint").write_bytes(content)
    with pytest.raises(ModelError, match="folder"):
        latest_checkpoint(folder)


@pytest.mark.parametrize("path", ["/home/me/run/model", "../model", "sub/model", "C:\\\\run\\\\model"])
def test_a_checkpoint_with_a_path_is_the_one_beside_it(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_bundle(tmp_path / "model", small_tensors())
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{path}"')
    with pytest.raises(ModelError, match=r"'model\.index' is missing"):
        latest_checkpoint(folder)
    write_bundle(folder / "model", small_tensors())
    assert latest_checkpoint(folder) == folder / "model"


def test_an_empty_or_absent_folder_has_no_checkpoint(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError, match="no checkpoint"):
            latest_checkpoint(folder)


@pytest.mark.parametrize("n_channels", [1, 2])
def test_spleeter_state_puts_every_tensor_in_its_place(n_channels: int) -> None:
    tensors = spleeter_tensors(3, n_channels=n_channels)
    state = spleeter_state(tensors, ("a", "b", "c"))
    # One tensor each way, by hand: names, axes.
    assert state["stems.0.encoder.0.conv.weight"].shape == (2, n_channels, 5, 5)
    kernel = tensors["conv2d_9/kernel"]
    np.testing.assert_array_equal(state["stems.1.encoder.2.conv.weight"][3, 1, 4, 2], kernel[4, 2, 1, 3])
    kernel = tensors["conv2d_transpose_13/kernel"]
    np.testing.assert_array_equal(state["stems.2.decoder.1.conv.weight"][11, 4, 0, 3], kernel[0, 3, 4, 11])
    np.testing.assert_array_equal(state["stems.0.decoder.0.conv.bias"], tensors["conv2d_transpose/bias"])
    np.testing.assert_array_equal(state["stems.1.mask.bias"], tensors["conv2d_13/bias"])
    np.testing.assert_array_equal(state["stems.1.encoder.4.norm.weight"], tensors["batch_normalization_16/gamma"])
    np.testing.assert_array_equal(state["stems.0.encoder.0.norm.bias"], tensors["batch_normalization/beta"])
    np.testing.assert_array_equal(
        state["stems.2.decoder.5.norm.running_var"], tensors["batch_normalization_35/moving_variance"]
    )
    np.testing.assert_array_equal(
        state["stems.2.decoder.0.norm.running_mean"], tensors["batch_normalization_30/moving_mean"]
    )
    # And none is lost or used twice: the sums agree, but for the dead normalisations and the step.
    assert sum(v.size for v in state.values()) == sum(v.size for v in tensors.values()) - 1 - 12 * FILTERS[-1]
    assert len({float(v.flat[0]) for v in state.values()}) == len(state) == 3 * 70


def test_spleeter_state_makes_no_copies() -> None:
    tensors = spleeter_tensors(2)
    before = {name: tensor.copy() for name, tensor in tensors.items()}
    for value in spleeter_state(tensors, ("a", "b")).values():
        assert any(np.shares_memory(value, tensor) for tensor in tensors.values())
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, before[name])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_spleeter_state_finds_one_wrong_number_anywhere(wrong: float) -> None:
    tensors = spleeter_tensors(2)
    kernel = tensors["conv2d_transpose_7/kernel"]
    for at in np.random.default_rng(0).integers(0, kernel.size, 20):
        right, kernel.flat[at] = kernel.flat[at], wrong
        with pytest.raises(ModelError, match="'conv2d_transpose_7/kernel' of stem 'b' holds NaN or infinity"):
            spleeter_state(tensors, ("a", "b"))
        kernel.flat[at] = right
    spleeter_state(tensors, ("a", "b"))


def test_spleeter_state_fits_the_module() -> None:
    torch = pytest.importorskip("torch")
    network = pytest.importorskip("unbraid.models.spleeter.network")
    config = pytest.importorskip("unbraid.models.spleeter.config")
    module = network.make_module(config.SpleeterConfig(stems=("a", "b"), conv_n_filters=FILTERS))
    state = spleeter_state(spleeter_tensors(2), ("a", "b"))
    expected = {name: tuple(v.shape) for name, v in module.state_dict().items() if "num_batches" not in name}
    assert {name: v.shape for name, v in state.items()} == expected
    assert all(torch.from_numpy(v).dtype == torch.float32 for v in state.values())


def test_spleeter_state_ignores_what_training_leaves_beside_the_weights() -> None:
    tensors = spleeter_tensors(2)
    expected = spleeter_state(tensors, ("a", "b"))
    for name in ("conv2d_3/kernel/Adam", "conv2d_3/kernel/Adam_1", "beta1_power", "beta2_power"):
        tensors[name] = np.zeros(1, np.float32)
    for name in [name for name in tensors if name.startswith("batch_normalization_5/")]:
        del tensors[name]
    assert spleeter_state(tensors, ("a", "b")).keys() == expected.keys()


def without(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


def put(name: str, tensor: np.ndarray[Any, Any]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(name, tensor)


@pytest.mark.parametrize(
    ("forge", "stems", "message"),
    [
        (without("conv2d/kernel"), 2, "'conv2d/kernel' of stem 's0' is missing"),
        (without("conv2d_8/bias"), 2, "'conv2d_8/bias' of stem 's1' is missing"),
        (without("batch_normalization_23/gamma"), 2, "'batch_normalization_23/gamma' of stem 's1'"),
        (put("conv2d_99/kernel", np.zeros((5, 5, 2, 2), np.float32)), 2, "'conv2d_99/kernel' belongs to none"),
        (put("dense/kernel", np.zeros(3, np.float32)), 2, "'dense/kernel' belongs to none"),
        (put("conv2d_8/bias", np.zeros(2, np.float32)), 2, "'conv2d_8/bias' .* expected float32 of shape"),
        (put("conv2d_3/kernel", np.zeros(4, np.float32)), 2, "'conv2d_3/kernel' has shape"),
        (put("conv2d_8/bias", np.zeros(3, np.float64)), 2, "'conv2d_8/bias' of stem 's1' is float64"),
        (put("conv2d_8/bias", np.full(3, np.nan, np.float32)), 2, "'conv2d_8/bias' of stem 's1' holds NaN"),
        (lambda tensors: None, 1, "belongs to none of the stems s0"),
        (lambda tensors: None, 3, "of stem 's2' is missing"),
    ],
)
def test_spleeter_state_refuses(forge: Callable[[Tensors], None], stems: int, message: str) -> None:
    tensors = spleeter_tensors(2)
    forge(tensors)
    with pytest.raises(ModelError, match=message):
        spleeter_state(tensors, [f"s{k}" for k in range(stems)])


@pytest.mark.parametrize("name", STEMS)
def test_checkpoints_that_tensorflow_wrote(name: str) -> None:
    if not CHECKPOINTS.is_dir():
        pytest.skip(f"the golden checkpoints are not at {CHECKPOINTS}")
    stems = STEMS[name]
    tensors = read_checkpoint(latest_checkpoint(CHECKPOINTS / name))
    state = spleeter_state(tensors, stems)
    assert len(state) == 70 * len(stems)
    assert state[f"stems.{len(stems) - 1}.encoder.5.conv.weight"].shape == (24, 16, 5, 5)
    # Drawn by the golden kit: variances and scales from 0.7 to 1.3, the means small.
    for key, value in state.items():
        if key.endswith(("running_var", "norm.weight")):
            assert 0.7 <= value.min() <= value.max() <= 1.3
        if key.endswith("running_mean"):
            assert np.abs(value).max() < 0.3
