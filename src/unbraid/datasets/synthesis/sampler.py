"""A bank of recorded instruments, which play parts note by note."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.random import Generator

from unbraid.datasets.synthesis.recorded_players import draw_drummer, draw_soloist
from unbraid.datasets.synthesis.recordings import Loop, add, articulations, read_entries, resampled
from unbraid.datasets.synthesis.score import ROLES, Player
from unbraid.datatypes import FloatArray
from unbraid.errors import DatasetError, UsageError

__all__ = ["Bank"]

# Families of instruments that suit a role; a bass is told by its stem. Drums and percussion are drawn otherwise.
_FAMILIES = {
    "piano": ("piano",),
    "guitar": ("guitar",),
    "organ": ("organ",),
    "strings": ("strings", "synth"),
    "brass": ("brass", "woodwind"),
    "lead": ("woodwind", "guitar", "strings"),
    "arpeggio": ("guitar",),
    "pad": ("synth", "organ"),
}
_LOOP_KINDS = {"drums": ("drums", "percussion"), "melodic": ("melodic", "drone"), "texture": ("noise",)}
_LARGEST_STRETCH = 1.15


class Bank:
    """Recorded instruments, of which `player` draws one; a file is decoded when it is first needed.

    A copy in another process decodes its own.

    Parameters
    ----------
    folder : Path
        Holds `bank.json` and the files that it names.
    sample_rate : int, in Hz
        At which recordings are kept; players play at any rate, best at this one.
    memory_bytes : int
        Of decoded recordings; those not used for longest are dropped.

    Raises
    ------
    DatasetError
        A folder, list or file will not do.
    """

    def __init__(self, folder: Path, sample_rate: int, *, memory_bytes: int = 600_000_000) -> None:
        self.folder, self.sample_rate, self.memory_bytes = Path(folder), sample_rate, memory_bytes
        self._decoded: OrderedDict[str, Any] = OrderedDict()
        self._n_bytes = 0
        entries = read_entries(self.folder)
        try:
            self._loops = [
                Loop(entry["file"], entry["loop_kind"], float(entry["beats"]), float(entry["bpm"]))
                for entry in entries
                if entry["family"] == "loop"
            ]
            self._voices = articulations(entry for entry in entries if entry["family"] not in ("loop", "fx"))
            kept = {loop.file for loop in self._loops}
            kept.update(sample.file for voice in self._voices for sample in voice.samples)
            lines = {f"{entry['attribution']} ({entry['licence']})" for entry in entries if entry["file"] in kept}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"cannot use {self.folder / 'bank.json'}: an entry is damaged: {error!r}") from error
        self._attributions = tuple(sorted(lines))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoded": OrderedDict(), "_n_bytes": 0}

    @property
    def instruments(self) -> tuple[str, ...]:
        """Names, as `player` may be told to exclude."""
        return tuple(sorted({voice.instrument for voice in self._voices}))

    def attributions(self) -> tuple[str, ...]:
        """Whose the recordings are, with the licence of each."""
        return self._attributions

    def recording(self, file: str) -> FloatArray:
        """Samples [shape=(channel, time)] of a file, at the bank's rate; one channel or two."""
        if file not in self._decoded:
            try:
                samples, sample_rate = soundfile.read(self.folder / file, dtype="float32", always_2d=True)
            except (OSError, soundfile.SoundFileError) as error:
                raise DatasetError(f"cannot decode '{self.folder / file}': {' '.join(str(error).split())}") from error
            samples = soxr.resample(samples[:, :2], sample_rate, self.sample_rate, quality="HQ")
            if not len(samples):
                raise DatasetError(f"cannot use '{self.folder / file}': it is empty")
            # Half precision puts an error 66 dB below each sample: less than the lossy files have already.
            self._decoded[file] = np.ascontiguousarray(samples.T, np.float16)
            self._n_bytes += self._decoded[file].nbytes
            while self._n_bytes > self.memory_bytes and len(self._decoded) > 1:
                self._n_bytes -= self._decoded.popitem(last=False)[1].nbytes
        self._decoded.move_to_end(file)
        full: FloatArray = self._decoded[file].astype(np.float32)
        return full

    def player(self, role: str, rng: Generator, *, exclude: Collection[str] = ()) -> Player | None:
        """Draw an instrument that suits a role of ROLES, and all its settings; None if the bank has no such.

        exclude : names of instruments that must not be drawn
        """
        if role not in ROLES:
            raise UsageError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
        voices = [voice for voice in self._voices if voice.instrument not in exclude]
        if ROLES[role] == "drums":
            return draw_drummer(self, voices, rng, percussion=role == "percussion")
        if role == "bass":
            fitting = [voice for voice in voices if voice.stem == "bass"]
        else:
            families = _FAMILIES.get(role, ())
            fitting = [voice for voice in voices if voice.family in families and voice.stem != "bass"]
            # The pedal of an organ has only notes that belong to a bass.
            fitting = [voice for voice in fitting if voice.notes and voice.notes[-1] >= 48]
        return draw_soloist(self, fitting, role, rng) if fitting else None

    def loop(self, rng: Generator, kind: str, tempo_bpm: float, seconds: float) -> FloatArray | None:
        """Repeat a loop at a tempo, which also changes its pitch; None if none is within 15 % of the tempo.

        kind : "drums", "melodic" or "texture"
        Returns an ndarray [shape=(2, round(seconds · sample_rate)), float32].
        """
        if kind not in _LOOP_KINDS or tempo_bpm <= 0:
            raise UsageError(f"a loop is one of {', '.join(_LOOP_KINDS)} at a tempo above 0, got {kind!r}, {tempo_bpm}")
        # Half and double time fit as well.
        fitting = [
            (loop, tempo_bpm / (loop.tempo_bpm * octave))
            for loop in self._loops
            for octave in (0.5, 1.0, 2.0)
            if loop.kind in _LOOP_KINDS[kind]
            and 1 / _LARGEST_STRETCH <= tempo_bpm / (loop.tempo_bpm * octave) <= _LARGEST_STRETCH
        ]
        if not fitting:
            return None
        loop, ratio = fitting[int(rng.integers(len(fitting)))]
        period = loop.beats * 60 / (loop.tempo_bpm * ratio) * self.sample_rate
        # Beats have to keep their places; of anything else the end and the repetition are cross-faded.
        n_fade = min(round((0.005 if kind == "drums" else 0.1) * self.sample_rate), int(period / 4))
        recorded = self.recording(loop.file)
        once = resampled(recorded, recorded.shape[1] / (period + (0 if kind == "drums" else n_fade)))
        fade = np.linspace(0, 1, n_fade, dtype=np.float32)
        once[:, once.shape[1] - n_fade :] *= fade[::-1]
        later = once.copy()
        if kind != "drums":
            later[:, :n_fade] *= fade
        track = np.zeros((2, round(seconds * self.sample_rate)), np.float32)
        for index in range(int(np.ceil(track.shape[1] / period))):
            add(track, later if index else once, round(index * period), (1.0, 1.0))
        return track
