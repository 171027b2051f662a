"""The catalogue against what the programs, papers and hubs themselves say."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from unbraid.errors import ModelError
from unbraid.models.families import FAMILIES
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.weights.catalog import CatalogFile, Entry, catalog, find

PAPERS = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[4] / "shared")) / "reference" / "papers"
ENTRIES = [pytest.param(entry, id=entry.name) for entry in catalog().values()]
FILES = [pytest.param(e, f, id=f"{e.name}/{f.remote.name}") for e in catalog().values() for f in e.files]

# demucs/remote/files.txt and the yaml files of 4.1.0; pretrained.py of 2.0.3.
DEMUCS = {
    "hybrid_transformer": (
        *("955717e8-8726e21a", "f7e0c4bc-ba3fe64a", "d12395a8-e57c48e6", "92cfc3b6-ef3bcb9c"),
        *("04573f0d-f3cf25b2", "75fc33f5-1941ce65", "5c90dfd2-34c22ccb"),
    ),
    "mdx_final": (
        *("0d19c1c6-0f06f20e", "5d2d6c55-db83574e", "7d865c68-3d5dd56b", "7ecf8ec1-70f50cc9"),
        *("a1d90b5c-ae9d2452", "c511e2ab-fe698775", "cfa93e08-61801ae1", "e51eebcc-c1b80bdd"),
        *("6b9c2ca1-3fd82607", "b72baf4e-8778635e", "42e558d4-196e0e1b", "305bc58f-18378783"),
        *("14fc6a69-a89dd0ee", "464b36d7-e5a9386e", "7fd6ef75-a905dd85", "83fc094f-4a16d450"),
        *("1ef250f1-592467ce", "902315c2-b39ce9c9", "9a6b4851-03af0aa6", "fa0cb7f9-100d8bf4"),
    ),
    "v3.0": ("demucs-e07c671f", "demucs48_hq-28a1282c", "demucs_extra-3646af93"),
}
BAGS = {
    "mdx": ("0d19c1c6", "7ecf8ec1", "c511e2ab", "7d865c68"),
    "mdx_extra": ("e51eebcc", "a1d90b5c", "5d2d6c55", "cfa93e08"),
    "mdx_q": ("6b9c2ca1", "b72baf4e", "42e558d4", "305bc58f"),
    "mdx_extra_q": ("83fc094f", "464b36d7", "14fc6a69", "7fd6ef75"),
    "hdemucs_mmi": ("75fc33f5",),
    "repro_mdx_a": ("9a6b4851", "1ef250f1", "fa0cb7f9", "902315c2"),
    # These two name each network twice, which averages to the same.
    "repro_mdx_a_hybrid_only": ("fa0cb7f9", "902315c2"),
    "repro_mdx_a_time_only": ("9a6b4851", "1ef250f1"),
    "htdemucs": ("955717e8",),
    "htdemucs_ft": ("f7e0c4bc", "d12395a8", "92cfc3b6", "04573f0d"),
    "htdemucs_6s": ("5c90dfd2",),
}
TRACK_A = ((1, 1, 0, 0), (0, 1, 0, 0), (1, 0, 1, 1), (1, 0, 1, 1))
STEM_WEIGHTS = {
    "mdx": TRACK_A,
    "mdx_q": TRACK_A,
    "htdemucs_ft": ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)),
}
# openunmix/__init__.py of 1.3.0.
OPENUNMIX = {
    "umx": (3370486, "vocals-c8df74a5 drums-5a48008b bass-646024d3 other-f8e132cc"),
    "umxhq": (3370489, "vocals-b62c91ce drums-9619578f bass-8d85a5bd other-b52fbbf7"),
    "umxl": (5069601, "vocals-bccbd9aa drums-69e0ebd4 bass-2ca1ce51 other-c8c5b3e6"),
    "umxse": (3786908, "speech_f5e0d9f9 noise_04a6fc2d"),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_are_complete(entry: Entry):
    for fact in ("title", "about", "licence", "licence_note", "training_data", "paper"):
        assert getattr(entry, fact), fact
    assert entry.families <= set(FAMILIES)
    assert entry.family in entry.families
    assert len(set(entry.stems)) == len(entry.stems) >= 2
    assert entry.sample_rate in (44100, 16000)
    assert entry.size is not None
    for address in (entry.licence_url, entry.source, *filter(None, [entry.also_at])):
        assert address.startswith("https://")
    assert bool(entry.config) == (entry.family == "spleeter")
    networks = [file.network or file.target or file.remote.name for file in entry.files]
    assert len(set(networks)) == len(networks)


@pytest.mark.parametrize(("entry", "file"), FILES)
def test_files_are_complete(entry: Entry, file: CatalogFile):
    remote = file.remote
    for address in remote.addresses:
        assert address.startswith("https://")
        assert address.endswith(f"/{remote.name}")
    assert (file.size_about is None) != (remote.size is None)
    assert remote.sha256 is None or remote.sha256_prefix is None
    assert file.network if entry.family.endswith("demucs") else not file.network
    assert file.target in entry.stems if entry.family == "openunmix" else not file.target


@pytest.mark.parametrize(("entry", "file"), FILES)
def test_hashes_begin_as_the_file_names_say(entry: Entry, file: CatalogFile):
    found = file.remote.sha256 or file.remote.sha256_prefix
    if entry.name == "umxse":
        assert found is None  # nobody publishes them, and nothing says that the names hold them
    elif entry.family == "spleeter":
        assert re.fullmatch(r"[0-9a-f]{64}", found)
    else:
        assert re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{8}", found)
        assert re.search(r"-([0-9a-f]{8})\.(th|pth)$", file.remote.name)[1] == found[:8]


def test_a_file_of_several_models_is_described_once():
    files = defaultdict(set)
    for entry in catalog().values():
        for file in entry.files:
            files[file.remote.name].add((file.remote, file.family, file.size_about))
    assert [name for name, described in files.items() if len(described) > 1] == []


def test_every_file_of_demucs_is_there_and_no_other():
    expected = {
        f"https://dl.fbaipublicfiles.com/demucs/{folder}/{name}.th"
        for folder, names in DEMUCS.items()
        for name in names
    }
    demucs = [entry for entry in catalog().values() if entry.family.endswith("demucs")]
    assert {address for entry in demucs for file in entry.files for address in file.remote.addresses} == expected


@pytest.mark.parametrize("name", BAGS)
def test_bags_of_demucs(name: str):
    entry = find(name)
    assert tuple(file.network for file in entry.files) == BAGS[name]
    assert all(file.remote.name.startswith(f"{file.network}-") for file in entry.files)
    assert tuple(file.stem_weights for file in entry.files) == STEM_WEIGHTS.get(name, (None,) * len(entry.files))
    assert entry.segment_s == (None if name.startswith("htdemucs") else 44)
    assert entry.stems[:4] == ("drums", "bass", "other", "vocals")


@pytest.mark.parametrize("name", STEM_WEIGHTS)
def test_every_stem_has_a_network(name: str):
    entry = find(name)
    weights = [file.stem_weights for file in entry.files]
    assert all(len(row) == len(entry.stems) for row in weights)
    assert all(sum(column) > 0 for column in zip(*weights, strict=True))


@pytest.mark.parametrize("name", ["mdx", "mdx_q", "repro_mdx_a"])
def test_two_networks_of_track_a_work_on_waveforms_alone(name: str):
    assert [file.family for file in find(name).files] == ["demucs", "demucs", "hdemucs", "hdemucs"]


@pytest.mark.parametrize("name", OPENUNMIX)
def test_files_of_openunmix(name: str):
    record, names = OPENUNMIX[name]
    entry = find(name)
    root = f"https://zenodo.org/records/{record}/files"
    assert [file.remote.addresses for file in entry.files] == [(f"{root}/{one}.pth",) for one in names.split()]
    assert tuple(file.target for file in entry.files) == entry.stems
    assert all(file.remote.name.startswith(file.target) for file in entry.files)


@pytest.mark.parametrize("n_stems", [2, 4, 5])
@pytest.mark.parametrize(("band", "n_bins"), [("", 1024), ("-16kHz", 1536)])
def test_configurations_of_spleeter(n_stems: int, band: str, n_bins: int):
    entry = find(f"spleeter:{n_stems}stems{band}")
    config = SpleeterConfig.from_json(entry.config)
    assert config.stems == entry.stems
    assert len(config.stems) == n_stems
    assert config.sample_rate == entry.sample_rate
    assert (config.n_fft, config.hop, config.n_frames, config.n_bins) == (4096, 1024, 512, n_bins)
    assert (config.separation_exponent, config.mask_extension) == (2, "zeros")
    assert config.network == ("unet.softmax_unet" if n_stems == 5 else "unet.unet")
    activations = ("LeakyReLU", "ReLU") if n_stems == 2 else ("ELU", "ELU")
    assert (config.conv_activation, config.deconv_activation) == activations
    assert config.model_dir == f"{n_stems}stems"


@pytest.mark.parametrize("n_stems", [2, 4, 5])
def test_the_16_khz_models_are_the_same_files(n_stems: int):
    original, variant = find(f"spleeter:{n_stems}stems"), find(f"spleeter:{n_stems}stems-16kHz")
    assert variant.variant_of == original.name
    assert variant.files == original.files
    assert variant.title != original.title
    assert variant.scores == ()  # nobody published any
    assert original.variant_of == ""


@pytest.mark.parametrize("entry", ENTRIES)
def test_scores_are_consistent(entry: Entry):
    for score in entry.scores:
        assert score.source
        if score.values:
            assert tuple(score.values) == entry.stems
            assert score.mean == pytest.approx(sum(score.values.values()) / len(score.values), abs=0.006)
        museval = score.metric == "SDR, median of frames, median of songs"
        assert museval == score.dataset.startswith("MUSDB18")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("demucs_extra", ["Demucs v2* [10]", "150"]),
        ("repro_mdx_a", ["Hybrid Demucs [2]", "X"]),
        ("hdemucs_mmi", ["Hybrid Demucs [2]", "800"]),
        ("htdemucs", ["HT Demucs", "800"]),
        ("htdemucs_ft", ["HT Demucs (fine tuned)", "800"]),
    ],
)
@pytest.mark.skipif(not PAPERS.is_dir(), reason=f"no papers in '{PAPERS}'")
def test_scores_of_the_ht_demucs_paper(name: str, row: list[str]):
    lines = (PAPERS / "ht-demucs-2022.md").read_text(encoding="utf-8").splitlines()
    (cells,) = (line.split("\t") for line in lines if line.split("\t")[:2] == row)
    mean, *values = (float(cell) for cell in cells[2:])
    (score,) = find(name).scores
    assert score.mean == mean
    assert score.values == dict(zip(("drums", "bass", "other", "vocals"), values, strict=True))


@pytest.mark.parametrize(("i", "row"), [(0, "Spleeter Mask"), (1, "Spleeter MWF")])
@pytest.mark.skipif(not PAPERS.is_dir(), reason=f"no papers in '{PAPERS}'")
def test_scores_of_spleeters_abstract(i: int, row: str):
    lines = (PAPERS / "spleeter-extended-abstract.txt").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(row))
    values = [float(cell) for cell in line.removeprefix(row).split()][::4]  # SDR is the first of each stem's four
    expected = dict(zip(("vocals", "bass", "drums", "other"), values, strict=True))
    assert find("spleeter:4stems").scores[i].values == expected


def test_means_beside_each_other_are_of_one_kind():
    assert find("spleeter:4stems").musdb_sdr == pytest.approx(5.455)
    assert find("mdx").musdb_sdr == 7.68
    assert find("umxl").musdb_sdr == pytest.approx(6.3175)
    assert find("mdx_extra").scores[0].mean == 8.11  # on other songs, by another measure
    assert find("mdx_extra").musdb_sdr is None
    assert find("umxse").musdb_sdr is None


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_limits_the_use_is_a_warning(entry: Entry):
    text = " ".join(entry.warnings)
    assert ("MUSDB18's test set" in text) == entry.name.startswith("mdx_extra")
    assert ("non-commercial" in text) == (entry.name == "umxl")
    assert ("research only" in text) == entry.family.endswith("demucs")


def test_sizes_tell_whether_they_are_exact():
    assert (find("htdemucs_ft").size, find("htdemucs_ft").size_is_exact) == (4 * 84141271, True)
    assert (find("repro_mdx_a").size, find("repro_mdx_a").size_is_exact) == (690_000_000, False)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ModelError, match=r"unknown model 'htdemcus'; did you mean 'htdemucs'\?"):
        find("htdemcus")
    with pytest.raises(ModelError, match="unknown model 'qqq'; 'unbraid models list' shows all"):
        find("qqq")


def test_the_catalogue_is_read_once_and_cannot_be_changed():
    assert catalog() is catalog()
    with pytest.raises(TypeError):
        catalog()["mine"] = find("umx")


def test_reading_it_loads_nothing_costly():
    code = (
        "import sys; from unbraid.weights.catalog import catalog; catalog(); "
        "print(*{'httpx', 'torch', 'openvino', 'onnx', 'rich', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
