from __future__ import annotations

from pathlib import Path

import pytest

from unbraid.errors import UnbraidError
from unbraid.training.builtin.midi import Note, read_midi


def midi_file(*tracks: bytes, division: int = 96) -> bytes:
    header = b"MThd" + (6).to_bytes(4, "big") + (1).to_bytes(2, "big") + len(tracks).to_bytes(2, "big")
    chunks = b"".join(b"MTrk" + len(track).to_bytes(4, "big") + track for track in tracks)
    return header + division.to_bytes(2, "big") + chunks


def test_notes_have_times_programs_and_velocities(tmp_path: Path) -> None:
    tempo_track = bytes.fromhex("00ff5103 0f4240 60ff5103 07a120 00ff2f00")  # 1 s a quarter; from tick 96 on 0.5 s
    notes_track = bytes.fromhex(
        "00c121"  # channel 1: program 33
        "00912864"  # note 40, velocity 100, at tick 0
        "60812840"  # off at tick 96
        "00912a50 60 2a00"  # running status: note 42 at tick 96, off (velocity 0) at tick 192
        "00ff2f00"
    )
    path = tmp_path / "song.mid"
    path.write_bytes(midi_file(tempo_track, notes_track))
    assert read_midi(path) == [
        Note(0.0, 1.0, 40, 100, 1, 33),
        Note(1.0, pytest.approx(0.5), 42, 80, 1, 33),
    ]


def test_long_deltas_and_foreign_events_are_understood(tmp_path: Path) -> None:
    track = bytes.fromhex("00f00301 02f7 00ff0304 6e616d65 00b00740 8100 903c40 60803c00 00ff2f00")
    path = tmp_path / "song.mid"
    path.write_bytes(midi_file(track))
    (note,) = read_midi(path)
    assert note.start_s == pytest.approx(128 / 96 * 0.5)
    assert note.duration_s == pytest.approx(0.5)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "song.mid"
    path.write_bytes(b"RIFF....")
    with pytest.raises(UnbraidError, match=r"cannot read 'song\.mid'"):
        read_midi(path)
