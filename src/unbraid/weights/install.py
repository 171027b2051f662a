"""Installed models: fetched or given files, converted once, each model in a folder of its own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from unbraid.errors import ModelError
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.weights.addresses import plan_of
from unbraid.weights.card import card
from unbraid.weights.catalog import CatalogFile, Entry, catalog
from unbraid.weights.convert.network import ConvertedNetwork
from unbraid.weights.convert.openunmix import read_openunmix
from unbraid.weights.convert.read import read_network
from unbraid.weights.fetch import Fetched, FetchProgress, fetch
from unbraid.weights.folder import installed_folder, installed_models, sha256_of, verify_model, write_model
from unbraid.weights.hashes import record_hash
from unbraid.weights.model_file import CONVERTER, ModelFile, NetworkPart, Origin
from unbraid.weights.part import Part as Download
from unbraid.weights.part import locked, writing
from unbraid.weights.places import downloads_folder, home_folder
from unbraid.weights.store import BUILTIN

__all__ = ["Installed", "Part", "install", "model_lock", "remove", "write_parts"]

OnProgress = Callable[[FetchProgress], None]


@dataclass(frozen=True)
class Installed:
    """A model in its folder; `notices` tell what was assumed or left out when it was put there just now."""

    model: ModelFile
    folder: Path
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Part:
    """A converted network, its name among several, and how much it counts for each stem (None: all alike)."""

    network: ConvertedNetwork
    name: str = ""
    stem_weights: tuple[float, ...] | None = None


def install(
    entry: Entry,
    *,
    files: Mapping[str, Path] | None = None,
    replace: bool = False,
    on_progress: OnProgress | None = None,
) -> Installed:
    """Fetch the files of a model of the catalogue and convert them; one that is there and sound is left alone.

    files : those of its files that are on this machine already, by their names in the catalogue
    replace : convert them anew all the same
    on_progress : called while files are fetched; what it raises stops the work, and the next call goes on from there

    Raises ModelError where a file cannot be had or is not what the catalogue says, or the model cannot be written.
    """
    entry = catalog()[entry.variant_of or entry.name]
    given, folder = files or {}, installed_folder(entry.name)
    # First without the lock, so that nothing needs to be written for a model that is there.
    there = None if replace else _sound(folder)
    if there is not None:
        return there
    with model_lock(folder, lambda: _report(entry, on_progress)) as scratch:
        there = None if replace else _sound(folder)
        if there is not None:
            return there
        fetched = [
            _checked(file, given[file.remote.name])
            if file.remote.name in given
            else fetch(file.remote, downloads_folder(), on_progress=on_progress)
            for file in entry.files
        ]
        try:
            with _converted(entry, [one.path for one in fetched], scratch) as parts:
                model = write_parts(folder, entry.name, parts, fetched, entry=entry, segment_s=entry.segment_s)
                notices = tuple(notice for part in parts for notice in part.network.notices)
        except ModelError:
            _distrust([file for file in entry.files if file.remote.name not in given])
            raise
        for file in entry.files:
            if file.remote.name not in given:
                with suppress(OSError):
                    (downloads_folder() / file.remote.name).unlink(missing_ok=True)
    trusted = tuple(
        f"nobody publishes a hash of '{one.path.name}': the one found is recorded, {one.sha256}"
        for one in fetched
        if not one.pinned
    )
    return Installed(model, folder, trusted + notices)


def _distrust(files: Iterable[CatalogFile]) -> None:
    """Forget downloads of which nobody publishes a hash: what cannot be used may be some page in place of the file."""
    for file in files:
        if file.remote.sha256 is None and file.remote.sha256_prefix is None:
            with suppress(OSError, ModelError):  # the error on the way is of more use
                (downloads_folder() / file.remote.name).unlink(missing_ok=True)
                record_hash(downloads_folder(), plan_of(file.remote).key, None)


def _check_alike(one: Part, other: Part) -> None:
    """Raise ModelError unless two networks can be of one model, and there is a weight for each stem."""
    configs = one.network.config, other.network.config
    stems, others = (", ".join(config.stems) for config in configs)
    if stems != others:
        raise ModelError(
            f"networks of a bag must have the same stems; '{one.name}' has {stems}, '{other.name}' has {others}"
        )
    if configs[0].sample_rate != configs[1].sample_rate:
        raise ModelError(
            f"networks of a bag must have the same sample rate; '{one.name}' has {configs[0].sample_rate} Hz, "
            f"'{other.name}' has {configs[1].sample_rate} Hz"
        )
    if other.stem_weights is not None and len(other.stem_weights) != len(configs[1].stems):
        raise ModelError(
            f"a network of a bag must have a weight for each of its {len(configs[1].stems)} stems; "
            f"'{other.name}' has {len(other.stem_weights)}"
        )


def write_parts(
    folder: Path,
    name: str,
    parts: Sequence[Part],
    files: Sequence[Fetched],
    *,
    entry: Entry | None = None,
    segment_s: float | None = None,
) -> ModelFile:
    """Write converted networks as one model folder.

    files : what they were converted from
    entry : the model of the catalogue that this is
    segment_s : seconds that the networks see at once, where it is not their own
    """
    config = parts[0].network.config
    for part in parts:
        _check_alike(parts[0], part)
    names = [part.name if len(parts) > 1 else "" for part in parts]
    networks = tuple(
        NetworkPart(part.network.family, part.network.config, name, part.stem_weights)
        for part, name in zip(parts, names, strict=True)
    )
    model = ModelFile(
        name=name,
        stems=config.stems,
        sample_rate=config.sample_rate,
        networks=networks,
        weights_size=0,
        weights_sha256="",
        segment_s=segment_s,
        licence=entry.licence if entry else "",
        training_data=entry.training_data if entry else "",
        converter=CONVERTER,
        origin=tuple(Origin(one.path.name, one.sha256, one.size, one.address or "") for one in files),
    )
    tensors = {
        described.prefix + key: tensor
        for part, described in zip(parts, networks, strict=True)
        for key, tensor in part.network.tensors.items()
    }
    return write_model(folder, model, tensors, card=card(entry) if entry else "")


def remove(name: str) -> int:
    """Delete an installed model; returns the number of bytes. ModelError where there is none of that name."""
    if name in BUILTIN:
        raise ModelError(f"cannot remove '{name}': it is built in")
    if name in catalog() and catalog()[name].variant_of:
        base = catalog()[name].variant_of
        raise ModelError(f"cannot remove '{name}': it is '{base}', used in another way; remove that")
    folder = installed_models().get(name) or installed_folder(name)
    if not folder.is_dir():
        raise ModelError(f"the model '{name}' is not installed; 'unbraid models list --installed' shows what is")
    with model_lock(folder) as scratch:
        try:
            size = sum(path.stat().st_size for path in folder.iterdir())
            # Out of the way in one step, so that an interruption leaves no half of a model.
            gone = scratch / "removed"
            folder.rename(gone)
            shutil.rmtree(gone)
        except OSError as error:
            raise ModelError(f"cannot remove '{folder}': {error.strerror or error}") from error
    return size


@contextmanager
def model_lock(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[Path]:
    """Keep other processes away from a model's folder; ends with the process, however that ends.

    waiting : called now and then while another process is at it

    Yields a folder beside it for what is needed meanwhile; at the end it goes, with all that is in it.
    """
    with locked(home_folder() / "locks" / folder.name, waiting):
        _clean(folder)
        scratch = folder.with_name(f".{folder.name}.scratch")
        try:
            with writing(scratch):
                scratch.mkdir(parents=True, exist_ok=True)
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _clean(folder: Path) -> None:
    """Remove what an interrupted process left beside a model's folder."""
    if not folder.parent.is_dir():
        return
    left = [path for path in folder.parent.iterdir() if _is_left(path.name, folder.name)]
    if not folder.exists():
        # It was about to be replaced: the old one had stepped aside, the new one had not taken its place.
        for path in (path for path in left if path.suffix == ".old"):
            with suppress(OSError):
                path.rename(folder)
                break
    for path in left:
        shutil.rmtree(path, ignore_errors=True)


def _is_left(name: str, model: str) -> bool:
    """Whether that is the name of something temporary of this model's, and not of another's with a longer name."""
    return re.fullmatch(rf"\.{re.escape(model)}\.([0-9]+\.(part|old)|scratch)", name) is not None


def _sound(folder: Path) -> Installed | None:
    """The model in a folder, if it is whole."""
    try:
        return Installed(verify_model(folder), folder)
    except ModelError:
        return None


def _report(entry: Entry, on_progress: OnProgress | None) -> None:
    """Show how far another process is with the files."""
    for file in entry.files:
        part = downloads_folder() / f"{file.remote.name}.part"
        if on_progress and part.is_file():
            on_progress(FetchProgress(file.remote.name, Download(part).length(), file.remote.size))


def _checked(file: CatalogFile, path: Path) -> Fetched:
    """A file of this machine, if it is what the catalogue says."""
    found, expected = sha256_of(path), file.remote.sha256 or file.remote.sha256_prefix
    if expected and not found.startswith(expected):
        raise ModelError(f"'{path}' is not '{file.remote.name}': its SHA-256 is {found}, expected {expected}")
    return Fetched(path, found, path.stat().st_size, None, expected is not None)


@contextmanager
def _converted(entry: Entry, paths: Sequence[Path], scratch: Path) -> Iterator[list[Part]]:
    """The networks of a model of the catalogue; their tensors are views of the files while this lasts."""
    if entry.family == "openunmix":
        targets = {file.target: path for file, path in zip(entry.files, paths, strict=True)}
        yield [Part(read_openunmix(targets))]
        return
    config = SpleeterConfig.from_json(entry.config) if entry.config else None
    with ExitStack() as stack:
        yield [
            Part(stack.enter_context(read_network(path, scratch, config=config)), file.network, file.stem_weights)
            for file, path in zip(entry.files, paths, strict=True)
        ]
