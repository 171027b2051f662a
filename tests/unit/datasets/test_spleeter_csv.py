"""Tables of Spleeter's training: their paths, names and subsets, and what is said of wrong ones."""

from pathlib import Path

import numpy as np
import pytest

from dataset_makers import make_csv, touch
from unbraid.audio.read import read_audio
from unbraid.datasets.tracks import AudioFile, load_dataset
from unbraid.errors import DatasetError

HEAD = "mix_path,vocals_path,drums_path,duration\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("absolute", [False, True])
def test_every_path_leads_to_its_signal(absolute: bool, tmp_path: Path) -> None:
    made = make_csv(tmp_path / "songs.csv", n_tracks=2, seconds=0.5, absolute=absolute)
    dataset = load_dataset(tmp_path / "songs.csv")
    assert dataset.kind == "Spleeter CSV"
    assert [(track.name, track.subset, track.problem) for track in dataset.tracks] == [
        ("Synthetic - Söng 0", "", None),
        ("Synthetic - Söng 1", "", None),
    ]
    for track, written in zip(dataset.tracks, made, strict=True):
        assert track.mix is not None
        assert list(track.stems) == ["drums", "bass", "other", "vocals"]
        for signal, file in {"mixture": track.mix, **track.stems}.items():
            assert np.abs(read_audio(file.path).samples - written.signals[signal]).max() <= 2.0**-15


def test_paths_may_be_relative_to_another_folder(tmp_path: Path) -> None:
    data = touch(tmp_path / "data", "a/mix.wav", "a/v.wav", "a/d.wav")
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    table = write(elsewhere / "songs.csv", HEAD + "a/mix.wav,a/v.wav,a/d.wav,12.5\n")
    (track,) = load_dataset(table, data_root=data).tracks
    assert track.mix == AudioFile(data / "a" / "mix.wav") and track.problem is None
    assert dict(track.stems) == {"vocals": AudioFile(data / "a" / "v.wav"), "drums": AudioFile(data / "a" / "d.wav")}
    (lost,) = load_dataset(table).tracks
    assert lost.problem == (
        f"cannot use the track 'a': not there: '{elsewhere}/a/mix.wav', '{elsewhere}/a/v.wav', '{elsewhere}/a/d.wav'; "
        "correct line 2 of the table, or say with data_root what its paths are relative to"
    )
    with pytest.raises(DatasetError, match=r"songs.csv': data_root '.*gone' is not a folder"):
        load_dataset(table, data_root=tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("musdb_train.csv", "train"),
        ("Validation.CSV", "validation"),
        ("my-valid-2.csv", "validation"),
        ("musdb18test.csv", "test"),
        ("latest.csv", ""),
        ("train_test.csv", ""),
    ],
)
def test_the_subset_is_in_the_tables_name(name: str, subset: str, tmp_path: Path) -> None:
    touch(tmp_path, "m.wav", "v.wav")
    (track,) = load_dataset(write(tmp_path / name, "mix_path,vocals_path\nm.wav,v.wav\n")).tracks
    assert track.subset == subset


@pytest.mark.parametrize(
    ("mixes", "names"),
    [
        (["a/mix.wav", "b/mixture.mp3"], ["a", "b"]),
        (["x/a.wav", "x/b.c.wav"], ["a", "b.c"]),
        (["x/a/mix.wav", "y/a/mix.wav", "y/b/mix.wav"], ["b", "x - a", "y - a"]),
        (["x/a.wav", "y/a.wav"], ["x - a", "y - a"]),
        (["mix.wav", "a.wav"], ["a", "mix"]),
    ],
)
def test_names_are_short_and_all_different(mixes: list[str], names: list[str], tmp_path: Path) -> None:
    touch(tmp_path, "v.wav", *mixes)
    text = "mix_path,vocals_path\n" + "".join(f"{mix},v.wav\n" for mix in mixes)
    assert [track.name for track in load_dataset(write(tmp_path / "t.csv", text)).tracks] == names


def test_quotes_blank_lines_marks_and_other_columns_are_understood(tmp_path: Path) -> None:
    touch(tmp_path, "Me, You & Ü.wav", "v.wav")
    text = '\ufeff genre ,mix_path,vocals_path,duration\r\n\r\npop,"Me, You & Ü.wav", v.wav ,3\r\n,,,\r\n'
    (track,) = load_dataset(write(tmp_path / "t.csv", text)).tracks
    assert (track.name, list(track.stems), track.problem) == ("Me, You & Ü", ["vocals"], None)


def test_an_empty_cell_is_a_problem_of_its_track(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav", "v.wav", "d.wav")
    first, second = load_dataset(write(tmp_path / "t.csv", HEAD + "a.wav,v.wav,,1\nb.wav,v.wav,d.wav,1\n")).tracks
    assert first.problem == "cannot use the track 'a': no path in the column 'drums_path' of line 2; fill it in"
    assert second.problem is None


def test_a_path_that_no_system_could_have_is_a_problem(tmp_path: Path) -> None:
    long = 5000 * "x"
    (track,) = load_dataset(write(tmp_path / "t.csv", HEAD + f"{long}.wav,.,/,1\n")).tracks
    assert track.problem is not None and "not there" in track.problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": its first line is not 'mix_path,vocals_path,…,duration', but ''; "),
        (
            "mix;vocals\n",
            ": its first line is not 'mix_path,vocals_path,…,duration', but 'mix;vocals'; name the columns",
        ),
        ("mix_path,duration\n", ": its first line is not "),
        ("mix_path,a_path,a_path\n", ": two columns are called 'a_path'; rename one"),
        (HEAD + "a.wav,v.wav,d.wav\n", ", line 2: 3 cells for 4 columns; put quotes around commas"),
        (HEAD + ",v.wav,d.wav,1\n", ", line 2: no path in the column 'mix_path'; fill it in or remove the line"),
        (HEAD + "a,v,d,1\n\nb,v,d,1\na,w,e,1\n", ", line 5: 'a' is in line 2 already; remove one of them"),
        (HEAD + '"a,v,d,1\n', ", line 2: unexpected end of data"),
    ],
)
def test_a_table_that_is_wrong_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", text)
    with pytest.raises(DatasetError) as error:
        load_dataset(table)
    assert str(error.value).startswith(f"cannot load '{table}'{message}")


def test_a_table_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfem\0i\0x\0")
    with pytest.raises(DatasetError, match="it is not text in UTF-8"):
        load_dataset(tmp_path / "t.csv")
