"""Fine-tuning of a TensorFlow checkpoint of Spleeter: with no rate it is as before, with one it learns."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from commands import run_inside
from dataset_makers import make_song
from unbraid import Separator
from unbraid.evaluation.scores import usdr
from unbraid.weights.store import load_model

SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden" / "spleeter"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference outputs in '{GOLDEN}'")
RATE = 44100
FROZEN = ["--set", "network.batch_norm=frozen", "--set", "data.batch_size=1", "--no-tensorboard", "-q"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = json.loads((GOLDEN / "2stems.json").read_text())
    content["model_dir"] = str(GOLDEN / "checkpoints" / "2stems")
    path = tmp_path_factory.mktemp("golden") / "2stems.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    (folder / "song").mkdir()
    for stem, samples in make_song(30.0, seed=8, sample_rate=RATE).items():
        soundfile.write(folder / "song" / f"{stem}.wav", samples.T, RATE, subtype="FLOAT")
    return folder


def the_song(songs: Path) -> dict[str, np.ndarray]:
    return {path.stem: soundfile.read(path, dtype="float32")[0].T for path in (songs / "song").iterdir()}


def test_no_rate_changes_nothing(
    start: Path, songs: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-d", songs, "-r", "spleeter-2stems", "--from", start, "-o", tmp_path, "--steps", 2]
    done = run_inside(["train", *arguments, *FROZEN, "--set", "optimizer.learning_rate=0"], capsys)
    assert (done.code, done.err) == (0, "")
    before, after = load_model(start).parts[0].state(), load_model(tmp_path / "model").parts[0].state()
    assert before.keys() == after.keys()
    assert all(np.array_equal(value, after[name]) for name, value in before.items())
    mix = sum(the_song(songs).values())
    with Separator(start) as one, Separator(tmp_path / "model") as other:
        expected, found = (each.separate(mix, sample_rate=RATE) for each in (one, other))
    assert all(np.array_equal(found[stem], expected[stem]) for stem in expected)


@pytest.mark.slow
def test_a_rate_improves_the_song_and_leaves_the_statistics(
    start: Path, songs: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-d", songs, "-r", "spleeter-2stems", "--from", start, "-o", tmp_path, "--steps", 60]
    changes = ["--set", "optimizer.learning_rate=1e-3", "--set", "schedule.epoch_steps=20"]
    done = run_inside(["train", *arguments, *FROZEN, *changes], capsys)
    assert (done.code, done.err) == (0, "")
    before, after = load_model(start).parts[0].state(), load_model(tmp_path / "model").parts[0].state()
    assert all(np.array_equal(value, after[name]) for name, value in before.items() if "running" in name)
    assert not all(np.array_equal(value, after[name]) for name, value in before.items())
    song = the_song(songs)
    mix = sum(song.values())
    with Separator(start) as one, Separator(tmp_path / "model") as other:
        scores = [usdr(song["vocals"], each.separate(mix, sample_rate=RATE)["vocals"]) for each in (one, other)]
    assert scores[1] > scores[0] + 1
