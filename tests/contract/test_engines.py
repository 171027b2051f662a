"""One body of tests for every engine: whatever runs a network must do so alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from processor import has_bf16
from unbraid.engines import select
from unbraid.engines.select import ENGINES, available_engines, load_engine
from unbraid.errors import EngineError, UsageError
from unbraid.models.spleeter.config import SharedUNetConfig, SpleeterConfig
from unbraid.models.spleeter.graph import network, parameter_shapes

CONFIGS = {
    "unet.unet": SpleeterConfig(("a", "b"), n_frames=64, n_bins=128, conv_n_filters=(4, 8, 8, 16, 16, 24)),
    "unet.softmax_unet": SpleeterConfig(
        ("a", "b"),
        n_frames=128,
        n_bins=64,
        conv_n_filters=(4, 8, 8, 16, 16, 24),
        network="unet.softmax_unet",
        conv_activation="ELU",
        deconv_activation="ELU",
    ),
    "unet.shared_unet": SpleeterConfig(
        ("a", "b"),
        n_frames=64,
        n_bins=128,
        network="unet.shared_unet",
        shared_unet=SharedUNetConfig(n_stems=2, n_bins=128, widths=(8, 16), fold_bins=2),
    ),
}
# Rounding through a dozen layers, as ‖ours − theirs‖ / ‖theirs‖: some 10 times the precision's own step.
TOLERANCE = {"f32": 1e-6, "bf16": 3e-2, "f16": 4e-3}
RUNS = [(name, precision) for name in ENGINES for precision in select._PRECISIONS[name]]


def make_network(kind="unet.unet", seed=0):
    rng = np.random.default_rng(seed)
    config = CONFIGS[kind]
    state = {}
    for name, shape in parameter_shapes(config).items():
        if name.endswith(("norm.weight", "running_var")):
            state[name] = rng.uniform(0.7, 1.3, shape).astype(np.float32)
        elif len(shape) < 4:
            state[name] = rng.normal(0, 0.1, shape).astype(np.float32)
        else:
            state[name] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
    return network(config, lambda: state, f"{kind} {seed}")


def magnitudes(net, seed=1):
    return np.random.default_rng(seed).gamma(0.5, 4.0, net.input_shapes[0]).astype(np.float32)


def reference(net, x):
    """By the torch module, in double precision."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with torch.inference_mode():
        return net.module().double()(torch.from_numpy(x).double()).numpy()


def load_or_skip(net, engine, precision="f32", **options):
    info = {entry.name: entry for entry in available_engines()}[engine]
    if info.problem is not None:
        pytest.skip(info.problem)
    try:
        return load_engine(net, engine=engine, precision=precision, n_threads=2, **options)
    except EngineError as error:
        if precision == "f32":
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(("engine", "precision"), RUNS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_numbers(kind, engine, precision):
    net = make_network(kind)
    x = magnitudes(net)
    before = x.copy()
    loaded = load_or_skip(net, engine, precision)
    assert (loaded.name, loaded.precision) == (engine, precision)
    (got,) = loaded.run((x,))
    expected = reference(net, x)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert np.linalg.norm(got - expected) <= TOLERANCE[precision] * np.linalg.norm(expected)
    np.testing.assert_array_equal(x, before)
    assert precision in loaded.describe()
    loaded.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, when it imports its compiler
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_compiled_by_torch(precision):
    if shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    net = make_network()
    loaded = load_or_skip(net, "torch", precision, compiled=True)
    for x in (magnitudes(net), magnitudes(net, 2)):
        expected = reference(net, x)
        assert np.linalg.norm(loaded.run((x,))[0] - expected) <= TOLERANCE[precision] * np.linalg.norm(expected)
    assert "compiled" in loaded.describe()
    loaded.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_networks_that_share_the_threads_compute_alike(engine):
    net = make_network()
    alone, beside = load_or_skip(net, engine), load_or_skip(net, engine, n_networks=2)
    for seed in range(3):
        expected, found = alone.run((magnitudes(net, seed),))[0], beside.run((magnitudes(net, seed),))[0]
        assert np.linalg.norm(found - expected) <= TOLERANCE["f32"] * np.linalg.norm(expected)
    assert beside.n_threads == 1
    alone.close()
    beside.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_get_each_its_own_result(engine):
    net = make_network()
    loaded = load_or_skip(net, engine)
    inputs = [magnitudes(net, seed) for seed in range(8)]
    alone = [loaded.run((x,))[0].copy() for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: loaded.run((x,))[0], inputs * 3))
    for got, expected in zip(together, alone * 3, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert loaded.n_streams >= 1
    loaded.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_results_belong_to_the_caller(engine):
    net = make_network()
    loaded = load_or_skip(net, engine)
    (first,) = loaded.run((magnitudes(net, 1),))
    kept = first.copy()
    loaded.run((magnitudes(net, 2),))
    loaded.close()
    np.testing.assert_array_equal(first, kept)
    first += 1


@pytest.mark.parametrize("engine", ENGINES)
def test_read_only_and_strided_inputs_are_taken(engine):
    net = make_network()
    loaded = load_or_skip(net, engine)
    x = magnitudes(net)
    (expected,) = loaded.run((x,))
    frozen = x.copy()
    frozen.flags.writeable = False
    strided = np.asfortranarray(x)
    for array in (frozen, strided):
        np.testing.assert_array_equal(loaded.run((array,))[0], expected)
    loaded.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_wrong_shape_is_an_error_of_ours(engine):
    loaded = load_or_skip(make_network(), engine)
    with pytest.raises(EngineError, match="run the network"):
        loaded.run((np.zeros((1, 3, 64, 128), np.float32),))
    loaded.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_closed_engine_says_so(engine):
    net = make_network()
    loaded = load_or_skip(net, engine)
    loaded.close()
    loaded.close()
    with pytest.raises(EngineError, match="closed"):
        loaded.run((magnitudes(net),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tensorflow"}, "unknown engine 'tensorflow'; it is one of auto, openvino, onnxruntime, torch"),
        ({"device": "tpu"}, "unknown device 'tpu'; it is one of auto, cpu, cuda, mps"),
        ({"precision": "int8"}, "unknown precision 'int8'; it is one of auto, f32, bf16, f16"),
        ({"engine": "openvino", "device": "cuda"}, "'openvino' runs on cpu, not on cuda"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "'onnxruntime' computes in f32, not in bf16"),
        ({"n_threads": 0}, "threads must be at least 1, got 0"),
        ({"compiled": True}, "compile is an option of the engine 'torch', not of 'openvino'"),
    ],
)
def test_impossible_choices(options, message):
    with pytest.raises(UsageError, match=message):
        load_engine(make_network(), **options)


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_an_engine_that_is_not_installed_names_its_cure(monkeypatch, engine):
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=rf"pip install 'unbraid\[{engine}\]'"):
        load_engine(make_network(), engine=engine)
    assert all(info.version is None and "pip install" in info.problem for info in available_engines())


def test_auto_takes_the_first_installed(monkeypatch):
    installed = {"onnxruntime", "torch"}
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: name if name in installed else None)
    assert select._choose("auto") == "onnxruntime"
    assert select._choose("cuda") == "torch"
    installed.remove("torch")
    with pytest.raises(EngineError, match="no engine for the device 'mps' is installed: pip install"):
        select._choose("mps")


def test_available_engines_name_their_versions():
    import openvino

    found = {info.name: info for info in available_engines()}
    assert tuple(found) == ENGINES
    assert openvino.__version__.startswith(found["openvino"].version)
    assert found["openvino"].devices == ("cpu",)


def test_auto_precision_follows_cpu_and_card():
    allowed = load_engine(replace(make_network(), allows_bf16=True), engine="openvino")
    refused = load_engine(make_network(), engine="openvino")
    assert (allowed.precision, refused.precision) == ("bf16" if has_bf16() else "f32", "f32")


def cached(net, folder, n_threads=1):
    loaded = load_engine(net, engine="openvino", precision="f32", n_threads=n_threads, cache_dir=folder)
    (got,) = loaded.run((magnitudes(net),))
    loaded.close()
    return got


def unreadable():
    raise AssertionError("the weights were read although the network is in the cache")


def test_a_cached_network_needs_neither_graph_nor_weights(tmp_path):
    net = make_network()
    first = cached(net, tmp_path / "cache")
    (blob,) = (tmp_path / "cache").iterdir()
    assert blob.name.startswith("openvino-")
    hit = replace(net, graph=unreadable, weights=unreadable)
    np.testing.assert_array_equal(cached(hit, tmp_path / "cache"), first)
    # The number of threads decides nothing in the file.
    np.testing.assert_array_equal(cached(hit, tmp_path / "cache", n_threads=2), first)


def test_another_network_has_another_entry(tmp_path):
    first, second = (cached(make_network(seed=seed), tmp_path) for seed in (0, 1))
    assert len(list(tmp_path.iterdir())) == 2
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "other"])
def test_a_damaged_entry_is_made_anew(tmp_path, damage):
    net = make_network()
    expected = cached(net, tmp_path)
    (blob,) = tmp_path.iterdir()
    sound = blob.read_bytes()
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 1
    if damage == "other":  # a sound entry under a name that is not its own
        cached(make_network(seed=1), tmp_path)
        (other,) = (path for path in tmp_path.iterdir() if path != blob)
        bad = other.read_bytes()
    else:
        bad = {"empty": b"", "cut": sound[: len(sound) // 2], "flipped": bytes(flipped), "foreign": b"x" * 10000}[
            damage
        ]
    blob.write_bytes(bad)
    np.testing.assert_array_equal(cached(net, tmp_path), expected)
    np.testing.assert_array_equal(cached(replace(net, graph=unreadable, weights=unreadable), tmp_path), expected)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    net = make_network()
    np.testing.assert_array_equal(cached(net, tmp_path / "file" / "cache"), cached(net, tmp_path))


def test_the_cache_forgets_the_oldest(tmp_path):
    for i in range(12):
        path = tmp_path / f"openvino-{i:040x}.blob"
        path.write_bytes(b"old")
        os.utime(path, (i + 1, i + 1))
    left = tmp_path / "killed-openvino.tmp"
    left.mkdir()
    os.utime(left, (1, 1))
    busy = tmp_path / "busy-openvino.tmp"
    busy.mkdir()
    cached(make_network(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert busy.name in names
    assert left.name not in names
    assert {f"openvino-{i:040x}.blob" for i in range(5, 12)} <= names
    assert len(names) == 7 + 1 + 1


RACER = """
import pathlib, runpy, sys, numpy
sys.path.append(str(pathlib.Path(sys.argv[1]).parents[1]))  # where what this file imports is, as pytest knows
tests = runpy.run_path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
numpy.save(sys.argv[3], tests["cached"](tests["make_network"](), pathlib.Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_two_processes_may_fill_the_cache_at_once(tmp_path):
    cache, results = tmp_path / "cache", [tmp_path / f"{i}.npy" for i in range(2)]
    command = [sys.executable, "-c", RACER, __file__, str(cache)]
    racers = [
        subprocess.Popen([*command, str(result)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for result in results
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=300)
        assert racer.returncode == 0
    np.testing.assert_array_equal(*(np.load(result) for result in results))
    assert [path.suffix for path in cache.iterdir()] == [".blob"]
