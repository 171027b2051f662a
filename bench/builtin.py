"""Make the built-in models again: ``python -m bench.builtin --data ../shared/data --out FOLDER``.

Songs are made up, a network learns from them alone, and is then tuned on real songs and their remixes beside them: once
for each real song without it, which gives the scores, and once on all of them, which gives the model. Everything that
is there already is kept, so the same command goes on where it was stopped. FOLDER holds 40 GB in the end: the model as
it is shipped in shipped/all, the scores in scores.json, and the tables of its card in scores.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from unbraid import Separator, read_audio
from unbraid.datatypes import FloatArray
from unbraid.dsp.stft import stft
from unbraid.evaluation.aggregate import frame_value
from unbraid.evaluation.oracles import oracle_shares
from unbraid.evaluation.records import read_scores
from unbraid.training.effects import fitted, repitch
from unbraid.training.tensorboard import pictures
from unbraid.weights.folder import write_model
from unbraid.weights.model_file import WEIGHTS, read_model_file
from unbraid.weights.tensors import read_tensors

RATE = 44100
N_FRAMES = 512  # of a block, where the network separates; it learns from blocks of 128
STEMS = ("vocals", "drums", "bass", "piano", "other")
BASE, TUNED = "unbraid-5stems", "unbraid-5stems-tuned"
# Pianos of the bank that no training hears, and those that it does: a test has the one or the other.
UNHEARD = "wurlitzer_ep200,cp80_electric_grand"
HEARD = "grand_piano,pianet_t"
# Folder: seed, number and length of songs, instruments left out, whether there are recordings.
SONGS = {
    "songs/train": (7, 260, 60, UNHEARD, True),
    "songs/validation": (8, 10, 30, UNHEARD, True),
    "tests/unheard pianos": (9, 24, 40, HEARD, True),
    "tests/synthesisers": (10, 24, 40, "", False),
}
# Measured: their beats are exact, and begin with the file. potassium, of 90, is too far from these.
TEMPOS_BPM = {"caesium": 130, "francium": 128, "hydrogen": 132, "lithium": 124}
N_REMIXES, REMIX_S = 3, 40  # of each pair of songs
TRANSPOSITIONS = range(-5, 7)
MEDIANS = "\n| song | stem | SDR of the model, median | of the IRM2 oracle |\n|---|---|---|---|\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.builtin", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="holds songs/, bank/ and voice/")
    parser.add_argument("--out", type=Path, required=True, help="where everything goes")
    options = parser.parse_args()
    data, out = options.data, options.out
    songs = sorted(path for path in (data / "songs").iterdir() if path.is_dir())
    make_songs(data, out)
    train(out, "base", BASE, out / "songs")
    split_real_songs(songs, out)
    remix_real_songs(out)
    train(out, "tuned/all", TUNED, out / "all", "--from", out / "base/model")
    weights = '"song *" = 1, "*" = 20'
    for song in songs:
        without = f'remix.weights={{ "*{song.name}*" = 0, {weights} }}'
        train(out, f"tuned/without {song.name}", TUNED, out / "all", "--from", out / "base/model", "--set", without)
    for model in (out / "tuned").iterdir():
        ship(model, out / "shipped" / model.name)
    scores = {song.name: score(out / f"shipped/without {song.name}", read_stems(song)) for song in songs}
    for name in ("unheard pianos", "synthesisers"):
        found = sorted((out / "tests" / name).iterdir())
        scores |= {f"{name}, {song.name}": score(out / "shipped/all", read_stems(song)) for song in found}
    (out / "scores.json").write_text(json.dumps(scores, indent=1))
    medians = "".join(evaluate(out, song) for song in songs)
    (out / "scores.md").write_text(tables(scores, [song.name for song in songs]) + MEDIANS + medians)
    for song in songs:
        draw(out / f"shipped/without {song.name}", song, out / f"{song.name}.png")


def unbraid(*arguments: object) -> None:
    command = [sys.executable, "-m", "unbraid", *map(str, arguments)]
    print("unbraid", *arguments, flush=True)
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def make_songs(data: Path, out: Path) -> None:
    for name, (seed, n, seconds, without, recorded) in SONGS.items():
        if len(list((out / name).glob("song *"))) >= n:
            continue
        options = ["--bank", data / "bank", "--voices", data / "voice"] if recorded else []
        options += ["--exclude", without] if without else []
        unbraid("synthesize", "-n", n, "-d", seconds, "-o", out / name, "--seed", seed, *options)


def train(out: Path, name: str, recipe: str, data: Path, *more: object) -> None:
    if not (out / name / "model").exists():
        # Two processes of one thread are a fifth faster than one of two; each does half of the recipe's 6 examples.
        halves = ("--devices", 2, "--set", "data.batch_size=3")
        options = ("--missing", "silent", "--cache", out / "cache", *halves)
        unbraid("train", "-r", recipe, "-d", data, "-o", out / name, *options, *more)


def read_stems(song: Path) -> dict[str, FloatArray]:
    """The stems that a song has, of one length."""
    files = {path.stem: path for path in sorted(song.iterdir()) if path.stem in STEMS}
    stems = {name: read_audio(files[name]).samples for name in STEMS if name in files}
    n = max(samples.shape[1] for samples in stems.values())
    return {name: np.pad(samples, ((0, 0), (0, n - samples.shape[1]))) for name, samples in stems.items()}


def split_real_songs(songs: Sequence[Path], out: Path) -> None:
    """What is "other" in real songs holds their pianos, and in some their bass: the base model takes it apart.

    Alone, without voice and drums, that is easy. All songs, real and made up, are then together in one folder.
    """
    place = out / "all"
    for name in ("train", "validation"):
        (place / name).mkdir(parents=True, exist_ok=True)
        for song in (out / "songs" / name).iterdir():
            if not (place / name / song.name).exists():
                (place / name / song.name).symlink_to(song.resolve())
    for song in songs:
        if (place / "train" / song.name).exists():
            continue
        stems = read_stems(song)
        with Separator(str(out / "base/model")) as separator:
            parts = separator.separate(stems["other"], sample_rate=RATE)
        found = {"piano": parts["piano"]} | ({} if "bass" in stems else {"bass": parts["bass"]})
        stems |= found | {"other": stems["other"] - sum(found.values())}
        write_song(place / "train" / song.name, stems)


def remix_real_songs(out: Path) -> None:
    """The voice of one real song, the drums of another, and the rest of a third, in the third's tempo and key."""
    songs = {name: read_stems(out / "all/train" / name) for name in TEMPOS_BPM}
    chromas = {name: chroma(stems["other"] + stems["bass"]) for name, stems in songs.items()}
    rng = np.random.default_rng(11)
    for number, (voice, rest) in enumerate([*itertools.permutations(songs, 2)] * N_REMIXES):
        drums = str(rng.choice([name for name in songs if name != voice]))
        place = out / "all/train" / f"remix {number:02d} {voice} {drums} {rest}"
        if place.exists():
            continue
        # The transposition with which the two songs have most notes in common.
        common = [np.corrcoef(np.roll(chromas[voice], steps), chromas[rest])[0, 1] for steps in TRANSPOSITIONS]
        steps = TRANSPOSITIONS[int(np.argmax(common))]
        stems = {"vocals": excerpt(songs[voice]["vocals"], voice, rest, rng, steps)}
        stems["drums"] = excerpt(songs[drums]["drums"], drums, rest, rng)
        three = ("bass", "piano", "other")
        together = excerpt(np.concatenate([songs[rest][stem] for stem in three]), rest, rest, rng)
        stems |= dict(zip(three, np.split(together, 3), strict=True))
        write_song(place, stems)


def excerpt(samples: FloatArray, song: str, like: str, rng: np.random.Generator, semitones: int = 0) -> FloatArray:
    """Some bars that begin with a beat of one, in the tempo of another [shape=(channel, REMIX_S seconds)]."""
    tempo = TEMPOS_BPM[like] / TEMPOS_BPM[song]
    n_read, bar = math.ceil(REMIX_S * tempo * RATE), 4 * 60 / TEMPOS_BPM[song] * RATE
    powers = []
    starts = [round(bar * int(rng.integers((samples.shape[1] - n_read) / bar))) for _ in range(8)]
    for start in starts:  # of some places, the one with most to hear
        powers.append(float(np.square(samples[:, start : start + n_read]).mean()))
    start = starts[int(np.argmax(powers))]
    part = samples[:, start : start + n_read]
    if tempo != 1 or semitones:
        part = repitch(part, semitones=semitones, tempo=tempo, sample_rate=RATE)
    return fitted(part, round(REMIX_S * RATE))


def chroma(samples: FloatArray) -> FloatArray:
    """How much there is of each of the twelve notes, from 60 to 1500 Hz."""
    magnitudes = np.abs(stft(samples.mean(axis=0, keepdims=True), n_fft=16384, hop=16384)[0]).mean(axis=1)
    frequencies = np.arange(magnitudes.size) * RATE / 16384
    heard = (frequencies > 60) & (frequencies < 1500)
    notes = np.round(12 * np.log2(frequencies[heard] / 440)).astype(int) % 12
    return np.array([np.log1p(magnitudes[heard][notes == note]).mean() for note in range(12)])


def write_song(place: Path, stems: Mapping[str, FloatArray]) -> None:
    partial = place.with_name(f".{place.name}")
    partial.mkdir(exist_ok=True)
    for stem, samples in stems.items():
        soundfile.write(partial / f"{stem}.wav", samples.T, RATE, subtype="FLOAT")
    partial.rename(place)


def ship(trained: Path, place: Path) -> None:
    """Write a model as it is shipped: smaller, and for longer blocks, at whose ends less is unknown."""
    model = read_model_file(trained / "model")
    tensors = read_tensors(trained / "model" / WEIGHTS)
    (part,) = model.networks
    part = replace(part, config=replace(part.config, n_frames=N_FRAMES))
    about = "five real songs, an instrument bank, voices and synthetic songs; see its card"
    model = replace(model, name="unbraid:5stems", networks=(part,), licence="MIT", training_data=about)
    model = replace(model, allows_bf16=True)  # it has learnt in it: errors are 49 dB and more below the stems
    # Kernels bear half the precision; the rest, a number for each feature or bin, weighs nothing.
    halves = {name: x.astype(np.float16) if x.ndim > 1 else x for name, x in tensors.items() if x.dtype.kind == "f"}
    write_model(place, model, halves)


def score(model: Path, stems: Mapping[str, FloatArray]) -> dict[str, dict[str, float]]:
    """uSDR of each stem of a song: of the mix, the model and the oracle.

    A piano that the song has no file of counts as "other", and so does a bass in "other, with the bass".
    """
    with Separator(str(model)) as separator:
        estimates = dict(separator.separate(sum(stems.values()), sample_rate=RATE))
    if "piano" not in stems:
        estimates["other"] = estimates["other"] + estimates["piano"]
    found = {stem: vars(one) for stem, one in oracle_shares(stems, estimates).items()}
    if "bass" not in stems:
        estimates["other"] = estimates["other"] + estimates["bass"]
        found["other, with the bass"] = vars(oracle_shares(stems, estimates)["other"])
    return found


def evaluate(out: Path, song: Path) -> str:
    """Medians of BSSEval's windows for a real song, of the model that never heard it and of the oracle: table rows."""
    alone, results = out / "alone" / song.name, out / "evaluation" / song.name
    alone.mkdir(parents=True, exist_ok=True)
    if not (alone / song.name).exists():
        (alone / song.name).symlink_to(song.resolve())
    model = out / f"shipped/without {song.name}"
    unbraid("evaluate", "--mus_dir", alone, "-p", model, "-p", "oracle:irm2", "-o", results, "--no-report", "-q")
    ours, oracle = sorted(read_scores(results), key=lambda one: one.system == "oracle:irm2")
    rows = []
    for stem in ours.stems:
        both = [f"{frame_value(one.stems[stem].frames['SDR']):.2f}" for one in (ours, oracle)]
        rows.append(f"| {song.name} | {stem} | {' | '.join(both)} |\n")
    return "".join(rows)


def draw(model: Path, song: Path, path: Path) -> None:
    """Spectrograms of the true stems, on the left, and of the model's, for the ten seconds in which all sound most."""
    from PIL import Image, ImageDraw

    stems, n = read_stems(song), 10 * RATE
    sums = [np.square(one).sum(axis=0, dtype=np.float64).cumsum() for one in stems.values()]
    start = int(np.argmax(sum(np.log(one[n::RATE] - one[:-n:RATE] + 1e-3) for one in sums))) * RATE
    with Separator(str(model)) as separator:
        estimates = separator.separate(sum(stems.values()), sample_rate=RATE)
    rows = []
    for stem in STEMS:
        true = stems.get(stem, np.zeros_like(stems["vocals"]))
        rows.append(pictures([one[:, start : start + n] for one in (true, estimates[stem])]))
    image = Image.fromarray(np.round(255 * np.concatenate(rows, axis=1)).astype(np.uint8).transpose(1, 2, 0))
    image = image.resize((900, 200 * len(STEMS)), Image.Resampling.LANCZOS)
    drawing = ImageDraw.Draw(image)
    for i, stem in enumerate(STEMS):
        for x, what in ((8, "true"), (458, "separated")):
            drawing.text((x, 200 * i + 6), f"{stem}, {what}", fill="white", font_size=16)
    image.quantize(64).save(path, optimize=True)


def share(one: Mapping[str, float]) -> float:
    return (one["sdr"] - one["mix_sdr"]) / (one["oracle_sdr"] - one["mix_sdr"])


def tables(scores: Mapping[str, Mapping[str, Mapping[str, float]]], songs: Sequence[str]) -> str:
    """The scores in Markdown: real songs one by one, and means."""
    lines = ["| song | stem | mix | model | IRM2 oracle | share |", "|---|---|---|---|---|---|"]
    for song in songs:
        for stem, one in scores[song].items():
            values = " | ".join(f"{one[key]:.2f}" for key in ("mix_sdr", "sdr", "oracle_sdr"))
            lines.append(f"| {song} | {stem} | {values} | {share(one):.2f} |")
    lines += ["", "| songs | stem | songs that have it | mean share |", "|---|---|---|---|"]
    for group in ("real", "unheard pianos", "synthesisers"):
        names = songs if group == "real" else [name for name in scores if name.startswith(f"{group}, ")]
        for stem in dict.fromkeys(stem for name in names for stem in scores[name]):
            shares = [share(scores[name][stem]) for name in names if stem in scores[name]]
            lines.append(f"| {group} | {stem} | {len(shares)} | {np.mean(shares):.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
