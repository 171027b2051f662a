"""Read Standard MIDI Files: just the notes, with their times, channels and programs."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from unbraid.errors import UnbraidError

__all__ = ["Note", "read_midi"]

_DATA_BYTES = {0x8: 2, 0x9: 2, 0xA: 2, 0xB: 2, 0xC: 1, 0xD: 1, 0xE: 2}  # after a status byte, by its high half
_DEFAULT_TEMPO = 500_000  # microseconds a quarter note, until the file says otherwise


@dataclass(frozen=True)
class Note:
    """A note: start and duration in seconds, MIDI pitch, velocity 1…127, channel 0…15, General MIDI program 0…127."""

    start_s: float
    duration_s: float
    pitch: int
    velocity: int
    channel: int
    program: int


def read_midi(path: Path) -> list[Note]:
    """Read all notes of a Standard MIDI File of format 0 or 1, in order of their starts.

    Parameters
    ----------
    path : Path
        A file of format 0 or 1.

    Returns
    -------
    list of Note

    Raises
    ------
    UnbraidError
        If the file is not a MIDI file with ticks per quarter note.
    """
    data = path.read_bytes()
    if data[:4] != b"MThd" or len(data) < 14:
        raise UnbraidError(f"cannot read '{path.name}': not a Standard MIDI File")
    header_size, _, n_tracks, division = struct.unpack(">IHHH", data[4:14])
    if division & 0x8000 or division == 0:
        raise UnbraidError(f"cannot read '{path.name}': only times in ticks per quarter note are understood")
    at, events = 8 + header_size, []
    for _ in range(n_tracks):
        if data[at : at + 4] != b"MTrk":
            break
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        events += _track_events(data[at + 8 : at + 8 + size])
        at += 8 + size
    events.sort(key=lambda event: event[0])
    return _notes_of(events, division)


_Event = tuple[int, int, int, int]  # tick, status byte (0x51 for a tempo), first and second data value


def _track_events(track: bytes) -> list[_Event]:
    """Decode the channel messages and tempo changes of one track, with absolute ticks."""
    events: list[_Event] = []
    at = tick = status = 0
    while at < len(track):
        delta, at = _variable_length(track, at)
        tick += delta
        if at >= len(track):
            break
        if track[at] & 0x80:
            status, at = track[at], at + 1
        if status in (0xFF, 0xF0, 0xF7):
            kind = track[at] if status == 0xFF else -1
            size, at = _variable_length(track, at + (status == 0xFF))
            if kind == 0x51 and size == 3:
                events.append((tick, 0x51, int.from_bytes(track[at : at + 3], "big"), 0))
            at += size
            continue
        n_data = _DATA_BYTES.get(status >> 4, 0)
        values = track[at : at + n_data]
        if n_data == 0 or len(values) < n_data:
            break
        events.append((tick, status, values[0], values[1] if n_data == 2 else 0))
        at += n_data
    return events


def _variable_length(data: bytes, at: int) -> tuple[int, int]:
    """Decode a variable-length quantity; also where the data goes on."""
    value = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            break
    return value, at


def _notes_of(events: list[_Event], division: int) -> list[Note]:
    """Pair note-ons with note-offs and turn ticks into seconds."""
    notes: list[Note] = []
    programs = [0] * 16
    sounding: dict[tuple[int, int], tuple[float, int, int]] = {}
    now_s, last_tick, tempo = 0.0, 0, _DEFAULT_TEMPO
    for tick, status, first, second in events:
        now_s += (tick - last_tick) * tempo * 1e-6 / division
        last_tick = tick
        kind, channel = status >> 4, status & 0xF
        if status == 0x51:
            tempo = first
        elif kind == 0xC:
            programs[channel] = first
        elif kind in (0x8, 0x9):
            begun = sounding.pop((channel, first), None)
            if begun is not None:
                start_s, velocity, program = begun
                notes.append(Note(start_s, now_s - start_s, first, velocity, channel, program))
            if kind == 0x9 and second > 0:
                sounding[channel, first] = (now_s, second, programs[channel])
    return sorted(notes, key=lambda note: note.start_s)
