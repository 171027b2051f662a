from pathlib import Path

import numpy as np
import pytest

from unbraid.audio.encoding import Encoding
from unbraid.audio.read import read_audio
from unbraid.errors import AudioError, UsageError
from unbraid.separation.output import Output, existing_outputs, output_paths, write_stems

STEMS = ("vocals", "drums")


def paths_of(folder: Path, source: str = "in/song.mp3", **options: str) -> dict[str, Path]:
    return output_paths(Path(source), STEMS, folder, Output(**options))


def test_names_are_spleeters(tmp_path: Path) -> None:
    assert paths_of(tmp_path) == {stem: tmp_path / "song" / f"{stem}.wav" for stem in STEMS}
    named = paths_of(tmp_path, codec="mp3", filename_format="{foldername}/{filename} ({instrument}).{codec}")
    assert named["drums"] == tmp_path / "in" / "song (drums).mp3"


def test_names_may_be_demucss(tmp_path: Path) -> None:
    named = paths_of(tmp_path, codec="flac", filename_format="{track}/{trackext}/{stem}.{ext}")
    assert named["drums"] == tmp_path / "song" / "mp3" / "drums.flac"
    assert paths_of(tmp_path, source="song", filename_format="{track}.{trackext}{stem}")["drums"].name == "song.drums"


@pytest.mark.parametrize("name", ["{filename}.mp3", "a{b.mp3", "%s.mp3", "-x.mp3", "..mp3", "...mp3"])
def test_braces_and_dots_in_names_mean_nothing(tmp_path: Path, name: str) -> None:
    for path in paths_of(tmp_path, source=name).values():
        assert path.resolve().is_relative_to(tmp_path.resolve())
        assert path.name in ("vocals.wav", "drums.wav")


@pytest.mark.parametrize(
    ("filename_format", "message"),
    [
        ("{filename}.{codec}", "gives all stems one name"),
        ("{track}.{ext}", "gives all stems one name"),
        ("{filename}/{voice}.wav", "unknown field {voice}; known are {filename}"),
        ("{instrument", "not valid"),
        ("{instrument!r}", "unknown field"),
        ("{instrument:>500}", "unknown field"),
        ("{instrument.__class__}", "unknown field"),
        ("{}{instrument}", "unknown field"),
    ],
)
def test_wrong_formats_are_refused(filename_format: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Output(filename_format=filename_format)


@pytest.mark.parametrize("filename_format", ["../{instrument}.wav", "a/../../{instrument}.wav", "/x/{instrument}.wav"])
def test_formats_that_leave_the_folder_are_refused(tmp_path: Path, filename_format: str) -> None:
    with pytest.raises(UsageError, match="leaves the output folder"):
        paths_of(tmp_path, filename_format=filename_format)


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "vocals.wav"
    source.write_bytes(b"precious")
    with pytest.raises(UsageError, match="it is the input itself"):
        paths_of(tmp_path, source=str(source), filename_format="{instrument}.{codec}")


def test_existing_outputs_and_the_traces_of_an_interrupted_run(tmp_path: Path) -> None:
    paths = paths_of(tmp_path)
    assert existing_outputs(paths) == []
    paths["vocals"].parent.mkdir()
    paths["vocals"].write_bytes(b"")
    assert existing_outputs(paths) == [paths["vocals"]]
    paths["drums"].with_name(".drums.wav.0123456789ab.part").write_bytes(b"")
    assert existing_outputs(paths) == []
    paths["drums"].write_bytes(b"")
    assert existing_outputs(paths) == list(paths.values())


def write(blocks: list[np.ndarray], paths: dict[str, Path], clip: str = "report", bit_depth: int | str = 16):
    return write_stems(
        iter(blocks),
        paths,
        encoding=Encoding("wav", bit_depth),
        sample_rate=8000,
        channels=("FC",),
        tags={},
        clip=clip,
    )


def test_rescale_divides_all_stems_by_one_factor(tmp_path: Path) -> None:
    blocks = [np.array([[[0.5, -1.0]], [[0.25, 2.0]]], np.float32), np.array([[[0.1]], [[0.2]]], np.float32)]
    paths = paths_of(tmp_path)
    reports = write(blocks, paths, clip="rescale", bit_depth="float")
    whole = np.concatenate(blocks, axis=-1)
    for stem, expected in zip(paths, whole, strict=True):
        assert np.allclose(read_audio(paths[stem]).samples, expected / 2, atol=1e-7)
        assert reports[stem].n_clipped == 0


def test_clipping_is_counted(tmp_path: Path) -> None:
    blocks = [np.array([[[0.5, -1.5, 1.5]], [[0.25, 0.5, 0.5]]], np.float32)]
    reports = write(blocks, paths_of(tmp_path))
    assert [reports[stem].n_clipped for stem in STEMS] == [2, 0]


def test_all_files_appear_or_none(tmp_path: Path) -> None:
    paths = paths_of(tmp_path)

    def blocks():
        yield np.zeros((2, 1, 100), np.float32)
        assert not any(path.exists() for path in paths.values())
        raise AudioError("cannot decode the rest")

    with pytest.raises(AudioError, match="the rest"):
        write_stems(blocks(), paths, encoding=Encoding(), sample_rate=8000, channels=("FC",), tags={}, clip="report")
    assert list(paths["vocals"].parent.iterdir()) == []
