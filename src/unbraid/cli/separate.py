"""`unbraid separate`: files and folders in, stems out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["separate"]

_MODEL = "Options of the model"
_OUTPUT = "Options of the files written"
_RUN = "Options of the run"


def separate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Audio or video files, or folders of them.", show_default=False, readable=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            "-p",
            "--params_filename",
            help="unbraid:4stems, unbraid:2stems, spleeter:4stems …, a Spleeter JSON, or a model folder.",
            show_default="$UNBRAID_MODEL, else unbraid:4stems",
        ),
    ] = None,
    output_path: Annotated[
        Path, typer.Option("-o", "--output_path", "--output-path", help="Folder that the stems go to.", readable=False)
    ] = Path("separated"),
    filename_format: Annotated[
        str,
        typer.Option(
            "-f",
            "--filename_format",
            "--filename-format",
            help="Path of a stem below it, of {filename}, {foldername}, {instrument}, {codec}.",
        ),
    ] = "{filename}/{instrument}.{codec}",
    codec: Annotated[str, typer.Option("-c", "--codec", help="wav, flac, mp3, ogg, opus, m4a or wma.")] = "wav",
    bitrate: Annotated[
        str | None,
        typer.Option("-b", "--bitrate", help="Of lossy codecs, e.g. 192k.", show_default="the codec's"),
    ] = None,
    offset: Annotated[float, typer.Option("-s", "--offset", min=0.0, help="Start, in seconds.")] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option("-d", "--duration", min=0.0, help="Length, in seconds.", show_default="the whole file"),
    ] = None,
    mwf: Annotated[
        bool, typer.Option("--mwf", help="Refine by a multichannel Wiener filter (two passes: half the speed).")
    ] = False,
    stems: Annotated[
        str | None,
        typer.Option("--stems", help="Only these, e.g. vocals,drums.", show_default="all"),
    ] = None,
    two_stems: Annotated[
        str | None,
        typer.Option("--two-stems", help="This stem, and the rest together as no_STEM."),
    ] = None,
    high_band: Annotated[
        str,
        typer.Option("--high-band", help="Above the network's band: average (nothing is lost), zeros, or model."),
    ] = "average",
    shifts: Annotated[int, typer.Option("--shifts", min=1, help="Average so many shifted runs.")] = 1,
    overlap: Annotated[
        float | None,
        typer.Option("--overlap", help="Share of a segment that is done twice, in [0, 1).", show_default="model's"),
    ] = None,
    segment: Annotated[
        float | None,
        typer.Option("--segment", help="Seconds that the network sees at once.", show_default="model's"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the random shifts.")] = 0,
    sample_rate: Annotated[
        int | None,
        typer.Option("--sample-rate", help="Of the stems, in Hz.", show_default="the input's"),
    ] = None,
    bit_depth: Annotated[
        str | None,
        typer.Option("--bit-depth", help="16, 24 or float.", show_default="the input's; 16 for lossy input"),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option("--channels", help="1 or 2: mix down (or double) before separating.", show_default="the input's"),
    ] = None,
    clip: Annotated[
        str,
        typer.Option("--clip", help="Beyond full scale: report, clamp, or rescale (all stems of a song alike)."),
    ] = "report",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace stems that are already there.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave songs alone whose stems are already there.")
    ] = False,
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Also look into folders of folders.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Damaged or truncated input is an error.")] = False,
    engine: Annotated[str, typer.Option("--engine", help="auto, openvino, onnxruntime or torch.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, f32 or bf16.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Of the processor, for the network.", show_default="all"),
    ] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Files separated at the same time.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each file.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print what is used and how long it takes.")] = False,
    inputs: Annotated[
        list[Path] | None,
        typer.Option("-i", "--inputs", hidden=True, readable=False),
    ] = None,
) -> None:
    """Separate audio files into stems.

    By default whole files, with the input's sample rate, channels and bit depth, into separated/NAME/STEM.wav.
    """
    from unbraid.audio.encoding import parse_bitrate
    from unbraid.cli.batch import Batch, run
    from unbraid.separation.output import Output
    from unbraid.separation.plan import Options

    if bit_depth not in (None, "16", "24", "float"):
        raise typer.BadParameter(f"must be 16, 24 or float, got {bit_depth}", param_hint="--bit-depth")
    if overwrite and skip_existing:
        raise typer.BadParameter("choose either --overwrite or --skip-existing")
    batch = Batch(
        files=[*(files or []), *(inputs or [])],
        folder=output_path,
        model=model,
        options=Options(
            stems=tuple(stem.strip() for stem in stems.split(",") if stem.strip()) if stems is not None else None,
            two_stems=two_stems,
            wiener=mwf,
            shifts=shifts,
            overlap=overlap,
            segment_s=segment,
            high_band=high_band,
            seed=seed,
        ),
        output=Output(
            codec=codec,
            bitrate=None if bitrate is None else parse_bitrate(bitrate),
            bit_depth=int(bit_depth) if bit_depth in ("16", "24") else bit_depth,
            sample_rate=sample_rate,
            n_channels=channels,
            clip=clip,
            filename_format=filename_format,
        ),
        engine={"engine": engine, "device": device, "precision": precision, "threads": threads},
        offset_s=offset,
        duration_s=duration,
        existing="overwrite" if overwrite else "skip" if skip_existing else "error",
        recursive=recursive,
        strict=strict,
        jobs=jobs,
        show="json" if as_json else "errors" if quiet else "all",
        verbose=verbose,
    )
    code = run(batch)
    if code:
        raise typer.Exit(code)
