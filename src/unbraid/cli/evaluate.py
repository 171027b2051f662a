"""`unbraid evaluate`: models, oracles and stems on disk, scored over a dataset and compared.

Results are files below the output folder: SYSTEM/SUBSET/TRACK.json in museval's form, scores.csv, report.html. What is
there already is not done again, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbraid.cli.options import Compute, Music, Separation, command
from unbraid.errors import UsageError

if TYPE_CHECKING:
    from unbraid.evaluation.evaluate import Scoring

__all__ = ["evaluate"]

evaluate = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@dataclass(frozen=True)
class _What:
    """What is scored, on which music."""

    mus_dir: Annotated[
        Path | None,
        typer.Option(
            *("--mus_dir", "--mus-dir", "--data"),
            metavar="FOLDER",
            help="MUSDB18, MUSDB18-HQ, DSD100, a Spleeter CSV, or any folder of tracks with stems.",
            show_default=False,
            readable=False,
        ),
    ] = None
    model: Annotated[
        list[str] | None,
        typer.Option(
            *("-m", "-p", "--model", "--params_filename"),
            metavar="NAME",
            help="A model; mix; oracle:irm1, irm2, ibm1, ibm2 or mwf. May be given several times.",
            show_default=False,
        ),
    ] = None
    stems_dir: Annotated[
        list[str] | None,
        typer.Option(
            "--stems-dir",
            metavar="[NAME=]FOLDER",
            help="Stems that are on disk: FOLDER/TRACK/STEM.wav. May be given several times.",
            show_default=False,
        ),
    ] = None
    subset: Annotated[
        str | None,
        typer.Option(
            "--subset", metavar="NAME", help="train, validation, test or all.", show_default="test, where there is one"
        ),
    ] = None


@dataclass(frozen=True)
class _How:
    """How it is scored, and what is made of that."""

    output_path: Annotated[
        Path,
        typer.Option(
            *("-o", "--output_path", "--output-path"), metavar="FOLDER", help="Where results go.", readable=False
        ),
    ] = Path("evaluation")
    bsseval: Annotated[
        str,
        typer.Option(
            "--bsseval", metavar="NAME", help="v4, v3 (filters of each window), or none (whole-track scores only)."
        ),
    ] = "v4"
    window: Annotated[float, typer.Option("--window", metavar="SECONDS", help="Of BSSEval.")] = 1.0
    hop: Annotated[float, typer.Option("--hop", metavar="SECONDS", help="From one window to the next.")] = 1.0
    museval_strict: Annotated[
        bool, typer.Option("--museval-strict", help="Refuse tracks with a wholly silent stem, as museval does.")
    ] = False
    score_device: Annotated[
        str, typer.Option("--score-device", metavar="NAME", help="numpy, or a device of PyTorch: cpu, cuda.")
    ] = "numpy"
    no_report: Annotated[bool, typer.Option("--no-report", help="Make no HTML report (it needs plotly).")] = False
    jobs: Annotated[int, typer.Option("-j", "--jobs", metavar="N", min=1, help="Tracks done at the same time.")] = 1
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Also name the tracks that were scored before.")] = (
        False
    )

    def scoring(self) -> Scoring:
        """The same for the evaluation."""
        from unbraid.evaluation.evaluate import Scoring

        if self.bsseval not in ("v4", "v3", "none"):
            raise UsageError(f"--bsseval must be v4, v3 or none, got {self.bsseval}")
        return Scoring(
            bss=self.bsseval != "none",
            framewise=self.bsseval == "v3",
            window_s=self.window,
            hop_s=self.hop,
            strict=self.museval_strict,
        )


@evaluate.callback()
@command(_What, Music, Separation, _How, Compute, context=True)
def _evaluate(
    context: typer.Context, what: _What, music: Music, separation: Separation, how: _How, compute: Compute
) -> None:
    """Score separation over a dataset, or compare two scores.

    Models, oracles and stems on disk: 'unbraid evaluate --mus_dir MUSDB18 -p htdemucs -p oracle:irm2' prints their
    medians beside those of the papers, and writes each track's scores (SYSTEM/SUBSET/TRACK.json), a table (scores.csv)
    and a report (report.html). The same command again goes on where it was stopped.
    """
    if context.invoked_subcommand is not None:
        return
    from unbraid.cli.evaluation import Run, run

    if what.mus_dir is None:
        raise UsageError("no dataset given; try 'unbraid evaluate --mus_dir MUSDB18 -p unbraid:4stems'")
    code = run(
        Run(
            root=what.mus_dir,
            kind=music.kind,
            data_root=music.data_root,
            subset=what.subset,
            models=tuple(what.model or ()),
            stems_dirs=tuple(what.stems_dir or ()),
            options=separation.options(),
            engine=compute.engine_options(),
            folder=how.output_path,
            scoring=how.scoring(),
            device=how.score_device,
            report=not how.no_report,
            jobs=how.jobs,
            quiet=how.quiet,
            verbose=how.verbose,
        )
    )
    if code:
        raise typer.Exit(code)


@evaluate.command("compare")
def _compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of one system's scores.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of the other's.", show_default=False)],
    metric: Annotated[
        str, typer.Option("--metric", metavar="NAME", help="SDR, ISR, SIR, SAR, uSDR, SI-SDR, L1, bleed …")
    ] = "SDR",
) -> None:
    """Tell whether one system is really better than another.

    A and B are folders that 'unbraid evaluate' or museval has written, such as evaluation/htdemucs. The differences per
    track are tested by Wilcoxon's signed-rank test, with Holm's correction over the stems.
    """
    from unbraid.cli.evaluation import say_comparison

    say_comparison(first, second, metric)
