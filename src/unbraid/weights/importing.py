"""Files that a user got elsewhere, installed as models: archives, checkpoints, packages, states, model folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from unbraid.errors import ModelError, UsageError
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.weights.catalog import CatalogFile, Entry, catalog
from unbraid.weights.convert.bag import read_bag
from unbraid.weights.convert.openunmix import read_openunmix, target_of
from unbraid.weights.convert.read import is_openunmix, read_network
from unbraid.weights.convert.torch_file import read_torch_file
from unbraid.weights.fetch import Fetched
from unbraid.weights.folder import CARD, installed_folder, sha256_of, verify_model, write_model
from unbraid.weights.install import Installed, Part, install, model_lock, remove, write_parts
from unbraid.weights.model_file import DESCRIPTION, WEIGHTS
from unbraid.weights.store import BUILTIN
from unbraid.weights.tensors import read_tensors

__all__ = ["ImportOptions", "import_models"]

# A checkpoint of TensorFlow is a folder; everything else that holds weights ends like this.
_SUFFIXES = (".tar.gz", ".tgz", ".th", ".pth", ".pt", ".safetensors")


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
    if not path.exists():
        raise ModelError(f"cannot import '{path}': there is no such file or folder")
    if path.is_file() or _is_model(path):
        yield _import_one(path, options)
        return
    yield from _import_all(path, options)


def _import_all(folder: Path, options: ImportOptions) -> Iterator[Installed | ModelError]:
    """Everything in a folder: the parts of a published model, of a bag or of an Open-Unmix together, the rest alone."""
    items = [item for item in sorted(folder.iterdir()) if _is_model(item) or item.name.endswith(_SUFFIXES)]
    if not items:
        raise ModelError(
            f"cannot import '{folder}': it holds no checkpoint, no model.toml and no file that ends in "
            + ", ".join(_SUFFIXES)
        )
    if options.name is not None and len(items) > 1:
        raise UsageError("--name is for one model; import the files of the folder one by one")
    known = {item: _known_as(item) for item in items if item.is_file()}
    for entry in catalog().values():
        files = {file.remote.name: item for item, found in known.items() for one, file in found if one is entry}
        if len(entry.files) > 1 and len(files) == len(entry.files):
            items = [item for item in items if item not in files.values()]
            yield from _attempt(lambda entry=entry, files=files: _install(entry, files, folder, options))
    for bag in sorted(folder.glob("*.yaml")):
        files = _members(bag, items)
        items = [item for item in items if item not in files]
        if files:
            yield from _attempt(lambda bag=bag, files=files: _import_bag(bag, files, options))
    targets = [item for item in items if item.name.endswith(".pth") and is_openunmix(read_torch_file(item))]
    if len(targets) > 1:
        items = [item for item in items if item not in targets]
        yield from _attempt(lambda: _import_targets(folder, targets, options))
    stems = [_stem(item) for item in items]
    for item in items:
        # Two files of one name, as of one model in two forms, keep their endings.
        name = options.name or (item.name if stems.count(_stem(item)) > 1 else None)
        yield from _attempt(lambda item=item, name=name: _import_one(item, replace(options, name=name)))


def _attempt(work: Callable[[], Installed]) -> Iterator[Installed | ModelError]:
    """One of several: why it fails is told, and does not stop the others."""
    try:
        yield work()
    except ModelError as error:
        yield error


def _import_one(path: Path, options: ImportOptions) -> Installed:
    """A model folder, a checkpoint, or a file; as a model of the catalogue if it is that."""
    if (path / DESCRIPTION).is_file():
        return _copy(path, options)
    if path.is_file() and options.name is None:
        for entry, file in _known_as(path):
            if len(entry.files) == 1:
                return _install(entry, {file.remote.name: path}, path, options)
    version = options.demucs_version
    with (
        _room(_free_name(path, options), path, options) as folder,
        read_network(path, config=options.config, demucs_version=version) as network,
    ):
        model = write_parts(folder, _free_name(path, options), [Part(network)], _origins([path]))
        return Installed(model, folder, network.notices)


def _copy(source: Path, options: ImportOptions) -> Installed:
    """A model folder, once it is found whole."""
    model = verify_model(source)
    card = source / CARD
    model = replace(model, name=_free_name(Path(options.name or model.name), options))
    with _room(model.name, source, options) as folder:
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        return Installed(write_model(folder, model, read_tensors(source / WEIGHTS), card=text), folder)


def _install(entry: Entry, files: Mapping[str, Path], path: Path, options: ImportOptions) -> Installed:
    """A model of the catalogue from its own files."""
    with _room(entry.name, path, options, lock=False):
        return install(entry, files=files)


def _import_bag(path: Path, files: Sequence[Path], options: ImportOptions) -> Installed:
    """Several networks that a file of Demucs joins."""
    bag = read_bag(path)
    name = _free_name(path, options)
    with ExitStack() as stack:
        folder = stack.enter_context(_room(name, path, options))
        networks = [stack.enter_context(read_network(file)) for file in files]
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


def _import_targets(folder: Path, files: Sequence[Path], options: ImportOptions) -> Installed:
    """The networks of one Open-Unmix, a stem each."""
    network = read_openunmix({target_of(file): file for file in files})
    name = _free_name(folder, options)
    with _room(name, folder, options) as target:
        return Installed(write_parts(target, name, [Part(network)], _origins(files)), target, network.notices)


@contextmanager
def _room(name: str, path: Path, options: ImportOptions, *, lock: bool = True) -> Iterator[Path]:
    """The folder for a model, free or allowed to be replaced."""
    folder = installed_folder(name)
    if folder.exists():
        if not options.replace:
            raise ModelError(f"cannot import '{path}': '{name}' is installed already; replace it with --replace")
        if not lock:
            remove(name)
    with model_lock(folder) if lock else nullcontext():
        yield folder


def _known_as(path: Path) -> list[tuple[Entry, CatalogFile]]:
    """The models of the catalogue that a file belongs to, by its SHA-256."""
    sha256 = sha256_of(path)
    return [
        (entry, file)
        for entry in catalog().values()
        for file in entry.files
        if (expected := file.remote.sha256 or file.remote.sha256_prefix) and sha256.startswith(expected)
    ]


def _free_name(path: Path, options: ImportOptions) -> str:
    """The name wanted, else one made of the file's; never that of a published or built-in model."""
    taken = (*catalog(), *BUILTIN)
    if options.name is not None:
        if options.name in taken:
            raise UsageError(f"'{options.name}' is the name of another model; choose another with --name")
        return options.name
    name = re.sub(r"[^\w.+-]+", "-", _stem(path.absolute()), flags=re.ASCII).strip("-.") or "model"
    return f"{name}-imported" if name in taken else name


def _stem(path: Path) -> str:
    return next((path.name.removesuffix(suffix) for suffix in _SUFFIXES if path.name.endswith(suffix)), path.stem)


def _is_model(path: Path) -> bool:
    """Whether a folder is one model."""
    return (path / DESCRIPTION).is_file() or (path / "checkpoint").is_file() or any(path.glob("*.index"))


def _origins(paths: Sequence[Path]) -> list[Fetched]:
    """The files that were given; of a checkpoint, all of its own."""
    files = [file for path in paths for file in (sorted(path.glob("*.*")) if path.is_dir() else [path])]
    return [Fetched(file, sha256_of(file), file.stat().st_size, None, True) for file in files if file.is_file()]
