"""From a dataset to examples: which tracks, or which parts of them, are trained on, and which are for validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unbraid.datasets.tracks import Dataset, Track
from unbraid.datatypes import FloatArray
from unbraid.errors import DatasetError
from unbraid.evaluation.targets import is_sum_of_others
from unbraid.training.cache import CachedTrack, cache_tracks
from unbraid.training.recipe import ValidationConfig

__all__ = ["Material", "Span", "part", "spans_of", "stems_of", "validation_parts"]

_SHORTEST_VALIDATION_S = 6.0
# Of the mix's deviation, in the division by it: that of the pipeline.
_DEVIATION_FLOOR = 1e-5


@dataclass(frozen=True)
class Span:
    """A part of a decoded track, in samples; outside it there is silence.

    gain : on all of it
    rows : for each row of what is read, the track's rows that are added up in it; None for all as they are
    """

    track: CachedTrack
    start: int
    stop: int
    gain: float = 1.0
    rows: tuple[tuple[int, ...], ...] | None = None

    @property
    def n_samples(self) -> int:
        """Its length."""
        return self.stop - self.start

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.track.sample_rate

    @property
    def name(self) -> str:
        """Of the track."""
        return self.track.name

    def read(self, start: int, stop: int) -> FloatArray:
        """Samples [shape=(row, channel, stop - start), float32], counted from the part's beginning."""
        first, last = self._inside(start, stop)
        samples = self.track.read(self.start + first, self.start + last) * np.float32(self.gain)
        if self.rows is not None:
            samples = np.stack([samples[list(row)].sum(axis=0) for row in self.rows])
        return _surrounded(samples, first - start if last > first else 0, stop - start)

    def read_row(self, row: int, start: int, stop: int) -> FloatArray:
        """One row of that [shape=(channel, stop - start)], without reading the others."""
        first, last = self._inside(start, stop)
        samples = self.track.mixed(self._parts(row), self.start + first, self.start + last) * np.float32(self.gain)
        return _surrounded(samples, first - start if last > first else 0, stop - start)

    @property
    def n_rows(self) -> int:
        """Of what is read."""
        return len(self.track.rows if self.rows is None else self.rows)

    def level_db(self, row: int) -> float:
        """Of a row while it sounds, RMS in dB of full scale; -inf where it never does."""
        powers = [10 ** (self.track.levels_db[part] / 10) for part in self._parts(row)]
        total = sum(powers) * self.gain**2
        return 10 * math.log10(total) if total > 0 else -math.inf

    def _inside(self, start: int, stop: int) -> tuple[int, int]:
        """What lies inside the part."""
        first = min(max(start, 0), self.n_samples)
        return first, max(first, min(stop, self.n_samples))

    def _parts(self, row: int) -> tuple[int, ...]:
        return (row,) if self.rows is None else self.rows[row]


def _surrounded(samples: FloatArray, n_before: int, n_all: int) -> FloatArray:
    """With so many zeros before, and as many behind as make it so long."""
    n_after = n_all - n_before - samples.shape[-1]
    if not n_before and not n_after:
        return samples
    return np.pad(samples, (*((0, 0),) * (samples.ndim - 1), (n_before, n_after)))


@dataclass(frozen=True)
class Material:
    """What is trained on, and what decides which weights are best.

    stems : the first rows of each part; one more is what else is in its mix, where there is anything
    """

    training: tuple[Span, ...]
    validation: tuple[Span, ...]
    stems: tuple[str, ...]

    @property
    def training_s(self) -> float:
        """Seconds of music."""
        return sum(span.n_samples / span.sample_rate for span in self.training)


def stems_of(dataset: Dataset, wanted: Sequence[str]) -> tuple[str, ...]:
    """The stems that are to be learnt: those wanted, else all that the dataset has but sums of others.

    "accompaniment", and "no_STEM" of any stem, are all the others together, where the dataset has no file of it.
    """
    found = _found(dataset)
    sums = [f"no_{stem}" for stem in found] + (["accompaniment"] if "vocals" in found else [])
    if missing := [stem for stem in wanted if stem not in (*found, *sums)]:
        raise DatasetError(
            f"no track of '{dataset.root}' has the stem '{missing[0]}'; it has {', '.join(found)}; "
            "choose from these by --stems"
        )
    if len(found) < 2:
        raise DatasetError(f"'{dataset.root}' has one stem only, '{found[0]}': there is nothing to separate it from")
    return tuple(wanted) or found


def _found(dataset: Dataset) -> tuple[str, ...]:
    """The stems that tracks for training have, without those that are the sum of others."""
    tracks = _usable(dataset)
    found = list(dict.fromkeys(stem for track in tracks for stem in track.stems))
    if not found:
        raise DatasetError(
            next((track.problem for track in tracks if track.problem), None)
            or f"no track of '{dataset.root}' has stems; they should be files such as TRACK/vocals.wav"
        )
    return tuple(stem for stem in found if not is_sum_of_others(stem, found))


def _usable(dataset: Dataset) -> list[Track]:
    """All tracks but those of a test set."""
    tracks = [track for track in dataset.tracks if track.subset != "test"]
    if not tracks:
        raise DatasetError(f"'{dataset.root}' has test tracks only, and these are not trained on")
    return tracks


def _parts_of(stem: str, found: Sequence[str]) -> tuple[str, ...]:
    """The dataset's stems that a stem is made of."""
    if stem in found:
        return (stem,)
    without = "vocals" if stem == "accompaniment" else stem.removeprefix("no_")
    return tuple(other for other in found if other != without)


def spans_of(
    dataset: Dataset,
    folder: Path,
    *,
    stems: Sequence[str],
    sample_rate: int,
    n_channels: int,
    normalise: bool = False,
    missing: str = "error",
    unreadable: str = "error",
    n_workers: int = 2,
    on_progress: Callable[[int, int, str], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> list[Span]:
    """Decode a dataset into the cache `folder`: a part for each whole track, but for those of a test set.

    The rows of each are `stems`, and one more for all else that is in the mix, where there is anything. The other
    parameters are those of `cache_tracks` and `DataConfig`.
    """
    found = _found(dataset)
    parts = [_parts_of(stem, found) for stem in stems]
    needed = tuple(dict.fromkeys(part for one in parts for part in one))
    others = tuple(stem for stem in found if stem not in needed)
    order = (*needed, *others)
    rows = [tuple(order.index(part) for part in one) for one in parts]
    if others:
        rows.append(tuple(order.index(other) for other in others))
        if on_notice is not None:
            on_notice(f"not learnt, but in the mix: {', '.join(others)}")
    cached = cache_tracks(
        _usable(dataset),
        folder,
        stems=needed,
        others=others,
        sample_rate=sample_rate,
        n_channels=n_channels,
        missing=missing,
        unreadable=unreadable,
        n_workers=n_workers,
        on_progress=on_progress,
        on_notice=on_notice,
    )
    if never := [stem for stem in needed if all(stem in track.silent for track in cached)]:
        raise DatasetError(
            f"the stem '{never[0]}' is silent in every track: there is nothing to learn; "
            "leave it out by --stems, or look at its files"
        )
    return [Span(track, 0, track.n_samples, _gain(track, normalise), tuple(rows)) for track in cached]


def part(
    spans: Sequence[Span],
    stems: Sequence[str],
    share: float,
    validation: ValidationConfig,
    on_notice: Callable[[str], None],
) -> Material:
    """Share tracks out: the dataset's own validation, else `share` of the tracks, else the end of each."""
    training, held_out = _parted(list(spans), share, on_notice)
    return Material(tuple(training), validation_parts(held_out, validation), tuple(stems))


def validation_parts(spans: Sequence[Span], validation: ValidationConfig) -> tuple[Span, ...]:
    """So many tracks, and the middle of each, as the recipe says."""
    chosen = spans[: validation.n_tracks] if validation.n_tracks else spans
    return tuple(_middle(span, validation.seconds) for span in chosen)


def _gain(track: CachedTrack, normalise: bool) -> float:
    return 1 / (track.std + _DEVIATION_FLOOR) if normalise and track.std > 0 else 1.0


def _parted(spans: list[Span], share: float, say: Callable[[str], None]) -> tuple[list[Span], list[Span]]:
    """Training and validation: as the dataset says, else some whole tracks, else the end of each."""
    held_out = [span for span in spans if span.track.subset == "validation"]
    training = [span for span in spans if span.track.subset != "validation"]
    if held_out and training:
        return training, held_out
    if share * len(spans) >= 1:
        order = np.random.default_rng(len(spans)).permutation(len(spans))  # the same in every run
        chosen = set(order[: min(round(share * len(spans)), len(spans) - 1)].tolist())
        held_out = [span for i, span in enumerate(spans) if i in chosen]
        say(f"kept for validation: {', '.join(span.name for span in held_out)}")
        return [span for i, span in enumerate(spans) if i not in chosen], held_out
    training, held_out = [], []
    for span in spans:
        n_kept = max(round(share * span.n_samples), round(_SHORTEST_VALIDATION_S * span.sample_rate))
        n_kept = min(n_kept, span.n_samples // 2)
        cut = span.stop - n_kept
        training.append(replace(span, stop=cut))
        held_out.append(replace(span, start=cut))
    seconds = ", ".join(f"{span.n_samples / span.sample_rate:.0f} s of {span.name}" for span in held_out)
    say(f"kept for validation, as there are few tracks: the last {seconds}")
    return training, held_out


def _middle(span: Span, seconds: float) -> Span:
    """So many seconds around the middle; 0 for all."""
    n = round(seconds * span.sample_rate)
    if not n or n >= span.n_samples:
        return span
    start = span.start + (span.n_samples - n) // 2
    return replace(span, start=start, stop=start + n)
