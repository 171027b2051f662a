"""Model cards: what the catalogue says of a model, as Markdown.

``python -m unbraid.weights.card docs/models`` writes one for every published model, and README.md, which lists them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from unbraid.weights.catalog import CatalogFile, Entry, Score, catalog

__all__ = ["card", "index", "page_name", "write_cards"]

_GENERATED = (
    "<!-- Made from weights/catalog.toml by `python -m unbraid.weights.card docs/models`; changes belong there. -->"
)
_INDEX_TOP = """\
`unbraid:4stems`, `unbraid:2stems` and `unbraid:5stems` are built in, and need no download
([card](../../src/unbraid/builtin/5stems/card.md)). Those below are published by others: `unbraid models fetch NAME`
gets one, and `unbraid separate -m NAME` does so where it is needed.
[format.md](format.md) describes how a model is kept."""
_INDEX_END = """\
SDR: mean over the stems, in dB, on the test set of MUSDB18 or MUSDB18-HQ, as published (museval: median of frames, then
of songs). The cards give each stem and the source.

Left out: Demucs's `tasnet` and `tasnet_extra` (Conv-TasNet is none of our families), its `demucs_quantized` (`demucs`
in fewer bits), and Spleeter's `-finetune` archives (the same weights, with what only training needs)."""


def card(entry: Entry) -> str:
    """Describe a model: what it does, where it comes from, what may be done with it, how good it is, how to use it."""
    parts = [f"# {entry.name}", f"{entry.title}. {entry.about}"]
    parts += [f"**{warning}**" for warning in entry.warnings]
    parts += [_table(("", ""), _facts(entry)), _usage(entry)]
    if entry.scores:
        parts += ["## Scores", *(_score(score) for score in entry.scores)]
    parts += ["## Files", _files(entry)]
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """List all models, with links to their cards."""
    titles = ("model", "stems", "download", "licence of the weights", "SDR")
    rows = [
        (
            f"[{entry.name}]({page_name(entry)})",
            ", ".join(entry.stems),
            _megabytes(entry),
            entry.licence,
            "" if entry.musdb_sdr is None else f"{entry.musdb_sdr:.2f}",
        )
        for entry in catalog().values()
    ]
    return "\n\n".join(("# Models", _GENERATED, _INDEX_TOP, _table(titles, rows), _INDEX_END)) + "\n"


def page_name(entry: Entry) -> str:
    """The file name of a model's card in docs/models."""
    return entry.name.replace(":", "-") + ".md"


def write_cards(folder: Path) -> None:
    """Write the cards of all published models, and README.md, which lists them."""
    for entry in catalog().values():
        title, rest = card(entry).split("\n", 1)
        page = f"{title}\n\n{_GENERATED}\n{rest}"
        (folder / page_name(entry)).write_text(page, encoding="utf-8", newline="\n")
    (folder / "README.md").write_text(index(), encoding="utf-8", newline="\n")


def _facts(entry: Entry) -> list[tuple[str, str]]:
    rows = [
        ("stems", ", ".join(entry.stems)),
        ("works on", f"{entry.sample_rate / 1000:g} kHz"),
        ("networks", ", ".join(sorted(entry.families))),
        ("download", _megabytes(entry)),
        ("licence of the weights", f"[{entry.licence}]({entry.licence_url}). {entry.licence_note}"),
        ("trained on", entry.training_data),
        ("described in", entry.paper),
        ("comes from", f"<{entry.source}>"),
    ]
    if entry.segment_s is not None:
        rows.insert(2, ("segments", f"{entry.segment_s:g} s"))
    if entry.variant_of:
        rows.append(("variant of", f"{entry.variant_of}: the same files, used in another way"))
    return rows


def _usage(entry: Entry) -> str:
    fetch = f"unbraid models fetch {entry.name}"
    separate = f"unbraid separate -m {entry.name} song.mp3"
    return f"```\n{fetch}\n{separate}\n```\n\nThe first command is optional: the second fetches what it needs."


def _score(score: Score) -> str:
    cells = [f"{value:.2f}" for value in (*score.values.values(), score.mean)]
    table = _table((*score.values, "mean"), [cells])
    return f"{score.metric}, in dB; {score.dataset}:\n\n{table}\n\nSource: {score.source}."


def _files(entry: Entry) -> str:
    rows = [
        (" ".join(f"<{address}>" for address in file.remote.addresses), _bytes(file), _hash(file), *_role(entry, file))
        for file in entry.files
    ]
    titles = ("address", "bytes", "SHA-256", "weights" if _is_bag(entry) else "for")[: len(rows[0])]
    text = f"{_table(titles, rows)}\n\nA file that you have already is taken in by `unbraid models import PATH`."
    if entry.also_at:
        text += f" So are the author's copies at <{entry.also_at}>: safetensors, the same weights in other bytes."
    return text


def _role(entry: Entry, file: CatalogFile) -> tuple[str, ...]:
    """What a file is for, among several."""
    if not _is_bag(entry):
        return (file.target,) if file.target else ()
    if file.stem_weights is None:
        return ("all stems alike",)
    weights = zip(entry.stems, file.stem_weights, strict=True)
    return (", ".join(f"{stem} {weight:g}" for stem, weight in weights if weight),)


def _is_bag(entry: Entry) -> bool:
    return len(entry.files) > 1 and bool(entry.files[0].network)


def _bytes(file: CatalogFile) -> str:
    if file.remote.size is not None:
        return f"{file.remote.size:,}"
    return "unknown" if file.size_about is None else f"about {file.size_about:,}"


def _hash(file: CatalogFile) -> str:
    if file.remote.sha256:
        return f"`{file.remote.sha256}`"
    if file.remote.sha256_prefix:
        return f"`{file.remote.sha256_prefix}…`; the rest is recorded at the first download"
    return "unknown; recorded at the first download"


def _megabytes(entry: Entry) -> str:
    if entry.size is None:
        return "unknown"
    return f"{'' if entry.size_is_exact else 'about '}{entry.size / 1e6:,.0f} MB"


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head, *body = ("|".join(f" {cell} " if cell else " " for cell in row) for row in (titles, *rows))
    return "\n".join((f"|{head}|", "|---" * (head.count("|") + 1) + "|", *(f"|{line}|" for line in body)))


if __name__ == "__main__":
    write_cards(Path(sys.argv[1]))
