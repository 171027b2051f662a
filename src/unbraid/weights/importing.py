"""Files that a user got elsewhere, installed as models: archives, checkpoints, packages, states, model folders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unbraid.errors import ModelError, UsageError
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.weights.catalog import CatalogFile, Entry, catalog
from unbraid.weights.convert.bag import read_bag
from unbraid.weights.convert.network import check_tensors
from unbraid.weights.convert.openunmix import read_openunmix, target_of
from unbraid.weights.convert.read import is_openunmix, read_network
from unbraid.weights.convert.torch_file import read_torch_file
from unbraid.weights.fetch import Fetched
from unbraid.weights.folder import CARD, installed_folder, sha256_of, verify_model, write_model
from unbraid.weights.install import Installed, Part, install, model_lock, write_parts
from unbraid.weights.model_file import DESCRIPTION, WEIGHTS, ModelFile, Origin, parse_model
from unbraid.weights.store import BUILTIN
from unbraid.weights.tensors import read_metadata, read_tensors

__all__ = ["ImportOptions", "import_models"]

# A checkpoint of TensorFlow is a folder; everything else that holds weights ends like this.
_SUFFIXES = (".tar.gz", ".tgz", ".th", ".pth", ".pt", ".safetensors")
_LONGEST_NAME = 80


@dataclass(frozen=True)
class ImportOptions:
    """What a file does not say about itself.

    name : of the model; None for the catalogue's, else the file's
    config : of a Spleeter checkpoint, from its JSON
    demucs_version : 1 or 2, of a bare state
    replace : whether an installed model of that name makes room
    """

    name: str | None = None
    config: SpleeterConfig | None = None
    demucs_version: int = 2
    replace: bool = False


def import_models(path: Path, options: ImportOptions | None = None) -> Iterator[Installed | ModelError]:
    """Install the model of a file, or all those of a folder.

    Yields each model once it is installed; of a folder with several, also why one cannot be.
    Raises ModelError where there is nothing to import, UsageError where the options do not fit.
    """
    options = options or ImportOptions()
    if not os.path.lexists(path):
        raise ModelError(f"cannot import '{path}': there is no such file or folder")
    with _translated(path):
        jobs = list(_jobs(path, options)) if path.is_dir() and not _is_model(path) else [_one(path, options)]
    if options.name is not None and len(jobs) > 1:
        raise UsageError(f"--name is for one model, and '{path}' holds {len(jobs)}; import them one by one")
    for job in jobs:
        try:
            with _translated(path):
                done = job()
        except ModelError as error:
            yield error
        else:
            yield done


_Job = Callable[[], Installed]


def _jobs(folder: Path, options: ImportOptions) -> Iterator[_Job]:
    """Everything in a folder: the parts of a published model, of a bag or of an Open-Unmix together, the rest alone."""
    items = [item for item in sorted(folder.iterdir()) if item.name.endswith(_SUFFIXES) or _is_model(item)]
    if not items:
        raise ModelError(
            f"cannot import '{folder}': it holds no checkpoint, no {DESCRIPTION} and no file that ends in "
            + ", ".join(_SUFFIXES)
        )
    rest = set(items)
    known = {item: _known_as(item) for item in items if options.name is None and item.is_file()}
    for entry in catalog().values():
        files = {file.remote.name: item for item, found in known.items() for one, file in found if one is entry}
        if len(entry.files) > 1 and len(files) == len(entry.files):
            rest -= set(files.values())
            yield partial(_install, entry, files, folder, options)
    for bag in sorted(folder.glob("*.yaml")):
        members = _members(bag, items)
        if members and rest.issuperset(members):
            rest -= set(members)
            yield partial(_import_bag, bag, members, options)
    targets = [item for item in items if item in rest and item.suffix == ".pth" and _is_target(item)]
    if len(targets) > 1:
        rest -= set(targets)
        yield partial(_import_targets, folder, targets, options)
    singles = [item for item in items if item in rest]
    stems = [_stem(item) for item in singles]
    for item in singles:
        # Two files of one name, as of one model in two forms, keep their endings.
        yield _one(item, options, item.name if stems.count(_stem(item)) > 1 else "")


def _one(path: Path, options: ImportOptions, name: str = "") -> _Job:
    """A model folder, a checkpoint, or a file; as a model of the catalogue if it is that."""
    wanted = name or _stem(path.absolute())
    if (path / DESCRIPTION).is_file():
        return partial(_copy_folder, path, options)
    if path.is_file() and options.name is None:
        for entry, file in _known_as(path):
            if len(entry.files) == 1:
                return partial(_install, entry, {file.remote.name: path}, path, options)
    return partial(_convert, path, wanted, options)


def _convert(path: Path, wanted: str, options: ImportOptions) -> Installed:
    """A file or checkpoint that nothing is known about but what it says itself."""
    name = _free_name(wanted, options)
    exported = _exported(path) if path.suffix == ".safetensors" else None
    if exported is not None:
        tensors = read_tensors(path)
        check_tensors(tensors, exported.tensor_shapes(), str(path))
        (origin,) = _origins([path])
        model = replace(exported, origin=(Origin(path.name, origin.sha256, origin.size),))
        done = _copy(model, path, tensors, "", name, options)
        if "groups" not in read_metadata(path):
            return done
        return replace(done, notices=(f"its stems are not added up any more: {', '.join(model.stems)}",))
    with (
        _room(name, path, options) as (folder, scratch),
        read_network(path, scratch, config=options.config, demucs_version=options.demucs_version) as network,
    ):
        return Installed(write_parts(folder, name, [Part(network)], _origins([path])), folder, network.notices)


def _copy_folder(source: Path, options: ImportOptions) -> Installed:
    """A model folder, once it is found whole."""
    model = verify_model(source)
    card = source / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return _copy(model, source, read_tensors(source / WEIGHTS), text, _free_name(model.name, options), options)


def _copy(
    model: ModelFile, source: Path, tensors: Mapping[str, NDArray[Any]], card: str, name: str, options: ImportOptions
) -> Installed:
    """A model in our own form."""
    with _room(name, source, options) as (folder, _):
        return Installed(write_model(folder, replace(model, name=name), tensors, card=card), folder)


def _exported(path: Path) -> ModelFile | None:
    """What a file of `unbraid models export` says of its model; None for another program's."""
    metadata = read_metadata(path)
    if "networks" not in metadata:
        return None
    keys = ("stems", "sample_rate", "networks", "segment_s", "allows_bf16")
    try:
        content = {key: json.loads(metadata[key]) for key in keys if key in metadata}
        content |= {key: metadata[key] for key in ("name", "licence", "training_data") if key in metadata}
        return parse_model({"format": 1, "weights": {"size": 0, "sha256": "0" * 64}, **content})
    except (ValueError, RecursionError) as error:
        raise ModelError(f"cannot use '{path}': its metadata are not JSON ({error})") from error
    except ModelError as error:
        raise ModelError(f"cannot use '{path}': its metadata: {error}") from error


def _install(entry: Entry, files: Mapping[str, Path], path: Path, options: ImportOptions) -> Installed:
    """A model of the catalogue from its own files."""
    if installed_folder(entry.variant_of or entry.name).exists() and not options.replace:
        raise _is_there(path, entry.name)
    return install(entry, files=files, replace=options.replace)


def _import_bag(path: Path, files: Sequence[Path], options: ImportOptions) -> Installed:
    """Several networks that a file of Demucs joins."""
    bag = read_bag(path)
    name = _free_name(_stem(path), options)
    with ExitStack() as stack:
        folder, scratch = stack.enter_context(_room(name, path, options))
        networks = [stack.enter_context(read_network(file, scratch)) for file in files]
        weights = bag.weights or [None] * len(files)
        parts = [Part(*one) for one in zip(networks, bag.models, weights, strict=True)]
        model = write_parts(folder, name, parts, _origins(files), segment_s=bag.segment_s)
        return Installed(model, folder, tuple(notice for network in networks for notice in network.notices))


def _members(bag: Path, items: Sequence[Path]) -> list[Path]:
    """The files of a bag's networks, in its order: named by their signatures; none where one is missing."""
    try:
        found = [next((i for i in items if re.split(r"[-.]", i.name)[0] == one), None) for one in read_bag(bag).models]
    except ModelError:
        return []  # some other program's YAML
    return [item for item in found if item is not None] if None not in found else []


def _is_target(path: Path) -> bool:
    """Whether a file holds one of the networks of an Open-Unmix."""
    try:
        return is_openunmix(read_torch_file(path))
    except ModelError:
        return False  # which is said when the file is imported


def _import_targets(folder: Path, files: Sequence[Path], options: ImportOptions) -> Installed:
    """The networks of one Open-Unmix, a stem each; their names say of what, or else the folder's does."""
    stems = [target_of(file) for file in files]
    for file, stem in zip(files, stems, strict=True):
        first = files[stems.index(stem)]
        if file is not first:
            raise ModelError(
                f"cannot import '{folder}': '{first.name}' and '{file.name}' are both for the stem '{stem}'; "
                "put the files of each model into a folder of its own"
            )
    before = {file.name.partition(stem)[0] for file, stem in zip(files, stems, strict=True)}
    common = before.pop() if len(before) == 1 else ""
    name = _free_name(common.strip("-_.") or _stem(folder.absolute()), options)
    with _room(name, folder, options) as (target, _):
        network = read_openunmix(dict(zip(stems, files, strict=True)))
        return Installed(write_parts(target, name, [Part(network)], _origins(files)), target, network.notices)


@contextmanager
def _room(name: str, path: Path, options: ImportOptions) -> Iterator[tuple[Path, Path]]:
    """The folder for a model, free or allowed to be replaced, and one for what is needed meanwhile."""
    folder = installed_folder(name)
    with model_lock(folder) as scratch:
        if folder.exists() and not options.replace:
            raise _is_there(path, name)
        yield folder, scratch


def _is_there(path: Path, name: str) -> ModelError:
    return ModelError(
        f"cannot import '{path}': a model '{name}' is installed already; give another --name, or --replace it"
    )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be read into one line."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"cannot import '{error.filename or path}': {error.strerror or error}") from error


def _known_as(path: Path) -> list[tuple[Entry, CatalogFile]]:
    """The models of the catalogue that a file belongs to, by its SHA-256."""
    try:
        sha256 = _sha256(path)
    except ModelError:
        return []  # which is said when the file is imported
    return [
        (entry, file)
        for entry in catalog().values()
        for file in entry.files
        if (expected := file.remote.sha256 or file.remote.sha256_prefix) and sha256.startswith(expected)
    ]


def _free_name(wanted: str, options: ImportOptions) -> str:
    """The name that the user gives, else one made of the file's; never that of a published or built-in model."""
    # On some systems, folders whose names differ in case only are the same.
    taken = {installed_folder(name).name.casefold() for name in (*catalog(), *BUILTIN)}
    if options.name is not None:
        if installed_folder(options.name).name.casefold() in taken:
            raise UsageError(f"'{options.name}' is the name of another model; choose another with --name")
        return options.name
    name = re.sub(r"[^\w.+-]+", "-", wanted, flags=re.ASCII)[:_LONGEST_NAME].strip("-.+") or "model"
    return f"{name}-imported" if name.casefold() in taken else name


def _stem(path: Path) -> str:
    return next((path.name.removesuffix(suffix) for suffix in _SUFFIXES if path.name.endswith(suffix)), path.stem)


def _is_model(path: Path) -> bool:
    """Whether a folder is one model."""
    try:
        return (path / DESCRIPTION).is_file() or (path / "checkpoint").is_file() or any(path.glob("*.index"))
    except OSError:
        return False  # it cannot be looked into


def _origins(paths: Sequence[Path]) -> list[Fetched]:
    """The files that were given; of a checkpoint, all of its own."""
    files = [file for path in paths for file in (sorted(path.glob("*.*")) if path.is_dir() else [path])]
    return [Fetched(file, _sha256(file), file.stat().st_size, None, True) for file in files if file.is_file()]


def _sha256(path: Path) -> str:
    """A file's SHA-256, read once: an archive takes half a second."""
    try:
        status = path.stat()
    except OSError:
        return sha256_of(path)  # raises what there is to say
    return _hashed(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hashed(path: Path, size: int, time_ns: int) -> str:
    return sha256_of(path)
