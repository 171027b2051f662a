"""`unbraid models`, and models fetched on demand by `unbraid separate`, as a user meets them."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from commands import Outcome, in_terminal
from hub import answer, redirect
from model_hub import OFFICIAL, World, new_world, sha256, small_archive, small_checkpoint
from song_makers import music, write_wav
from spleeter_checkpoint import FILTERS
from unbraid.weights.convert.tensorflow import latest_checkpoint, read_checkpoint, spleeter_state
from unbraid.weights.model_file import read_model_file
from unbraid.weights.tensors import read_metadata

STEMS = ("vocals", "drums", "bass", "other")
MODEL = "spleeter:4stems"
FOLDER = "models/spleeter-4stems"
INSTALLED = {f"{FOLDER}/{name}" for name in ("model.toml", "weights.safetensors", "card.md")}


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    with new_world(tmp_path, capsys) as world:
        yield world


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "song.wav", music(20_000), packing="s16")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The published archive, as a user has downloaded it."""
    path = tmp_path / "4stems.tar.gz"
    path.write_bytes(small_archive(4))
    return path


@pytest.fixture
def other_archive(tmp_path: Path) -> Path:
    """An archive that nobody published."""
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(small_archive(4, seed=9))
    return path


def done(outcome: Outcome) -> Outcome:
    assert (outcome.code, outcome.err) == (0, "")
    return outcome


def refused(outcome: Outcome, *words: str, code: int = 3) -> str:
    """One line on the error stream, with these words."""
    assert outcome.code == code, outcome
    assert len(outcome.lines) == 1, outcome.err
    (line,) = outcome.lines
    assert line.startswith("unbraid: ")
    assert line.isprintable()
    for word in words:
        assert word in line
    return line


def states(world: World) -> dict[str, str]:
    """What `list` says of the models that are here."""
    rows = json.loads(done(world.run("models", "list", "--installed", "--json")).out)
    return {row["name"]: row["state"] for row in rows if row["state"] != "built in"}


def stems_of(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in folder.iterdir()}


def weights_of(checkpoint: Path, stems: tuple[str, ...] = STEMS) -> dict[str, np.ndarray]:
    return dict(spleeter_state(read_checkpoint(latest_checkpoint(checkpoint)), stems))


def check_weights(folder: Path, expected: dict[str, np.ndarray]) -> None:
    """The weights of a model folder are these, to the bit."""
    found = safetensors.numpy.load_file(folder / "weights.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tobytes() == np.ascontiguousarray(tensor).tobytes()


# ---------------------------------------------------------------------------- on demand


def test_the_first_use_fetches_and_the_second_needs_no_net(world: World, song: Path, tmp_path: Path) -> None:
    first = world.process("separate", "-p", MODEL, song, "-o", tmp_path / "first")
    assert (first.code, first.err) == (0, "Downloading 4stems.tar.gz (0.1 MB) …\n")
    assert first.out.count("\n") == 1
    assert set(stems_of(tmp_path / "first" / "song")) == set(STEMS)
    assert world.left() == INSTALLED
    check_weights(world.home / FOLDER, weights_of(small_checkpoint(tmp_path / "checkpoint", 4)))
    assert len(world.hub.requests) == 1
    world.hub.files.clear()
    world.hub.script(world.path(), *[answer(500)] * 9)
    second = world.process("separate", "-p", MODEL, song, "-o", tmp_path / "second", "--json", UNBRAID_OFFLINE="1")
    done(second)
    assert json.loads(second.out)["ok"]
    assert stems_of(tmp_path / "second" / "song") == stems_of(tmp_path / "first" / "song")
    assert len(world.hub.requests) == 1


def test_offline_the_first_use_says_what_to_do(world: World, song: Path, tmp_path: Path) -> None:
    outcome = world.run("separate", "-p", MODEL, song, "-o", tmp_path / "out", UNBRAID_OFFLINE="1")
    refused(outcome, "4stems.tar.gz", "UNBRAID_OFFLINE", "unbraid models import", "4stems.tar.gz")
    assert not (tmp_path / "out").exists()
    assert world.left() == set()


def test_an_unknown_model_is_one_line(world: World, song: Path) -> None:
    refused(world.run("separate", "-m", "spleeter:4stem", song), "spleeter:4stem", "did you mean 'spleeter:4stems'")


@pytest.mark.parametrize("place", ["MODEL_PATH", "pretrained_models"])
def test_what_spleeter_has_fetched_is_used(
    place: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"MODEL_PATH": str(tmp_path / "spleeters")} if place == "MODEL_PATH" else {}
    checkpoint = small_checkpoint(tmp_path / ("spleeters" if settings else place) / "4stems", 4, seed=5)
    (checkpoint / ".probe").write_text("OK")
    done(world.run("models", "export", MODEL, "--format", "safetensors", "-o", "weights", **settings))
    check_weights(tmp_path, weights_of(checkpoint))
    assert world.hub.requests == []
    # Of the two, what the user asks for by a variable goes before what Unbraid has.
    done(world.run("models", "fetch", MODEL, "-q"))
    done(world.run("models", "export", MODEL, "--format", "safetensors", "-o", "weights", "--overwrite", **settings))
    expected = checkpoint if settings else small_checkpoint(tmp_path / "published", 4)
    check_weights(tmp_path, weights_of(expected))


def test_an_empty_folder_of_spleeters_is_no_model(
    world: World, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spleeter makes the folder before it downloads, and leaves it when that fails."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained_models" / "4stems").mkdir(parents=True)
    outcome = world.run("separate", "-p", MODEL, song, "--json")
    assert outcome.code == 0
    assert "\x1b" not in outcome.err
    (line,) = outcome.out.splitlines()
    assert set(json.loads(line)["stems"]) == set(STEMS)
    assert world.left() == INSTALLED


def test_variants_share_their_files(world: World) -> None:
    outcome = world.run("models", "fetch", "spleeter:4stems-16kHz", MODEL)
    assert outcome.code == 0
    assert world.left() == INSTALLED
    assert len(world.hub.requests) == 1
    assert states(world) == {MODEL: "installed", "spleeter:4stems-16kHz": "installed"}


# ---------------------------------------------------------------------------- fetch


def test_fetch_says_where_the_models_are_and_asks_once(world: World) -> None:
    outcome = world.run("models", "fetch", MODEL, "spleeter:2stems")
    assert outcome.code == 0
    assert outcome.err.splitlines() == [f"Downloading {n}stems.tar.gz (0.1 MB) …" for n in (4, 2)]
    assert outcome.out.splitlines() == [
        f"{name}: ready in '{world.home / 'models' / name.replace(':', '-')}'" for name in (MODEL, "spleeter:2stems")
    ]
    assert done(world.run("models", "fetch", MODEL)).out == outcome.out.splitlines()[0] + "\n"
    assert done(world.run("models", "fetch", MODEL, "-q")).out == ""
    assert len(world.hub.requests) == 2


def test_fetch_of_what_needs_none(world: World, other_archive: Path) -> None:
    done(world.run("models", "import", other_archive))
    outcome = done(world.run("models", "fetch", "unbraid:4stems", "mine"))
    assert [line.partition(" in ")[0] for line in outcome.out.splitlines()] == ["unbraid:4stems: ready", "mine: ready"]


def test_fetch_of_an_unknown_name_fetches_nothing(world: World) -> None:
    refused(world.run("models", "fetch", MODEL, "htdemucs_tf"), "htdemucs_tf", "did you mean 'htdemucs_ft'")
    assert world.hub.requests == []


def test_one_that_cannot_be_had_does_not_stop_the_others(world: World) -> None:
    world.hub.script(world.path(4), answer(404))
    outcome = world.run("models", "fetch", MODEL, "spleeter:2stems", "-q")
    refused(outcome, "4stems.tar.gz", "404 Not Found", "unbraid models import")
    assert states(world) == {"spleeter:2stems": "installed", "spleeter:2stems-16kHz": "installed"}


def test_an_unpublished_hash_is_recorded_and_told(world: World) -> None:
    world.change_file(sha256=None)
    outcome = world.run("models", "fetch", MODEL)
    (_, note) = outcome.out.splitlines()
    assert sha256(small_archive(4)) in note
    assert "recorded" in note
    done(world.run("models", "remove", MODEL))
    world.hub.files[world.path()] = small_archive(4, seed=9)
    world.change_file(size=None)
    refused(world.run("models", "fetch", MODEL, "-q"), "SHA-256", sha256(small_archive(4)), "hashes.json")
    assert states(world) == {}


def test_a_home_of_ones_own(world: World, tmp_path: Path) -> None:
    done(world.run("models", "fetch", MODEL, "-q", UNBRAID_HOME=str(tmp_path / "elsewhere" / "deep")))
    assert (tmp_path / "elsewhere" / "deep" / FOLDER / "weights.safetensors").is_file()
    assert not world.home.exists()


def test_a_home_that_is_a_file_is_one_line(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(world.run("models", "fetch", MODEL, "-q", UNBRAID_HOME=str(place)), str(place), "UNBRAID_HOME")
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals of POSIX")
def test_a_terminal_gets_a_bar_and_a_file_gets_the_words(world: World, tmp_path: Path) -> None:
    program = [sys.executable, Path(__file__).parents[1] / "hub_unbraid.py", "models", "fetch", MODEL]
    env = {**os.environ, **world.settings, "PYTHONUTF8": "1", "TERM": "xterm", "COLUMNS": "100"}
    with (tmp_path / "words").open("w") as words:
        code, shown = in_terminal(program, env, stdout=words)
    assert code == 0
    assert "4stems.tar.gz" in shown
    assert "119.3/119.3 kB" in shown
    assert "ready" not in shown
    assert (tmp_path / "words").read_text().startswith(f"{MODEL}: ready in")


# ---------------------------------------------------------------------------- where from


def test_a_mirror_is_asked_first(world: World) -> None:
    world.hub.files["/copies/4stems.tar.gz"] = small_archive(4)
    mirror = world.hub.url + "/copies/"
    done(world.run("models", "fetch", MODEL, "-q", UNBRAID_MIRROR=mirror))
    assert [request.target for request in world.hub.requests] == ["/copies/4stems.tar.gz"]
    (origin,) = read_model_file(world.home / FOLDER).origin
    assert origin.address == mirror + "4stems.tar.gz"
    done(world.run("models", "remove", MODEL))
    world.hub.files["/copies/4stems.tar.gz"] = small_archive(4, seed=9)  # a mirror is not believed
    done(world.run("models", "fetch", MODEL, "-q", UNBRAID_MIRROR=mirror))
    assert read_model_file(world.home / FOLDER).origin[0].address == world.hub.url + world.path()


def test_another_host_with_spleeters_releases(world: World) -> None:
    world.change_file(addresses=[f"{OFFICIAL}/4stems.tar.gz"])
    done(world.run("models", "fetch", MODEL, "-q", GITHUB_HOST=world.hub.url))
    assert [request.target for request in world.hub.requests] == [world.path()]


def test_another_release_brings_its_own_checksums(world: World) -> None:
    """As Spleeter does it: `checksum.json` of the release says what its archives must be."""
    world.change_file(addresses=[f"{OFFICIAL}/4stems.tar.gz"])
    content = small_archive(4, seed=9)
    place = "/me/fork/releases/download/v9"
    world.hub.files |= {
        f"{place}/4stems.tar.gz": content,
        f"{place}/checksum.json": json.dumps({"4stems": sha256(content)}).encode(),
    }
    fork = {"GITHUB_HOST": world.hub.url, "GITHUB_REPOSITORY": "me/fork", "GITHUB_RELEASE": "v9"}
    done(world.run("models", "fetch", MODEL, "-q", **fork))
    assert read_model_file(world.home / FOLDER).origin[0].sha256 == sha256(content)
    done(world.run("models", "remove", MODEL))
    world.hub.files[f"{place}/4stems.tar.gz"] = small_archive(4)
    refused(world.run("models", "fetch", MODEL, "-q", **fork), "SHA-256", sha256(content), "GITHUB_REPOSITORY")
    del world.hub.files[f"{place}/checksum.json"]
    fork["GITHUB_RELEASE"] = "v10"
    refused(world.run("models", "fetch", MODEL, "-q", **fork), "checksum.json", "404", "GITHUB_RELEASE=v10", "unset")
    assert states(world) == {}


def test_a_redirect_is_followed(world: World) -> None:
    world.hub.files["/elsewhere"] = small_archive(4)
    world.hub.script(world.path(), redirect("/elsewhere"))
    done(world.run("models", "fetch", MODEL, "-q"))
    assert states(world)[MODEL] == "installed"


# ---------------------------------------------------------------------------- list, info, verify


def test_list_shows_everything_and_what_is_here(world: World, archive: Path, other_archive: Path) -> None:
    done(world.run("models", "import", archive))
    done(world.run("models", "import", other_archive))
    everything = json.loads(done(world.run("models", "list", "--json")).out)
    by_name = {row["name"]: row for row in everything}
    assert len(by_name) == len(everything)
    assert {"unbraid:4stems", "unbraid:2stems", "unbraid:5stems", "spleeter:2stems", "htdemucs", "umxl", "mine"} < set(
        by_name
    )
    here = by_name[MODEL]
    assert here["state"] == "installed"
    assert here["size"] == (world.home / FOLDER / "weights.safetensors").stat().st_size
    assert (here["stems"], here["licence"]) == (list(STEMS), "MIT")
    assert here["sdr"] == pytest.approx((6.55 + 5.93 + 5.10 + 4.24) / 4)
    assert by_name["spleeter:2stems"]["state"] == "available"
    assert by_name["spleeter:2stems"]["size"] == len(small_archive(2))
    assert by_name["mine"]["state"] == "installed"
    shown = done(world.run("models", "list")).out
    lines = {line.split()[0]: line for line in shown.splitlines() if line}
    assert re.search(r"^spleeter:4stems +installed +0.1 MB +5.46 +vocals, drums, bass, other +MIT$", lines[MODEL])
    fewer = done(world.run("models", "list", "--installed")).out
    assert [line.split()[0] for line in fewer.split("\n\n")[0].splitlines()[1:]] == [
        *("unbraid:4stems", "unbraid:2stems", "unbraid:5stems", MODEL, "spleeter:4stems-16kHz", "mine")
    ]


def test_info_prints_cards(world: World, other_archive: Path) -> None:
    card = done(world.run("models", "info", MODEL)).out
    for words in ("# spleeter:4stems", "MIT", "Deezer", "6.55", "vocals, drums, bass, other"):
        assert words in card
    assert "<!--" not in card
    assert "non-commercial" in done(world.run("models", "info", "umxl")).out
    assert "MUSDB18's test set" in done(world.run("models", "info", "mdx_extra")).out
    assert "songs made up by rule" in " ".join(done(world.run("models", "info", "unbraid:4stems")).out.split())
    done(world.run("models", "import", other_archive))
    assert sha256(other_archive.read_bytes()) in done(world.run("models", "info", "mine")).out
    refused(world.run("models", "info", "unbraid:4stem"), "unbraid:4stem", "did you mean 'unbraid:4stems'")
    refused(world.run("models", "info", "min"), "did you mean 'mine'")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "bit": (f"{FOLDER}/weights.safetensors", flip_a_bit, "SHA-256", "installed"),
    "cut": (f"{FOLDER}/weights.safetensors", cut_off, "bytes, expected", "damaged"),
    "no weights": (f"{FOLDER}/weights.safetensors", Path.unlink, "No such file", "damaged"),
    "description": (f"{FOLDER}/model.toml", cut_off, "model.toml", "damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_listed_and_repaired(damage: str, world: World, song: Path) -> None:
    name, change, words, state = DAMAGES[damage]
    world.run("models", "fetch", MODEL, "spleeter:2stems", "-q")
    sound = done(world.run("models", "verify"))
    assert [line.partition(",")[0] for line in sound.out.splitlines()] == [
        f"{one}: sound" for one in ("unbraid:4stems", "spleeter:2stems", MODEL)
    ]
    change(world.home / name)
    refused(world.run("models", "verify"), name.rpartition("/")[2], words)
    refused(world.run("models", "verify", MODEL), words)
    assert "spleeter:2stems: sound" in world.run("models", "verify").out
    if state == "damaged":
        refused(world.run("separate", "-m", MODEL, song, "-o", world.folder / "out"), name.rpartition("/")[2])
        assert not (world.folder / "out").exists()
    assert states(world)[MODEL] == state
    assert len(states(world)) == 4
    done(world.run("models", "fetch", MODEL, "-q"))
    done(world.run("models", "verify"))
    assert states(world)[MODEL] == "installed"


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_can_be_removed(damage: str, world: World) -> None:
    name, change, _, _ = DAMAGES[damage]
    world.run("models", "fetch", MODEL, "-q")
    change(world.home / name)
    done(world.run("models", "remove", MODEL))
    assert states(world) == {}
    assert world.left() == set()


def test_verify_of_what_is_not_there(world: World) -> None:
    refused(world.run("models", "verify", MODEL), "not installed", f"unbraid models fetch {MODEL}")
    refused(world.run("models", "verify", "spleter:4stems"), "did you mean 'spleeter:4stems'")


# ---------------------------------------------------------------------------- remove


def test_remove_and_fetch_again(world: World) -> None:
    world.run("models", "fetch", MODEL, "-q")
    assert done(world.run("models", "remove", MODEL)).out == f"{MODEL}: removed, 0.2 MB freed\n"
    assert world.left() == set()
    assert states(world) == {}
    refused(world.run("models", "remove", MODEL), "not installed")
    done(world.run("models", "fetch", MODEL, "-q"))
    assert world.left() == INSTALLED


@pytest.mark.parametrize(
    ("name", "words", "code"),
    [
        ("unbraid:4stems", ("built in",), 3),
        ("spleeter:4stems-16kHz", ("spleeter:4stems'",), 3),
        ("nothing", ("not installed", "list --installed"), 3),
        ("../../etc", ("name",), 2),
        ("", ("name",), 2),
    ],
)
def test_what_cannot_be_removed(name: str, words: tuple[str, ...], code: int, world: World) -> None:
    world.run("models", "fetch", MODEL, "-q")
    refused(world.run("models", "remove", name), *words, code=code)
    assert world.left() == INSTALLED


# ---------------------------------------------------------------------------- import


def test_a_published_archive_is_recognised(world: World, archive: Path, song: Path, tmp_path: Path) -> None:
    outcome = done(world.run("models", "import", archive, UNBRAID_OFFLINE="1"))
    assert outcome.out == f"{MODEL}: installed in '{world.home / FOLDER}'\n"
    assert world.left() == INSTALLED
    assert archive.is_file()
    assert world.hub.requests == []
    done(world.run("separate", "-p", MODEL, song, "-o", tmp_path / "out", "-q", UNBRAID_OFFLINE="1"))


def test_another_archive_gets_its_files_name_and_what_is_assumed_is_told(world: World, other_archive: Path) -> None:
    outcome = done(world.run("models", "import", other_archive))
    first, note = outcome.out.splitlines()
    assert first.startswith("mine: installed in")
    assert "spleeter:4stems" in note
    assert "--config" in note
    assert states(world) == {"mine": "installed"}
    (origin,) = read_model_file(world.home / "models" / "mine").origin
    assert (origin.file, origin.sha256) == ("mine.tar.gz", sha256(other_archive.read_bytes()))


def test_a_checkpoint_folder_with_its_configuration(world: World, tmp_path: Path) -> None:
    checkpoint = small_checkpoint(tmp_path / "own model", 2, seed=3)
    stems = ("speech", "rest")
    description = {"instrument_list": stems, "model": {"params": {"conv_n_filters": FILTERS}}, "F": 512}
    (tmp_path / "own.json").write_text(json.dumps(description))
    done(world.run("models", "import", checkpoint, "--config", tmp_path / "own.json"))
    model = read_model_file(world.home / "models" / "own-model")
    assert (model.stems, model.networks[0].config.n_bins) == (stems, 512)
    check_weights(world.home / "models" / "own-model", weights_of(checkpoint, stems))
    assert len(model.origin) == 3
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({**description, "instrument_list": ["a", "b", "c"]}))
    refused(world.run("models", "import", checkpoint, "--config", wrong, "--name", "x"), "own model", "stem")
    refused(world.run("models", "import", checkpoint, "--config", tmp_path / "gone.json"), "gone.json")
    assert states(world) == {"own-model": "installed"}


def test_what_is_installed_stays_unless_it_may_be_replaced(world: World, other_archive: Path, tmp_path: Path) -> None:
    done(world.run("models", "import", other_archive))
    before = (world.home / "models" / "mine" / "weights.safetensors").read_bytes()
    other_archive.write_bytes(small_archive(4, seed=10))
    refused(world.run("models", "import", other_archive), "mine.tar.gz", "already", "--name", "--replace")
    assert (world.home / "models" / "mine" / "weights.safetensors").read_bytes() == before
    done(world.run("models", "import", other_archive, "--replace"))
    check_weights(world.home / "models" / "mine", weights_of(small_checkpoint(tmp_path / "ten", 4, seed=10)))
    other_archive.write_bytes(small_archive(4, seed=10)[:-50])
    refused(world.run("models", "import", other_archive, "--replace"), "mine.tar.gz", "truncated")
    done(world.run("models", "verify", "mine"))
    assert world.left() == {path.replace("spleeter-4stems", "mine") for path in INSTALLED - {f"{FOLDER}/card.md"}}


def test_a_published_model_can_be_replaced_by_itself(world: World, archive: Path) -> None:
    done(world.run("models", "import", archive))
    flip_a_bit(world.home / FOLDER / "weights.safetensors")
    refused(world.run("models", "import", archive), MODEL, "already", "--replace")
    done(world.run("models", "import", archive, "--replace"))
    done(world.run("models", "verify", MODEL))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(
            (name, 2)
            for name in ("spleeter:4stems", "spleeter-4stems", "SPLEETER-4STEMS", "unbraid:2stems", "htdemucs")
        ),
        *((name, 2) for name in ("", "a/b", "../x", "a b", ".hidden", "x" * 101, "a:b:c", "é")),
        *((name, 0) for name in ("mine", "a.b_c-d+e", "my:model", "X")),
    ],
)
def test_names_for_imported_models(name: str, code: int, world: World, other_archive: Path) -> None:
    outcome = world.run("models", "import", other_archive, "--name", name)
    if code:
        refused(outcome, "name", code=2)
        assert world.left() == set()
    else:
        done(outcome)
        assert states(world) == {name: "installed"}
        done(world.run("models", "verify", name))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("spleeter:4stems.tar.gz", "spleeter-4stems-imported"),
        ("SPLEETER-4stems.tar.gz", "SPLEETER-4stems-imported"),
        ("htdemucs.tar.gz", "htdemucs-imported"),
        ("mein Modell (neu).tgz", "mein-Modell-neu"),
        ("+++.tar.gz", "model"),
        ("é.tar.gz", "model"),
        ("y" * 150 + ".tar.gz", "y" * 80),
    ],
)
def test_names_made_of_files_names(file: str, name: str, world: World, tmp_path: Path) -> None:
    try:
        (tmp_path / file).write_bytes(small_archive(2, seed=9))
    except OSError:
        pytest.skip("no such names on this system")
    done(world.run("models", "import", tmp_path / file))
    assert states(world) == {name: "installed"}
    done(world.run("models", "remove", name))


def hostile(tmp_path: Path) -> dict[str, bytes]:
    """Files that look like models."""
    whole = small_archive(4, seed=9)
    return {
        "cut.tar.gz": whole[: len(whole) // 2],
        "empty.tar.gz": b"",
        "text.tar.gz": b"la la la",
        "page.th": b"<!DOCTYPE html><html></html>",
        "evil.th": b"\x80\x02cos\nsystem\nX\x09\x00\x00\x00touch oopsq\x00\x85Rq\x01.",
        "short.safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00{}",
        "lying.safetensors": (1 << 60).to_bytes(8, "little") + b"{}",
        "empty.pth": b"",
    }


@pytest.mark.parametrize("file", list(hostile(Path())))
def test_a_file_that_is_no_model_leaves_nothing(file: str, world: World, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(hostile(tmp_path)[file])
    refused(world.run("models", "import", tmp_path / file), file)
    assert world.left() == set()
    assert not any(path.name.startswith(".") for path in world.home.rglob("*"))
    assert not (tmp_path / "oops").exists()


def test_a_folder_of_models_with_bad_ones_among_them(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name, content in hostile(tmp_path).items():
        (folder / name).write_bytes(content)
    (folder / "4stems.tar.gz").write_bytes(small_archive(4))
    (folder / "zz.tgz").write_bytes(small_archive(2, seed=9))
    small_checkpoint(folder / "own", 5)
    (folder / "notes.txt").write_text("la")
    outcome = world.run("models", "import", folder)
    assert outcome.code == 3
    assert len(outcome.lines) == len(hostile(tmp_path)), outcome.err
    assert all(line.startswith("unbraid: ") for line in outcome.lines)
    for name in hostile(tmp_path):
        assert sum(name in line for line in outcome.lines) == 1
    assert [line.partition(":")[0] for line in outcome.out.splitlines() if " installed in " in line] == [
        *("spleeter", "own", "zz")
    ]
    assert set(states(world)) == {MODEL, "spleeter:4stems-16kHz", "own", "zz"}
    done(world.run("models", "verify"))


def test_import_of_nothing(world: World, tmp_path: Path) -> None:
    refused(world.run("models", "import", tmp_path / "gone.th"), "gone.th", "no such file")
    (tmp_path / "empty").mkdir()
    refused(world.run("models", "import", tmp_path / "empty"), "empty", ".tar.gz", ".safetensors")
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    refused(world.run("models", "import", tmp_path / "song.wav"), "song.wav")


def test_one_name_is_for_one_model(world: World, other_archive: Path, archive: Path, tmp_path: Path) -> None:
    refused(world.run("models", "import", archive, other_archive, "--name", "x"), "--name", code=2)
    folder = tmp_path / "both"
    folder.mkdir()
    for path in (archive, other_archive):
        path.rename(folder / path.name)
    refused(world.run("models", "import", folder, "--name", "x"), "--name", "both", code=2)
    assert world.left() == set()
    (folder / archive.name).unlink()
    done(world.run("models", "import", folder, "--name", "x"))
    assert states(world) == {"x": "installed"}


def test_a_model_folder_is_copied_once_it_is_found_whole(world: World, archive: Path, tmp_path: Path) -> None:
    done(world.run("models", "import", archive))
    copy = shutil.copytree(world.home / FOLDER, tmp_path / "copy")
    done(world.run("models", "import", copy, "--name", "copy"))
    done(world.run("models", "import", copy))
    assert set(states(world)) >= {"copy", "spleeter-4stems-imported"}
    assert "Deezer" in done(world.run("models", "info", "copy")).out
    flip_a_bit(copy / "weights.safetensors")
    refused(world.run("models", "import", copy, "--name", "again"), "SHA-256")
    assert "again" not in states(world)


# ---------------------------------------------------------------------------- export


def test_export_of_the_built_in_model_and_back(world: World, song: Path, tmp_path: Path) -> None:
    outcome = done(world.run("models", "export", "unbraid:5stems", "--format", "safetensors", "-o", tmp_path / "e"))
    path = tmp_path / "e.safetensors"
    assert outcome.out == f"unbraid:5stems → {path}\n"
    done(world.run("models", "import", path))
    done(world.run("models", "verify", "e"))
    for model in ("unbraid:5stems", "e"):
        done(world.run("separate", "-m", model, song, "-o", tmp_path / model, "-q"))
    assert read_model_file(world.home / "models" / "e").origin[0].sha256 == sha256(path.read_bytes())
    assert stems_of(tmp_path / "e" / "song") == stems_of(tmp_path / "unbraid:5stems" / "song")


def test_a_model_that_adds_stems_up_comes_back_as_its_network(world: World, tmp_path: Path) -> None:
    path = tmp_path / "two.safetensors"
    done(world.run("models", "export", "unbraid:2stems", "--format", "safetensors", "-o", path))
    assert "vocals, drums, bass, piano, other" in done(world.run("models", "import", path)).out.splitlines()[1]
    assert states(world) == {"two": "installed"}


DAMAGED_METADATA = {
    "no JSON": ({"networks": "{"}, "not JSON"),
    "no list": ({"networks": "7"}, "networks must be a list"),
    "another family": ({"networks": '[{"family": "wavenet", "config": {}}]'}, "unknown family of models 'wavenet'"),
    "other sizes": ({}, "tensor 'stem.weight' must have shape (49,"),
    "stems": ({"stems": '["a"]'}, "stems must be those"),
}


@pytest.mark.parametrize("damage", DAMAGED_METADATA)
def test_an_export_whose_metadata_do_not_fit(damage: str, world: World, tmp_path: Path) -> None:
    changes, words = DAMAGED_METADATA[damage]
    path = tmp_path / "e.safetensors"
    done(world.run("models", "export", "unbraid:4stems", "--format", "safetensors", "-o", path))
    metadata, tensors = read_metadata(path), safetensors.numpy.load_file(path)
    if damage == "other sizes":
        changes = {"networks": metadata["networks"].replace('"widths": [48', '"widths": [49')}
    safetensors.numpy.save_file(tensors, path, {**metadata, **changes})
    refused(world.run("models", "import", path), "e.safetensors", words)
    assert world.left() == set()


@pytest.mark.parametrize(("format", "suffixes"), [("onnx", [".onnx"]), ("openvino", [".xml", ".bin"])])
def test_export_of_a_fetched_model(
    format: str, suffixes: list[str], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = world.run("models", "export", MODEL, "--format", format)
    assert outcome.code == 0
    assert outcome.err == "Downloading 4stems.tar.gz (0.1 MB) …\n"
    assert outcome.out == f"{MODEL} → {', '.join(f'spleeter-4stems{suffix}' for suffix in suffixes)}\n"
    assert all((tmp_path / f"spleeter-4stems{suffix}").stat().st_size > 0 for suffix in suffixes)
    refused(world.run("models", "export", MODEL, "--format", format), "already there", "--overwrite", code=2)
    done(world.run("models", "export", MODEL, "--format", format, "--overwrite"))


def test_exports_that_cannot_be(world: World, tmp_path: Path) -> None:
    refused(world.run("models", "export", MODEL, "--format", "onxx"), "onxx", "did you mean 'onnx'", code=2)
    refused(world.run("models", "export", "spleter:4stems", "--format", "onnx"), "did you mean 'spleeter:4stems'")
    blocked = tmp_path / "file"
    blocked.write_bytes(b"mine")
    refused(
        world.run("models", "export", "unbraid:4stems", "--format", "onnx", "-o", blocked / "x"), str(blocked / "x")
    )
    assert world.hub.requests == []


def test_help_names_every_command(world: World) -> None:
    shown = done(world.run("models", "--help")).out
    for name in ("list", "info", "fetch", "verify", "import", "export", "remove"):
        assert re.search(rf"\b{name}\b", shown)
        assert "Usage: unbraid models" in done(world.run("models", name, "--help")).out
