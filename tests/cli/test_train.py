"""`unbraid train`: from a folder of stems to a model that separates; stopped, killed and shared out."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from commands import REAL, Outcome, command, environment, run_inside
from dataset_makers import make_csv
from training_makers import RATE, STEMS, make_songs, write_recipe
from unbraid.training.checkpoint import read_checkpoint
from unbraid.weights.model_file import read_model_file
from unbraid.weights.tensors import read_tensors

# Subprocesses on a busy machine; a thread each keeps sums in one order, and two processes from fighting.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_songs(tmp_path_factory.mktemp("data") / "songs")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.toml")


def train(*arguments: object, program: Sequence[str] = REAL) -> Outcome:
    return command(["train", *arguments], program=program, env=ONE_THREAD)


def train_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """In this process, which is quicker."""
    return run_inside(["train", "--no-tensorboard", "-q", *arguments], capsys)


def losses(folder: Path) -> np.ndarray:
    """Of steps.csv [shape=(step, stem)], with its steps checked."""
    with open(folder / "steps.csv", encoding="utf-8", newline="") as file:
        titles, *rows = csv.reader(file)
    assert titles[:2] == ["step", "rate"]
    assert sorted(titles[2:]) == sorted(STEMS)
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    return np.array([row[2:] for row in rows], float)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return dict(read_tensors(folder / "model" / "weights.safetensors"))


@pytest.fixture(scope="module")
def trained(songs: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("trained") / "out"
    return train("-d", songs, "-r", recipe, "-o", folder), folder


def test_it_ends_in_a_model_that_separates(trained: tuple[Outcome, Path], songs: Path, tmp_path: Path) -> None:
    done, folder = trained
    assert (done.code, done.err) == (0, ""), done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("  note: kept for validation, as there are few tracks: the last ")
    assert lines[1].startswith("recipe tiny, bass, drums, other, vocals; 0.01 million parameters, 0.1 minutes of music")
    assert lines[2].startswith("validation before training: SDR bass ")
    assert "SDR in validation  before  after" in lines
    assert lines[-1] == f"model: {folder / 'model'}  (unbraid separate -m {folder / 'model'} song.mp3)"
    assert losses(folder).shape == (20, 4)
    model = read_model_file(folder / "model")
    assert model.stems == tuple(sorted(STEMS))
    assert "SDR in validation" in (folder / "model" / "card.md").read_text(encoding="utf-8")
    song = songs / "song 0" / "vocals.wav"
    separated = command(["separate", "-m", folder / "model", song, "-o", tmp_path])
    assert (separated.code, separated.err) == (0, "")
    for stem in STEMS:
        samples, rate = soundfile.read(tmp_path / "vocals" / f"{stem}.wav")
        assert (samples.shape, rate) == ((6 * RATE, 2), RATE)


def test_tensorboard_has_curves_pictures_and_sounds(trained: tuple[Outcome, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folder = trained
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {f"SDR/{stem}" for stem in STEMS} | {f"loss/{stem}" for stem in STEMS} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("SDR/vocals")] == [0, 5, 10, 15, 20]
    assert set(tags["images"]) == {f"true, estimated/{stem}" for stem in STEMS}
    assert set(tags["audio"]) == set(STEMS)


def test_the_same_command_again_has_nothing_left_to_do(
    trained: tuple[Outcome, Path], songs: Path, recipe: Path
) -> None:
    _, folder = trained
    before = weights(folder), losses(folder)
    done = train("-d", songs, "-r", recipe, "-o", folder)
    assert (done.code, done.err) == (0, "")
    assert all(np.array_equal(value, before[0][name]) for name, value in weights(folder).items())
    np.testing.assert_array_equal(losses(folder), before[1])


def interrupted(arguments: Sequence[object], folder: Path) -> str:
    """Train until something is saved, then press Ctrl-C, which every process hears; returns what it complains."""
    process = subprocess.Popen(
        [*REAL, "train", *map(str, arguments), "--set", "schedule.max_steps=100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(**ONE_THREAD),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,
    )
    while not (folder / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    return err.decode()


def test_an_interrupt_saves_and_the_same_command_goes_on(
    trained: tuple[Outcome, Path], songs: Path, recipe: Path, tmp_path: Path
) -> None:
    _, whole = trained
    arguments = ["-d", songs, "-r", recipe, "-o", tmp_path / "out"]
    err = interrupted(arguments, tmp_path / "out")
    assert err.startswith(f"unbraid: interrupted; the training is saved in '{tmp_path / 'out'}', and the same")
    n_done = len(losses(tmp_path / "out"))
    _, plain = read_checkpoint(tmp_path / "out" / "checkpoint.safetensors")
    assert plain["progress"]["step"] == n_done >= 5
    done = train(*arguments, "--steps", n_done + 2)
    assert done.code == 0, done.err
    assert f"going on from step {n_done}" in done.out
    # As far as both go, it is the training that nobody interrupted.
    n_both = min(20, n_done + 2)
    np.testing.assert_array_equal(losses(tmp_path / "out")[:n_both], losses(whole)[:n_both])


def test_of_two_processes_that_are_interrupted_one_speaks(songs: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ["-d", songs, "-r", recipe, "-o", tmp_path / "out", "--device", "cpu", "--devices", 2]
    err = interrupted(arguments, tmp_path / "out")
    assert [line.split(";")[0] for line in err.splitlines()] == ["unbraid: interrupted"]


def killed(arguments: Sequence[object], folder: Path, n_kills: int) -> None:
    """Kill it at random moments after its start; each run has saved something, or begins anew."""
    rng = np.random.default_rng(5)
    for _ in range(n_kills):
        process = subprocess.Popen(
            [*REAL, "train", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(**ONE_THREAD),
        )
        before = (folder / "steps.csv").stat().st_mtime if (folder / "steps.csv").exists() else 0.0
        while process.poll() is None:
            there = folder / "steps.csv"
            if there.exists() and there.stat().st_mtime > before:
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
        process.wait()


@pytest.mark.parametrize("n_kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_killed_at_random_it_ends_with_the_same_bits(
    trained: tuple[Outcome, Path], songs: Path, recipe: Path, tmp_path: Path, n_kills: int
) -> None:
    _, whole = trained
    arguments = ["-d", songs, "-r", recipe, "-o", tmp_path / "out"]
    killed(arguments, tmp_path / "out", n_kills)
    done = train(*arguments)
    assert done.code == 0, done.err
    expected = weights(whole)
    assert all(np.array_equal(value, expected[name]) for name, value in weights(tmp_path / "out").items())
    tensors, _ = read_checkpoint(tmp_path / "out" / "checkpoint.safetensors")
    others, _ = read_checkpoint(whole / "checkpoint.safetensors")
    assert tensors.keys() == others.keys()
    assert all(tensors[name].equal(others[name]) for name in others)
    np.testing.assert_array_equal(losses(tmp_path / "out"), losses(whole))
    assert not list((tmp_path / "out").glob("*.part"))


def test_two_processes_are_one_with_twice_the_batch(songs: Path, recipe: Path, tmp_path: Path) -> None:
    shared = ["-d", songs, "-r", recipe, "--device", "cpu", "--set", "schedule.max_steps=10"]
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517")
    started = train(*shared, "-o", tmp_path / "started", program=(*torchrun, "-m", "unbraid"))
    alone = train(*shared, "-o", tmp_path / "alone", "--devices", "2")
    one = train(*shared, "-o", tmp_path / "one", "--set", "data.batch_size=8")
    assert one.code == 0, one.err
    for name, two in (("started", started), ("alone", alone)):
        assert two.code == 0, two.err
        assert two.out.count("model: ") == 1  # one of them speaks
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / "one"), rtol=1e-4)


def test_fine_tuning_with_no_rate_changes_nothing(
    model_folder: Path, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zero = ["--set", "optimizer.learning_rate=0", "--set", "network.batch_norm=frozen"]
    size = ["--set", "data.batch_size=2", "--steps", 2]
    done = train_here(
        capsys, "-d", songs, "-r", "spleeter-4stems", "--from", model_folder, *zero, *size, "-o", tmp_path / "out"
    )
    assert done.code == 0, done.err
    before = dict(read_tensors(model_folder / "weights.safetensors"))
    after = weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(np.array_equal(np.asarray(value, np.float32), after[name]) for name, value in before.items())


def test_fine_tuning_moves_weights_and_not_frozen_statistics(
    model_folder: Path, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["--set", "optimizer.learning_rate=1e-3", "--set", "network.batch_norm=frozen"]
    size = ["--set", "data.batch_size=2", "--set", "schedule.epoch_steps=30", "--steps", 30]
    done = train_here(
        capsys, "-d", songs, "-r", "spleeter-4stems", "--from", model_folder, *changes, *size, "-o", tmp_path / "out"
    )
    assert done.code == 0, done.err
    before = dict(read_tensors(model_folder / "weights.safetensors"))
    # Not those of the model folder, which are the ones from before if these do not score better.
    tensors, _ = read_checkpoint(tmp_path / "out" / "checkpoint.safetensors")
    after = {name: tensors[f"network.{name}"].numpy() for name in before}
    moved = {name for name, value in before.items() if not np.array_equal(np.asarray(value, np.float32), after[name])}
    assert any(name.endswith("conv.weight") for name in moved)
    assert not any("running" in name for name in moved)
    assert losses(tmp_path / "out")[-10:].sum() < losses(tmp_path / "out")[:10].sum()


def test_other_stems_keep_what_fits(
    model_folder: Path, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--set", "data.batch_size=2", "--steps", 1, "--stems", "drums,vocals"]
    done = train_here(
        capsys, "-d", songs, "-r", "spleeter-2stems", "--from", model_folder, *size, "-o", tmp_path / "out"
    )
    assert done.code == 0, done.err
    assert read_model_file(tmp_path / "out" / "model").stems == ("drums", "vocals")


def test_two_stems_are_a_voice_and_all_the_rest(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--set", "network.config.model.params.conv_n_filters=[2,2,2,2,2,2]", "--set", "network.config.T=64"]
    size = ["--set", "data.batch_size=2", "--steps", 1]
    done = train_here(capsys, "-d", songs, "-r", "spleeter-2stems", *tiny, *size, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert read_model_file(tmp_path / "out" / "model").stems == ("vocals", "accompaniment")


def test_one_network_a_stem_is_joined_to_a_bag(
    songs: Path, recipe: Path, trained: tuple[Outcome, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, start = trained
    arguments = ["--stems", "vocals,drums", "--set", "per_stem=true", "--steps", 3, "--from", start / "model"]
    done = train_here(capsys, "-d", songs, "-r", recipe, *arguments, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    model = read_model_file(tmp_path / "out" / "model")
    assert [(part.name, part.stem_weights) for part in model.networks] == [("vocals", (1, 0)), ("drums", (0, 1))]
    assert (tmp_path / "out" / "drums" / "checkpoint.safetensors").exists()
    separated = command(["separate", "-m", tmp_path / "out" / "model", songs / "song 0" / "bass.wav", "-o", tmp_path])
    assert separated.code == 0, separated.err


def test_spleeters_json_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for table in ("train", "validation"):
        make_csv(data / f"{table}.csv", n_tracks=1, seconds=4.0)
    given = {
        "train_csv": "train.csv", "validation_csv": "validation.csv", "instrument_list": list(STEMS), "T": 64, "F": 256,
        "frame_length": 1024, "frame_step": 256, "chunk_duration": 3.0, "n_chunks_per_song": 2, "batch_size": 2,
        "learning_rate": 1e-3, "train_max_steps": 4, "save_checkpoints_steps": 2,
        "training_cache": str(data / "chunks"),
        "model": {"type": "unet.unet", "params": {"conv_n_filters": [2, 2, 2, 2, 2, 2]}},
    }  # fmt: skip
    (data / "config.json").write_text(json.dumps(given), encoding="utf-8")
    arguments = ["-p", data / "config.json", "-d", data, "-o", tmp_path / "out"]
    done = train_here(capsys, *arguments)
    assert (done.code, done.err) == (0, "")
    assert losses(tmp_path / "out").shape == (4, 4)
    assert list((data / "chunks").iterdir())
    model = read_model_file(tmp_path / "out" / "model")
    assert (model.stems, model.networks[0].config.n_bins) == (STEMS, 256)
    again = train_here(capsys, *arguments, "--set", "schedule.max_steps=6")
    assert again.code == 0, again.err
    assert losses(tmp_path / "out").shape == (6, 4)
    (data / "config.json").write_text(json.dumps(given | {"loss_type": "L2"}), encoding="utf-8")
    refused = train_here(capsys, *arguments)
    assert (refused.code, refused.err) == (
        2, "unbraid: loss_type must be one of L1_mask, weighted_L1_mask, got 'L2'\n",
    )  # fmt: skip


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    done = run_inside(["train", "--list-recipes"], capsys)
    assert done.code == 0
    assert any(line.startswith("htdemucs: Rouard, Massa, Défossez") for line in done.out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Usage"),
        (["-o", "x"], 2, "no dataset given; try 'unbraid train -d FOLDER'"),
        (["-d", "nowhere"], 3, "cannot load 'nowhere' as a dataset: there is no such folder"),
        (["-d", "SONGS", "-r", "smal"], 2, "no recipe 'smal'; the nearest is 'small'"),
        (["-d", "SONGS", "--set", "optimizer.rate=1"], 2, "unknown key 'optimizer.rate'; the nearest known one is"),
        (["-d", "SONGS", "--stems", "vocals,piano"], 3, "no track of 'SONGS' has the stem 'piano'; it has bass, drums"),
        (["-d", "SONGS", "--from", "nothing"], 3, "nothing"),
        (["-d", "SONGS", "--missing", "maybe"], 2, "--missing must be error or silent, got maybe"),
        (["-d", "SONGS", "--minutes", "0"], 2, "--minutes must be more than 0, got 0"),
        (["-d", "SONGS", "--set", "network.config.depht=3", "-r", "TINY"], 2, "depht"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], code: int, message: str, songs: Path, recipe: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = [argument.replace("SONGS", str(songs)).replace("TINY", str(recipe)) for argument in arguments]
    done = run_inside(["train", *given], capsys)
    assert done.code == code
    assert message.replace("SONGS", str(songs)) in done.err + done.out
    if given:
        assert len(done.lines) == 1
        assert done.lines[0].startswith("unbraid: ")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_recipe_is_refused(trained: tuple[Outcome, Path], songs: Path, recipe: Path) -> None:
    _, folder = trained
    before = (folder / "checkpoint.safetensors").read_bytes()
    done = train("-d", songs, "-r", recipe, "-o", folder, "--set", "optimizer.learning_rate=1e-4")
    assert done.code == 3
    assert "optimizer.learning_rate was 0.003 and is 0.0001; train into another folder by -o" in done.err
    assert (folder / "checkpoint.safetensors").read_bytes() == before
