"""Options that several commands have: fields of dataclasses that turn them into what the rest of the program takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from unbraid.errors import UsageError

if TYPE_CHECKING:
    from unbraid.separation.plan import Options

__all__ = ["Compute", "Music", "Separation", "command"]


@dataclass(frozen=True)
class Music:
    """How a dataset is read."""

    kind: Annotated[
        str | None,
        typer.Option(
            *("--kind",),
            metavar="NAME",
            help="MUSDB18, MUSDB18-HQ, DSD100, folder or 'Spleeter CSV'.",
            show_default="what it looks like",
        ),
    ] = None
    data_root: Annotated[
        Path | None,
        typer.Option("--data-root", metavar="FOLDER", help="What paths in a CSV are relative to.", readable=False),
    ] = None


@dataclass(frozen=True)
class Separation:
    """How it is separated."""

    stems: Annotated[
        str | None, typer.Option("--stems", metavar="NAMES", help="Only these: vocals,drums.", show_default="all")
    ] = None
    two_stems: Annotated[
        str | None,
        typer.Option("--two-stems", metavar="NAME", help="This stem, and the rest together as no_NAME."),
    ] = None
    other_method: Annotated[
        str | None,
        typer.Option(
            "--other-method",
            metavar="METHOD",
            help="The rest is: minus (the mix less the stem), add (all other stems), none (not written).",
            show_default="minus",
        ),
    ] = None
    sum_exact: Annotated[
        bool,
        typer.Option(
            "--sum-exact", help="Share what the stems leave of the mix out among them, where they do not add up to it."
        ),
    ] = False
    mwf: Annotated[
        bool, typer.Option("--mwf", help="Refine by a multichannel Wiener filter (two passes: half the speed).")
    ] = False
    high_band: Annotated[
        str,
        typer.Option(
            "--high-band", metavar="WHAT", help="Above the network's band: average (nothing is lost), zeros, or model."
        ),
    ] = "average"
    shifts: Annotated[
        int, typer.Option("--shifts", metavar="N", help="Average N runs, each with the track shifted at random.")
    ] = 1
    overlap: Annotated[
        float | None,
        typer.Option(
            "--overlap", metavar="SHARE", help="Of a segment, done twice, in [0, 1).", show_default="the model's"
        ),
    ] = None
    segment: Annotated[
        float | None,
        typer.Option("--segment", metavar="SECONDS", help="What the network sees at once.", show_default="the model's"),
    ] = None
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the random shifts.")] = 0

    def options(self) -> Options:
        """The same for the pipeline."""
        from unbraid.separation.plan import Options

        if self.other_method is not None and self.two_stems is None:
            raise UsageError(f"--other-method {self.other_method} is about the rest of --two-stems: choose that too")
        names = None if self.stems is None else [name.strip() for name in self.stems.split(",")]
        return Options(
            stems=None if names is None else tuple(name for name in names if name),
            two_stems=self.two_stems,
            other_method=self.other_method or "minus",
            wiener=self.mwf,
            shifts=self.shifts,
            overlap=self.overlap,
            segment_s=self.segment,
            high_band=self.high_band,
            sum_exact=self.sum_exact,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Compute:
    """What computes."""

    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="auto, openvino, onnxruntime or torch.")] = (
        "auto"
    )
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or mps.")] = "auto"
    precision: Annotated[str, typer.Option("--precision", metavar="NAME", help="auto, f32, bf16 or f16.")] = "auto"
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, help="Of the processor, for the network.", show_default="all"),
    ] = None
    compiled: Annotated[
        bool, typer.Option("--compile", help="By torch.compile (--engine torch): slow to start, then faster.")
    ] = False

    def engine_options(self) -> dict[str, Any]:
        """The same for `Separator`."""
        return vars(self)


def command(*groups: Any, context: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function of these dataclasses: each of their fields is an option.

    context : whether the function's first argument is typer's context
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            first = (given["context"],) if context else ()
            function(*first, *(group(**{field.name: given[field.name] for field in fields(group)}) for group in groups))

        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(group, name), annotation=hint)
            for group in groups
            for name, hint in get_type_hints(group, include_extras=True).items()
        ]
        if context:
            parameters.insert(0, inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate
