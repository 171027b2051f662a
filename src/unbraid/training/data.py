"""From a dataset to examples: which tracks, or which parts of them, are trained on, and which are for validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unbraid.datasets.tracks import Dataset, Track
from unbraid.datatypes import FloatArray
from unbraid.errors import DatasetError
from unbraid.training.cache import CachedTrack, cache_tracks
from unbraid.training.recipe import DataConfig, ValidationConfig

__all__ = ["Material", "Span", "prepare", "stems_of"]

_SHORTEST_VALIDATION_S = 6.0
# Of the mix's deviation, in the division by it: that of the pipeline.
_DEVIATION_FLOOR = 1e-5


@dataclass(frozen=True)
class Span:
    """A part of a decoded track, in samples; outside it there is silence.

    gain : on all of it
    """

    track: CachedTrack
    start: int
    stop: int
    gain: float = 1.0

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
        first, last = min(max(start, 0), self.n_samples), min(max(stop, 0), self.n_samples)
        samples = self.track.read(self.start + first, self.start + last) * np.float32(self.gain)
        if (first, last) == (start, stop):
            return samples
        n_before = first - start if last > first else 0
        return np.pad(samples, ((0, 0), (0, 0), (n_before, stop - start - n_before - (last - first))))


@dataclass(frozen=True)
class Material:
    """What is trained on, and what decides which weights are best."""

    training: tuple[Span, ...]
    validation: tuple[Span, ...]
    stems: tuple[str, ...]

    @property
    def training_s(self) -> float:
        """Seconds of music."""
        return sum(span.n_samples / span.sample_rate for span in self.training)


def stems_of(dataset: Dataset, wanted: Sequence[str]) -> tuple[str, ...]:
    """The stems that are to be learnt: those wanted, else all that the dataset has."""
    found = tuple(dict.fromkeys(stem for track in dataset.tracks for stem in track.stems))
    if missing := [stem for stem in wanted if stem not in found]:
        raise DatasetError(
            f"no track of '{dataset.root}' has the stem '{missing[0]}'; it has {', '.join(found)}; "
            "choose from these by --stems"
        )
    chosen = tuple(wanted) or found
    if len(chosen) < 2 and len(found) < 2:
        raise DatasetError(f"'{dataset.root}' has one stem only, '{found[0]}': there is nothing to separate it from")
    return chosen


def prepare(
    dataset: Dataset,
    folder: Path,
    config: DataConfig,
    validation: ValidationConfig,
    *,
    stems: Sequence[str],
    sample_rate: int,
    n_channels: int,
    missing: str = "error",
    unreadable: str = "error",
    n_workers: int = 2,
    on_progress: Callable[[int, int, str], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Material:
    """Decode a dataset into the cache `folder` and part it; test tracks are never used.

    The other parameters are those of `cache_tracks`.
    """
    say = on_notice or (lambda text: None)
    tracks: list[Track] = [track for track in dataset.tracks if track.subset != "test"]
    if not tracks:
        raise DatasetError(f"'{dataset.root}' has test tracks only, and these are not trained on")
    cached = cache_tracks(
        tracks,
        folder,
        stems=stems,
        sample_rate=sample_rate,
        n_channels=n_channels,
        missing=missing,
        unreadable=unreadable,
        n_workers=n_workers,
        on_progress=on_progress,
        on_notice=on_notice,
    )
    spans = [Span(track, 0, track.n_samples, _gain(track, config.normalise)) for track in cached]
    training, held_out = _parted(spans, config.validation_share, say)
    if validation.n_tracks:
        held_out = held_out[: validation.n_tracks]
    _check_stems(training, tuple(stems))
    middle = tuple(_middle(span, validation.seconds) for span in held_out)
    return Material(tuple(training), middle, tuple(stems))


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
        chosen = set(order[: round(share * len(spans))].tolist())
        held_out = [span for i, span in enumerate(spans) if i in chosen]
        say(f"kept for validation: {', '.join(span.name for span in held_out)}")
        return [span for i, span in enumerate(spans) if i not in chosen], held_out
    training, held_out = [], []
    for span in spans:
        n_kept = max(round(share * span.n_samples), round(_SHORTEST_VALIDATION_S * span.sample_rate))
        n_kept = min(n_kept, span.n_samples // 2)
        cut = span.stop - n_kept
        training.append(Span(span.track, span.start, cut, span.gain))
        held_out.append(Span(span.track, cut, span.stop, span.gain))
    seconds = ", ".join(f"{span.n_samples / span.sample_rate:.0f} s of {span.name}" for span in held_out)
    say(f"kept for validation, as there are few tracks: the last {seconds}")
    return training, held_out


def _middle(span: Span, seconds: float) -> Span:
    """So many seconds around the middle; 0 for all."""
    n = round(seconds * span.sample_rate)
    if not n or n >= span.n_samples:
        return span
    start = span.start + (span.n_samples - n) // 2
    return Span(span.track, start, start + n, span.gain)


def _check_stems(spans: Sequence[Span], stems: tuple[str, ...]) -> None:
    """Refuse early what would be found out late."""
    never = [stem for stem in stems if all(stem in span.track.silent for span in spans)]
    if never:
        raise DatasetError(
            f"the stem '{never[0]}' is silent in every track: there is nothing to learn; "
            "leave it out by --stems, or look at its files"
        )
