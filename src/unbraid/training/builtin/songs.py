"""Make songs with true stems: MIDI arrangements played on recorded or electronic instruments, and lines of voices."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr

from unbraid.datatypes import FloatArray
from unbraid.training.builtin.bank import Bank, Sample, pitched
from unbraid.training.builtin.midi import Note, read_midi
from unbraid.training.builtin.synthesis import bass_patch, kick, lead_patch, play_patch, reverberate

__all__ = ["render_song", "render_voices"]

_DRUM_CHANNEL = 9
_BASS_PROGRAMS = range(32, 40)
_PIANOS, _ORGANS, _GUITARS, _STRINGS, _WINDS = range(0, 8), range(16, 24), range(24, 32), range(40, 56), range(56, 80)
_NEAREST_DRUM = {35: 36, 36: 36, 37: 37, 38: 38, 39: 39, 40: 38, 41: 41, 43: 43, 45: 45, 47: 47, 48: 48, 50: 50}

Player = Callable[[Note], FloatArray]


def render_song(midi: Path, bank: Bank, rng: np.random.Generator, seconds: float) -> dict[str, FloatArray]:
    """Play a part of a MIDI song.

    Each channel gets one instrument that suits its program; half of the songs are electronic, with synthesised
    basses, leads and kick drums.

    Parameters
    ----------
    midi : Path
        The arrangement.
    bank : Bank
        The instruments.
    rng : numpy.random.Generator
        Decides the part, the instruments and the levels.
    seconds : float
        Length of the part.

    Returns
    -------
    dict of str to ndarray [shape=(2, seconds · bank.sample_rate), float32]
        "drums", "bass" and "other", time aligned; a silent stem is all zeros.
    """
    notes = read_midi(midi)
    last_s = max((note.start_s for note in notes), default=0.0)
    begin_s = float(rng.uniform(0, max(0.0, last_s - seconds)))
    notes = [note for note in notes if begin_s <= note.start_s < begin_s + seconds]
    electronic, shift = bool(rng.random() < 0.5), int(rng.integers(-4, 5))
    stems = {stem: np.zeros((2, int(seconds * bank.sample_rate)), np.float32) for stem in ("drums", "bass", "other")}
    channels: dict[tuple[int, int], list[Note]] = defaultdict(list)
    for note in notes:
        channels[note.channel, note.program].append(note)
    low = _bass_channels(channels)
    for (channel, program), part in channels.items():
        if channel == _DRUM_CHANNEL:
            stem, player = "drums", _drummer(bank, rng, electronic)
        elif (channel, program) in low:
            stem, player = "bass", _bassist(bank, rng, electronic, shift)
        else:
            stem, player = "other", _other_player(bank, rng, electronic, program, shift)
        level, pan = float(rng.uniform(0.4, 1)), float(rng.uniform(-0.5, 0.5)) * (stem == "other")
        sides = np.array([[level * min(1, 1 - pan)], [level * min(1, 1 + pan)]], np.float32)
        track = np.zeros_like(stems[stem])
        for note in part:
            _add(track, player(note), int((note.start_s - begin_s) * bank.sample_rate))
        if stem != "bass" and rng.random() < 0.4:
            track = reverberate(track, rng, bank.sample_rate)
        stems[stem] += sides * track
    if electronic and rng.random() < 0.6:
        stems["drums"] = _machine_beat(bank, rng, stems["drums"].shape[1])
    return stems


def render_voices(folder: Path, kind: str, rng: np.random.Generator, seconds: float, sample_rate: int) -> FloatArray:
    """String recorded phrases together, with pauses, second voices, transpositions and reverberation.

    Parameters
    ----------
    folder : Path
        Holds `manifest.json` (kind, group, file of each phrase) and the files it names.
    kind : str
        "singing" or "speech".
    rng : numpy.random.Generator
        Decides everything.
    seconds : float
        Length of the line.
    sample_rate : int
        In Hz.

    Returns
    -------
    ndarray [shape=(2, seconds · sample_rate), float32]
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for entry in json.loads((folder / "manifest.json").read_text(encoding="utf-8")):
        if entry["kind"] == kind:
            groups[entry.get("group") or entry.get("speaker") or "?"].append(folder / entry["file"])
    names = sorted(groups)
    weights = np.sqrt([len(groups[name]) for name in names])
    track = np.zeros((2, int(seconds * sample_rate)), np.float32)
    at = 0
    while at < track.shape[1]:
        section = np.zeros_like(track[:, at : at + int(20 * sample_rate)])
        group = groups[names[int(rng.choice(len(names), p=weights / weights.sum()))]]
        semitones = float(rng.choice([-7, -5, -4, -3, -2, -1, 0, 0, 1, 2]))
        for _voice in range(1 + int(rng.random() < 0.35)):
            _sing(section, group, semitones, rng, sample_rate)
        if rng.random() < 0.7:
            section = reverberate(section, rng, sample_rate)
        track[:, at : at + section.shape[1]] += section
        at += section.shape[1]
    return track


def _sing(section: FloatArray, group: list[Path], semitones: float, rng: np.random.Generator, sample_rate: int) -> None:
    """Add one voice's phrases to `section`, panned a little, at one level."""
    pan, place = float(rng.uniform(-0.3, 0.3)), int(rng.uniform(0, 2) * sample_rate)
    sides = np.array([[1 - max(pan, 0)], [1 + min(pan, 0)]], np.float32)
    while place < section.shape[1]:
        audio, rate = soundfile.read(group[int(rng.integers(len(group)))], dtype="float32", always_2d=True)
        audio = soxr.resample(audio.mean(axis=1), rate, sample_rate, quality="MQ")[None]
        phrase = pitched(audio, semitones)
        phrase *= 0.1 / (np.sqrt(np.mean(phrase**2)) + 1e-4)
        _add(section, sides * phrase, place)
        place += phrase.shape[1] + int(rng.exponential(0.8) * sample_rate)


def _bass_channels(channels: dict[tuple[int, int], list[Note]]) -> set[tuple[int, int]]:
    """The parts with a bass's program; where there is none, the lowest part if it is low enough for one."""
    melodic = [key for key in channels if key[0] != _DRUM_CHANNEL]
    named = {key for key in melodic if key[1] in _BASS_PROGRAMS}
    if named or not melodic:
        return named
    mean_pitch = {key: float(np.mean([note.pitch for note in channels[key]])) for key in melodic}
    lowest = min(melodic, key=mean_pitch.__getitem__)
    return {lowest} if mean_pitch[lowest] < 50 else set()


def _add(track: FloatArray, sound: FloatArray, at: int) -> None:
    """Add `sound` to `track` in place from sample `at` on, as far as the track reaches."""
    if 0 <= at < track.shape[1]:
        kept = sound[:, : track.shape[1] - at]
        track[:, at : at + kept.shape[1]] += kept


def _voice(bank: Bank, stem: str, rng: np.random.Generator, starting: tuple[str, ...] = ("",)) -> list[Sample]:
    """Draw a voice of a stem whose name starts with one of `starting`, and that has pitches."""
    names = [name for name, samples in bank.voices[stem].items() if name.startswith(starting)]
    names = sorted(name for name in names if any(s.pitch is not None for s in bank.voices[stem][name]))
    return bank.voices[stem][names[int(rng.integers(len(names)))]]


def _drummer(bank: Bank, rng: np.random.Generator, electronic: bool) -> Player:
    """Draw a drum kit."""
    kits = ["tr808_kit", "sonicpi_kit", "sonicpi_oneshots"] if electronic else ["gogodze_kit", "muldjord_kit"]
    first, second = (kits[int(rng.integers(len(kits)))] for _ in range(2))
    hits: dict[int, list[list[Sample]]] = defaultdict(list)
    for kit in dict.fromkeys((first, second)):
        for name, samples in sorted(bank.voices["drums"].items()):
            if name.startswith(kit + "/") and samples[0].pitch is not None:
                hits[round(samples[0].pitch)].append(samples)
    chosen = {note: voices[int(rng.integers(len(voices)))] for note, voices in hits.items()}
    notes = np.array(sorted(chosen))

    def play(note: Note) -> FloatArray:
        wanted = _NEAREST_DRUM.get(note.pitch, note.pitch)
        nearest = int(notes[np.argmin(np.abs(notes - wanted))])
        return bank.play(chosen[nearest], nearest, note.velocity, 3.0, rng)

    return play


def _bassist(bank: Bank, rng: np.random.Generator, electronic: bool, shift: int) -> Player:
    """Draw a recorded or electronic bass; notes are folded into a bass's range."""
    patch = bass_patch(rng) if electronic and rng.random() < 0.85 else None
    voice = _voice(bank, "bass", rng)

    def play(note: Note) -> FloatArray:
        pitch = note.pitch + shift
        pitch += 12 * (pitch < 24) - 12 * (pitch > 55)
        if patch is None:
            return bank.play(voice, pitch, note.velocity, min(note.duration_s, 6.0), rng)
        return np.float32(0.5) * play_patch(
            patch, pitch, note.velocity, min(note.duration_s, 4.0), bank.sample_rate, rng
        )

    return play


def _other_player(bank: Bank, rng: np.random.Generator, electronic: bool, program: int, shift: int) -> Player:
    """Draw an instrument of the program's family, or a synthesiser."""
    families: tuple[tuple[range, str, tuple[str, ...]], ...] = (
        (_PIANOS, "piano", ("",)),
        (_ORGANS, "other", ("transistor_organ",)),
        (_GUITARS, "guitar", ("",)),
        (_STRINGS, "other", ("cello", "string_synth")),
        (_WINDS, "other", ("alto_sax", "tuba", "cello", "string_synth")),
    )
    patch = lead_patch(rng) if electronic and rng.random() < 0.75 else None
    stem: str = "other"
    starting: tuple[str, ...] = ("string_synth", "transistor_organ", "cello")
    for programs, family_stem, names in families:
        if program in programs:
            stem, starting = family_stem, names
    voice = _voice(bank, stem, rng, starting)

    def play(note: Note) -> FloatArray:
        pitch = note.pitch + shift
        if patch is None:
            return bank.play(voice, pitch, note.velocity, min(note.duration_s, 6.0), rng)
        duration_s = min(note.duration_s, 3.0)
        return np.float32(0.3) * play_patch(patch, pitch, note.velocity, duration_s, bank.sample_rate, rng)

    return play


def _machine_beat(bank: Bank, rng: np.random.Generator, n_samples: int) -> FloatArray:
    """Programme a drum machine: a kick on most beats, a clap or snare on the second, hats and percussion around."""
    step = 60 / float(rng.uniform(90, 175)) / 4
    kit = [_voice(bank, "drums", rng, ("tr808_kit", "sonicpi")) for _ in range(3)]
    pulses = [_voice(bank, "drums", rng, starts) for starts in (_SNARES, _SNARES, _HATS, _HATS)]
    own_kick = kick(rng, bank.sample_rate) * np.float32(rng.uniform(0.5, 1))
    density = [0.95, 0.05, *rng.uniform(0, 0.3, 2)]  # of the kick on the four sixteenths of a beat
    kicks = rng.random(32) < np.tile(density, 8)
    lanes = [
        (pulses[0], np.arange(32) % 8 == 4, 1.0),
        (pulses[1], rng.random(32) < 0.05, 0.6),
        (pulses[2], np.arange(32) % 4 == 2, 0.7),
        (pulses[3], rng.random(32) < rng.uniform(0.2, 0.9), 0.4),
        *((voice, rng.random(32) < 0.12, 0.4) for voice in kit),
    ]
    track = np.zeros((2, n_samples), np.float32)
    bars_off = rng.random(64) < 0.08
    for index in range(int(n_samples / bank.sample_rate / step)):
        at = int(index * step * bank.sample_rate)
        if kicks[index % 32] and not bars_off[index // 16 % 64]:
            _add(track, own_kick, at)
        for voice, pattern, level in lanes:
            if pattern[index % 32] and level > rng.random() * 0.2:
                sample = voice[0]
                hit = bank.play(voice, sample.pitch or 60, int(rng.integers(70, 127)), 2.0, rng)
                _add(track, hit * np.float32(level), at)
    return track


_SNARES = ("tr808_kit/snare", "tr808_kit/clap", "sonicpi_oneshots/snare", "sonicpi_kit/snare", "sonicpi_oneshots/snap")
_HATS = ("tr808_kit/hihat", "sonicpi_oneshots/hihat", "sonicpi_kit/hihat", "tr808_kit/maracas", "sonicpi_oneshots/ride")
