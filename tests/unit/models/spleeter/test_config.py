from __future__ import annotations

import json
from dataclasses import replace

import pytest

from unbraid.errors import ModelError
from unbraid.models.spleeter.config import SharedUNetConfig, SpleeterConfig

MINIMAL = {"instrument_list": ["vocals", "accompaniment"]}
OFFICIAL_4STEMS = {
    "train_csv": "path/to/train.csv",
    "validation_csv": "path/to/test.csv",
    "model_dir": "4stems",
    "mix_name": "mix",
    "instrument_list": ["vocals", "drums", "bass", "other"],
    "sample_rate": 44100,
    "frame_length": 4096,
    "frame_step": 1024,
    "T": 512,
    "F": 1024,
    "n_channels": 2,
    "separation_exponent": 2,
    "mask_extension": "zeros",
    "learning_rate": 1e-4,
    "batch_size": 4,
    "train_max_steps": 1500000,
    "throttle_secs": 600,
    "random_seed": 3,
    "save_checkpoints_steps": 300,
    "save_summary_steps": 5,
    "model": {"type": "unet.unet", "params": {"conv_activation": "ELU", "deconv_activation": "ELU"}},
}


def test_official_json_becomes_our_names():
    config = SpleeterConfig.from_json(OFFICIAL_4STEMS)
    assert config.stems == ("vocals", "drums", "bass", "other")
    assert (config.n_fft, config.hop, config.n_frames, config.n_bins) == (4096, 1024, 512, 1024)
    assert (config.conv_activation, config.deconv_activation) == ("ELU", "ELU")
    assert config.conv_n_filters == (16, 32, 64, 128, 256, 512)
    assert config.training["random_seed"] == 3


def test_spleeters_defaults():
    config = SpleeterConfig.from_json(MINIMAL)
    assert config.network == "unet.unet"
    assert (config.conv_activation, config.deconv_activation) == ("LeakyReLU", "ReLU")
    assert (config.mask_extension, config.separation_exponent, config.model_dir) == ("zeros", 2, None)


def test_params_may_be_null_as_absent():
    assert SpleeterConfig.from_json({**MINIMAL, "model": {"type": "unet.unet", "params": None}}).network == "unet.unet"


@pytest.mark.parametrize("content", [MINIMAL, OFFICIAL_4STEMS])
def test_json_and_back(content, tmp_path):
    config = SpleeterConfig.from_json(content)
    written = config.to_json()
    for key in content.keys() - {"model"}:
        assert written[key] == content[key]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(written), encoding="utf-8")
    assert SpleeterConfig.from_json(path) == config


def test_shared_unet_json_and_back():
    shared = SharedUNetConfig(n_stems=2, n_bins=512, widths=(16, 32), fold_bins=2)
    config = SpleeterConfig(("a", "b"), n_bins=512, network="unet.shared_unet", shared_unet=shared)
    assert SpleeterConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_lenght": 4096}, "unknown key 'frame_lenght'; the nearest known one is 'frame_length'"),
        ({"f": 1024}, "nearest known one is 'F'"),
        ({"model": {"typ": "unet.unet"}}, "unknown key of model 'typ'; the nearest known one is 'type'"),
        ({"model": {"params": {"conv_activations": "ELU"}}}, "nearest known one is 'conv_activation'"),
        ({"model": "unet.unet"}, "model must be an object, got 'unet.unet'"),
        ({"model": {"type": "blstm.blstm"}}, "'blstm.blstm' is not supported"),
        ({"model": {"type": "unet.other"}}, "model type must be one of unet.unet, unet.softmax_unet"),
        ({"model": {"params": {"conv_activation": "Elu"}}}, "one of LeakyReLU, ReLU, ELU, got 'Elu'"),
        ({"model": {"params": {"conv_n_filters": [4, 8]}}}, "conv_n_filters must be 6 numbers, got 2"),
        ({"model": {"params": {"conv_n_filters": [4, 8, 8, 16, 16, 0]}}}, "positive whole number, got 0"),
        ({"model": {"params": {"conv_n_filters": 16}}}, "conv_n_filters must be a list, got 16"),
        ({"instrument_list": []}, r"must be one name or more, got \[\]"),
        ({"instrument_list": "vocals"}, "instrument_list must be a list"),
        ({"instrument_list": ["a", "a"]}, "must differ from each other, got a, a"),
        ({"F": 1000}, r"n_bins \(F\) must be a multiple of 64, got 1000"),
        ({"F": 2112}, r"n_bins \(F\) must be at most n_fft / 2 = 2048, got 2112"),
        ({"T": 100}, r"n_frames \(T\) must be a multiple of 64, got 100"),
        ({"T": 512.5}, "must be a positive whole number, got 512.5"),
        ({"sample_rate": -1}, "sample_rate must be a positive whole number, got -1"),
        ({"n_channels": 1}, "n_channels must be 2, got 1"),
        ({"n_channels": True}, "got True"),
        ({"frame_step": 1000}, "hop must divide n_fft at least 4 times, got hop 1000"),
        ({"separation_exponent": 0}, "separation_exponent must be a positive number, got 0"),
        ({"separation_exponent": "2"}, "separation_exponent must be a positive number, got '2'"),
        ({"mask_extension": "ones"}, "mask_extension must be one of zeros, average, got 'ones'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(change, message):
    with pytest.raises(ModelError, match=message):
        SpleeterConfig.from_json({**MINIMAL, **change})


def test_missing_stems():
    with pytest.raises(ModelError, match="instrument_list is missing"):
        SpleeterConfig.from_json({"F": 1024})


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not JSON"), ("[1]", "not a JSON object"), ('{"T": 1}', "list")]
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=message) as caught:
        SpleeterConfig.from_json(path)
    assert "bad.json" in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.json"):
        SpleeterConfig.from_json(tmp_path / "absent.json")


def test_shared_unet_must_agree_with_the_rest():
    config = SpleeterConfig(("a", "b"), network="unet.shared_unet", shared_unet=SharedUNetConfig(n_stems=2))
    with pytest.raises(ModelError, match="n_stems must be 3 like the rest, got 2"):
        replace(config, stems=("a", "b", "c"))
    with pytest.raises(ModelError, match="n_bins must be 2048 like the rest, got 1024"):
        replace(config, n_bins=2048)
    with pytest.raises(ModelError, match="belongs to the model type"):
        replace(config, network="unet.unet")
    with pytest.raises(ModelError, match="multiple of 128, got 64"):
        deep = SharedUNetConfig(n_stems=2, widths=(8,) * 7, fold_bins=1, fold_frames=2)
        replace(config, n_frames=64, shared_unet=deep)
    with pytest.raises(ModelError, match="nearest known one is 'widths'"):
        SpleeterConfig.from_json({**MINIMAL, "model": {"type": "unet.shared_unet", "params": {"width": [8]}}})
