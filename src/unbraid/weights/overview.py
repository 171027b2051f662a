"""What models there are, in what state, and where their folders and cards lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unbraid.errors import ModelError
from unbraid.models.families import RUNNABLE
from unbraid.weights.card import card
from unbraid.weights.catalog import Entry, catalog, find
from unbraid.weights.folder import CARD, installed_folder, installed_models
from unbraid.weights.model_file import DESCRIPTION, read_model_file
from unbraid.weights.store import BUILTIN, BUILTIN_FOLDER

__all__ = ["Row", "card_of", "folder_of", "overview"]


@dataclass(frozen=True)
class Row:
    """A model in one line.

    state : "built in", "installed", "available" (to be fetched), "later" (its family does not run yet) or "damaged"
    size : in bytes, of the weights on this machine, else of the download; None where nobody says
    sdr : published mean over the stems on MUSDB18's test set, in dB
    """

    name: str
    state: str
    size: int | None
    sdr: float | None
    stems: tuple[str, ...]
    licence: str


def overview() -> list[Row]:
    """Every model: built in, published, imported."""
    here = installed_models()
    rows = [_row_of_folder(name, folder_of(name), "built in") for name in BUILTIN]
    rows += [_row_of_entry(entry) for entry in catalog().values()]
    rows += [_row_of_folder(name, folder, "installed") for name, folder in here.items() if name not in catalog()]
    return rows


def folder_of(name: str) -> Path:
    """The folder of a model that is on this machine; ModelError where it is not."""
    if name in BUILTIN:
        return BUILTIN_FOLDER
    if name in catalog():
        folder = installed_folder(catalog()[name].variant_of or name)
        if (folder / DESCRIPTION).is_file():
            return folder
        raise ModelError(f"the model '{name}' is not installed; 'unbraid models fetch {name}' gets it")
    if name in installed_models():
        return installed_models()[name]
    if (Path(name) / DESCRIPTION).is_file():
        return Path(name)
    find(name)  # raises, with the nearest name
    raise AssertionError(name)


def card_of(name: str) -> str:
    """A model's card, as Markdown; ModelError where there is no such model."""
    if name in catalog():
        return card(catalog()[name])
    folder = folder_of(name)
    if (folder / CARD).is_file():
        return (folder / CARD).read_text(encoding="utf-8", errors="replace")
    return (folder / DESCRIPTION).read_text(encoding="utf-8", errors="replace")


def _row_of_entry(entry: Entry) -> Row:
    runs = entry.families <= RUNNABLE
    if (installed_folder(entry.variant_of or entry.name) / DESCRIPTION).is_file():
        state = "installed" if runs else "installed, later"
    else:
        state = "available" if runs else "later"
    return Row(entry.name, state, entry.size, entry.musdb_sdr, entry.stems, entry.licence)


def _row_of_folder(name: str, folder: Path, state: str) -> Row:
    try:
        model = read_model_file(folder)
    except ModelError:
        return Row(name, "damaged", None, None, (), "")
    stems = ("vocals", "accompaniment") if name == "unbraid:2stems" else model.stems
    runs = {part.family for part in model.networks} <= RUNNABLE
    return Row(name, state if runs else f"{state}, later", model.weights_size, None, stems, model.licence)
