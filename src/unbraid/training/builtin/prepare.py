"""Decode and render everything that training draws from, once, into a folder of plain arrays.

Layout: ``KIND/NAME/STEM.npy``, float16 [shape=(2, time)] at one sample rate, where KIND is "songs" (real, aligned),
"synthetic" (rendered, aligned), "singing" or "speech" (voices only). A missing stem file is a silent stem.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError
from unbraid.training.builtin.bank import Bank
from unbraid.training.builtin.songs import render_song, render_voices

__all__ = ["STEMS", "prepare"]

STEMS = ("vocals", "drums", "bass", "other")


def prepare(
    data: Path, cache: Path, *, sample_rate: int, seed: int, n_songs: int, song_s: float, n_workers: int = 1
) -> None:
    """Fill the cache; what is there already is kept, so an interrupted run goes on.

    Parameters
    ----------
    data : Path
        Holds `songs/NAME/STEM.ogg`, `bank/bank.json`, `voice/manifest.json` and `voice/midi/**/*.mid`.
    cache : Path
        Where the arrays go.
    sample_rate : int
        In Hz.
    seed : int
        Decides the synthetic material, together with each piece's number.
    n_songs : int
        Synthetic songs of `song_s` seconds each; beside them half as many lines of singing and a few of speech.
    song_s : float
        Length of each of them.
    n_workers : int
        Processes that render.
    """
    for folder in sorted(path for path in (data / "songs").iterdir() if path.is_dir()):
        _decode_song(folder, cache / "songs" / folder.name, sample_rate)
    jobs = [("synthetic", index) for index in range(n_songs)]
    jobs += [("singing", index) for index in range(max(1, n_songs // 2))]
    jobs += [("speech", index) for index in range(max(1, n_songs // 10))]
    if n_workers == 1:
        _render_jobs(jobs, data, cache, sample_rate, seed, song_s)
        return
    with ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        shares = [jobs[worker::n_workers] for worker in range(n_workers)]
        for done in [pool.submit(_render_jobs, share, data, cache, sample_rate, seed, song_s) for share in shares]:
            done.result()


def _decode_song(folder: Path, out: Path, sample_rate: int) -> None:
    """Decode the stems of one song to one length."""
    stems: dict[str, FloatArray] = {}
    for stem in STEMS:
        path = folder / f"{stem}.ogg"
        if path.exists() and not (out / f"{stem}.npy").exists():
            audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
            if rate != sample_rate or audio.shape[1] != 2:
                raise AudioError(f"cannot train on '{path}': need {sample_rate} Hz stereo, got {rate} Hz; convert it")
            stems[stem] = audio.T
    _save(out, stems)


def _render_jobs(
    jobs: list[tuple[str, int]], data: Path, cache: Path, sample_rate: int, seed: int, song_s: float
) -> None:
    """Render a list of pieces in one process (the bank is decoded once in each)."""
    bank = Bank(data / "bank", sample_rate)
    arrangements = sorted((data / "voice" / "midi").rglob("*.mid"))
    for kind, index in jobs:
        out = cache / kind / f"{index:03d}"
        if out.exists():
            continue
        rng = np.random.default_rng([seed, *kind.encode(), index])
        if kind == "synthetic":
            midi = arrangements[int(rng.integers(len(arrangements)))]
            stems = {stem: x for stem, x in render_song(midi, bank, rng, song_s).items() if np.abs(x).max() > 0.01}
        else:
            stems = {"vocals": render_voices(data / "voice", kind, rng, song_s, sample_rate)}
        _save(out, stems)


def _save(out: Path, stems: dict[str, FloatArray]) -> None:
    """Write arrays through temporary names, so that what is there is whole."""
    out.mkdir(parents=True, exist_ok=True)
    for stem, samples in stems.items():
        temporary = out / f"{stem}.part"
        with temporary.open("wb") as file:
            np.save(file, samples.astype(np.float16))
        temporary.replace(out / f"{stem}.npy")
