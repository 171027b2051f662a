"""`unbraid separate`: files and folders in, stems out.

Spleeter's and Demucs's names are all here; where one letter means two things, it means Spleeter's (`-d`, `-s`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbraid.cli.options import Compute, Separation, command
from unbraid.errors import UsageError

if TYPE_CHECKING:
    from unbraid.separation.output import Output

__all__ = ["separate"]

_MP3_KBPS = 320  # of --mp3, as in Demucs


def _choose_one(choices: Mapping[str, object], why: str) -> None:
    """UsageError where more than one of these options is given."""
    given = [name for name, value in choices.items() if value is not None and value is not False]
    if len(given) > 1:
        raise UsageError(f"choose one of {' and '.join(given)}: {why}")


def _duration(text: str) -> float:
    """Seconds; what follows `-d` in Demucs is a device, so that is worth a word."""
    try:
        seconds = float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a number of seconds (as in Spleeter; a device is chosen by --device)"
        ) from None
    if seconds < 0:
        raise typer.BadParameter(f"must be more than 0 seconds, got {text}")
    return seconds


@dataclass(frozen=True)
class _Input:
    """What is separated, and with which model."""

    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Audio or video files, or folders of them.", show_default=False, readable=False),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            *("-m", "-n", "-p", "--model", "--name", "--params_filename"),
            metavar="NAME",
            help="unbraid:4stems, htdemucs, spleeter:2stems …, a model folder, or a Spleeter JSON.",
            show_default="$UNBRAID_MODEL, else unbraid:4stems",
        ),
    ] = None
    offset: Annotated[float, typer.Option("-s", "--offset", metavar="SECONDS", min=0.0, help="Where to start.")] = 0.0
    duration: Annotated[
        float | None,
        typer.Option(
            *("-d", "--duration"),
            metavar="SECONDS",
            parser=_duration,
            help="How much to separate.",
            show_default="the whole file",
        ),
    ] = None
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Also look into folders of folders.")] = False
    strict: Annotated[bool, typer.Option("--strict", help="Damaged or truncated input is an error.")] = False
    inputs: Annotated[list[Path] | None, typer.Option("-i", "--inputs", hidden=True, readable=False)] = None


@dataclass(frozen=True)
class _Written:
    """What is written, and where."""

    output_path: Annotated[
        Path,
        typer.Option(
            *("-o", "--out", "--output_path", "--output-path"),
            metavar="FOLDER",
            help="Where the stems go.",
            readable=False,
        ),
    ] = Path("separated")
    filename_format: Annotated[
        str,
        typer.Option(
            *("-f", "--filename", "--filename_format", "--filename-format"),
            metavar="FORMAT",
            help="Path of a stem there, of {filename}, {foldername}, {instrument}, {codec}, "
            "or {track}, {trackext}, {stem}, {ext}.",
        ),
    ] = "{filename}/{instrument}.{codec}"
    codec: Annotated[
        str | None,
        typer.Option(
            "-c", "--codec", metavar="NAME", help="wav, flac, mp3, ogg, opus, m4a or wma.", show_default="wav"
        ),
    ] = None
    flac: Annotated[bool, typer.Option("--flac", help="The same as -c flac.")] = False
    mp3: Annotated[bool, typer.Option("--mp3", help=f"The same as -c mp3 -b {_MP3_KBPS}k.")] = False
    bitrate: Annotated[
        str | None,
        typer.Option("-b", "--bitrate", metavar="RATE", help="Of lossy codecs: 192k.", show_default="the codec's"),
    ] = None
    mp3_bitrate: Annotated[
        int | None,
        typer.Option("--mp3-bitrate", metavar="KBPS", help="Of --mp3.", show_default=str(_MP3_KBPS)),
    ] = None
    bit_depth: Annotated[
        str | None,
        typer.Option(
            *("--bit-depth",),
            metavar="BITS",
            help="16, 24 or float.",
            show_default="the input's; 16 for lossy input",
        ),
    ] = None
    int24: Annotated[bool, typer.Option("--int24", help="The same as --bit-depth 24.")] = False
    float32: Annotated[bool, typer.Option("--float32", help="The same as --bit-depth float.")] = False
    sample_rate: Annotated[
        int | None,
        typer.Option("--sample-rate", metavar="HZ", help="Of the stems.", show_default="the input's"),
    ] = None
    channels: Annotated[
        int | None,
        typer.Option(
            *("--channels",),
            metavar="N",
            help="1 or 2: mix down (or double) before separating.",
            show_default="the input's",
        ),
    ] = None
    clip: Annotated[
        str | None,
        typer.Option(
            *("--clip",),
            metavar="MODE",
            help="Beyond full scale: report, clamp, or rescale (all stems of a song alike).",
            show_default="report",
        ),
    ] = None
    clip_mode: Annotated[
        str | None, typer.Option("--clip-mode", metavar="MODE", help="The same as --clip; none is report.")
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace stems that are already there.")] = False
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave songs alone whose stems are already there.")
    ] = False

    def output(self) -> Output:
        """The same for the writer of stems."""
        from unbraid.audio.encoding import parse_bitrate
        from unbraid.separation.output import Output

        self._check_contradictions()
        bitrate = None if self.bitrate is None else parse_bitrate(self.bitrate)
        if self.mp3 and bitrate is None:
            bitrate = 1000 * (_MP3_KBPS if self.mp3_bitrate is None else self.mp3_bitrate)
        bit_depth = "24" if self.int24 else "float" if self.float32 else self.bit_depth
        if bit_depth not in (None, "16", "24", "float"):
            raise UsageError(f"--bit-depth must be 16, 24 or float, got {bit_depth}")
        return Output(
            codec="mp3" if self.mp3 else "flac" if self.flac else self.codec or "wav",
            bitrate=bitrate,
            bit_depth=int(bit_depth) if bit_depth in ("16", "24") else bit_depth,
            sample_rate=self.sample_rate,
            n_channels=self.channels,
            clip="report" if self.clip_mode == "none" else self.clip_mode or self.clip or "report",
            filename_format=self.filename_format,
        )

    def _check_contradictions(self) -> None:
        _choose_one({"--codec": self.codec, "--flac": self.flac, "--mp3": self.mp3}, "a file has one codec")
        _choose_one(
            {"--bit-depth": self.bit_depth, "--int24": self.int24, "--float32": self.float32}, "a file has one depth"
        )
        _choose_one({"--bitrate": self.bitrate, "--mp3-bitrate": self.mp3_bitrate}, "a file has one bitrate")
        _choose_one({"--clip": self.clip, "--clip-mode": self.clip_mode}, "they say the same")
        if self.mp3_bitrate is not None and not self.mp3:
            raise UsageError(f"--mp3-bitrate {self.mp3_bitrate} is for --mp3; of other codecs it is --bitrate")

    def existing(self) -> str:
        """What to do with stems that are there: "error", "overwrite" or "skip"."""
        _choose_one({"--overwrite": self.overwrite, "--skip-existing": self.skip_existing}, "existing stems go or stay")
        return "overwrite" if self.overwrite else "skip" if self.skip_existing else "error"


@dataclass(frozen=True)
class _Run:
    """How much at once, and what is said about it."""

    jobs: Annotated[int, typer.Option("-j", "--jobs", metavar="N", min=1, help="Files done at the same time.")] = 1
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each file.")] = False
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print what is used and how long it takes.")] = False


@command(_Input, Separation, _Written, Compute, _Run)
def separate(given: _Input, separation: Separation, written: _Written, compute: Compute, run: _Run) -> None:
    """Separate audio files into stems.

    By default whole files, with the input's sample rate, channels and bit depth, into separated/NAME/STEM.wav.
    """
    from unbraid.cli.batch import Batch
    from unbraid.cli.batch import run as run_batch

    batch = Batch(
        files=[*(given.files or []), *(given.inputs or [])],
        folder=written.output_path,
        model=given.model,
        options=separation.options(),
        output=written.output(),
        engine=compute.engine_options(),
        offset_s=given.offset,
        duration_s=given.duration,
        existing=written.existing(),
        recursive=given.recursive,
        strict=given.strict,
        jobs=run.jobs,
        show="json" if run.as_json else "errors" if run.quiet else "all",
        verbose=run.verbose,
    )
    code = run_batch(batch)
    if code:
        raise typer.Exit(code)
