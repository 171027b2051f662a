"""MUSDB18, MUSDB18-HQ and DSD100: the tracks and subsets, and that every signal is the one that it is called."""

from pathlib import Path

import numpy as np
import pytest

from dataset_makers import STREAMS, MadeTrack, make_dsd100, make_musdb18, make_musdb18_hq, touch, write_stem_mp4
from unbraid.audio.read import open_audio, read_audio
from unbraid.datasets.musdb import VALIDATION_TRACKS
from unbraid.datasets.tracks import AudioFile, Dataset, Track, load_dataset
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError

STEMS = ["vocals", "drums", "bass", "other"]


@pytest.fixture(scope="module")
def musdb18(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MadeTrack]]:
    folder = tmp_path_factory.mktemp("musdb18")
    return folder, make_musdb18(folder)


def signals_of(track: Track) -> dict[str, FloatArray]:
    assert track.mix is not None and track.problem is None
    signals = {}
    for signal, file in {"mixture": track.mix, **track.stems}.items():
        with open_audio(file.path, stream=file.stream) as reader:
            signals[signal] = np.concatenate(list(reader.blocks()), axis=1)
            assert reader.notices == []
    return signals


def made_of(track: Track, made: list[MadeTrack]) -> MadeTrack:
    (same,) = [one for one in made if (one.name, one.subset) == (track.name, track.subset)]
    return same


def names_of(dataset: Dataset) -> list[tuple[str, str]]:
    return [(track.subset, track.name) for track in dataset.tracks]


def test_the_five_streams_of_musdb18_are_mix_drums_bass_other_and_vocals(
    musdb18: tuple[Path, list[MadeTrack]],
) -> None:
    root, made = musdb18
    dataset = load_dataset(root)
    assert (dataset.kind, dataset.root) == ("MUSDB18", root)
    assert names_of(dataset) == [("test", "Synthetic - Söng 1"), ("train", "Synthetic - Söng 0")]
    for track in dataset.tracks:
        assert list(track.stems) == STEMS
        written = made_of(track, made).signals
        for signal, decoded in signals_of(track).items():
            assert decoded.shape == (2, 132300)
            likeness = {name: np.corrcoef(decoded.ravel(), other.ravel())[0, 1] for name, other in written.items()}
            assert likeness.pop(signal) > 0.99
            assert max(likeness.values()) < 0.8


def test_musdb18_hq_has_a_wav_for_each_signal(tmp_path: Path) -> None:
    made = make_musdb18_hq(tmp_path, seconds=1.0)
    dataset = load_dataset(tmp_path)
    assert dataset.kind == "MUSDB18-HQ"
    assert names_of(dataset) == [("test", "Synthetic - Söng 1"), ("train", "Synthetic - Söng 0")]
    for track in dataset.tracks:
        assert list(track.stems) == STEMS
        assert track.mix == AudioFile(tmp_path / track.subset / track.name / "mixture.wav")
        for signal, samples in signals_of(track).items():
            assert np.abs(samples - made_of(track, made).signals[signal]).max() <= 2.0**-15


def test_musdb18_hq_made_of_musdb18_has_its_samples_in_16_bits(
    musdb18: tuple[Path, list[MadeTrack]], tmp_path: Path
) -> None:
    root, _ = musdb18
    made = make_musdb18_hq(tmp_path, subsets=("train", "test"), decoded_from=root)
    for packed, plain in zip(load_dataset(root).tracks, load_dataset(tmp_path).tracks, strict=True):
        assert (packed.subset, packed.name) == (plain.subset, plain.name)
        first, second = signals_of(packed), signals_of(plain)
        for signal in STREAMS:
            steps = np.clip(np.rint(first[signal] * 2.0**15), -(2**15), 2**15 - 1)  # AAC may overshoot full scale
            np.testing.assert_array_equal(steps, second[signal] * 2.0**15)
            np.testing.assert_array_equal(second[signal], made_of(plain, made).signals[signal])


def test_dsd100_has_mixes_and_stems_in_two_trees(tmp_path: Path) -> None:
    made = make_dsd100(tmp_path, seconds=1.0)
    dataset = load_dataset(tmp_path)
    assert dataset.kind == "DSD100"
    assert names_of(dataset) == [("test", "Synthetic - Söng 1"), ("train", "Synthetic - Söng 0")]
    for track in dataset.tracks:
        assert list(track.stems) == STEMS
        for signal, samples in signals_of(track).items():
            assert np.abs(samples - made_of(track, made).signals[signal]).max() <= 2.0**-15


def full_musdb(root: Path, form: str) -> Path:
    """All 150 tracks, the validation tracks by their real names."""
    train = [*VALIDATION_TRACKS, *(f"Band {nth} - Song" for nth in range(86))]
    test = [f"Group {nth} - Song" for nth in range(49)] + ["Leaf - Summerghost"]  # of a test folder, it stays test
    for subset, names in (("train", train), ("test", test)):
        for name in names:
            if form == "MUSDB18":
                touch(root / subset, f"{name}.stem.mp4")
            else:
                touch(root / subset / name, *(f"{signal}.wav" for signal in STREAMS))
    return root


@pytest.mark.parametrize("form", ["MUSDB18", "MUSDB18-HQ"])
def test_the_published_validation_tracks_are_not_trained_on(form: str, tmp_path: Path) -> None:
    root = full_musdb(tmp_path, form)
    whole = load_dataset(root)
    assert whole.kind == form
    assert names_of(whole) == sorted(names_of(whole)) and len(whole.tracks) == 150
    parts = {subset: load_dataset(root, subset=subset) for subset in ("train", "validation", "test")}
    assert {subset: len(part.tracks) for subset, part in parts.items()} == {"train": 86, "validation": 14, "test": 50}
    assert {track.name for track in parts["validation"].tracks} == VALIDATION_TRACKS
    assert not {track.name for track in parts["train"].tracks} & VALIDATION_TRACKS
    for subset, part in parts.items():
        assert part.tracks == tuple(track for track in whole.tracks if track.subset == subset)


def test_the_validation_tracks_are_fourteen() -> None:
    assert len(VALIDATION_TRACKS) == 14


def test_hidden_files_are_no_tracks_and_linked_folders_are(tmp_path: Path) -> None:
    store = touch(tmp_path / "store", "B - b.stem.mp4", "._B - b.stem.mp4", ".DS_Store", "README.md")
    touch(tmp_path / "musdb", ".DS_Store", "README.md")
    (tmp_path / "musdb" / "test").symlink_to(store)
    (track,) = load_dataset(tmp_path / "musdb").tracks
    assert (track.name, track.subset) == ("B - b", "test")
    assert track.mix == AudioFile(tmp_path / "musdb" / "test" / "B - b.stem.mp4", 0)
    assert track.stems["vocals"] == AudioFile(tmp_path / "musdb" / "test" / "B - b.stem.mp4", 4)


def test_a_validation_folder_is_taken_too(tmp_path: Path) -> None:
    touch(tmp_path, "train/A.stem.mp4", "valid/B.stem.mp4", "test/C.stem.mp4")
    assert names_of(load_dataset(tmp_path)) == [("test", "C"), ("train", "A"), ("validation", "B")]


def test_both_forms_in_one_folder_are_told_apart_by_kind(tmp_path: Path) -> None:
    touch(tmp_path / "train", "A.stem.mp4")
    touch(tmp_path / "train" / "B", *(f"{signal}.wav" for signal in STREAMS))
    assert names_of(load_dataset(tmp_path)) == [("train", "A")]
    assert names_of(load_dataset(tmp_path, kind="musdb18-hq")) == [("train", "B")]


def test_a_missing_wav_is_a_problem_of_its_track_alone(tmp_path: Path) -> None:
    make_musdb18_hq(tmp_path, n_tracks=2, seconds=0.1, subsets=("test",))
    broken = tmp_path / "test" / "Synthetic - Söng 0"
    (broken / "drums.wav").unlink()
    (broken / "mixture.wav").unlink()
    first, second = load_dataset(tmp_path).tracks
    assert first.problem == (
        f"cannot use the track 'Synthetic - Söng 0': not there: '{broken / 'mixture.wav'}', '{broken / 'drums.wav'}'; "
        "unpack MUSDB18-HQ again"
    )
    assert first.mix is None and list(first.stems) == ["vocals", "bass", "other"]
    assert second.problem is None


def test_dsd100_tracks_without_their_other_half_have_a_problem(tmp_path: Path) -> None:
    make_dsd100(tmp_path, seconds=0.1)
    touch(tmp_path / "Mixtures" / "Dev" / "Alone", "mixture.wav")
    touch(tmp_path / "Sources" / "Dev" / "Lonely", "bass.wav", "drums.wav", "other.wav", "vocals.wav")
    problems = {track.name: track.problem for track in load_dataset(tmp_path, subset="train").tracks}
    sources = tmp_path / "Sources" / "Dev" / "Alone"
    missing = ", ".join(f"'{sources / stem}.wav'" for stem in STEMS)
    assert problems == {
        "Alone": f"cannot use the track 'Alone': not there: {missing}; unpack DSD100 again",
        "Lonely": "cannot use the track 'Lonely': not there: "
        f"'{tmp_path / 'Mixtures' / 'Dev' / 'Lonely' / 'mixture.wav'}'; unpack DSD100 again",
        "Synthetic - Söng 0": None,
    }


def test_a_stem_file_of_too_few_streams_shows_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    silence = np.zeros((2, 3000), np.float32)
    write_stem_mp4(tmp_path / "test" / "x.stem.mp4", [silence, silence])
    (track,) = load_dataset(tmp_path).tracks
    vocals = track.stems["vocals"]
    with pytest.raises(AudioError, match=r"it has 2 audio streams, number 4 \(from 0\) was asked for"):
        read_audio(vocals.path, stream=vocals.stream)


def test_tracks_with_other_stems_are_a_plain_folder(tmp_path: Path) -> None:
    touch(tmp_path / "train" / "A", *(f"{signal}.wav" for signal in STREAMS))
    touch(tmp_path / "train" / "B", *(f"{signal}.wav" for signal in STREAMS), "piano.wav")
    dataset = load_dataset(tmp_path)
    assert dataset.kind == "folder"
    assert "piano" in dataset.tracks[1].stems
