"""What models there are, in what state, and where their folders and cards lie."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from unbraid.errors import ModelError
from unbraid.weights.card import card
from unbraid.weights.catalog import Entry, catalog
from unbraid.weights.folder import CARD, check_weights, installed_folder, installed_models
from unbraid.weights.model_file import DESCRIPTION, read_model_file
from unbraid.weights.store import BUILTIN, BUILTIN_FOLDER, available_models, load_model

__all__ = ["Row", "card_of", "folder_of", "overview"]


@dataclass(frozen=True)
class Row:
    """A model in one line.

    state : "built in", "installed", "available" (to be fetched) or "damaged"
    size : in bytes, of the weights on this machine, else of the download; None where nobody says
    sdr : published mean over the stems on MUSDB18's test set, in dB
    """

    name: str
    state: str
    size: int | None
    sdr: float | None
    stems: tuple[str, ...]
    licence: str

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine, sound or not."""
        return self.state != "available"


def overview() -> list[Row]:
    """Every model: built in, published, imported."""
    published = {installed_folder(name) for name in catalog()}
    imported = {name: folder for name, folder in installed_models().items() if folder not in published}
    rows = [_row_of_builtin(name) for name in BUILTIN]
    rows += [_row_of_entry(entry) for entry in catalog().values()]
    rows += [_row_of_folder(name, folder, "installed") for name, folder in imported.items()]
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
    near = difflib.get_close_matches(name, available_models(), n=1)
    hint = f"did you mean '{near[0]}'?" if near else "'unbraid models list' shows what there is"
    raise ModelError(f"unknown model '{name}'; {hint}")


def card_of(name: str) -> str:
    """A model's card, as Markdown; ModelError where there is no such model."""
    if name in catalog():
        return card(catalog()[name])
    folder = folder_of(name)
    if (folder / CARD).is_file():
        return (folder / CARD).read_text(encoding="utf-8", errors="replace")
    return (folder / DESCRIPTION).read_text(encoding="utf-8", errors="replace")


def _row_of_entry(entry: Entry) -> Row:
    row = Row(entry.name, "available", entry.size, entry.musdb_sdr, entry.stems, entry.licence)
    folder = installed_folder(entry.variant_of or entry.name)
    if not (folder / DESCRIPTION).is_file():
        return row
    here = _row_of_folder(entry.name, folder, "installed")
    return replace(row, state=here.state, size=here.size)


def _row_of_builtin(name: str) -> Row:
    """One whose stems may be sums of those that its folder names."""
    row = _row_of_folder(name, BUILTIN_FOLDER, "built in")
    return replace(row, stems=tuple(stem for stem, _ in load_model(name).stems)) if row.stems else row


def _row_of_folder(name: str, folder: Path, state: str) -> Row:
    try:
        model = read_model_file(folder)
        check_weights(folder, model)
    except ModelError:
        return Row(name, "damaged", None, None, (), "")
    return Row(name, state, model.weights_size, None, model.stems, model.licence)
