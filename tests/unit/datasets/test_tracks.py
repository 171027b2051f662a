"""What is said where no dataset is, or another one than was asked for."""

from pathlib import Path

import pytest

from dataset_makers import touch
from unbraid.datasets.tracks import KINDS, load_dataset
from unbraid.errors import DatasetError, UsageError

ANY = (
    "it should hold TRACK/STEM.wav (or any other audio format), or such folders in train, validation and test; "
    "MUSDB18 is at https://doi.org/10.5281/zenodo.1117372 (4.7 GB), "
    "MUSDB18-HQ is at https://doi.org/10.5281/zenodo.3338373 (22.7 GB), "
    "DSD100 is at https://sigsep.github.io/datasets/dsd100.html (14 GB)"
)
REMEDIES = {
    "MUSDB18": "it should hold train/TRACK.stem.mp4 and test/TRACK.stem.mp4; "
    "MUSDB18 is at https://doi.org/10.5281/zenodo.1117372 (4.7 GB)",
    "MUSDB18-HQ": "it should hold train/TRACK/{mixture,vocals,drums,bass,other}.wav and the same in test; "
    "MUSDB18-HQ is at https://doi.org/10.5281/zenodo.3338373 (22.7 GB)",
    "DSD100": "it should hold Mixtures/{Dev,Test}/TRACK/mixture.wav and "
    "Sources/{Dev,Test}/TRACK/{vocals,drums,bass,other}.wav; "
    "DSD100 is at https://sigsep.github.io/datasets/dsd100.html (14 GB)",
    "folder": ANY,
    "Spleeter CSV": "it should be a .csv file with the columns mix_path, vocals_path … (one for each stem) "
    "and duration",
}


def refusal(root: Path, **options: object) -> str:
    with pytest.raises(DatasetError) as error:
        load_dataset(root, **options)  # type: ignore[arg-type]
    assert error.value.exit_code == 3 and "\n" not in str(error.value)
    return str(error.value)


def test_every_kind_has_its_remedy() -> None:
    assert set(KINDS) == set(REMEDIES)


@pytest.mark.parametrize("kind", [None, *REMEDIES])
def test_a_place_where_nothing_is(kind: str | None, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    remedy = ANY if kind is None else REMEDIES[kind]
    assert refusal(gone, kind=kind) == (f"cannot load '{gone}' as a dataset: there is no such folder or file; {remedy}")
    assert "no such folder or file" in refusal(Path(5000 * "x"), kind=kind)


@pytest.mark.parametrize("kind", [None, "MUSDB18", "MUSDB18-HQ", "DSD100", "folder"])
@pytest.mark.parametrize("files", [[], ["readme.md", ".DS_Store", "._song.wav", "pictures/cover.png", "train/x.txt"]])
def test_a_folder_without_tracks(kind: str | None, files: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *files)
    remedy = ANY if kind is None else REMEDIES[kind]
    assert refusal(tmp_path, kind=kind) == f"cannot load '{tmp_path}' as a dataset: no tracks in it; {remedy}"


def test_a_table_without_tracks(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("mix_path,vocals_path,duration\n")
    assert refusal(table) == f"cannot load '{table}' as a dataset: no tracks in it; {REMEDIES['Spleeter CSV']}"


@pytest.mark.parametrize("kind", ["MUSDB18", "MUSDB18-HQ", "DSD100"])
def test_another_kind_than_was_asked_for(kind: str, tmp_path: Path) -> None:
    touch(tmp_path, "train/song/lead.wav", "train/song/mix.wav")
    assert refusal(tmp_path, kind=kind) == f"cannot load '{tmp_path}' as a dataset: no tracks in it; {REMEDIES[kind]}"
    assert load_dataset(tmp_path).kind == "folder"


def test_a_folder_is_no_table_and_a_file_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "t.csv", "song.wav")
    assert refusal(tmp_path, kind="Spleeter CSV") == (
        f"cannot load '{tmp_path}' as Spleeter CSV: it is a folder; {REMEDIES['Spleeter CSV']}"
    )
    assert refusal(tmp_path / "t.csv", kind="DSD100") == (
        f"cannot load '{tmp_path}/t.csv' as DSD100: it is a file; {REMEDIES['DSD100']}"
    )
    assert refusal(tmp_path / "song.wav") == (
        f"cannot load '{tmp_path}/song.wav' as a dataset: it is neither a folder nor a .csv file"
    )


def test_a_subset_that_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/vocals.wav", "test/b/vocals.wav", "c/vocals.wav")
    assert refusal(tmp_path, subset="validation") == (
        f"cannot load the subset 'validation' of '{tmp_path}': it has test, train"
    )
    assert refusal(tmp_path / "train", subset="train") == (
        f"cannot load the subset 'train' of '{tmp_path}/train': its tracks are in no subset; "
        "put them into train, validation and test"
    )


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/vocals.wav")

    def closed(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)
    assert refusal(tmp_path) == f"cannot read the folder '{tmp_path}': Permission denied"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "Test"}, "subset must be train, validation or test, got 'Test'"),
        ({"kind": "musdb"}, "kind must be one of MUSDB18, MUSDB18-HQ, DSD100, folder, Spleeter CSV; got 'musdb'"),
        ({"data_root": Path("x")}, r"data_root is for a .csv file, and '.*' is none"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str, tmp_path: Path) -> None:
    touch(tmp_path, "a/vocals.wav")
    with pytest.raises(UsageError, match=message):
        load_dataset(tmp_path, **options)  # type: ignore[arg-type]


def test_a_root_may_be_a_string(tmp_path: Path) -> None:
    touch(tmp_path, "a/vocals.wav")
    assert load_dataset(str(tmp_path)) == load_dataset(tmp_path)  # type: ignore[arg-type]
