from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unbraid.errors import AudioError
from unbraid.training.builtin.bank import Bank
from unbraid.training.builtin.prepare import prepare
from unbraid.training.builtin.songs import render_song, render_voices

SAMPLE_RATE = 8000


def tone(hz: float, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def midi_bytes() -> bytes:
    """Eight quarter notes each of a bass (channel 0), a piano (channel 1) and a kick (channel 9)."""
    track = bytes([0, 0xC0, 33, 0, 0xC1, 0])
    for _ in range(8):
        track += bytes([0, 0x90, 33, 100, 0, 0x91, 60, 100, 0, 0x99, 36, 100])
        track += bytes([96, 0x80, 33, 0, 0, 0x81, 60, 0, 0, 0x89, 36, 0])
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + struct.pack(">I", len(track)) + track


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    instruments = (
        ("bass", "bass", 33, tone(55, 1)),
        ("piano", "piano", 60, tone(261.6, 1)),
        ("gogodze_kit", "drums", 36, tone(80, 0.2)),
        ("muldjord_kit", "drums", 36, tone(80, 0.2)),
        *(
            (kit, "drums", note, tone(80, 0.2))
            for kit in ("tr808_kit", "sonicpi_oneshots", "sonicpi_kit")
            for note in (36,)
        ),
        ("tr808_kit", "drums", 38, tone(200, 0.1)),
        ("tr808_kit", "drums", 42, tone(3000, 0.1)),
    )
    names = {36: "kick", 38: "snare", 42: "hihat"}
    entries = []
    for index, (instrument, stem, note, samples) in enumerate(instruments):
        file = root / "bank" / f"{index}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, samples, SAMPLE_RATE)
        articulation = names.get(note, "sustain")
        entry = {"file": file.name, "instrument": instrument, "articulation": articulation}
        entries.append(entry | {"stem": stem, "midi_note": note, "velocity": [1, 127]})
    (root / "bank" / "bank.json").write_text(json.dumps(entries))
    (root / "voice" / "midi").mkdir(parents=True)
    (root / "voice" / "midi" / "song.mid").write_bytes(midi_bytes())
    phrases = []
    for kind in ("singing", "speech"):
        soundfile.write(root / "voice" / f"{kind}.wav", tone(300, 1), SAMPLE_RATE)
        phrases.append({"kind": kind, "group": "g", "file": f"{kind}.wav"})
    (root / "voice" / "manifest.json").write_text(json.dumps(phrases))
    song = root / "songs" / "one"
    song.mkdir(parents=True)
    soundfile.write(song / "vocals.ogg", np.stack([tone(300, 2)] * 2, axis=1), SAMPLE_RATE)
    return root


def test_a_song_has_each_part_in_its_stem(data: Path) -> None:
    bank = Bank(data / "bank", SAMPLE_RATE)
    stems = render_song(data / "voice" / "midi" / "song.mid", bank, np.random.default_rng(0), 3.0)
    assert set(stems) == {"drums", "bass", "other"}
    for samples in stems.values():
        assert samples.shape == (2, 3 * SAMPLE_RATE)
        assert np.abs(samples).max() > 0.05
    power = np.abs(np.fft.rfft(stems["bass"][0])) ** 2
    frequencies = np.fft.rfftfreq(3 * SAMPLE_RATE, 1 / SAMPLE_RATE)
    assert power[frequencies < 600].sum() > 0.6 * power.sum()


def test_voices_sound_and_repeat_with_the_seed(data: Path) -> None:
    first, second = (
        render_voices(data / "voice", "singing", np.random.default_rng(5), 12.0, SAMPLE_RATE) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert first.shape == (2, 12 * SAMPLE_RATE)
    assert 0.01 < np.sqrt(np.mean(first**2)) < 1


def test_prepare_writes_each_piece_once(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prepare(data, cache, sample_rate=SAMPLE_RATE, seed=0, n_songs=2, song_s=3.0)
    written = sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*.npy"))
    assert "songs/one/vocals.npy" in written
    assert {"singing/000/vocals.npy", "speech/000/vocals.npy", "synthetic/001/bass.npy"} <= set(written)
    vocals = np.load(cache / "songs" / "one" / "vocals.npy")
    assert vocals.dtype == np.float16
    assert vocals.shape == (2, 2 * SAMPLE_RATE)
    times = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    prepare(data, cache, sample_rate=SAMPLE_RATE, seed=0, n_songs=2, song_s=3.0)
    assert times == {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}


def test_songs_of_another_rate_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="8000 Hz"):
        prepare(data, tmp_path / "cache", sample_rate=44100, seed=0, n_songs=1, song_s=3.0)
