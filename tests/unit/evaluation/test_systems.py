"""Models, oracles and stems on disk: that what is scored is what they give."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from commands import quick_engine
from song_makers import encode, music, write_wav
from unbraid import Separator
from unbraid.audio.read import read_audio
from unbraid.audio.resample import resample
from unbraid.datasets.tracks import Track
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError, DatasetError
from unbraid.evaluation.oracles import ORACLES, oracle_blocks
from unbraid.evaluation.spool import Spool
from unbraid.evaluation.systems import System, folder_system, model_system, oracle_system
from unbraid.evaluation.true_stems import TrueStems
from unbraid.separation.plan import Options

SONG = Track(name="Song", subset="test", mix=None, stems={})
Result = tuple[tuple[str, ...], FloatArray, list[str]]
Estimate = Callable[..., Result]


@pytest.fixture
def estimate(tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    """`estimate(system)` gives its stems, what they sound like, and its notices."""

    def estimate(
        system: System,
        *,
        stems: FloatArray | None = None,
        mix: FloatArray | None = None,
        sample_rate: int = 44100,
        track: Track = SONG,
    ) -> Result:
        stems = np.zeros((1, 2, 1000), np.float32) if stems is None else stems
        mix = stems.sum(axis=0) if mix is None else mix
        with ExitStack() as stack:
            spool = stack.enter_context(Spool(tmp_path_factory.mktemp("spool"), mix.shape[0] * (1 + len(stems))))
            spool.append(np.concatenate([stems, mix[None]]).reshape(-1, mix.shape[-1]))
            names = tuple(f"stem {index}" for index in range(len(stems)))
            true = TrueStems(names, len(mix), sample_rate, spool, ())
            found = system.estimate(track, true, stack)
            blocks = list(found.blocks)
            return found.stems, np.concatenate(blocks, axis=-1), found.notices

    return estimate


def write_stems(folder: Path, signals: dict[str, FloatArray], *, sample_rate: int = 44100) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in signals.items():
        write_wav(folder / f"{name}.wav", samples, sample_rate=sample_rate)


@pytest.mark.parametrize("place", ["Song", "test/Song", "Song.stem", "test/Song.stem"])
def test_stems_lie_in_a_folder_of_the_tracks_name(tmp_path: Path, estimate: Estimate, place: str) -> None:
    signals = {"Vocals": music(100_000), "drums": music(100_000, seed=4)}
    write_stems(tmp_path / place, {**signals, "mixture": music(100_000, seed=9)})
    (tmp_path / place / "notes.txt").write_text("not audio")
    stems, samples, notices = estimate(folder_system(tmp_path, "a name", [SONG]))
    assert (sorted(stems), notices) == (["drums", "vocals"], [])
    for stem, found in zip(stems, samples, strict=True):
        np.testing.assert_array_equal(found, signals["Vocals" if stem == "vocals" else stem])


def test_the_subset_decides_where_tracks_have_one_name(tmp_path: Path, estimate: Estimate) -> None:
    tracks = [Track("Song", subset, None, {}) for subset in ("train", "test")]
    signals = [music(3000, seed=seed) for seed in range(2)]
    write_stems(tmp_path / "Song", {"drums": music(3000)})  # for tracks that have none in their subset's folder
    for track, samples in zip(tracks, signals, strict=True):
        write_stems(tmp_path / track.subset / "Song", {"vocals": samples})
    system = folder_system(tmp_path, "x", tracks)
    for track, samples in zip(tracks, signals, strict=True):
        np.testing.assert_array_equal(estimate(system, track=track)[1], samples[None])
    assert "file of drums" in folder_system(tmp_path, "x", [Track("Song", "validation", None, {})]).settings(
        Track("Song", "validation", None, {})
    )


def test_stems_of_any_format(tmp_path: Path, estimate: Estimate) -> None:
    (tmp_path / "Song").mkdir()
    paths = {
        stem: encode(tmp_path / "Song" / f"{stem}.{kind}", music(60_000, seed=seed))
        for seed, (stem, kind) in enumerate({"vocals": "flac", "drums": "mp3", "bass": "ogg"}.items())
    }
    stems, samples, _ = estimate(folder_system(tmp_path, "x", [SONG]))
    assert sorted(stems) == sorted(paths)
    for stem, found in zip(stems, samples, strict=True):
        expected = read_audio(paths[stem]).samples
        np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)


def test_no_stems_of_any_track_is_an_error_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "Other").mkdir()
    with pytest.raises(DatasetError) as error:
        folder_system(tmp_path, "x", [SONG])
    assert str(error.value) == (
        f"no stems of any track in '{tmp_path}'; there should be '{tmp_path / 'Song' / 'vocals.wav'}'"
    )


def test_a_track_that_lacks_a_stem_or_all_is_refused_when_its_turn_comes(tmp_path: Path, estimate: Estimate) -> None:
    tracks = [Track(name, "", None, {}) for name in ("all", "some", "none")]
    write_stems(tmp_path / "all", {"bass": music(2000), "drums": music(2000), "vocals": music(2000)})
    write_stems(tmp_path / "some", {"drums": music(2000)})
    system = folder_system(tmp_path, "x", tracks)
    assert estimate(system, track=tracks[0])[0] == ("bass", "drums", "vocals")
    for track, what in zip(tracks[1:], ("no bass, vocals", "no stems"), strict=True):
        with pytest.raises(AudioError) as error:
            estimate(system, track=track)
        assert str(error.value) == f"cannot score {track.name!r}: {what} of it in '{tmp_path}'"


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    write_stems(tmp_path / "Song", {"vocals": music(2000)})
    encode(tmp_path / "Song" / "Vocals.flac", music(2000))
    with pytest.raises(DatasetError) as error:
        folder_system(tmp_path, "x", [SONG])
    first, second = (str(tmp_path / "Song" / name) for name in ("Vocals.flac", "vocals.wav"))
    assert str(error.value) == f"{first!r} and {second!r} are the same stem; remove one"


def test_stems_at_another_rate_are_resampled_and_said(tmp_path: Path, estimate: Estimate) -> None:
    signals = {"drums": music(48_000, sample_rate=16000), "vocals": music(48_000, sample_rate=16000, seed=1)}
    write_stems(tmp_path / "Song", signals, sample_rate=16000)
    stems, samples, notices = estimate(folder_system(tmp_path, "x", [SONG]), sample_rate=22050)
    expected = np.stack([resample(signals[stem], 16000, 22050) for stem in stems])
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    assert notices == [f"{stem}: resampled from 16000 to 22050 Hz" for stem in stems]


def test_one_channel_stands_for_two_but_not_the_reverse(tmp_path: Path, estimate: Estimate) -> None:
    mono = music(3000, n_channels=1)
    write_stems(tmp_path / "Song", {"vocals": mono})
    _, samples, notices = estimate(folder_system(tmp_path, "x", [SONG]))
    np.testing.assert_array_equal(samples, np.stack([[mono[0], mono[0]]]))
    assert notices == ["vocals: its one channel is used for both"]
    write_stems(tmp_path / "Song", {"vocals": music(3000)})
    with pytest.raises(AudioError) as error:
        estimate(folder_system(tmp_path, "x", [SONG]), stems=np.zeros((1, 1, 3000), np.float32))
    assert str(error.value) == (f"cannot use '{tmp_path / 'Song' / 'vocals.wav'}': it has 2 channels, but the track 1")


def test_stems_of_different_lengths(tmp_path: Path, estimate: Estimate) -> None:
    drums, vocals = music(44_100), music(44_000)
    write_stems(tmp_path / "Song", {"drums": drums, "vocals": vocals})
    system = folder_system(tmp_path, "x", [SONG])
    _, samples, notices = estimate(system)
    np.testing.assert_array_equal(samples, np.stack([drums, np.pad(vocals, ((0, 0), (0, 100)))]))
    assert notices == ["vocals: 100 samples shorter than the others, padded with silence"]
    write_stems(tmp_path / "Song", {"vocals": vocals[:, :30_000]})
    with pytest.raises(AudioError, match=r"vocals.wav' is 0\.680 s long, but '.*drums.wav' 1\.000 s: they may differ"):
        estimate(system)


def test_changed_files_of_a_track_change_its_settings_alone(tmp_path: Path) -> None:
    tracks = [Track(name, "", None, {}) for name in ("a", "b", "c")]
    for track in tracks[:2]:
        write_stems(tmp_path / track.name, {"vocals": music(2000), "drums": music(2000)})
    system = folder_system(tmp_path, "x", tracks)
    before = [system.settings(track) for track in tracks]
    assert (
        [system.settings(track) for track in tracks]
        == before
        == [folder_system(tmp_path, "y", tracks).settings(track) for track in tracks]
    )
    assert [len(settings) for settings in before] == [2, 2, 0]
    os.utime(tmp_path / "a" / "vocals.wav", (1, 1))
    changed = [system.settings(track) for track in tracks]
    assert changed[1:] == before[1:]
    assert {key for key in before[0] if changed[0][key] != before[0][key]} == {"file of vocals"}


@pytest.mark.parametrize("name", ORACLES)
def test_oracles_get_the_true_stems_and_the_mix(estimate: Estimate, name: str) -> None:
    stems = np.stack([music(150_000, seed=seed) for seed in range(3)])
    mix = stems.sum(axis=0) + 0.1 * music(150_000, seed=5)
    names, samples, notices = estimate(oracle_system(name), stems=stems, mix=mix)
    expected = np.concatenate(list(oracle_blocks(name, lambda: [(stems, mix)])), axis=-1)
    assert (names, notices, oracle_system(name).name) == (("stem 0", "stem 1", "stem 2"), [], name)
    np.testing.assert_allclose(samples, expected, atol=2e-6)
    if name == "mix":
        np.testing.assert_array_equal(samples, np.stack([mix] * 3))


@pytest.mark.parametrize(
    ("options", "sample_rate", "n_channels"),
    [
        (Options(), 44100, 2),
        (Options(), 22050, 1),
        (Options(wiener=True), 44100, 2),  # which reads the mix twice
        (Options(two_stems="drums"), 44100, 2),
    ],
)
def test_a_model_gets_the_mix_and_gives_what_separate_does(
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    estimate: Estimate,
    options: Options,
    sample_rate: int,
    n_channels: int,
) -> None:
    monkeypatch.setattr("unbraid.separation.separator.load_engine", quick_engine)
    mix = music(200_000, n_channels=n_channels)
    with Separator(model_folder, options=options) as separator:
        system = model_system(separator, "my model")
        stems, samples, _ = estimate(
            system, stems=np.zeros((2, *mix.shape), np.float32), mix=mix, sample_rate=sample_rate
        )
        expected = separator.separate(mix, sample_rate=sample_rate)
        assert (system.name, stems) == ("my model", separator.stems)
        np.testing.assert_allclose(samples, np.stack(list(expected.values())), atol=1e-6)
        assert system.settings(SONG) == system.settings(Track("another", "", None, {}))
        assert system.settings(SONG)["weights"] == separator.fingerprint


def test_settings_of_models_tell_their_options_apart(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbraid.separation.separator.load_engine", quick_engine)

    def settings(options: Sequence[Options]) -> list[dict[str, str]]:
        found = []
        for one in options:
            with Separator(model_folder, options=one) as separator:
                found.append(dict(model_system(separator, "x").settings(SONG)))
        return found

    first, same, other = settings([Options(), Options(), Options(shifts=2)])
    assert first == same
    assert {key for key in first if first[key] != other[key]} == {"weights"}
