"""`unbraid demo`: a song made on the spot, taken apart again, and how well that went."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]

_STYLE = "pop"
_SEED = 12  # a song in which all five stems play, for most of its 30 s


def demo(
    folder: Annotated[
        Path, typer.Option("-o", "--output_path", "--output-path", help="Folder that everything goes to.")
    ] = Path("unbraid-demo"),
    seconds: Annotated[float, typer.Option("-d", "--duration", min=2.0, max=600.0, help="Length of the song.")] = 30.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another number, another song.")] = _SEED,
) -> None:
    """Synthesize a song with true stems, separate its mix, and print the SDR of each stem."""
    import numpy as np

    from unbraid.audio.read import read_audio
    from unbraid.audio.write import write_audio
    from unbraid.cli.render import clock
    from unbraid.datasets.synthesis.song import Studio
    from unbraid.datatypes import Audio
    from unbraid.evaluation.scores import usdr
    from unbraid.evaluation.targets import match_notices, match_stems
    from unbraid.separation.separator import Separator

    song = Studio(44100).song(seconds, np.random.default_rng(seed), style=_STYLE)
    mix = np.sum(list(song.values()), axis=0)
    for name, samples in {"song": mix, **{f"true/{stem}": one for stem, one in song.items()}}.items():
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, Audio(samples, 44100))
    print(f"Made a song of {clock(seconds)} with true stems: {folder / 'song.wav'}, {folder / 'true'}")
    start = time.perf_counter()
    with Separator() as separator:
        ready = time.perf_counter()
        report = separator.separate_to_file(folder / "song.wav", folder / "separated")
        elapsed = time.perf_counter() - ready
        print(
            f"Separated with {separator.model_name} in {elapsed:.1f} s, {seconds / elapsed:.0f}× real time "
            f"(after {ready - start:.1f} s to load; {separator.engine.describe()})"
        )
    print(f"\n{'stem':<8} {'SDR':>8} {'of the mix':>11}   file")
    # A song may lack one of these, above all a short one; then its estimate should be silent too.
    true = {**{stem: np.zeros_like(mix) for stem in ("vocals", "drums", "bass", "other")}, **song}
    groups = match_stems(list(true), list(report.stems))
    samples, written = list(true.values()), list(report.stems.values())
    for target in {target.name: target for group in groups for target in group if target.estimated}.values():
        reference = np.sum([samples[i] for i in target.true], axis=0)
        estimate = np.sum([read_audio(written[i].path).samples for i in target.estimated], axis=0)
        files = ", ".join(str(written[i].path) for i in target.estimated)
        if reference.any():
            print(f"{target.name:<8} {usdr(reference, estimate):5.2f} dB {usdr(reference, mix):8.2f} dB   {files}")
        else:
            print(f"{target.name:<8} {'not in this song':>20}   {files}")
    for notice in match_notices(list(true), list(report.stems), groups):
        print(notice)
    print("\nSDR: energy of the true stem over that of the error; more is better. The song is synthetic: listen to it.")
    print(f"Your own music: unbraid separate song.mp3 -o {folder}")
