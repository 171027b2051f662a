"""The options of the demucs command, under its names, by their effect on the files; and what is refused."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from commands import Outcome, Runner, run_inside
from demucs_networks import STEMS as DEMUCS_STEMS
from song_makers import music, write_wav
from unbraid.audio.read import read_audio
from unbraid.datatypes import FloatArray
from unbraid.models.htdemucs.config import HTDemucsConfig, TransformerConfig
from unbraid.models.htdemucs.state import parameter_shapes
from unbraid.weights.folder import write_model
from unbraid.weights.model_file import ModelFile, NetworkPart

N = 20_000


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "song.wav", music(N), packing="s16")


def done(outcome: Outcome) -> Outcome:
    assert (outcome.code, outcome.err) == (0, "")
    return outcome


def samples_of(folder: Path) -> dict[str, FloatArray]:
    return {path.stem: read_audio(path).samples for path in sorted(folder.iterdir())}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def bitrate_of(path: Path) -> int:
    """Bits per second of an MP3, by the packets of music in it: the rate of the file counts its header too."""
    with av.open(path) as container:
        (stream,) = container.streams.audio
        return round(np.median([packet.size * 8 / 1152 * 44100 for packet in container.demux(stream) if packet.size]))


def test_a_demucs_command_line(
    quick: Runner, model_folder: Path, song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-n", model_folder, "--out", tmp_path / "out", "--filename", "{track}_{trackext}_{stem}.{ext}", "-v"]
    options = ["--two-stems", "vocals", "--shifts", "1", "--overlap", "0.25", "--segment", "3", "--device", "cpu"]
    written = ["--flac", "--int24", "--clip-mode", "rescale", "-j", "2", "--other-method", "add"]
    done(run_inside(["separate", *arguments, *options, *written, song], capsys))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"song_wav_vocals.flac", "song_wav_no_vocals.flac"}
    assert soundfile.info(tmp_path / "out" / "song_wav_vocals.flac").subtype == "PCM_24"


def test_the_models_name(quick: Runner, song: Path, tmp_path: Path) -> None:
    for option in ("-n", "--name"):
        outcome = quick(song, "-o", tmp_path, option, "htdemuc")
        assert outcome.code == 3
        assert "unknown model 'htdemuc'; did you mean 'htdemucs'?" in outcome.err


@pytest.mark.parametrize(
    ("options", "subtype"), [(["--int24"], "PCM_24"), (["--float32"], "FLOAT"), (["--int24", "--flac"], "PCM_24")]
)
def test_bit_depths(options: list[str], subtype: str, quick: Runner, song: Path, tmp_path: Path) -> None:
    done(quick(song, "-o", tmp_path / "out", *options))
    for path in (tmp_path / "out" / "song").iterdir():
        assert soundfile.info(path).subtype == subtype


def test_codecs(quick: Runner, song: Path, tmp_path: Path) -> None:
    for name, ours, theirs in [
        ("flac", ["-c", "flac"], ["--flac"]),
        ("mp3", ["-c", "mp3", "-b", "320k"], ["--mp3"]),
        ("mp3 of 192k", ["-c", "mp3", "-b", "192k"], ["--mp3", "--mp3-bitrate", "192"]),
        ("mp3 with -b", ["-c", "mp3", "-b", "96k"], ["--mp3", "-b", "96k"]),
    ]:
        done(quick(song, "-o", tmp_path / name / "a", *ours))
        done(quick(song, "-o", tmp_path / name / "b", *theirs))
        assert contents(tmp_path / name / "a" / "song") == contents(tmp_path / name / "b" / "song")
    assert bitrate_of(tmp_path / "mp3" / "b" / "song" / "bass.mp3") == pytest.approx(320_000, rel=0.01)
    assert bitrate_of(tmp_path / "mp3 of 192k" / "b" / "song" / "bass.mp3") == pytest.approx(192_000, rel=0.01)


def test_clip_modes(quick: Runner, tmp_path: Path) -> None:
    song = write_wav(tmp_path / "song.wav", 30 * music(N))
    for ours, theirs in (("rescale", "rescale"), ("clamp", "clamp"), ("report", "none")):
        done(quick(song, "-o", tmp_path / "a" / ours, "--clip", ours))
        done(quick(song, "-o", tmp_path / "b" / ours, "--clip-mode", theirs))
        assert contents(tmp_path / "a" / ours / "song") == contents(tmp_path / "b" / ours / "song")
    assert contents(tmp_path / "b" / "rescale" / "song") != contents(tmp_path / "b" / "clamp" / "song")


def test_the_rest_of_two_stems(quick: Runner, song: Path, tmp_path: Path) -> None:
    """With silent high bands, so that the stems do not add up to the mix, and the methods differ."""
    stems = {}
    for name, options in [
        ("all", []),
        ("default", ["--two-stems", "bass"]),
        *((method, ["--two-stems", "bass", "--other-method", method]) for method in ("minus", "add", "none")),
    ]:
        done(quick(song, "-o", tmp_path / name, "--float32", "--high-band", "zeros", *options))
        stems[name] = samples_of(tmp_path / name / "song")
    mix, every = read_audio(song).samples, stems["all"]
    assert all(np.abs(stems[name]["bass"] - every["bass"]).max() < 1e-6 for name in stems)
    assert [sorted(stems[name]) for name in ("minus", "add", "none")] == [["bass", "no_bass"]] * 2 + [["bass"]]
    others = every["vocals"] + every["drums"] + every["other"]
    assert np.abs(stems["add"]["no_bass"] - others).max() < 1e-6
    assert np.abs(stems["minus"]["no_bass"] - (mix - every["bass"])).max() < 1e-6
    assert np.abs(stems["minus"]["no_bass"] - stems["add"]["no_bass"]).max() > 1e-3
    assert np.array_equal(stems["default"]["no_bass"], stems["minus"]["no_bass"])


def test_sum_exact(quick: Runner, song: Path, tmp_path: Path) -> None:
    mix = read_audio(song).samples
    errors = {}
    for name, options in (("plain", []), ("exact", ["--sum-exact"])):
        done(quick(song, "-o", tmp_path / name, "--float32", "--high-band", "zeros", *options))
        errors[name] = np.abs(sum(samples_of(tmp_path / name / "song").values()) - mix).max()
    assert errors["plain"] > 1e-3
    assert errors["exact"] < 1e-6


def test_no_shift_is_one_run(quick: Runner, song: Path, tmp_path: Path) -> None:
    for shifts in (0, 1):
        done(quick(song, "-o", tmp_path / str(shifts), "--shifts", shifts, "--seed", shifts))
    assert contents(tmp_path / "0" / "song") == contents(tmp_path / "1" / "song")


CONTRADICTIONS = [
    (["--mp3", "--flac"], "choose one of --flac and --mp3: a file has one codec"),
    (["-c", "wav", "--mp3"], "choose one of --codec and --mp3: a file has one codec"),
    (["--int24", "--float32"], "choose one of --int24 and --float32: a file has one depth"),
    (["--bit-depth", "24", "--int24"], "choose one of --bit-depth and --int24"),
    (["--clip", "clamp", "--clip-mode", "rescale"], "choose one of --clip and --clip-mode"),
    (["--mp3", "-b", "128k", "--mp3-bitrate", "128"], "choose one of --bitrate and --mp3-bitrate"),
    (["--mp3-bitrate", "0"], "--mp3-bitrate 0 is for --mp3"),
    (["-c", "mp3", "--mp3-bitrate", "128"], "--mp3-bitrate 128 is for --mp3; of other codecs it is --bitrate"),
    (["--mp3", "--int24"], "mp3 is lossy and takes no bit depth"),
    (["--flac", "--float32"], "flac has no bit depth float: choose one of 16, 24"),
    (["--other-method", "add"], "--other-method add is about the rest of --two-stems"),
    (["--sum-exact", "--stems", "bass"], "sum-exact needs all stems"),
]
BAD = [
    (["--overlap", "1"], "overlap must be in [0, 1), got 1.0"),
    (["--overlap", "1.5"], "overlap must be in [0, 1), got 1.5"),
    (["--segment", "0"], "segment must be in (0, 600] seconds, got 0.0"),
    (["--segment", "-3"], "segment must be in (0, 600] seconds, got -3.0"),
    (["--segment", "601"], "segment must be in (0, 600] seconds, got 601.0"),
    (["--two-stems", "vocal"], "no stem 'vocal', it has vocals, drums, bass, other; did you mean 'vocals'?"),
    (["--two-stems", "piano"], "no stem 'piano', it has vocals, drums, bass, other"),
    (["--shifts", "-1"], "shifts must be in 0…100, got -1"),
    (["--shifts", "101"], "shifts must be in 0…100, got 101"),
    (["--two-stems", "bass", "--other-method", "plus"], "other-method must be one of minus, add, none, got 'plus'"),
    (["--clip-mode", "tanh"], "clip must be one of report, clamp, rescale, got 'tanh'"),
    (["--mp3", "--mp3-bitrate", "321"], "mp3 has no bitrate 321000: choose 8k to 320k"),
    (["--filename", "{track}.{ext}"], "gives all stems one name"),
    (["--filename", "{track}/{model}/{stem}.{ext}"], "unknown field {model}; known are {filename}"),
    (["-d", "cuda"], "'cuda' is not a number of seconds (as in Spleeter; a device is chosen by --device)"),
    (["-d", "-1"], "must be more than 0 seconds, got -1"),
]


@pytest.mark.parametrize(("options", "message"), [*CONTRADICTIONS, *BAD], ids=lambda one: str(one)[:40])
def test_what_is_refused_names_the_rule_and_the_value(
    options: list[str], message: str, quick: Runner, song: Path, tmp_path: Path
) -> None:
    outcome = quick(song, "-o", tmp_path / "out", *options)
    assert (outcome.code, outcome.out, len(outcome.lines)) == (2, "", 1)
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_transformer_has_a_longest_segment(
    home: Path, song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformer = TransformerConfig(n_layers=1, n_heads=2)
    config = HTDemucsConfig(tuple(DEMUCS_STEMS), segment_samples=44100, hidden_channels=8, transformer=transformer)
    rng = np.random.default_rng(0)
    state = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in parameter_shapes(config).items()}
    network = NetworkPart("htdemucs", config)
    folder = tmp_path / "ht"
    write_model(folder, ModelFile("ht", config.stems, config.sample_rate, (network,), 0, ""), state)
    refused = run_inside(["separate", "-n", folder, "-o", tmp_path / "out", "--segment", "1.1", song], capsys)
    assert refused.code == 2
    assert "segment must be in (0, 1] seconds for this model, got 1.1" in refused.err
    done(run_inside(["separate", "-n", folder, "-o", tmp_path / "out", "--segment", "0.5", song], capsys))
    assert set(samples_of(tmp_path / "out" / "song")) == set(DEMUCS_STEMS)


def test_help_shows_every_option_on_lines_of_80_characters(capsys: pytest.CaptureFixture[str]) -> None:
    shown = done(run_inside(["separate", "-h"], capsys)).out
    assert max(map(len, shown.splitlines())) <= 80
    for option in ("--name", "--other-method", "--sum-exact", "--int24", "--clip-mode", "--mp3-bitrate", "{trackext}"):
        assert option in shown


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["from-demucs.md", "from-spleeter.md"])
def test_the_pages_for_users_of_other_tools_name_options_that_exist(
    page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = done(run_inside(["separate", "-h"], capsys)).out
    options = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", shown)) | {"-i", "--inputs", "--version"}
    rows = [line.split("|") for line in (DOCS / page).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    named = {option for row in rows for option in re.findall(r"(?<=`)--?[a-zA-Z][\w-]*", row[2])}
    assert len(named) > 5
    assert named <= options


@pytest.mark.parity
def test_the_page_for_users_of_demucs_has_every_option_of_its_command() -> None:
    try:
        from demucs.separate import get_parser
    except ImportError as error:
        pytest.skip(f"demucs 4.1 cannot be imported: {error}")
    options = {option for action in get_parser()._actions for option in action.option_strings} - {"-h", "--help"}
    page = (DOCS / "from-demucs.md").read_text(encoding="utf-8")
    assert len(options) > 20
    assert not [option for option in options if not re.search(rf"`{option}[ `]", page)]
