"""Any folder of tracks: what is a track, a stem, a mix and a subset, and what is said of all that is wrong."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from dataset_makers import STREAMS, make_folder, touch
from unbraid.audio.read import read_audio
from unbraid.datasets.tracks import AudioFile, load_dataset
from unbraid.errors import DatasetError


def names_at(root: Path, **options: str) -> list[tuple[str, str]]:
    return [(track.subset, track.name) for track in load_dataset(root, **options).tracks]


def test_stems_of_any_format_are_found_and_are_what_they_are_called(tmp_path: Path) -> None:
    made = make_folder(tmp_path, seconds=2.0)[0]
    dataset = load_dataset(tmp_path)
    (track,) = dataset.tracks
    assert (dataset.kind, track.name, track.subset, track.problem) == ("folder", made.name, "", None)
    assert list(track.stems) == ["bass", "drums", "other", "vocals"]
    assert {file.path.suffix for file in track.stems.values()} == {".ogg", ".flac", ".mp3"}
    assert track.mix == AudioFile(tmp_path / made.name / "Mix.wav")
    for stem, file in {"mixture": track.mix, **track.stems}.items():
        decoded = read_audio(file.path).samples
        n_samples = min(decoded.shape[1], 88200)
        assert abs(decoded.shape[1] - 88200) <= 46
        for name, samples in made.signals.items():
            likeness = np.corrcoef(decoded[:, :n_samples].ravel(), samples[:, :n_samples].ravel())[0, 1]
            assert (likeness > 0.97) if name == stem else (likeness < 0.8)


def test_without_a_file_for_it_the_mix_is_the_sum(tmp_path: Path) -> None:
    make_folder(tmp_path, seconds=0.1, with_mix=False)
    (track,) = load_dataset(tmp_path).tracks
    assert track.mix is None and sorted(track.stems) == sorted(STREAMS[1:]) and track.problem is None


@pytest.mark.parametrize("name", ["mixture.flac", "mix.mp3", "Original.M4A", "MIX.WAV"])
def test_the_mix_has_one_of_three_names(name: str, tmp_path: Path) -> None:
    touch(tmp_path / "song", name, "Lead Vocals.opus", "cover.jpg", "notes.txt", "._Lead Vocals.opus", ".DS_Store")
    (track,) = load_dataset(tmp_path).tracks
    assert track.mix == AudioFile(tmp_path / "song" / name)
    assert dict(track.stems) == {"lead vocals": AudioFile(tmp_path / "song" / "Lead Vocals.opus")}


def test_subsets_are_folders(tmp_path: Path) -> None:
    for place in ("train/b", "train/a", "validation/c", "Test/d", "e", "docs/pictures"):
        touch(tmp_path / place, "cover.png" if "docs" in place else "vocals.flac")
    assert names_at(tmp_path) == [("", "e"), ("test", "d"), ("train", "a"), ("train", "b"), ("validation", "c")]
    assert names_at(tmp_path, subset="train") == [("train", "a"), ("train", "b")]


def test_a_song_may_be_called_test(tmp_path: Path) -> None:
    touch(tmp_path, "test/vocals.wav", "train/drums.wav")
    assert names_at(tmp_path) == [("", "test"), ("", "train")]


def test_a_folder_of_stems_is_one_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = touch(tmp_path / "Мой трек", "vocals.wav", "no_vocals.wav")
    (track,) = load_dataset(song).tracks
    assert (track.name, track.subset, list(track.stems)) == ("Мой трек", "", ["no_vocals", "vocals"])
    monkeypatch.chdir(song)
    assert names_at(Path(".")) == [("", "Мой трек")]


def test_links_are_followed(tmp_path: Path) -> None:
    store = touch(tmp_path / "store" / "song", "vocals.wav")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(store)
    touch(tmp_path / "data" / "other", "drums.wav")
    (tmp_path / "data" / "other" / "vocals.wav").symlink_to(tmp_path / "gone.wav")
    linked, other = load_dataset(tmp_path / "data").tracks
    assert (linked.name, list(linked.stems)) == ("linked", ["vocals"])
    assert list(other.stems) == ["drums", "vocals"]  # the broken link is listed: reading it says what is wrong


def test_lists_decide_the_subsets(tmp_path: Path) -> None:
    for name in ("a", "b", "Café", "left out"):
        touch(tmp_path / name, "vocals.wav", "drums.wav")
    touch(tmp_path / "train" / "d", *(f"{signal}.wav" for signal in STREAMS))
    (tmp_path / "train.txt").write_text("# mine\n\n  b \n" + unicodedata.normalize("NFD", "Café"), encoding="utf-8")
    (tmp_path / "test.txt").write_bytes("\ufeffd\r\n".encode())
    (tmp_path / "valid.txt").write_text("a\n")
    expected = [("test", "d"), ("train", "Café"), ("train", "b"), ("validation", "a")]
    assert names_at(tmp_path) == sorted(expected)
    assert names_at(tmp_path, subset="validation") == [("validation", "a")]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            "a\n\ngone\n",
            "b",
            "'{root}/train.txt', line 3: there is no folder 'gone'; correct the name or remove the line",
        ),
        ("a", "b\nempty", "'{root}/test.txt', line 2: the folder 'empty' holds no audio files; remove the line"),
        ("a", "b\na", "'{root}/train.txt', line 1: 'a' is in 'test.txt', line 2 already; remove one of them"),
        ("a\na", "b", "'{root}/train.txt', line 2: 'a' is in 'train.txt', line 1 already; remove one of them"),
        (
            "a\ntwice",
            "b",
            "'{root}/train.txt', line 2: '{root}/twice' and '{root}/test/twice' have this name; rename one",
        ),
    ],
)
def test_a_list_that_is_wrong_is_an_error_with_its_line(train: str, test: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "a/vocals.wav", "b/vocals.wav", "empty/readme.md", "twice/vocals.wav", "test/twice/vocals.wav")
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "test.txt").write_text(test)
    with pytest.raises(DatasetError) as error:
        load_dataset(tmp_path)
    assert str(error.value) == f"cannot load {message.format(root=tmp_path)}"


def test_a_list_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a/vocals.wav")
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(DatasetError, match=r"cannot read '.*train.txt': it is not text in UTF-8; save it as that"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (["mix.wav"], "it has a mix and no stems; put them beside it"),
        (["mix.wav", "Mixture.wav", "a.wav"], "'Mixture.wav' and 'mix.wav' are both its mix; remove one of them"),
        (["vocals.flac", "vocals.wav"], "'vocals.flac' and 'vocals.wav' are both its vocals; remove one of them"),
        (
            ["x.stem.mp4"],
            "'x.stem.mp4' holds several stems; put such files into folders train and test, as in MUSDB18",
        ),
    ],
)
def test_a_track_that_makes_no_sense_has_a_problem(files: list[str], problem: str, tmp_path: Path) -> None:
    touch(tmp_path / "bad", *files)
    touch(tmp_path / "good", "vocals.wav")
    bad, good = load_dataset(tmp_path).tracks
    assert bad.problem == f"cannot use the track 'bad': {problem}"
    assert good.problem is None


def test_audio_beside_tracks_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "preview.wav", "song/vocals.wav")
    with pytest.raises(DatasetError) as error:
        load_dataset(tmp_path)
    assert str(error.value) == (
        f"cannot load the dataset '{tmp_path}': it holds tracks and the audio file 'preview.wav'; "
        "move the file into a folder of its own, or away"
    )


def test_two_tracks_of_one_name_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "valid/a/vocals.wav", "validation/a/vocals.wav", "train/a/vocals.wav")
    with pytest.raises(DatasetError, match="2 tracks of the subset 'validation' are called 'a'; rename one"):
        load_dataset(tmp_path)
