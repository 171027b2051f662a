"""The training data of Spleeter's JSON and CSV: spectrograms of fixed chunks of the songs, and crops of these.

A song gives `n_chunks_per_song` chunks of `chunk_duration` seconds, evenly spaced between margins of 0.5 s; the one for
validation is of 12 s, in its middle. Of each, the magnitudes of the first F bins are taken, of stems and mix alike, and
an example is T frames of them (Spleeter's dataset.py). In a cache they are kept in 8 bits, as Spleeter keeps them:
evenly spaced levels in dB between the lowest and the highest of each signal's chunk, at most 100 dB apart. Other than
there, levels are rounded, not cut, which halves the error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbraid.audio.read import open_audio
from unbraid.datatypes import FloatArray
from unbraid.dsp.stft import frames_to_samples, stft
from unbraid.errors import DatasetError
from unbraid.evaluation.systems import file_state
from unbraid.evaluation.true_stems import aligned_blocks
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.training.cache import decode_all, entry, make_cache, make_once
from unbraid.training.spleeter_table import Song, read_songs

__all__ = [
    "SpleeterExamples",
    "from_8_bits",
    "spleeter_examples",
    "to_8_bits",
]

# Spleeter's dataset.py and get_validation_dataset, and its defaults for what a JSON does not say.
VALIDATION_S = 12.0
N_CHUNKS, CHUNK_S = 2, 20.0
# Spleeter's gain_to_db and spectrogram_to_db_uint.
SMALLEST = 1e-9
RANGE_DB = 100.0

_DESCRIPTION = "chunks.json"
_VERSION = 1
_N_TRIES = 100
_NEED = "a chunk of 20 s takes 9 MB with four stems"
Codes = NDArray[np.uint8]
OnProgress = Callable[[int, int, str], None]
OnNotice = Callable[[str], None]


@dataclass(frozen=True)
class _Chunk:
    """A chunk: where in a song, and, if it is in the cache, its file and the levels of each row (lowest, highest)."""

    song: Song
    start_s: float
    path: Path | None = None
    levels_db: tuple[tuple[float, float], ...] = ()


class SpleeterExamples:
    """Spectrograms as Spleeter's training sees them; made by `spleeter_examples`.

    Parameters
    ----------
    config : SpleeterConfig
        Sizes, and the stems: rows are these, then the mix.
    chunks : sequence of _Chunk
        In the table's order.
    chunk_s : float
        Their length in seconds.
    on_notice : callable, optional
        Told of chunks that are left out as they are decoded.
    """

    def __init__(
        self, config: SpleeterConfig, chunks: Sequence[_Chunk], chunk_s: float, on_notice: OnNotice | None = None
    ) -> None:
        self._config, self._chunks, self._chunk_s = config, tuple(chunks), chunk_s
        self._say = on_notice or (lambda text: None)
        self._said: set[str] = set()

    @property
    def n_chunks(self) -> int:
        """Chunks that are drawn from, unusable ones included where there is no cache."""
        return len(self._chunks)

    def draw(self, rng: np.random.Generator, n_frames: int = 0) -> FloatArray:
        """Draw a chunk, and frames of it.

        Parameters
        ----------
        rng : Generator
            Decides both.
        n_frames : int
            How many frames; 0 for the configuration's T.

        Returns
        -------
        ndarray [shape=(stem + 1, channel, n_frames, F), float32]
            Magnitudes of the stems, and of the mix in the last row.

        Raises
        ------
        DatasetError : no usable chunk is found
        AudioError : a file cannot be decoded
        """
        wanted = n_frames or self._config.n_frames
        for _ in range(_N_TRIES):  # which ones fail is not kept: what is drawn depends on the generator alone
            chunk = self._chunks[int(rng.integers(len(self._chunks)))]
            magnitudes = self._crop(chunk, wanted, rng)
            if magnitudes is not None:
                return magnitudes
        raise DatasetError(
            f"none of {_N_TRIES} chunks drawn has {wanted} finite frames; look at the table's column 'duration' and at "
            "its files"
        )

    def validation(self) -> Iterator[FloatArray]:
        """The middle T frames of each chunk, in the table's order [shape=(stem + 1, channel, T, F), float32]."""
        for chunk in self._chunks:
            magnitudes = self._crop(chunk, self._config.n_frames, None)
            if magnitudes is not None:
                yield magnitudes

    def _crop(self, chunk: _Chunk, n_frames: int, rng: np.random.Generator | None) -> FloatArray | None:
        """So many frames of a chunk, at random or from its middle; None if it has no such."""
        if chunk.path is not None:
            codes = _codes(chunk)
            first = _first_frame(codes.shape[2], n_frames, rng)
            if first is None:
                return None
            part = codes[:, :, first : first + n_frames]
            return np.stack([from_8_bits(row, *levels) for row, levels in zip(part, chunk.levels_db, strict=True)])
        alone = Song(chunk.song.name, chunk.song.files, (chunk.start_s,))
        notices: list[str] = []
        with closing(_decoded(alone, self._config, self._chunk_s, notices)) as decoded:
            samples = next(decoded)
        for notice in notices:
            self._say_once(f"{chunk.song.name}: {notice}")
        magnitudes = _magnitudes(samples, self._config)
        if (problem := _problem(magnitudes, n_frames)) is not None:
            self._say_once(f"{chunk.song.name}: {_without_chunk(chunk.start_s, problem)}")
            return None
        first = _first_frame(magnitudes.shape[2], n_frames, rng)
        return np.ascontiguousarray(magnitudes[:, :, first : first + n_frames]) if first is not None else None

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def spleeter_examples(
    config: SpleeterConfig,
    table: Path,
    data_root: Path | None = None,
    *,
    validation: bool = False,
    cache: Path | None = None,
    unreadable: str = "error",
    n_workers: int = 2,
    on_progress: OnProgress | None = None,
    on_notice: OnNotice | None = None,
) -> SpleeterExamples:
    """The chunks of the songs of a table.

    Parameters
    ----------
    config : SpleeterConfig
        Sizes, stems, and of its training keys `n_chunks_per_song` and `chunk_duration`: 2 and 20 s where it has none.
    table : Path
        A CSV with the columns mix_path, STEM_path for each stem, and duration (in seconds; without it, it is measured).
    data_root : Path, optional
        What its paths are relative to, if not its own folder.
    validation : bool
        Take the central 12 s of each song instead.
    cache : Path, optional
        Where spectrograms are kept in 8 bits; several processes may share it. Without it each example is decoded when
        it is drawn, its song from the beginning, and is exact; how a file ends is not looked at then.
    unreadable : str
        "error", or "skip": a song with a damaged file is left out of the cache, and a notice says so.
    n_workers : int
        Songs decoded at the same time.
    on_progress, on_notice : callable, optional
        Told how many songs of how many are done, and the last one's name; told what the user should know.

    Raises
    ------
    DatasetError : the table, one of its files or these keys will not do, no chunk is left, or the disk is full
    AudioError : a file is damaged
    """
    n_chunks, chunk_s = (1, VALIDATION_S) if validation else _chunks_of(config)
    least_s = frames_to_samples(config.n_frames, config.n_fft, config.hop) / config.sample_rate
    if chunk_s < least_s:
        raise DatasetError(f"chunks of {chunk_s:g} s are too short: T = {config.n_frames} frames take {least_s:.2f} s")
    songs = read_songs(config, table, data_root, n_chunks, chunk_s)
    if cache is None:
        chunks = [_Chunk(song, start_s) for song in songs for start_s in song.starts_s]
        return SpleeterExamples(config, chunks, chunk_s, on_notice)
    make_cache(cache)
    by_song = decode_all(
        [(song.name, song) for song in songs],
        lambda song: _cached(song, config, chunk_s, cache),
        unreadable=unreadable,
        n_workers=n_workers,
        on_progress=on_progress,
        on_notice=on_notice,
    )
    chunks = [chunk for found in by_song for chunk in found]
    if not chunks:
        raise DatasetError(f"no chunk of any song of {str(table)!r} can be used; the notes above say why")
    return SpleeterExamples(config, chunks, chunk_s, on_notice)


def to_8_bits(magnitudes: FloatArray) -> tuple[Codes, float, float]:
    """Turn magnitudes into levels.

    magnitudes : ndarray [shape=(…), float32], finite
    returns : ndarray [shape=(…), uint8] and the levels in dB that 0 and 255 stand for, at most 100 dB apart. What is
        lower than the lowest becomes the lowest; all else is within half a step, 100/255/2 = 0.2 dB at most.
    """
    levels = 20 * np.log10(np.maximum(magnitudes, np.float32(SMALLEST)))
    high = float(levels.max())
    low = max(float(levels.min()), high - RANGE_DB)
    if high <= low:
        return np.zeros(levels.shape, np.uint8), low, high
    levels -= np.float32(low)
    levels *= np.float32(255 / (high - low))
    np.clip(np.rint(levels, out=levels), 0, 255, out=levels)
    return levels.astype(np.uint8), low, high


def from_8_bits(codes: Codes, low_db: float, high_db: float) -> FloatArray:
    """Magnitudes [shape=(…), float32] of what `to_8_bits` made."""
    levels = low_db + np.arange(256) * ((high_db - low_db) / 255)
    table: FloatArray = (10 ** (levels / 20)).astype(np.float32)
    return table[codes]


def _chunks_of(config: SpleeterConfig) -> tuple[int, float]:
    """How many chunks of a song, and of how many seconds, are trained on."""
    n_chunks = config.training.get("n_chunks_per_song", N_CHUNKS)
    chunk_s = config.training.get("chunk_duration", CHUNK_S)
    if isinstance(n_chunks, bool) or not isinstance(n_chunks, int) or n_chunks < 1:
        raise DatasetError(f"n_chunks_per_song must be a whole number of 1 or more, got {n_chunks!r}")
    if isinstance(chunk_s, bool) or not isinstance(chunk_s, int | float) or not 0 < chunk_s < math.inf:
        raise DatasetError(f"chunk_duration must be a positive number of seconds, got {chunk_s!r}")
    return n_chunks, float(chunk_s)


def _decoded(
    song: Song, config: SpleeterConfig, chunk_s: float, notices: list[str]
) -> Generator[FloatArray, None, None]:
    """Decode a song up to its last chunk, and give the chunks [shape=(row, channel, time), float32] in order.

    One that reaches beyond the song's end is shorter, or empty. A chunk and a block are in memory at a time.
    """
    size, rate = round(chunk_s * config.sample_rate), config.sample_rate
    with ExitStack() as stack:
        readers = {
            name: stack.enter_context(open_audio(file.path, stream=file.stream)) for name, file in song.files.items()
        }
        blocks = aligned_blocks(readers, song.files, sample_rate=rate, n_channels=config.n_channels, notices=notices)
        held, held_start, parts = np.zeros((len(readers), config.n_channels, 0), np.float32), 0, []
        n_read, is_at_end = 0, False
        for start_s in song.starts_s:
            start = round(start_s * rate)
            while n_read < start + size and not is_at_end:
                block = next(blocks, None)
                if block is None:
                    is_at_end = True
                    break
                parts.append(block)
                n_read += block.shape[-1]
                if n_read <= start:  # no chunk needs it, nor what came before
                    parts, held, held_start = [], held[..., :0], n_read
            held = np.concatenate([held, *parts], axis=-1)
            parts = []
            n_old = min(max(start - held_start, 0), held.shape[-1])
            held, held_start = held[..., n_old:], held_start + n_old
            yield held[..., :size]
        # The rest tells whether the files belong together and are whole: it is for the notices and for errors.
        for _ in blocks:
            pass


def _magnitudes(samples: FloatArray, config: SpleeterConfig) -> FloatArray:
    """Magnitudes [shape=(row, channel, frame, F), float32] of samples [shape=(row, channel, time)].

    frame = 1 + (time − n_fft)//hop: as TensorFlow's stft, which does not pad.
    """
    n_frames = max(0, 1 + (samples.shape[-1] - config.n_fft) // config.hop)
    out = np.empty((*samples.shape[:2], n_frames, config.n_bins), np.float32)
    if n_frames:
        for row, place in zip(samples, out, strict=True):
            with np.errstate(over="ignore", invalid="ignore"):  # `_problem` looks for what is not finite
                spec = stft(np.ascontiguousarray(row), n_fft=config.n_fft, hop=config.hop)
                np.abs(spec[:, : config.n_bins].swapaxes(-1, -2), out=place)
    return out


def _problem(magnitudes: FloatArray, n_frames: int) -> str | None:
    """Why a chunk cannot be used."""
    if magnitudes.shape[2] < n_frames:
        return f"only {magnitudes.shape[2]} frames, and T is {n_frames}"
    return None if np.isfinite(magnitudes).all() else "values that are not finite"


def _without_chunk(start_s: float, problem: str) -> str:
    return f"the chunk at {start_s:.2f} s is left out: {problem}"


def _first_frame(n_there: int, n_wanted: int, rng: np.random.Generator | None) -> int | None:
    if n_there < n_wanted:
        return None
    return (n_there - n_wanted) // 2 if rng is None else int(rng.integers(n_there - n_wanted + 1))


def _cached(song: Song, config: SpleeterConfig, chunk_s: float, cache: Path) -> tuple[list[_Chunk], list[str]]:
    """Open the chunks of a song, or make them."""
    try:
        states = {name: f"{file.path} {file_state(file.path)}" for name, file in song.files.items()}
    except OSError as error:
        raise DatasetError(f"cannot read '{error.filename}': {error.strerror or error}") from error
    sizes = [config.sample_rate, config.n_fft, config.hop, config.n_frames, config.n_bins, config.n_channels]
    decides = json.dumps([_VERSION, states, sizes, chunk_s, song.starts_s])  # in the order of the rows
    return make_once(
        entry(cache, song.name, decides),
        lambda there: _opened(there, song),
        lambda made: _write(made, song, config, chunk_s),
        need=_NEED,
    )


def _opened(place: Path, song: Song) -> tuple[list[_Chunk], list[str]] | None:
    """The chunks and notices in a folder; None where it is not there, or is damaged."""
    try:
        content = json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))
        chunks = []
        for described in content["chunks"]:
            path = place / described["file"]
            if path.stat().st_size != described["size"]:
                return None
            levels = tuple((float(low), float(high)) for low, high in described["levels_db"])
            chunks.append(_Chunk(song, float(described["start_s"]), path, levels))
        return chunks, [str(notice) for notice in content["notices"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(place: Path, song: Song, config: SpleeterConfig, chunk_s: float) -> None:
    """Write the chunks of a song into a folder."""
    notices: list[str] = []
    described: list[dict[str, Any]] = []
    decoded = _decoded(song, config, chunk_s, notices)
    for nth, (start_s, samples) in enumerate(zip(song.starts_s, decoded, strict=True)):
        magnitudes = _magnitudes(samples, config)
        if (problem := _problem(magnitudes, config.n_frames)) is not None:
            notices.append(_without_chunk(start_s, problem))
            continue
        rows = [to_8_bits(row) for row in magnitudes]
        path = place / f"{nth}.npy"
        with path.open("wb") as file:  # np.save would hide how a write failed
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": magnitudes.shape}
            )
            for codes, _, _ in rows:
                file.write(codes.data)
        levels_db = [(low, high) for _, low, high in rows]
        described.append({"file": path.name, "size": path.stat().st_size, "start_s": start_s, "levels_db": levels_db})
    content = json.dumps({"chunks": described, "notices": notices})
    (place / _DESCRIPTION).write_text(content, encoding="utf-8")


def _codes(chunk: _Chunk) -> Codes:
    """A chunk's levels [shape=(row, channel, frame, F)], mapped: no more is read than is used."""
    assert chunk.path is not None
    try:
        codes: Codes = np.load(chunk.path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"cannot read '{chunk.path}' of the cache: {error}; start again, and it is made anew"
        ) from error
    return codes
