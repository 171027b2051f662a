"""Every option of `unbraid separate`, by its effect on the files."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from commands import QUICK, REAL, STEMS, Outcome, Runner, command, environment, in_terminal, run_inside
from song_makers import encode, music, video, write_wav
from unbraid.audio.read import open_audio, read_audio
from unbraid.datatypes import FloatArray

N = 20_000


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "song.wav", music(N), packing="s16")


def samples_of(folder: Path, *, suffix: str = "wav") -> dict[str, FloatArray]:
    return {path.stem: read_audio(path).samples for path in sorted(folder.glob(f"*.{suffix}"))}


def done(outcome: Outcome) -> Outcome:
    assert (outcome.code, outcome.err) == (0, "")
    return outcome


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_by_default_everything_is_kept(quick: Runner, tmp_path: Path) -> None:
    mix = encode(tmp_path / "song.flac", music(N, n_channels=1), sample_rate=32000, tags={"title": "A", "artist": "B"})
    outcome = done(quick(mix, "-o", tmp_path / "out"))
    assert "out/song/{vocals,drums,bass,other}.wav" in outcome.out.replace(os.sep, "/")
    for stem in STEMS:
        with open_audio(tmp_path / "out" / "song" / f"{stem}.wav") as reader:
            info = reader.info
        assert (info.sample_rate, info.n_channels, info.bit_depth, info.n_samples) == (32000, 1, 16, N)
        assert (info.tags["title"], info.tags["artist"]) == ("A", "B")


@pytest.mark.parametrize("codec", ["wav", "flac", "mp3", "ogg", "opus", "m4a", "wma"])
def test_every_codec_keeps_the_length(codec: str, quick: Runner, song: Path, tmp_path: Path) -> None:
    done(quick(song, "-o", tmp_path / "out", "-c", codec))
    stems = samples_of(tmp_path / "out" / "song", suffix=codec)
    assert set(stems) == set(STEMS)
    with open_audio(tmp_path / "out" / "song" / f"bass.{codec}") as reader:
        rate, codec_name = reader.info.sample_rate, reader.info.codec
    expected = {"wav": "pcm_s16le", "ogg": "vorbis", "m4a": "aac", "wma": "wmav2"}.get(codec, codec)
    assert codec_name.removesuffix("float") in (expected, f"lib{expected}")
    n = round(N * rate / 44100)
    for stem in stems.values():
        # WMA has no place for its length: it is filled up to whole frames.
        assert stem.shape == (2, n) if codec != "wma" else n <= stem.shape[1] <= n + 2048


READABLE = ["wav", "aiff", "flac", "mp3", "m4a", "alac", "ogg", "opus"]


@pytest.mark.parametrize("codec", READABLE)
def test_every_readable_format_keeps_its_length(codec: str, quick: Runner, tmp_path: Path) -> None:
    rate = 48000 if codec == "opus" else 44100
    path = tmp_path / f"song.{'m4a' if codec == 'alac' else codec}"
    if codec == "wav":
        write_wav(path, music(N))
    else:
        encode(path, music(N), codec=codec, sample_rate=rate)
    done(quick(path, "-o", tmp_path / "out"))
    assert all(stem.shape == (2, N) for stem in samples_of(tmp_path / "out" / "song").values())


@pytest.mark.parametrize("name", ["song.wma", "song.mp4"])
def test_formats_without_a_length_keep_what_is_decoded(name: str, quick: Runner, tmp_path: Path) -> None:
    path = tmp_path / name
    _ = video(path, music(N)) if name.endswith("mp4") else encode(path, music(N))
    done(quick(path, "-o", tmp_path / "out"))
    n = read_audio(path).samples.shape[1]
    assert N - 2048 <= n <= N + 4096
    assert all(stem.shape == (2, n) for stem in samples_of(tmp_path / "out" / "song").values())


@pytest.mark.parametrize("rate", [44100, 48000, 96000])
def test_the_stems_add_up_to_the_mix(rate: int, quick: Runner, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "song.wav", music(N, sample_rate=rate), sample_rate=rate)
    done(quick(path, "-o", tmp_path / "out"))
    error = sum(samples_of(tmp_path / "out" / "song").values()) - read_audio(path).samples
    assert np.abs(error).max() <= 1e-6  # -120 dBFS


def test_bitrate_and_bit_depth(quick: Runner, song: Path, tmp_path: Path) -> None:
    sizes = []
    for bitrate in ("64k", "256000"):
        done(quick(song, "-o", tmp_path / bitrate, "-c", "mp3", "-b", bitrate))
        sizes.append((tmp_path / bitrate / "song" / "bass.mp3").stat().st_size)
    assert 3 < sizes[1] / sizes[0] < 5
    for depth, subtype in (("16", "PCM_16"), ("24", "PCM_24"), ("float", "FLOAT")):
        done(quick(song, "-o", tmp_path / depth, "--bit-depth", depth))
        assert soundfile.info(tmp_path / depth / "song" / "bass.wav").subtype == subtype


def test_sample_rate_and_channels(quick: Runner, song: Path, tmp_path: Path) -> None:
    done(quick(song, "-o", tmp_path / "a", "--sample-rate", "22050", "--channels", "1", "--bit-depth", "float"))
    info = soundfile.info(tmp_path / "a" / "song" / "bass.wav")
    assert (info.samplerate, info.channels, info.frames) == (22050, 1, N // 2)
    done(quick(song, "-o", tmp_path / "b", "--channels", "1", "--bit-depth", "float"))
    mono = read_audio(song).samples.mean(axis=0)
    assert np.abs(sum(samples_of(tmp_path / "b" / "song").values())[0] - mono).max() < 1e-6


def test_offset_and_duration_are_exact(quick: Runner, song: Path, tmp_path: Path) -> None:
    done(quick(song, "-o", tmp_path / "out", "-s", "0.1", "-d", "0.2", "--bit-depth", "float"))
    whole = read_audio(song).samples
    part = sum(samples_of(tmp_path / "out" / "song").values())
    assert part.shape == (2, 8820)
    assert np.abs(part - whole[:, 4410 : 4410 + 8820]).max() < 1e-6


def test_filename_format(quick: Runner, song: Path, tmp_path: Path) -> None:
    done(quick(song, "-o", tmp_path / "out", "-f", "{foldername}/{codec}/{filename} ({instrument}).{codec}"))
    folder = tmp_path / "out" / tmp_path.name / "wav"
    assert {path.name for path in folder.iterdir()} == {f"song ({stem}).wav" for stem in STEMS}


def test_stems_and_two_stems(quick: Runner, song: Path, tmp_path: Path) -> None:
    done(quick(song, "-o", tmp_path / "all", "--bit-depth", "float"))
    done(quick(song, "-o", tmp_path / "some", "--bit-depth", "float", "--stems", "bass,vocals"))
    done(quick(song, "-o", tmp_path / "two", "--bit-depth", "float", "--two-stems", "drums"))
    everything = samples_of(tmp_path / "all" / "song")
    some, two = samples_of(tmp_path / "some" / "song"), samples_of(tmp_path / "two" / "song")
    assert set(some) == {"bass", "vocals"}
    assert all(np.array_equal(some[stem], everything[stem]) for stem in some)
    assert set(two) == {"drums", "no_drums"}
    assert np.abs(two["drums"] - everything["drums"]).max() < 1e-6
    rest = everything["vocals"] + everything["bass"] + everything["other"]
    assert np.abs(two["no_drums"] - rest).max() < 1e-6


def test_wiener_filter_gives_other_stems_that_still_add_up(quick: Runner, song: Path, tmp_path: Path) -> None:
    done(quick(song, "-o", tmp_path / "plain", "--bit-depth", "float"))
    done(quick(song, "-o", tmp_path / "mwf", "--bit-depth", "float", "--mwf"))
    plain, refined = samples_of(tmp_path / "plain" / "song"), samples_of(tmp_path / "mwf" / "song")
    assert np.abs(plain["vocals"] - refined["vocals"]).max() > 1e-3
    mix = read_audio(song).samples
    assert np.square(sum(refined.values()) - mix).sum() < 1e-2 * np.square(mix).sum()


def test_shifts_depend_on_the_seed_alone(quick: Runner, song: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done(quick(song, "-o", tmp_path / name, "--shifts", "2", "--seed", seed, "--bit-depth", "float"))
    a, b, c = (contents(tmp_path / name / "song") for name in "abc")
    assert a == b
    assert a != c


def test_overlap_and_segment_change_little(quick: Runner, tmp_path: Path) -> None:
    song = write_wav(tmp_path / "song.wav", music(150_000))
    done(quick(song, "-o", tmp_path / "plain"))
    done(quick(song, "-o", tmp_path / "other", "--overlap", "0.25", "--segment", "2.9"))
    plain, other = samples_of(tmp_path / "plain" / "song"), samples_of(tmp_path / "other" / "song")
    # The shares of this network do not depend on time: only rounding differs.
    for stem in STEMS:
        assert 0 < np.abs(plain[stem] - other[stem]).max() < 1e-5


def above(samples: FloatArray, cutoff_hz: float) -> float:
    """Energy above a frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.shape[1]))) ** 2
    return float(spectrum[:, np.fft.rfftfreq(samples.shape[1], 1 / 44100) > cutoff_hz].sum())


def test_high_band(quick: Runner, song: Path, tmp_path: Path) -> None:
    for mode in ("average", "zeros", "model"):
        done(quick(song, "-o", tmp_path / mode, "--high-band", mode, "--bit-depth", "float"))
    mix = above(read_audio(song).samples, 12000)
    energy = {mode: above(sum(samples_of(tmp_path / mode / "song").values()), 12000) for mode in ("average", "zeros")}
    assert energy["average"] > 0.99 * mix
    assert energy["zeros"] < 1e-4 * mix
    assert contents(tmp_path / "model" / "song") == contents(tmp_path / "zeros" / "song")  # as its configuration says


def test_clipping_is_reported_clamped_or_rescaled(quick: Runner, tmp_path: Path) -> None:
    song = write_wav(tmp_path / "song.wav", 30 * music(N))
    report = done(quick(song, "-o", tmp_path / "report", "--bit-depth", "16"))
    assert "samples clipped" in report.out
    kept = done(quick(song, "-o", tmp_path / "kept"))
    assert "clipped" not in kept.out
    whole = samples_of(tmp_path / "kept" / "song")
    assert max(np.abs(stem).max() for stem in whole.values()) > 2
    clamped = done(quick(song, "-o", tmp_path / "clamp", "--clip", "clamp"))
    assert "samples clipped" in clamped.out
    for stem, samples in samples_of(tmp_path / "clamp" / "song").items():
        assert np.array_equal(samples, np.clip(whole[stem], -1, 1))
    done(quick(song, "-o", tmp_path / "rescale", "--clip", "rescale"))
    rescaled = samples_of(tmp_path / "rescale" / "song")
    gains = [np.abs(whole[stem]).max() / np.abs(rescaled[stem]).max() for stem in STEMS]
    assert np.ptp(gains) < 1e-4
    assert max(np.abs(stem).max() for stem in rescaled.values()) == pytest.approx(1.0, abs=1e-6)


def test_the_same_bytes_every_time_alone_or_together(quick: Runner, song: Path, tmp_path: Path) -> None:
    other = write_wav(tmp_path / "other.wav", music(N + 777, seed=9), packing="s16")
    done(quick(song, other, "-o", tmp_path / "together"))
    done(quick(other, "-o", tmp_path / "alone"))
    done(quick(song, other, "-o", tmp_path / "parallel", "--jobs", "2"))
    assert contents(tmp_path / "together" / "other") == contents(tmp_path / "alone" / "other")
    for name in ("song", "other"):
        assert contents(tmp_path / "together" / name) == contents(tmp_path / "parallel" / name)


def test_overwrite_and_skip_existing(quick: Runner, song: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "song"
    arguments = (song, "-o", tmp_path / "out")
    done(quick(*arguments))
    before = contents(folder)
    (folder / "bass.wav").write_bytes(b"mine")
    assert quick(*arguments).code == 1
    assert "skipped" in done(quick(*arguments, "--skip-existing")).out
    assert (folder / "bass.wav").read_bytes() == b"mine"
    (folder / "drums.wav").unlink()
    partly = quick(*arguments, "--skip-existing")
    assert partly.code == 1
    assert "not all of this song's stems are" in partly.err
    done(quick(*arguments, "--overwrite"))
    assert contents(folder) == before


def test_folders_and_recursion(quick: Runner, tmp_path: Path) -> None:
    deep = tmp_path / "music" / "deep"
    deep.mkdir(parents=True)
    for path in (deep / "one.WAV", tmp_path / "music" / "two.wav"):
        write_wav(path, music(300))
    (deep / "cover.jpg").write_bytes(b"")
    done(quick(tmp_path / "music", "-o", tmp_path / "flat"))
    assert {path.name for path in (tmp_path / "flat").iterdir()} == {"two"}
    done(quick(tmp_path / "music", "-r", "-o", tmp_path / "all"))
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"one", "two"}


def test_json_lines(quick: Runner, song: Path, tmp_path: Path) -> None:
    outcome = quick(song, tmp_path / "gone.wav", "-o", tmp_path / "out", "--json")
    good, bad = map(json.loads, outcome.out.splitlines())
    assert outcome.code == 1
    assert (good["file"], good["ok"], good["notices"]) == (str(song), True, [])
    assert good["seconds"] == pytest.approx(N / 44100, abs=1e-6)
    assert {stem: one["samples"] for stem, one in good["stems"].items()} == dict.fromkeys(STEMS, N)
    assert all(Path(one["path"]).is_file() and one["clipped"] == 0 for one in good["stems"].values())
    assert (bad["ok"], bad["file"]) == (False, str(tmp_path / "gone.wav"))
    assert "No such file" in bad["error"]


def test_quiet_and_inputs_in_spleeters_way(quick: Runner, song: Path, tmp_path: Path) -> None:
    outcome = done(quick("-i", song, "-o", tmp_path / "out", "-q"))
    assert outcome.out == ""
    assert len(contents(tmp_path / "out" / "song")) == 4


def test_verbose_names_the_engine(quick: Runner, song: Path, tmp_path: Path) -> None:
    assert "Engine a line of NumPy" in done(quick(song, "-o", tmp_path, "--verbose")).out


def test_spleeters_command_line(model_folder: Path, song: Path, tmp_path: Path) -> None:
    """All of Spleeter's letters at once, as a process of its own, with a real network."""
    arguments = ["-p", model_folder, "-o", tmp_path / "out", "-d", "0.3", "-s", "0.1", "-c", "mp3", "-b", "128k"]
    outcome = command(["separate", *arguments, "-f", "{filename}_{instrument}.{codec}", song])
    assert (outcome.code, outcome.err) == (0, "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"song_{stem}.mp3" for stem in STEMS}
    assert read_audio(tmp_path / "out" / "song_bass.mp3").samples.shape == (2, 13230)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    import unbraid

    assert run_inside(["--version"], capsys) == Outcome(0, f"unbraid {unbraid.__version__}\n", "")
    for flag in ("-h", "--help"):
        assert "separate" in done(run_inside([flag], capsys)).out
        shown = done(run_inside(["separate", flag], capsys)).out
        for option in ("--two-stems", "--overwrite", "--high-band", "--bitrate", "--mwf"):
            assert option in shown


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals of POSIX")
def test_a_terminal_gets_a_bar_that_disappears(model_folder: Path, tmp_path: Path) -> None:
    song = write_wav(tmp_path / "song.wav", music(44100 * 40), packing="s16")
    program = [*QUICK, "separate", "-m", model_folder, song, "-o", tmp_path / "out"]
    # Long enough for the bar to be drawn.
    code, text = in_terminal(program, environment(TERM="xterm", COLUMNS="100", QUICK_RUN_S="0.5"))
    assert code == 0
    assert "song.wav separating" in text
    assert "\x1b[2K" in text  # the bar's line is erased
    assert text.count("→") == 1
    last = text.rsplit("\x1b[2K", 1)[1]
    assert "separating" not in last


def test_without_a_terminal_there_are_no_control_characters(model_folder: Path, song: Path, tmp_path: Path) -> None:
    outcome = command(["separate", "-m", model_folder, song, "-o", tmp_path / "out"], program=REAL)
    assert (outcome.code, outcome.err) == (0, "")
    assert all(c.isprintable() or c == "\n" for c in outcome.out)
    assert len(outcome.out.splitlines()) == 1
