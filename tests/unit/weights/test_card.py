from pathlib import Path

import pytest

from unbraid.weights.card import card, index, page_name, write_cards
from unbraid.weights.catalog import Entry, catalog, find

PAGES = Path(__file__).parents[3] / "docs" / "models"
WRITTEN_BY_HAND = {"format.md"}
ENTRIES = [pytest.param(entry, id=entry.name) for entry in catalog().values()]


def test_the_pages_of_the_documentation_are_what_the_catalogue_says(tmp_path: Path):
    write_cards(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in PAGES.glob("*.md") if path.name not in WRITTEN_BY_HAND}
    assert made.keys() == kept.keys(), (
        "run: python -m unbraid.weights.card docs/models, and delete what it does not write"
    )
    assert [name for name in made if made[name] != kept[name]] == [], "run: python -m unbraid.weights.card docs/models"


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_card_tells_all_that_the_catalogue_knows(entry: Entry):
    text = card(entry)
    facts = [entry.name, entry.title, entry.about, entry.licence, entry.licence_url, entry.licence_note, entry.source]
    facts += [entry.training_data, entry.paper, entry.also_at, entry.variant_of, *entry.stems, *entry.warnings]
    for file in entry.files:
        facts += [*file.remote.addresses, file.remote.sha256 or "", file.remote.sha256_prefix or "", file.target]
        facts += [f"{file.remote.size:,}" if file.remote.size else f"about {file.size_about:,}"]
    for score in entry.scores:
        facts += [score.dataset, score.metric, score.source, *(f"{value:.2f}" for value in score.values.values())]
    assert [fact for fact in facts if fact not in text] == []
    assert f"unbraid models fetch {entry.name}" in text
    assert f"unbraid separate -m {entry.name} " in text


@pytest.mark.parametrize("entry", ENTRIES)
def test_tables_are_whole(entry: Entry):
    for block in (card(entry) + "\n" + index()).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, block


def test_weights_of_a_bag_are_told_by_stem():
    lines = [line for line in card(find("mdx")).splitlines() if "mdx_final" in line]
    assert [line.split("|")[-2].strip() for line in lines] == [
        *("drums 1, bass 1", "bass 1", "drums 1, other 1, vocals 1", "drums 1, other 1, vocals 1")
    ]
    assert card(find("mdx_extra")).count("| all stems alike |") == 4


def test_the_index_links_every_card():
    text = index()
    for entry in catalog().values():
        assert f"[{entry.name}]({page_name(entry)})" in text
    assert all(f"({name})" in text for name in WRITTEN_BY_HAND)
    row = next(line for line in text.splitlines() if line.startswith("| [htdemucs]"))
    assert row == "| [htdemucs](htdemucs.md) | drums, bass, other, vocals | 84 MB | research only | 8.80 |"


def test_page_names_are_file_names_everywhere():
    names = [page_name(entry) for entry in catalog().values()]
    assert len({name.lower() for name in names}) == len(names)
    assert not any(set(name) & set(':*?"<>|/\\') for name in names)
