"""Whatever a file, a name or an option is like: one clear line, or sound stems; and the rest of the batch is done."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from commands import STEMS, Outcome, Runner, run_inside
from song_makers import encode, music, video, write_wav
from unbraid.audio.read import read_audio

N_GOOD = 5000
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files or names")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows such names")


def stems_of(folder: Path) -> dict[str, np.ndarray]:
    return {stem: read_audio(folder / f"{stem}.wav").samples for stem in STEMS}


def files_below(folder: Path) -> set[Path]:
    """All files, found without following links."""
    return {Path(place) / name for place, _, names in os.walk(folder) for name in names}


def check_line(outcome: Outcome, words: Sequence[str]) -> None:
    """One line, with these words."""
    assert len(outcome.lines) == 1, outcome.err
    (line,) = outcome.lines
    assert line.startswith("unbraid: ")
    for word in words:
        assert word in line
    assert "Traceback" not in outcome.out + outcome.err
    assert all(c.isprintable() for c in line)


@dataclass(frozen=True)
class Row:
    """A way to go wrong: `make` gets a folder and gives the arguments; `words` are what the error line says."""

    name: str
    make: Callable[[Path], Sequence[object]]
    words: tuple[str, ...]


def rows(*them: Row | tuple[Row, pytest.MarkDecorator]) -> list[object]:
    pairs = [row if isinstance(row, tuple) else (row, ()) for row in them]
    return [pytest.param(row, id=row.name, marks=marks) for row, marks in pairs]


def made(path: Path, content: bytes) -> list[Path]:
    path.write_bytes(content)
    return [path]


def cut(path: Path, share: float = 0.6) -> list[Path]:
    """The first part of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return [path]


def folder(path: Path) -> list[Path]:
    path.mkdir(parents=True)
    return [path]


def folder_of_text(path: Path) -> list[Path]:
    path.mkdir()
    (path / "notes.txt").write_text("la la la")
    return [path]


def folder_of_folders(path: Path) -> list[Path]:
    (path / "deeper").mkdir(parents=True)
    write_wav(path / "deeper" / "song.wav", music(100))
    return [path]


def link(path: Path, target: str) -> list[Path]:
    path.symlink_to(target)
    return [path]


def fifo(path: Path) -> list[Path]:
    os.mkfifo(path)
    return [path]


def header_of(path: Path, n_bytes: int) -> list[Path]:
    path.write_bytes(path.read_bytes()[:n_bytes])
    return [path]


def twins(here: Path) -> list[object]:
    """Two songs of one name, of which the first gets its stems."""
    for name in ("one", "two"):
        (here / name).mkdir()
        write_wav(here / name / "song.wav", music(100))
    return [here / "one" / "song.wav", here / "two" / "song.wav"]


def obstacle(here: Path, name: str, kind: str) -> list[object]:
    """A song whose stem's path is taken by something."""
    path = here / "out" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"mine")
    return [write_wav(here / "bad.wav", music(100))]


def one_second(path: Path, **options: object) -> Path:
    return encode(path, music(44100), **options)  # type: ignore[arg-type]


REFUSED = rows(
    Row("missing", lambda here: [here / "nowhere.mp3"], ("nowhere.mp3", "No such file")),
    Row("empty", lambda here: made(here / "empty.wav", b""), ("empty.wav", "is empty")),
    Row("empty folder", lambda here: folder(here / "songs"), ("songs", "no audio files")),
    Row("folder without audio", lambda here: folder_of_text(here / "texts"), ("texts", "no audio files")),
    Row("folder of folders", lambda here: folder_of_folders(here / "deep"), ("deep", "--recursive")),
    Row("text called mp3", lambda here: made(here / "text.mp3", b"la la la " * 500), ("text.mp3", "not audio")),
    Row("zeros called mp3", lambda here: made(here / "zeros.mp3", bytes(5000)), ("zeros.mp3", "not audio")),
    Row("playlist", lambda here: made(here / "list.m3u8", b"#EXTM3U\n#EXTINF:3,\n/etc/passwd\n"), ("not audio",)),
    Row("web page", lambda here: made(here / "page.wav", b"<!DOCTYPE html><html></html>" * 9), ("not audio",)),
    Row("wav header only", lambda here: header_of(write_wav(here / "h.wav", music(500)), 44), ("h.wav", "no samples")),
    Row(
        "half a wav header", lambda here: header_of(write_wav(here / "h.wav", music(500)), 30), ("h.wav", "cannot read")
    ),
    Row("flac header only", lambda here: header_of(one_second(here / "h.flac"), 42), ("h.flac", "cannot read")),
    Row("mp3 header only", lambda here: header_of(one_second(here / "h.mp3"), 60), ("h.mp3", "cannot read")),
    Row("ogg header only", lambda here: header_of(one_second(here / "h.ogg"), 58), ("h.ogg", "cannot read")),
    Row("m4a without its index", lambda here: cut(one_second(here / "h.m4a")), ("h.m4a", "cannot read")),
    Row("cut wav, strict", lambda here: [*cut(one_second_wav(here)), "--strict"], ("truncated", "missing", "strict")),
    Row("cut flac, strict", lambda here: [*cut(one_second(here / "c.flac")), "--strict"], ("truncated", "strict")),
    Row("cut mp3, strict", lambda here: [*cut(one_second(here / "c.mp3")), "--strict"], ("truncated", "strict")),
    Row("cut m4a, strict", lambda here: [*cut(fast_start(here / "c.m4a")), "--strict"], ("strict",)),
    Row("cut ogg, strict", lambda here: [*cut(one_second(here / "c.ogg")), "--strict"], ("truncated", "strict")),
    Row("video without sound", lambda here: [video(here / "v.mp4", None)], ("v.mp4", "no audio stream")),
    Row("picture", lambda here: made(here / "cover.wav", PNG), ("cover.wav", "not audio")),
    Row("no samples", lambda here: [write_wav(here / "none.wav", music(0))], ("none.wav", "no samples")),
    Row("offset behind the end", lambda here: [*write_two(here), "-s", "0.2"], ("short.wav", "0.2 s", "0.1")),
    (Row("dangling link", lambda here: link(here / "l.wav", "gone.wav"), ("l.wav", "No such file")), posix),
    (Row("link to itself", lambda here: link(here / "l.wav", "l.wav"), ("l.wav", "symbolic link")), posix),
    (Row("pipe", lambda here: fifo(here / "pipe.wav"), ("pipe.wav", "not a regular file", "save")), posix),
    (Row("device", lambda here: ["/dev/full"], ("/dev/full", "not a regular file")), posix),
    Row("two songs, one name", twins, ("two", "would replace", "one", "{foldername}")),
    Row(
        "already there",
        lambda here: obstacle(here, "bad/bass.wav", "file"),
        ("bass.wav", "already there", "--overwrite"),
    ),
    Row(
        "stem is a folder",
        lambda here: [*obstacle(here, "bad/bass.wav", "folder"), "--overwrite"],
        ("bass.wav", "directory"),
    ),
    Row("folder is a file", lambda here: obstacle(here, "bad", "file"), ("bad", "cannot make the folder")),
    Row("own stem as input", lambda here: own_stem(here), ("vocals.wav", "input itself")),
    (Row("stem name too long", lambda here: long_name(here), ("too long",)), posix),
)
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6260606060000000050001a5f64540000000"
    "0049454e44ae426082"
)


def one_second_wav(here: Path) -> Path:
    return write_wav(here / "c.wav", music(44100), packing="s16")


def fast_start(path: Path) -> Path:
    """An M4A with its index in front, as it comes from the web."""
    return one_second(path, options={"movflags": "+faststart"})


def write_two(here: Path) -> list[Path]:
    """A short file; the good one of the batch is long enough for the same options."""
    return [write_wav(here / "short.wav", music(800, sample_rate=8000), sample_rate=8000)]


def own_stem(here: Path) -> list[object]:
    """A song that lies where its own stem would go."""
    source = here / "out" / "vocals" / "vocals.wav"
    source.parent.mkdir(parents=True)
    return [write_wav(source, music(100)), "--overwrite"]


def long_name(here: Path) -> list[object]:
    name = "x" * 245
    return [write_wav(here / f"{name}.wav", music(100)), "-f", "{filename}-{instrument}.{codec}"]


@pytest.mark.parametrize("row", REFUSED)
def test_a_bad_file_is_one_line_and_the_others_are_done(row: Row, quick: Runner, tmp_path: Path) -> None:
    arguments = row.make(tmp_path)
    good = write_wav(tmp_path / "good.wav", music(N_GOOD, sample_rate=8000), sample_rate=8000)
    before = {path: path.read_bytes() for path in files_below(tmp_path / "out")}
    outcome = quick(*arguments, good, "-o", tmp_path / "out")
    check_line(outcome, row.words)
    assert outcome.code == 1
    good_stems = {path for path in files_below(tmp_path / "out") if "good" in str(path.relative_to(tmp_path / "out"))}
    assert len(good_stems) == len(STEMS)
    n_expected = N_GOOD - (1600 if "-s" in arguments else 0)
    for path in good_stems:
        assert read_audio(path).samples.shape == (2, n_expected)
    others = files_below(tmp_path / "out") - good_stems
    if row.make is twins:  # the first of the two is done
        others -= {tmp_path / "out" / "song" / f"{stem}.wav" for stem in STEMS}
    assert {path: path.read_bytes() for path in others} == before


USAGE = [
    pytest.param(arguments, words, id=" ".join(arguments) or "nothing")
    for arguments, words in [
        (("--stems", "vocals,drum"), ("no stem 'drum'", "did you mean 'drums'")),
        (("--stems", ""), ("stems must be",)),
        (("--stems", "bass,bass"), ("each once",)),
        (("--two-stems", "vocal"), ("no stem 'vocal'", "vocals")),
        (("--stems", "bass", "--two-stems", "vocals"), ("not both",)),
        (("-c", "mp4"), ("unknown codec 'mp4'", "m4a")),
        (("-b", "loud"), ("bitrate must be like 128k",)),
        (("-c", "mp3", "-b", "5000k"), ("no bitrate 5000000",)),
        (("-b", "128k"), ("wav is lossless",)),
        (("--bit-depth", "17"), ("--bit-depth", "16, 24 or float")),
        (("-c", "mp3", "--bit-depth", "16"), ("mp3 is lossy",)),
        (("-c", "flac", "--bit-depth", "float"), ("flac has no bit depth float",)),
        (("--overlap", "1"), ("overlap must be in [0, 1)",)),
        (("--overlap", "-0.1"), ("overlap must be in [0, 1)",)),
        (("--overlap", "nan"), ("overlap must be in [0, 1)",)),
        (("--overlap", "half"), ("--overlap", "number")),
        (("--segment", "0"), ("segment must be in",)),
        (("--segment", "nan"), ("segment must be in",)),
        (("--shifts", "-1"), ("shifts must be in 0…100, got -1",)),
        (("--seed", "-1"), ("seed must be 0 or more",)),
        (("--offset", "-1"), ("--offset",)),
        (("--offset", "nan"), ("offset",)),
        (("--offset", "inf"), ("offset",)),
        (("--duration", "0"), ("duration",)),
        (("--duration", "nan"), ("duration",)),
        (("--duration", "-3"), ("--duration",)),
        (("--sample-rate", "0"), ("sample rate must be in",)),
        (("--channels", "3"), ("channels must be 1 or 2",)),
        (("--high-band", "treble"), ("high band must be one of",)),
        (("--clip", "hard"), ("clip must be one of",)),
        (("--jobs", "0"), ("--jobs",)),
        (("--overwrite", "--skip-existing"), ("--overwrite", "--skip-existing")),
        (("-f", "../{instrument}.wav"), ("leaves the output folder",)),
        (("-f", "/{instrument}.wav"), ("leaves the output folder",)),
        (("-f", "{filename}.wav"), ("gives all stems one name",)),
        (("-f", "{title}/{instrument}.wav"), ("unknown field {title}",)),
        (("-f", "{instrument"), ("not valid",)),
        (("--no-such-option",), ("--no-such-option",)),
    ]
]


@pytest.mark.parametrize(("arguments", "words"), USAGE)
def test_a_wrong_option_is_one_line_and_nothing_is_done(
    arguments: tuple[str, ...], words: tuple[str, ...], quick: Runner, tmp_path: Path
) -> None:
    song = write_wav(tmp_path / "song.wav", music(100))
    outcome = quick(song, "-o", tmp_path / "out", *arguments)
    check_line(outcome, words)
    assert (outcome.code, outcome.out) == (2, "")
    assert files_below(tmp_path) == {song}


@pytest.mark.parametrize(("option", "value"), [("--engine", "abacus"), ("--device", "toaster"), ("--precision", "f8")])
def test_an_unknown_engine_is_one_line(
    option: str, value: str, model_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    song = write_wav(tmp_path / "song.wav", music(100))
    outcome = run_inside(["separate", "-m", model_folder, song, "-o", tmp_path / "out", option, value], capsys)
    check_line(outcome, (option[2:], value))
    assert outcome.code == 2
    assert files_below(tmp_path) == {song}


def damaged(place: Path, model: Path, file: str, change: Callable[[bytes], bytes | None]) -> Path:
    """A copy of the model folder in which one file is changed, or missing; weights as long as the description says."""
    place.mkdir()
    for path in model.iterdir():
        content: bytes | None = path.read_bytes()
        if path.name == file:
            content = change(path.read_bytes())
        if content is not None:
            (place / path.name).write_bytes(content)
    if change in (without_a_weight, misshapen, not_finite):
        description = place / "model.toml"
        size = (place / "weights.safetensors").stat().st_size
        description.write_text(re.sub(r"size = \d+", f"size = {size}", description.read_text()))
    return place


def with_line(old: str, new: str, count: int = -1) -> Callable[[bytes], bytes]:
    return lambda content: content.decode().replace(old, new, count).encode()


def without_a_weight(content: bytes) -> bytes:
    weights = safetensors.numpy.load(content)
    del weights[sorted(weights)[0]]
    return safetensors.numpy.save(weights)


def misshapen(content: bytes) -> bytes:
    weights = safetensors.numpy.load(content)
    name = next(name for name, array in sorted(weights.items()) if array.ndim == 4)
    weights[name] = np.ascontiguousarray(weights[name][:, :, :3])
    return safetensors.numpy.save(weights)


def not_finite(content: bytes) -> bytes:
    weights = {name: np.full_like(array, np.nan) for name, array in safetensors.numpy.load(content).items()}
    return safetensors.numpy.save(weights)


MODELS = [
    pytest.param(file, change, words, id=name)
    for name, file, change, words in [
        ("no description", "model.toml", lambda content: None, ("not a model folder", "model.toml")),
        ("description cut", "model.toml", lambda content: content[:-5], ("model.toml", "not TOML")),
        ("description not text", "model.toml", lambda content: b"\xff\xfe\x00", ("model.toml", "not TOML")),
        ("description empty", "model.toml", lambda content: b"", ("model.toml", "format must be 1")),
        ("of the future", "model.toml", with_line("format = 1", "format = 2"), ("format must be 1, got 2",)),
        ("unknown key", "model.toml", with_line("name =", "nmae ="), ("'nmae'", "'name'")),
        (
            "unknown setting",
            "model.toml",
            with_line("frame_length", "frame_lenght"),
            ("frame_lenght", "'frame_length'"),
        ),
        ("impossible value", "model.toml", with_line("F = 1024", "F = 1000"), ("n_bins (F)", "multiple of 64")),
        ("unknown family", "model.toml", with_line('"spleeter"', '"splitter"'), ("unknown family", "'splitter'")),
        ("fewer stems", "model.toml", with_line('    "other",\n', ""), ("weights", "stems.3.")),
        ("more stems", "model.toml", with_line('    "other",\n', '    "other",\n    "rest",\n'), ("stems.4.",)),
        (
            "stems differ",
            "model.toml",
            with_line('"other"', '"rest"', count=1),
            ("stems must be those of its networks",),
        ),
        ("no weights", "weights.safetensors", lambda content: None, ("weights.safetensors", "No such file")),
        ("weights cut", "weights.safetensors", lambda content: content[:5000], ("damaged", "5000 bytes, expected")),
        ("weights empty", "weights.safetensors", lambda content: b"", ("damaged", "0 bytes, expected")),
        ("weights zeroed", "weights.safetensors", lambda content: bytes(len(content)), ("weights.safetensors",)),
        ("a weight missing", "weights.safetensors", without_a_weight, ("weights", "is missing")),
        ("a weight misshapen", "weights.safetensors", misshapen, ("weights", "must be (")),
        ("weights not numbers", "weights.safetensors", not_finite, ("weights", "not finite")),
    ]
]


@pytest.mark.parametrize(("file", "change", "words"), MODELS)
def test_a_damaged_model_is_one_line_and_nothing_is_done(
    file: str,
    change: Callable[[bytes], bytes | None],
    words: tuple[str, ...],
    model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    song = write_wav(tmp_path / "song.wav", music(100))
    model = damaged(tmp_path / "model", model_folder, file, change)
    outcome = run_inside(["separate", "-m", model, song, "-o", tmp_path / "out"], capsys)
    check_line(outcome, words)
    assert (outcome.code, outcome.out) == (3, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unbraid:4stemz", ("unknown model", "did you mean 'unbraid:4stems'")),
        ("nowhere.json", ("nowhere.json", "No such file")),
        ("spleeter:5stems", ("5stems.tar.gz", "UNBRAID_OFFLINE", "unbraid models import")),
        ("htdemucs", ("955717e8-8726e21a.th", "UNBRAID_OFFLINE", "unbraid models import")),
    ],
)
def test_an_unknown_model_is_one_line(
    name: str, words: tuple[str, ...], home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    song = write_wav(tmp_path / "song.wav", music(100))
    outcome = run_inside(["separate", "-m", name, song, "-o", tmp_path / "out"], capsys)
    check_line(outcome, words)
    assert outcome.code == 3


@dataclass(frozen=True)
class Odd:
    """Something unusual that is separated all the same.

    make : gives the arguments
    shape : channels and samples of the stems, and their sample rate
    notes : what the user is told
    """

    make: Callable[[Path], Sequence[object]]
    shape: tuple[int, int, int]
    notes: tuple[str, ...] = ()


def with_values(here: Path, value: float) -> list[object]:
    samples = music(1000).copy()
    samples[0, 100:103] = value
    return [write_wav(here / "odd.wav", samples)]


def renamed(path: Path, name: str) -> list[object]:
    return [path.rename(path.with_name(name))]


def named(name: str) -> Callable[[Path], list[object]]:
    """A song of this name, given as it stands in its folder."""
    return lambda here: ["--", write_wav(here / name, music(700))]


def raw_name(here: Path) -> list[object]:
    """A name that is not UTF-8."""
    return [write_wav(Path(os.fsdecode(os.fsencode(here) + b"/caf\xe9 \xff.wav")), music(700))]


def of(n_channels: int = 2, sample_rate: int = 44100, n_samples: int = 1000, packing: str = "f32") -> Odd:
    """A WAV with these numbers."""

    def make(here: Path) -> list[object]:
        samples = music(n_samples, n_channels=n_channels, sample_rate=sample_rate)
        return [write_wav(here / "odd.wav", samples, sample_rate=sample_rate, packing=packing)]

    return Odd(make, (n_channels, n_samples, sample_rate))


ODD = {
    "cut wav": Odd(lambda here: cut(one_second_wav(here)), (2, 26455, 44100), ("the last 17645 samples (0.400 s)",)),
    "cut flac": Odd(lambda here: cut(one_second(here / "c.flac")), (2, -1, 44100), ("truncated", "missing")),
    "cut mp3": Odd(lambda here: cut(one_second(here / "c.mp3")), (2, -1, 44100), ("truncated", "missing")),
    "cut m4a": Odd(lambda here: cut(fast_start(here / "c.m4a")), (2, -1, 44100), ("truncated", "missing")),
    "cut ogg": Odd(lambda here: cut(one_second(here / "c.ogg")), (2, -1, 44100), ("truncated", "missing")),
    "several streams": Odd(
        lambda here: [encode(here / "two.mka", music(9000), n_streams=2)], (2, 9000, 44100), ("2 audio streams", "1")
    ),
    "video": Odd(lambda here: [video(here / "v.mkv", music(44100))], (2, -1, 44100)),
    "not a number": Odd(lambda here: with_values(here, np.nan), (2, 1000, 44100), ("3 non-finite samples",)),
    "infinite": Odd(lambda here: with_values(here, np.inf), (2, 1000, 44100), ("3 non-finite samples",)),
    "minus infinite": Odd(lambda here: with_values(here, -np.inf), (2, 1000, 44100), ("3 non-finite samples",)),
    "one sample": of(n_samples=1),
    "8 kHz": of(sample_rate=8000),
    "192 kHz": of(sample_rate=192000),
    "44056 Hz": of(sample_rate=44056),
    "8 bit": of(packing="u8"),
    "64-bit float": of(packing="f64"),
    "32 bit": of(packing="s32"),
    **{f"{n} channels": of(n_channels=n) for n in range(1, 9)},
    "size unknown": Odd(
        lambda here: [write_wav(here / "odd.wav", music(1000), data_bytes=0xFFFFFFFF)], (2, 1000, 44100)
    ),
    "size zero": Odd(lambda here: [write_wav(here / "odd.wav", music(1000), data_bytes=0)], (2, 1000, 44100)),
    "flac called wav": Odd(lambda here: renamed(one_second(here / "a.flac"), "a.wav"), (2, 44100, 44100)),
    "mp3 called flac": Odd(lambda here: renamed(one_second(here / "a.mp3"), "a.flac"), (2, 44100, 44100)),
    "wav called nothing": Odd(lambda here: renamed(write_wav(here / "a.wav", music(700)), "song"), (2, 700, 44100)),
    "emoji": Odd(named("🎵 naïve ½ 音楽.wav"), (2, 700, 44100)),
    "dash": Odd(lambda here: [*named("-rf.wav")(here)], (2, 700, 44100)),
    "braces": Odd(named("{instrument} {0} {{x}.wav"), (2, 700, 44100)),
    "percent and markup": Odd(named("100% [red]%s$HOME`ls`[bold].wav"), (2, 700, 44100)),
    "only dots": Odd(named("....wav"), (2, 700, 44100)),
    "two songs in one file name": Odd(named("a.b.c.wav"), (2, 700, 44100)),
}
ODD_POSIX = {
    "newline": Odd(named("two\nlines\x1b[31m.wav"), (2, 700, 44100)),
    "255 bytes": Odd(named("ä" * 125 + "x.wav"), (2, 700, 44100)),
    "blanks around": Odd(named(" song .wav"), (2, 700, 44100)),
    "a backslash": Odd(named("a\\b:c*d?e.wav"), (2, 700, 44100)),
    "link": Odd(lambda here: [write_wav(here / "a.wav", music(700)), *link(here / "b.wav", "a.wav")], (2, 700, 44100)),
}


@pytest.mark.parametrize(
    "odd",
    [
        *(pytest.param(odd, id=name) for name, odd in ODD.items()),
        *(pytest.param(odd, id=name, marks=posix) for name, odd in ODD_POSIX.items()),
        pytest.param(Odd(raw_name, (2, 700, 44100)), id="not UTF-8", marks=linux),
    ],
)
def test_an_odd_file_is_separated(odd: Odd, quick: Runner, tmp_path: Path) -> None:
    arguments = odd.make(tmp_path)
    source = Path(str(arguments[-1]))
    outcome = quick("-o", tmp_path / "out", "--bit-depth", "float", *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    for word in odd.notes:
        assert word in outcome.out
    assert odd.notes or "note:" not in outcome.out
    assert all(c.isprintable() or c == "\n" for c in outcome.out)
    mix = read_audio(source)
    n_channels, n_samples, sample_rate = odd.shape
    assert mix.sample_rate == sample_rate
    assert mix.samples.shape[0] == n_channels
    assert n_samples in (mix.samples.shape[1], -1)
    assert 1 <= mix.samples.shape[1] <= 44100 + 4 * 1152
    written = [path for path in files_below(tmp_path / "out") if path.name in {f"{stem}.wav" for stem in STEMS}]
    assert set(written) == files_below(tmp_path / "out")
    folders = {path.parent for path in written}
    assert len(written) == len(STEMS) * len(folders)
    for place in folders:
        stems = stems_of(place)
        assert np.abs(sum(stems.values()) - mix.samples).max() <= 1e-6  # nothing lost, nothing moved
        assert {read_audio(path).sample_rate for path in place.iterdir()} == {sample_rate}


def test_silence_stays_silence(quick: Runner, tmp_path: Path) -> None:
    song = write_wav(tmp_path / "silence.wav", np.zeros((2, 3000), np.float32), packing="s16")
    assert quick(song, "-o", tmp_path).code == 0
    assert all(not stem.any() and stem.shape == (2, 3000) for stem in stems_of(tmp_path / "silence").values())


@posix
def test_folders_that_contain_themselves_are_searched_once(quick: Runner, tmp_path: Path) -> None:
    album = tmp_path / "music" / "album"
    album.mkdir(parents=True)
    write_wav(album / "song.wav", music(100))
    (album / "up").symlink_to(tmp_path / "music")
    (tmp_path / "music" / "same").symlink_to(album)
    (tmp_path / "music" / "gone.wav").symlink_to("nowhere.wav")
    outcome = quick(tmp_path / "music", "--recursive", "-o", tmp_path / "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert files_below(tmp_path / "out") == {tmp_path / "out" / "song" / f"{stem}.wav" for stem in STEMS}


def test_a_file_given_twice_is_done_once(quick: Runner, tmp_path: Path) -> None:
    song = write_wav(tmp_path / "song.wav", music(100))
    outcome = quick(song, tmp_path, song, "-o", tmp_path / "out", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) == 1
