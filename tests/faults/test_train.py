"""Trainings that cannot be, by real faults of files, tables, the disk and the memory: one line that says what to do."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from commands import REAL, Outcome, command, run_inside
from training_makers import RATE, STEMS, make_songs, write_recipe
from unbraid.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and mounts of POSIX")

SONGS = ("song 0", "song 1")


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    return make_songs(tmp_path / "songs", seconds=3.0)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "tiny.toml")


class Training:
    """`unbraid train` of a tiny network, in this process: two steps, unless something prevents them."""

    def __init__(self, capsys: pytest.CaptureFixture[str], songs: Path, recipe: Path, out: Path) -> None:
        self.capsys, self.out = capsys, out
        self.arguments: list[object] = ["-d", songs, "-r", recipe, "-o", out, "--steps", 2, "--no-tensorboard"]

    def __call__(self, *more: object) -> Outcome:
        return run_inside(["train", *self.arguments, *more], self.capsys)

    def is_refused(self, *more: object, code: int = 3) -> str:
        """Run it; the one line that it says. Nothing is trained, and nothing half-written stays."""
        done = self(*more)
        assert done.code == code, done
        assert len(done.lines) == 1, done.err
        assert done.lines[0].startswith("unbraid: ")
        assert not (self.out / "checkpoint.safetensors").exists()
        assert not list(self.out.rglob("*.part"))
        return done.lines[0]

    def succeeds(self, *more: object) -> str:
        """Run it to the end; what it says on the way."""
        done = self(*more)
        assert (done.code, done.err) == (0, ""), done.err
        assert (self.out / "model" / "weights.safetensors").exists()
        return done.out


@pytest.fixture
def training(capsys: pytest.CaptureFixture[str], songs: Path, recipe: Path, tmp_path: Path) -> Training:
    return Training(capsys, songs, recipe, tmp_path / "out")


def test_a_missing_stem_is_named_or_silence(training: Training, songs: Path) -> None:
    (songs / "song 1" / "bass.wav").unlink()
    line = training.is_refused()
    assert "'song 1': it has no bass; --missing silent would take silence for it" in line
    assert "note: song 1: bass is missing: silence" in training.succeeds("--missing", "silent")


def test_unequal_lengths_are_named(training: Training, songs: Path) -> None:
    path = songs / "song 0" / "drums.wav"
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples[: 2 * rate], rate)
    line = training.is_refused(code=1)
    assert f"'{path}' is 2.000 s long, but '" in line and "3.000 s: they may differ by 0.1 s; " in line
    assert "note: song 0: left out: " in training.succeeds("--unreadable", "skip")


def test_another_rate_is_resampled_and_said(training: Training, songs: Path) -> None:
    path = songs / "song 0" / "vocals.wav"
    samples, _ = soundfile.read(path, dtype="int16")
    soundfile.write(path, np.repeat(samples, 2, axis=0), 2 * RATE)
    assert "note: song 0: vocals: resampled from 16000 to 8000 Hz" in training.succeeds()


@pytest.mark.parametrize("damage", ["no audio", "empty", "cut"])
def test_a_corrupt_file_is_named_or_its_song_left_out(training: Training, songs: Path, damage: str) -> None:
    path = songs / "song 1" / "other.wav"
    if damage == "cut":  # in the middle of a FLAC's frames
        samples, rate = soundfile.read(path, dtype="int16")
        path = path.with_suffix(".flac")
        soundfile.write(path, samples, rate)
        path.with_suffix(".wav").unlink()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes({"no audio": bytes(range(256)) * 40, "empty": b""}[damage])
    line = training.is_refused(code=1)
    assert str(path) in line and line.endswith("; --unreadable skip would leave it out")
    said = training.succeeds("--unreadable", "skip")
    assert "note: song 1: left out: " in said and str(path) in said


def test_songs_that_all_are_corrupt_leave_nothing(training: Training, songs: Path) -> None:
    for path in songs.rglob("*.wav"):
        path.write_bytes(b"RIFF")
    assert "no track of the dataset can be used" in training.is_refused("--unreadable", "skip")


def write_params(table: Path) -> Path:
    """Spleeter's JSON beside a table, that trains on it."""
    given: dict[str, Any] = {
        "train_csv": table.name, "validation_csv": table.name, "instrument_list": list(STEMS),
        "T": 64, "F": 256, "frame_length": 1024, "frame_step": 256, "training_cache": str(table.parent / "chunks"),
    }  # fmt: skip
    params = table.with_suffix(".json")
    params.write_text(json.dumps(given), encoding="utf-8")
    return params


@pytest.mark.parametrize("column", ["tempo", "pianos_path"])
def test_a_table_with_an_unknown_column_is_named(training: Training, songs: Path, column: str) -> None:
    """Spleeter ignores it, and so would train on something else than a misspelt table meant."""
    table = songs / "songs.csv"
    lines = [f"mix_path,{','.join(f'{stem}_path' for stem in STEMS)},{column}"]
    lines += [f"{song}/mix.wav,{','.join(f'{song}/{stem}.wav' for stem in STEMS)},{song}/drums.wav" for song in SONGS]
    table.write_text("\n".join(lines), encoding="utf-8")
    for song in SONGS:
        shutil.copy(songs / song / "other.wav", songs / song / "mix.wav")
    training.arguments[:4] = ["-p", write_params(table), "-d", songs]
    assert f"unknown column '{column}'; the nearest known one is '" in training.is_refused()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "but ''; name the columns"),
        ("mix_path,vocals_path,drums_path,bass_path,other_path,duration\n", "no tracks"),
        ("mix_path,vocals_path,drums_path,bass_path,other_path\na.wav,b.wav,c.wav,d.wav,e.wav\n", "a.wav"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_spleeters", [False, True], ids=["-d TABLE", "-p JSON"])
def test_tables_that_will_not_do_are_named(
    training: Training, tmp_path: Path, text: str, message: str, is_spleeters: bool
) -> None:
    table = tmp_path / "songs.csv"
    table.write_text(text, encoding="utf-8")
    training.arguments[:2] = ["-d", table]
    if is_spleeters:
        training.arguments[:4] = ["-p", write_params(table), "-d", tmp_path]
    line = training.is_refused()
    assert "songs.csv" in line or "a.wav" in line
    assert message in line


def test_a_disk_that_is_full_while_caching_keeps_what_is_done(
    training: Training, songs: Path, small_disk: Path, tmp_path: Path
) -> None:
    # 3 s of four stereo stems take 384 kB, and as much while they are decoded.
    line = training.is_refused("--cache", small_disk / "cache")
    assert f"no room for the decoded dataset in '{small_disk / 'cache'}'" in line
    assert "--cache" in line
    assert not list(small_disk.rglob("*.part"))
    training.succeeds("--cache", tmp_path / "cache")


def test_a_disk_that_is_full_while_saving_keeps_the_checkpoint(
    training: Training, small_disk: Path, tmp_path: Path
) -> None:
    """The first checkpoint has room, but not the second beside it."""
    training.out = small_disk / "out"
    changes = ["-o", training.out, "--cache", tmp_path / "cache", "--set", "network.config.hidden_channels=7"]
    one_a_step = ["--set", "schedule.epoch_steps=1"]
    done = training(*changes, *one_a_step, "--steps", 6)
    assert done.code == 1, done
    (line,) = done.lines
    assert line.startswith(f"unbraid: cannot write the checkpoint '{training.out / 'checkpoint.safetensors'}': ")
    assert "the one before is kept" in line and "free some space" in line
    _, plain = read_checkpoint(training.out / "checkpoint.safetensors")
    assert plain["progress"]["step"] == 1
    assert not list(training.out.rglob("*.part"))
    shutil.copytree(training.out, tmp_path / "roomy")  # as if the disk had room now
    training.out = tmp_path / "roomy"
    said = training.succeeds(*changes, *one_a_step, "--steps", 6, "-o", training.out)
    assert "going on from step 1," in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "network.config.hidden_channels=8"], "network.config.hidden_channels was 6 and is 8"),
        (["--stems", "vocals,drums"], "data.stems was not set and is ['vocals', 'drums']"),
        (["--from", "MODEL"], "network.start was not set and is "),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(training: Training, change: list[str], message: str) -> None:
    training.succeeds()
    model, checkpoint = training.out / "model", training.out / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    done = training(*(str(model) if one == "MODEL" else one for one in change))
    assert done.code == 3, done
    (line,) = done.lines
    assert line.startswith(f"unbraid: cannot go on from '{checkpoint}', which is of another training: ")
    assert message in line and line.endswith("train into another folder by -o, or remove it to start anew")
    assert checkpoint.read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory takes Linux")
def test_out_of_memory_says_what_to_lower(songs: Path, recipe: Path, tmp_path: Path) -> None:
    """A limit of the address space is reached by the network's own activations."""
    limit = shutil.which("prlimit")
    if limit is None:
        pytest.skip("no prlimit here")
    arguments = ["train", "-d", songs, "-r", recipe, "-o", tmp_path / "out", "--no-tensorboard", "--workers", "0"]
    program = (limit, f"--as={4 << 30}", *REAL)
    done = command([*arguments, "--steps", "2", "--set", "data.batch_size=4000"], program=program)
    assert done.code == 1, done
    assert len(done.lines) == 1, done.err
    assert done.lines[0].startswith("unbraid: out of memory with 4000 examples of 0.5 s: lower data.batch_size")
    assert not (tmp_path / "out" / "model").exists()
