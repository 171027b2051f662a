"""`unbraid synthesize`: songs with true stems, as many as a training wants."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["synthesize"]


def synthesize(
    folder: Annotated[
        Path,
        typer.Option("-o", "--output_path", "--output-path", help="Where they go: FOLDER/song 0000/STEM.flac."),
    ] = Path("synthetic"),
    songs: Annotated[int, typer.Option("-n", "--songs", min=1, help="How many; those that are there are kept.")] = 10,
    seconds: Annotated[float, typer.Option("-d", "--duration", min=2.0, max=600.0, help="Length of each.")] = 60.0,
    bank: Annotated[
        Path | None, typer.Option("--bank", help="Folder of recorded instruments with a bank.json.", show_default=False)
    ] = None,
    voices: Annotated[
        Path | None, typer.Option("--voices", help="Folder of voices with a manifest.json.", show_default=False)
    ] = None,
    exclude: Annotated[
        str, typer.Option("--exclude", metavar="NAMES", help="Instruments and voices that are not used.")
    ] = "",
    piano: Annotated[bool, typer.Option(help="Pianos are a stem of their own.")] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another number, other songs.")] = 0,
    jobs: Annotated[
        int | None, typer.Option("-j", "--jobs", min=1, help="Songs at the same time.", show_default="one a core")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
) -> None:
    """Make songs with true stems: composed, played by synthesisers or recorded instruments, sung, and mixed.

    'unbraid synthesize -n 100 -o SONGS', and 'unbraid train -d SONGS --missing silent' learns from them.
    """
    from unbraid.cli.render import clock
    from unbraid.datasets.synthesis.library import Order, make_songs

    names = tuple(name.strip() for name in exclude.split(",") if name.strip())
    order = Order(folder, songs, seconds, seed, bank=bank, voices=voices, exclude=names, piano=piano)
    begun = said = time.monotonic()
    first = None

    def on_progress(n_done: int, n_all: int) -> None:
        nonlocal first, said
        first = n_done if first is None else first
        now = time.monotonic()
        if quiet or n_done == first or (now - said < 10 and n_done < n_all):
            return
        said = now
        speed = (n_done - first) * seconds / (now - begun)
        left_s = (n_all - n_done) * seconds / speed
        print(f"{n_done} of {n_all} songs  {speed:.1f}× real time  {clock(left_s)} left", flush=True)

    make_songs(order, n_workers=jobs or os.cpu_count() or 1, on_progress=on_progress)
    if not quiet:
        made = "1 song" if songs == 1 else f"{songs} songs"
        print(f"{made} of {clock(seconds)}: {folder}  (unbraid train -d {folder} --missing silent)")
