"""`unbraid models`: what there is, and getting, checking, importing, exporting and removing it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbraid.cli.render import columns, one_line
from unbraid.errors import ModelError

if TYPE_CHECKING:
    from unbraid.weights.overview import Row

__all__ = ["models"]

models = typer.Typer(
    help="List, fetch, check, import, export and remove models.", no_args_is_help=True, rich_markup_mode=None
)

Names = Annotated[list[str], typer.Argument(help="Names of models; see 'unbraid models list'.", show_default=False)]
Name = Annotated[str, typer.Argument(help="Name of a model; see 'unbraid models list'.", show_default=False)]


@models.command("list")
def list_models(
    installed: Annotated[bool, typer.Option("--installed", help="Only those on this machine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List models: built in, installed, and published."""
    from unbraid.weights.overview import overview

    rows = [row for row in overview() if row.is_here or not installed]
    if as_json:
        _say(json.dumps([vars(row) for row in rows], indent=2))
        return
    table = _table(rows, lambda stems: ", ".join(stems))
    if sys.stdout.isatty() and max(map(len, table)) > shutil.get_terminal_size().columns:
        table = _table(rows, lambda stems: str(len(stems)))
    for line in table:
        _say(line)
    _say("\nSDR: mean over the stems on MUSDB18's test set in dB, as published; 'unbraid models info NAME' says where.")


def _table(rows: Sequence[Row], stems: Callable[[Sequence[str]], str]) -> list[str]:
    """The rows, and a title, in columns; `stems` says what is shown of a model's stems."""
    table = [("Model", "State", "Size", "SDR", "Stems", "Licence")]
    for row in rows:
        sdr = "" if row.sdr is None else f"{row.sdr:.2f}"
        table.append((row.name, row.state, _megabytes(row.size), sdr, stems(row.stems), row.licence))
    return columns(table, right=(2, 3))


def _megabytes(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 1e6:.1f} MB" if size < 10e6 else f"{size / 1e6:.0f} MB"


@models.command()
def info(name: Name) -> None:
    """Print a model's card.

    What it is, where it comes from, the licence of its weights, training data, scores.
    """
    from unbraid.weights.overview import card_of

    _say(card_of(name).rstrip())


@models.command()
def fetch(
    names: Names, quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False
) -> None:
    """Download, check and convert models.

    From then on they are used without the net. One that is there is checked, and downloaded again if it is damaged.
    """
    from unbraid.cli.downloads import DownloadDisplay
    from unbraid.weights.catalog import catalog
    from unbraid.weights.install import install
    from unbraid.weights.overview import folder_of

    here = {name: folder_of(name) for name in names if name not in catalog()}
    failed = False
    for name in names:
        notices: tuple[str, ...] = ()
        if name not in here:
            try:
                # One for each: while it shows bars, what is printed goes where they are.
                with DownloadDisplay(quiet=quiet) as display:
                    done = install(catalog()[name], on_progress=display.show)
            except ModelError as error:
                _complain(error)
                failed = True
                continue
            here[name], notices = done.folder, done.notices
        if not quiet:
            _say(f"{name}: ready in '{here[name]}'")
            _note(notices)
    _exit(failed)


@models.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of models.", show_default="all that are installed")
    ] = None,
) -> None:
    """Compare installed models with their hashes."""
    from unbraid.weights.folder import installed_models, verify_model
    from unbraid.weights.overview import folder_of
    from unbraid.weights.store import BUILTIN

    failed = False
    for name in names or (BUILTIN[0], *installed_models()):
        try:
            model = verify_model(folder_of(name))
            _say(f"{name}: sound, {_megabytes(model.weights_size)}, SHA-256 {model.weights_sha256}")
        except ModelError as error:
            _complain(error)
            failed = True
    _exit(failed)


@models.command("import")
def import_files(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Archives (.tar.gz), checkpoint folders, .th, .pth, .safetensors, model folders, or folders of these.",
            show_default=False,
            readable=False,  # what cannot be read is an error of its own, among others
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Of the model.", show_default="the published one's, else the file's")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Spleeter JSON that belongs to a checkpoint.")] = None,
    demucs_version: Annotated[
        int,
        typer.Option("--demucs-version", min=1, max=2, help="Of a bare state of the first Demucs, which does not say."),
    ] = 2,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a model of the same name.")] = False,
) -> None:
    """Install models from files.

    Those that were downloaded elsewhere, trained with another program, or exported by this one.
    """
    from unbraid.models.spleeter.config import SpleeterConfig
    from unbraid.weights.importing import ImportOptions, import_models

    if name is not None and len(paths) > 1:
        raise typer.BadParameter("is for one model; import the files one by one", param_hint="--name")
    options = ImportOptions(
        name=name,
        config=None if config is None else SpleeterConfig.from_json(config),
        demucs_version=demucs_version,
        replace=replace,
    )
    failed = False
    for path in paths:
        try:
            for outcome in import_models(path, options):
                if isinstance(outcome, ModelError):
                    _complain(outcome)
                    failed = True
                else:
                    _say(f"{outcome.model.name}: installed in '{outcome.folder}'")
                    _note(outcome.notices)
        except ModelError as error:
            _complain(error)
            failed = True
    _exit(failed)


@models.command()
def export(
    name: Name,
    format: Annotated[str, typer.Option("--format", help="onnx, openvino or safetensors.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write.", show_default="the model's name, here")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Write a model for other programs."""
    from unbraid.cli.downloads import DownloadDisplay
    from unbraid.weights.export import export_model

    with DownloadDisplay() as display:
        written = export_model(
            name,
            output or Path(name.rstrip("/\\").replace(":", "-")).name,
            format=format,
            overwrite=overwrite,
            on_progress=display.show,
        )
    _say(f"{name} → {', '.join(str(path) for path in written)}")


@models.command()
def remove(names: Names) -> None:
    """Delete installed models.

    Published ones can be fetched again.
    """
    from unbraid.weights.install import remove as remove_model

    failed = False
    for name in names:
        try:
            _say(f"{name}: removed, {_megabytes(remove_model(name))} freed")
        except ModelError as error:
            _complain(error)
            failed = True
    _exit(failed)


def _complain(error: ModelError) -> None:
    print(f"unbraid: {one_line(str(error))}", file=sys.stderr)


def _note(notices: tuple[str, ...]) -> None:
    for notice in notices:
        _say(f"  note: {notice}")


def _say(text: str) -> None:
    """Print lines, whatever characters they have and the output can take."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in text.split("\n"):
        print(one_line(line).encode(encoding, "backslashreplace").decode(encoding))


def _exit(failed: bool) -> None:
    if failed:
        raise typer.Exit(ModelError.exit_code)
