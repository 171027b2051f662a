"""The command `unbraid`: options in, words and exit codes out; the work is done elsewhere.

Exit codes: 0 all done; 1 some file failed; 2 usage; 3 model or weights missing; 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import typer

import unbraid
from unbraid.cli.demo import demo
from unbraid.cli.doctor import doctor
from unbraid.cli.evaluate import evaluate
from unbraid.cli.models import models
from unbraid.cli.render import one_line
from unbraid.cli.separate import separate
from unbraid.cli.synthesize import synthesize
from unbraid.cli.train import train
from unbraid.errors import UnbraidError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Takes a song apart: any audio file in, its stems (vocals, drums, bass, …) out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(no_args_is_help=True)(separate)
app.command()(demo)
app.command()(doctor)
app.command(no_args_is_help=True)(train)
app.command()(synthesize)
app.add_typer(evaluate, name="evaluate")
app.add_typer(models, name="models")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"unbraid {unbraid.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of the command itself."""


# click's class of all usage errors, wherever this version of typer keeps it.
_CommandLineError = cast("type[Exception]", typer.BadParameter.__mro__[1])


def main() -> None:
    """Run the command and exit with its code; every foreseen error is one line."""
    try:
        code = app(prog_name="unbraid", standalone_mode=False)
    except _CommandLineError as error:
        sys.exit(_explain(error))
    except UnbraidError as error:
        print(f"unbraid: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        print("unbraid: interrupted; no incomplete file was left", file=sys.stderr)
    sys.exit(code or 0)


def _explain(error: Any) -> int:
    """Say what is wrong with the command line: one line, or the help where nothing was given."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        message = error.format_message().strip().rstrip(".")
        command = error.ctx.command_path if error.ctx else "unbraid"
        print(f"unbraid: {one_line(message)}; '{command} -h' lists the options", file=sys.stderr)
    return 2
