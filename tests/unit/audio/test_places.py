"""Files at odd places: strange names, no permission, no room."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from song_makers import music, write_wav
from unbraid.audio.encoding import Encoding
from unbraid.audio.read import open_audio, read_audio
from unbraid.audio.write import write_audio
from unbraid.datatypes import Audio
from unbraid.errors import AudioError

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files or names")
as_user = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do everything")
NAMES = [
    "-song.wav",
    "100%d {x} [y].wav",
    "🎵 é ü.wav",
    "concat:a.wav",
    "http:b.wav",
    "new\nline.wav",
    "a" * 251 + ".wav",
]
if sys.platform == "linux":
    NAMES.append(os.fsdecode(b"\xff\xfe.wav"))


@posix
@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("codec", ["wav", "flac", "ogg"])
def test_any_name_can_be_written_and_read(
    name: str, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_audio(name, Audio(music(3000), 44100), encoding=Encoding(codec))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert read_audio(name).samples.shape == (2, 3000)


@posix
@pytest.mark.parametrize("name", ["new\nline.wav", os.fsdecode(b"\xff.wav"), "tab\t.wav"], ids=ascii)
def test_messages_are_one_printable_line(name: str, tmp_path: Path) -> None:
    for action in (open_audio, lambda path: write_audio(path / "song", Audio(music(10), 44100))):
        with pytest.raises(AudioError) as caught:
            action(tmp_path / name)
        assert all(character.isprintable() for character in str(caught.value))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    for path, words in [
        (tmp_path / "nowhere.wav", "No such file"),
        (tmp_path, "it is a directory"),
        (tmp_path / "empty.wav", "the file is empty"),
        (Path("null\0byte"), "null"),
    ]:
        with pytest.raises(AudioError, match=words):
            open_audio(path)


@posix
def test_links_that_lead_nowhere_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    for name, words in [("loop.wav", "symbolic links"), ("pipe.wav", "not a regular file")]:
        with pytest.raises(AudioError, match=words):
            open_audio(tmp_path / name)


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    write_wav(tmp_path / "song.wav", music(10))
    (tmp_path / "link.mp3").symlink_to("song.wav")
    assert read_audio(tmp_path / "link.mp3").samples.shape == (2, 10)


@as_user
def test_without_permission(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "song.wav", music(10))
    path.chmod(0)
    with pytest.raises(AudioError, match="Permission denied"):
        open_audio(path)
    tmp_path.chmod(0o500)
    with pytest.raises(AudioError, match="Permission denied"):
        write_audio(tmp_path / "out.wav", Audio(music(10), 44100))
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(("target", "words"), [("folder", "is a directory"), ("missing/song.wav", "No such file")])
def test_what_cannot_be_written(target: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(AudioError, match=words):
        write_audio(tmp_path / target, Audio(music(10), 44100))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


FULL_DISK = """
import resource, signal, sys
from song_makers import music
from unbraid.audio.encoding import Encoding
from unbraid.audio.write import write_audio
from unbraid.datatypes import Audio
from unbraid.errors import AudioError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
n_bytes, *codecs = sys.argv[2:]
for codec in codecs:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(n_bytes), resource.RLIM_INFINITY))
    try:
        song = Audio(music(70_000, sample_rate=48000), 48000)
        write_audio(f"{sys.argv[1]}/song.{codec}", song, encoding=Encoding(codec))
    except AudioError as error:
        print(codec, error)
"""


@posix
@pytest.mark.parametrize("n_bytes", [0, 100, 20_000])
def test_no_room_is_one_error_and_no_file(n_bytes: int, tmp_path: Path) -> None:
    codecs = ["wav", "flac", "mp3", "ogg", "opus", "m4a", "wma"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path, str(n_bytes), *codecs],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == codecs
    assert all(f"cannot write '{tmp_path}" in line and "File too large" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_reading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "noise.mp3"
    write_audio(path, Audio(music(50_000), 44100), encoding=Encoding("mp3"))
    content = bytearray(path.read_bytes())
    content[9000:12000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    read_audio(path)
    assert capfd.readouterr() == ("", "")
