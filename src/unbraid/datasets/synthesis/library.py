"""Folders of synthetic songs, as a training reads them: FOLDER/song 0000/vocals.flac and so on."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from unbraid.datasets.synthesis.sampler import Bank
from unbraid.datasets.synthesis.song import Studio
from unbraid.datasets.synthesis.voices import Voices
from unbraid.datatypes import FloatArray
from unbraid.errors import DatasetError, UsageError

__all__ = ["Order", "make_songs"]

_FULL_SCALE = 1 << 15


@dataclass(frozen=True)
class Order:
    """What songs are wanted.

    folder : where they go; songs that are there already are left as they are
    n_songs : how many
    seconds : length of each
    seed : with its number, it decides what a song is
    sample_rate : in Hz
    bank, voices : folders of recorded instruments and voices; None for synthesisers only
    exclude : instruments, speakers and groups of phrases that are not used
    piano : whether pianos are a stem of their own, and not in "other"
    """

    folder: Path
    n_songs: int
    seconds: float = 60.0
    seed: int = 0
    sample_rate: int = 44100
    bank: Path | None = None
    voices: Path | None = None
    exclude: tuple[str, ...] = ()
    piano: bool = True

    def __post_init__(self) -> None:
        if self.n_songs < 1:
            raise UsageError(f"n_songs must be 1 or more, got {self.n_songs}")
        if not 2 <= self.seconds <= 600:
            raise UsageError(f"seconds must be from 2 to 600, got {self.seconds:g}")

    def place(self, number: int) -> Path:
        """Folder of a song."""
        return self.folder / f"song {number:04d}"


def make_songs(order: Order, *, n_workers: int = 1, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Make songs, several at a time; what an interruption left undone, the next call does.

    on_progress : told how many of how many are there

    Raises
    ------
    DatasetError : the recordings will not do, or the folder cannot be written
    """
    say = on_progress or (lambda n_done, n_all: None)
    missing = [number for number in range(order.n_songs) if not order.place(number).exists()]
    n_done = order.n_songs - len(missing)
    say(n_done, order.n_songs)
    for _ in _made(order, missing, n_workers):
        n_done += 1
        say(n_done, order.n_songs)


def _made(order: Order, numbers: list[int], n_workers: int) -> Iterator[int]:
    """Make songs; gives the number of each that is done."""
    if n_workers == 1 or len(numbers) < 2:
        for number in numbers:
            yield _make(order, number)
        return
    # Processes, as Python itself takes half of the time; each decodes the recordings that it needs.
    with ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(_make, order, number) for number in numbers]):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _make(order: Order, number: int) -> int:
    """Make one song, whole or not at all, and give its number."""
    stems = _studio(order).song(order.seconds, np.random.default_rng([order.seed, number]))
    if not order.piano and "piano" in stems:
        piano = stems.pop("piano")
        stems["other"] = stems["other"] + piano if "other" in stems else piano
    place = order.place(number)
    temporary = place.with_name(f".{place.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for stem, samples in stems.items():
            _write(temporary / f"{stem}.flac", samples, order.sample_rate)
        temporary.rename(place)
    except (OSError, soundfile.LibsndfileError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"cannot write '{place}': {reason}; songs that are done are kept") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return number


def _write(path: Path, samples: FloatArray, sample_rate: int) -> None:
    """Write 16 bits; of stems below full scale nothing is cut."""
    whole = np.clip(np.rint(samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    soundfile.write(path, whole.T, sample_rate, subtype="PCM_16")


_studios: dict[Order, Studio] = {}


def _studio(order: Order) -> Studio:
    """The recordings, opened once in a process."""
    if order not in _studios:
        _studios.clear()
        bank = None if order.bank is None else Bank(order.bank, order.sample_rate)
        voices = None if order.voices is None else Voices(order.voices, order.sample_rate)
        _studios[order] = Studio(order.sample_rate, bank, voices, order.exclude)
    return _studios[order]
