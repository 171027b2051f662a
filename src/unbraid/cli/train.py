"""`unbraid train`: a recipe and a dataset in, a model folder out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unbraid.cli.options import Music, command
from unbraid.errors import UsageError

__all__ = ["train"]


@dataclass(frozen=True)
class _What:
    """What is trained, on what."""

    data: Annotated[
        Path | None,
        typer.Option(
            *("-d", "--data"),
            metavar="FOLDER",
            help="MUSDB18, MUSDB18-HQ, DSD100, a Spleeter CSV, or any folder of tracks with stems: TRACK/STEM.wav.",
            show_default=False,
            readable=False,
        ),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            *("-r", "--recipe"),
            metavar="NAME",
            help="How: --list-recipes names them; or a .toml file.",
            show_default="small",
        ),
    ] = None
    params: Annotated[
        Path | None,
        typer.Option(
            *("-p", "--params_filename", "--params-filename"),
            metavar="FILE",
            help="Spleeter's JSON of a training; --data is what the paths in its tables are relative to.",
            show_default=False,
            readable=False,
        ),
    ] = None
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="Fine-tune this model instead of beginning at random.", show_default=False
        ),
    ] = None
    stems: Annotated[
        str | None,
        typer.Option("--stems", metavar="NAMES", help="Only these: vocals,drums.", show_default="the dataset's"),
    ] = None
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the recipe: optimizer.learning_rate=1e-4. May be given several times.",
            show_default=False,
        ),
    ] = None
    list_recipes: Annotated[bool, typer.Option("--list-recipes", help="Name the recipes and where they are from.")] = (
        False
    )


@dataclass(frozen=True)
class _How:
    """Where it goes, and how long it may take."""

    output_path: Annotated[
        Path,
        typer.Option(
            *("-o", "--output_path", "--output-path"),
            metavar="FOLDER",
            help="Checkpoint, curves and the model; a training that is there is continued.",
            readable=False,
        ),
    ] = Path("training")
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", metavar="N", help="Stop after so much training.", show_default="the recipe's steps"),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", min=1, help="Stop after so many steps.", show_default="the recipe's"),
    ] = None
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="FOLDER", help="Where the decoded dataset goes.", show_default="in -o", readable=False
        ),
    ] = None
    missing: Annotated[
        str, typer.Option("--missing", metavar="WHAT", help="A stem's missing file is an error, or silent.")
    ] = "error"
    unreadable: Annotated[
        str,
        typer.Option("--unreadable", metavar="WHAT", help="A damaged file is an error, or skip its track."),
    ] = "error"
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=0, help="Threads that read and augment the music.")
    ] = 2
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or mps.")] = "auto"
    devices: Annotated[
        int, typer.Option("--devices", metavar="N", min=1, help="How many; or start it by torchrun.")
    ] = 1
    no_tensorboard: Annotated[bool, typer.Option("--no-tensorboard", help="Write no curves, pictures and sounds.")] = (
        False
    )
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False


@command(_What, Music, _How)
def train(what: _What, music: Music, how: _How) -> None:
    """Train a model on your own stems, or fine-tune one.

    'unbraid train -d MY_SONGS -o MINE --minutes 15' learns to separate the stems of MY_SONGS/TRACK/STEM.wav, and leaves
    a model: 'unbraid separate -m MINE/model song.mp3'. The same command again goes on where it was stopped.
    """
    try:
        import lightning_fabric  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError(f"training needs more packages ({error}): pip install 'unbraid[train]'") from error
    from unbraid.cli.training import Run, list_recipes, run

    if what.list_recipes:
        list_recipes()
        return
    if what.data is None:
        raise UsageError("no dataset given; try 'unbraid train -d FOLDER' with FOLDER/TRACK/vocals.wav and so on")
    for name, value, choices in (
        ("--missing", how.missing, ("error", "silent")),
        ("--unreadable", how.unreadable, ("error", "skip")),
        ("--device", how.device, ("auto", "cpu", "cuda", "mps")),
    ):
        if value not in choices:
            raise UsageError(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value}")
    code = run(Run(**vars(what), **vars(music), **vars(how)))
    if code:
        raise typer.Exit(code)
