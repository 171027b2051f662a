"""Small datasets of synthetic songs, laid out as the real ones are; written without Unbraid's own writers."""

import csv
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from av.audio.frame import AudioFrame

from song_makers import encode
from unbraid.audio.read import read_audio
from unbraid.datasets.synthesis.song import Studio
from unbraid.datatypes import FloatArray

__all__ = [
    "STEMS",
    "STREAMS",
    "MadeTrack",
    "make_csv",
    "make_dsd100",
    "make_folder",
    "make_musdb18",
    "make_musdb18_hq",
    "make_song",
    "touch",
    "write_stem_mp4",
]

SAMPLE_RATE = 44100
STEMS = ("vocals", "drums", "bass", "other")
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # as they lie in a .stem.mp4


def make_song(seconds: float, *, seed: int = 0, sample_rate: int = SAMPLE_RATE) -> dict[str, FloatArray]:
    """A pop song of the four STEMS, the piano being part of "other".

    Of those that the seed gives, the first that has all four, none more than 10 dB below the loudest.
    """
    studio = Studio(sample_rate)
    for attempt in itertools.count():
        song = studio.song(seconds, np.random.default_rng([seed, attempt]), style="pop")
        others = [song[stem] for stem in ("other", "piano") if stem in song]
        if others and song.keys() >= {"vocals", "drums", "bass"}:
            stems = {**{stem: song[stem] for stem in STEMS[:3]}, "other": np.sum(others, axis=0, dtype=np.float32)}
            levels_db = [10 * np.log10(np.mean(np.square(samples))) for samples in stems.values()]
            if min(levels_db) > max(levels_db) - 10:
                return stems
    raise AssertionError("unreachable")


@dataclass(frozen=True, eq=False)
class MadeTrack:
    """What was written: "mixture" and each stem as they were before encoding [shape=(2, time), float32]."""

    name: str
    subset: str
    signals: Mapping[str, FloatArray]


def make_musdb18(
    folder: Path, *, n_tracks: int = 1, seconds: float = 3.0, subsets: Sequence[str] = ("train", "test")
) -> list[MadeTrack]:
    """`n_tracks` .stem.mp4 in each subset's folder."""
    tracks = _songs(n_tracks, seconds, subsets)
    for track in tracks:
        path = folder / track.subset / f"{track.name}.stem.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_stem_mp4(path, [track.signals[signal] for signal in STREAMS], titles=STREAMS)
    return tracks


def make_musdb18_hq(
    folder: Path,
    *,
    n_tracks: int = 1,
    seconds: float = 3.0,
    subsets: Sequence[str] = ("train", "test"),
    decoded_from: Path | None = None,
) -> list[MadeTrack]:
    """The same songs as 16-bit WAVs; or the samples of a MUSDB18 that `make_musdb18` wrote, rounded to 16 bits."""
    tracks = _songs(n_tracks, seconds, subsets)
    if decoded_from is not None:
        tracks = [_decoded(track, decoded_from) for track in tracks]
    for track in tracks:
        for signal, samples in track.signals.items():
            path = folder / track.subset / track.name / f"{signal}.wav"
            _write(path, samples, subtype="PCM_16")
    return tracks


def make_dsd100(folder: Path, *, n_tracks: int = 1, seconds: float = 3.0) -> list[MadeTrack]:
    """Mixtures and sources in trees of their own; the subsets are "train" (Dev) and "test" (Test)."""
    tracks = _songs(n_tracks, seconds, ("train", "test"))
    for track in tracks:
        part = {"train": "Dev", "test": "Test"}[track.subset]
        for signal, samples in track.signals.items():
            half = "Mixtures" if signal == "mixture" else "Sources"
            _write(folder / half / part / track.name / f"{signal}.wav", samples)
    return tracks


def make_csv(path: Path, *, n_tracks: int = 1, seconds: float = 3.0, absolute: bool = False) -> list[MadeTrack]:
    """A table of Spleeter's and, beside it, its WAVs; the tracks' subset here is ""."""
    tracks = _songs(n_tracks, seconds, ("",))
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["mix_path", *(f"{stem}_path" for stem in STREAMS[1:]), "duration"])
        for track in tracks:
            paths = [Path("audio", track.name, f"{signal}.wav") for signal in STREAMS]
            for signal, relative in zip(STREAMS, paths, strict=True):
                _write(path.parent / relative, track.signals[signal])
            cells = [(path.parent / relative).absolute() if absolute else relative for relative in paths]
            table.writerow([*cells, seconds])
    return tracks


def make_folder(
    folder: Path, *, n_tracks: int = 1, seconds: float = 3.0, subsets: Sequence[str] = ("",), with_mix: bool = True
) -> list[MadeTrack]:
    """Tracks of mixed formats: FLAC, Ogg Vorbis, MP3 and WAV, "Mix.wav" among them if wanted."""
    suffixes = {"mixture": "wav", "drums": "flac", "bass": "ogg", "other": "mp3", "vocals": "flac"}
    tracks = _songs(n_tracks, seconds, subsets)
    for track in tracks:
        place = folder / track.subset / track.name
        place.mkdir(parents=True, exist_ok=True)
        for signal, samples in track.signals.items():
            if signal != "mixture":
                encode(place / f"{signal}.{suffixes[signal]}", samples)
            elif with_mix:
                _write(place / "Mix.wav", samples)
    return tracks


def write_stem_mp4(path: Path, signals: Sequence[FloatArray], *, titles: Sequence[str] = ()) -> Path:
    """An MP4 of several stereo AAC streams of 256 kbit/s, as Native Instruments' stems are; lengths may differ."""
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["title"] = path.name.removesuffix(".stem.mp4")
        streams = []
        for nth in range(len(signals)):
            stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo", format="fltp")
            stream.codec_context.bit_rate = 256_000
            if titles:
                stream.metadata["title"] = titles[nth]
            streams.append(stream)
        for start in range(0, max(samples.shape[1] for samples in signals), 1024):
            for stream, samples in zip(streams, signals, strict=True):
                if start < samples.shape[1]:
                    container.mux(stream.encode(_frame(samples[:, start : start + 1024], start)))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def touch(root: Path, *names: str) -> Path:
    """Empty files of these names in a folder, for tests that open none."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def _songs(n_tracks: int, seconds: float, subsets: Sequence[str]) -> list[MadeTrack]:
    """The songs 0, 1, … for the subsets in turn, each with another name."""
    return [
        MadeTrack(f"Synthetic - Söng {nth}", subset, _signals(seconds, nth))
        for nth, subset in enumerate(subset for subset in subsets for _ in range(n_tracks))
    ]


@functools.lru_cache(maxsize=8)
def _signals(seconds: float, seed: int) -> Mapping[str, FloatArray]:
    stems = make_song(seconds, seed=seed)
    mixture = np.sum(list(stems.values()), axis=0, dtype=np.float32)
    return {"mixture": mixture, **{stem: stems[stem] for stem in STREAMS[1:]}}


def _decoded(track: MadeTrack, musdb18: Path) -> MadeTrack:
    path = musdb18 / track.subset / f"{track.name}.stem.mp4"
    signals = {signal: _rounded(read_audio(path, stream=stream).samples) for stream, signal in enumerate(STREAMS)}
    return MadeTrack(track.name, track.subset, signals)


def _rounded(samples: FloatArray) -> FloatArray:
    """To 16 bits; the songs stay below full scale, but decoded AAC may overshoot."""
    steps = np.float32(1 << 15)
    return np.clip(np.rint(samples * steps), -steps, steps - 1) / steps


def _write(path: Path, samples: FloatArray, *, subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.T, SAMPLE_RATE, subtype=subtype)


def _frame(part: FloatArray, start: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
    return frame
