"""From blocks of stems to files: names, encodings, and all of a song's files or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

import numpy as np

from unbraid.audio.encoding import Encoding
from unbraid.audio.write import AudioWriter, leftovers
from unbraid.datatypes import AudioInfo, FloatArray, WriteReport
from unbraid.errors import AudioError, UsageError

__all__ = ["CLIP_MODES", "Output", "existing_outputs", "output_paths", "write_stems"]

CLIP_MODES = ("report", "clamp", "rescale")
# Spleeter's, then Demucs's.
_FIELDS = ("filename", "foldername", "instrument", "codec", "track", "trackext", "stem", "ext")
_STEM_FIELDS = ("instrument", "stem")


@dataclass(frozen=True)
class Output:
    """What the files are to be like; None keeps what the input has.

    codec : "wav", "flac", "mp3", "ogg", "opus", "m4a" or "wma"
    bitrate : of lossy codecs, in bits per second
    bit_depth : 16, 24 or "float"
    sample_rate : in Hz
    n_channels : 1 or 2; the mix is turned into so many channels before it is separated
    clip : what to do with samples beyond full scale: "report" (cut off in integer formats, and counted), "clamp" (cut
        off in float formats too), "rescale" (all stems of a song by one factor, so that they still add up)
    filename_format : of a stem's path below the output folder, with {filename}, {foldername}, {instrument}, {codec};
        {track}, {stem} and {ext} are other names of the first, third and last, {trackext} is the input's extension

    Raises
    ------
    UsageError : a value that makes no sense
    """

    codec: str = "wav"
    bitrate: int | None = None
    bit_depth: int | str | None = None
    sample_rate: int | None = None
    n_channels: int | None = None
    clip: str = "report"
    filename_format: str = "{filename}/{instrument}.{codec}"

    def __post_init__(self) -> None:
        if self.clip not in CLIP_MODES:
            raise UsageError(f"clip must be one of {', '.join(CLIP_MODES)}, got {self.clip!r}")
        if self.n_channels not in (None, 1, 2):
            raise UsageError(f"channels must be 1 or 2, got {self.n_channels}")
        if self.sample_rate is not None and not 1000 <= self.sample_rate <= 768000:
            raise UsageError(f"sample rate must be in 1000…768000 Hz, got {self.sample_rate}")
        self.encoding(None)
        _check_format(self.filename_format)

    def encoding(self, info: AudioInfo | None) -> Encoding:
        """How to encode the stems of this input."""
        return Encoding.choose(self.codec, bit_depth=self.bit_depth, bitrate=self.bitrate, like=info)


def _check_format(filename_format: str) -> None:
    try:
        fields = [(name, spec or "", conversion) for _, name, spec, conversion in Formatter().parse(filename_format)]
    except ValueError as error:
        raise UsageError(f"filename format {filename_format!r} is not valid: {error}") from error
    for name, spec, conversion in fields:
        if name is not None and (name not in _FIELDS or spec or conversion):
            known = ", ".join(f"{{{field}}}" for field in _FIELDS)
            raise UsageError(f"filename format {filename_format!r} has the unknown field {{{name}}}; known are {known}")
    if not any(name in _STEM_FIELDS for name, _, _ in fields):
        raise UsageError(f"filename format {filename_format!r} gives all stems one name; put {{instrument}} into it")
    _relative_path(filename_format, dict.fromkeys(_FIELDS, "x"))


def output_paths(source: Path, stems: tuple[str, ...], folder: Path, output: Output) -> dict[str, Path]:
    """Where each stem of a song goes.

    Raises
    ------
    UsageError : a path that leaves the output folder, or is the input itself
    """
    # A file called "...mp3" must not become the folder "..".
    name = source.stem if source.stem.strip(".") else source.stem.replace(".", "_")
    paths = {}
    for stem in stems:
        fields = {
            "filename": name,
            "foldername": source.absolute().parent.name,
            "instrument": stem,
            "codec": output.codec,
            "track": name,
            "trackext": source.suffix.removeprefix("."),
            "stem": stem,
            "ext": output.codec,
        }
        paths[stem] = folder / _relative_path(output.filename_format, fields)
    if len({os.path.normcase(path) for path in paths.values()}) < len(paths):
        raise UsageError(f"filename format {output.filename_format!r} gives two stems one file")
    for path in paths.values():
        # os.path answers "no" where pathlib raises: names too long, folders that may not be searched.
        if os.path.exists(path) and os.path.exists(source) and path.samefile(source):
            raise UsageError(f"cannot write '{path}': it is the input itself; choose another output folder")
    return paths


def _relative_path(filename_format: str, fields: dict[str, str]) -> str:
    """A stem's path below the output folder."""
    relative = filename_format.format(**fields)
    inside = Path(os.path.normpath(relative))
    if inside.is_absolute() or inside.drive or ".." in inside.parts[:1] or inside.name in ("", "."):
        raise UsageError(f"filename format {filename_format!r} leaves the output folder: {relative!r}")
    return relative


def existing_outputs(paths: dict[str, Path]) -> list[Path]:
    """Those of a song's files that are already there; none, if an interrupted run left only some of them.

    Such a run leaves its temporary files beside the finished ones.
    """
    there = [path for path in paths.values() if os.path.exists(path)]
    if len(there) < len(paths) and any(leftovers(path) for path in paths.values()):
        return []
    return there


def write_stems(
    blocks: Iterator[FloatArray],
    paths: dict[str, Path],
    *,
    encoding: Encoding,
    sample_rate: int,
    channels: tuple[str, ...],
    tags: dict[str, str],
    clip: str,
) -> dict[str, WriteReport]:
    """Write a song's stems; on any error no file gets its final name.

    blocks : of stems [shape=(stem, channel, time), float32], in the order of `paths`

    Raises
    ------
    AudioError : a folder or file cannot be written
    """
    for path in paths.values():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AudioError(f"cannot make the folder '{path.parent}': {error.strerror}") from error
    if clip == "rescale":
        blocks = _rescaled(blocks)
    with ExitStack() as stack, ThreadPoolExecutor(len(paths), "unbraid-write") as pool:
        writers = [
            stack.enter_context(
                AudioWriter(
                    path,
                    encoding=encoding,
                    sample_rate=sample_rate,
                    channels=channels,
                    tags=tags,
                    clamp=clip == "clamp",
                )
            )
            for path in paths.values()
        ]
        for block in blocks:
            # One thread a stem: encoding is as slow as separating, for lossy codecs.
            for _ in pool.map(AudioWriter.write, writers, block):
                pass
        for _ in pool.map(AudioWriter.finish, writers):
            pass
        # Every stem is complete now: only renaming is left.
        for writer in writers:
            writer.commit()
    return {stem: writer.report for stem, writer in zip(paths, writers, strict=True)}


def _rescaled(blocks: Iterator[FloatArray]) -> Iterator[FloatArray]:
    """The same blocks, divided by their highest peak if that is beyond full scale; they wait in a temporary file."""
    with tempfile.TemporaryFile() as spool:
        shapes, peak = [], 1.0
        for block in blocks:
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            shapes.append(block.shape)
            try:
                spool.write(np.ascontiguousarray(block).tobytes())
                spool.flush()
            except OSError as error:
                place = tempfile.gettempdir()
                raise AudioError(f"cannot keep the stems in '{place}' to rescale them: {error.strerror}") from error
        spool.seek(0)
        for shape in shapes:
            data = spool.read(int(np.prod(shape)) * 4)
            yield np.frombuffer(data, np.float32).reshape(shape) * np.float32(1 / peak)
