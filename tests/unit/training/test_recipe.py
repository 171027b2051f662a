"""Recipes: all that are published can be built, and what cannot be is refused with the nearest name."""

from pathlib import Path

import pytest

from unbraid.errors import UsageError
from unbraid.models.families import family
from unbraid.training.recipe import OptimizerConfig, Recipe, difference, load_recipe, published_recipes, settings
from unbraid.training.run import network_config

STEMS = ("vocals", "drums", "bass", "other")


def test_all_recipes_are_there() -> None:
    expected = {"spleeter-2stems", "spleeter-4stems", "spleeter-5stems", "spleeter-musdb", "demucs-2019", "demucs-v2"}
    expected |= {
        "hdemucs",
        "htdemucs",
        "htdemucs-finetune",
        "sparse-htdemucs",
        "openunmix",
        "small",
        "unbraid-5stems",
        "unbraid-5stems-tuned",
    }
    assert set(published_recipes()) == expected


@pytest.mark.parametrize("name", published_recipes())
def test_a_recipe_makes_a_network_that_a_model_folder_can_describe(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.source
    config = network_config(recipe, recipe.data.stems or STEMS, None)
    chosen = family(recipe.network.family)
    assert chosen.read(chosen.write(config)) == config
    assert chosen.shapes(config)


def test_values_are_changed_by_their_keys() -> None:
    changes = ["optimizer.learning_rate=3e-3", 'data.stems=["a", "b"]', "network.freeze=encoder.*", "loss.kind=mse"]
    recipe = load_recipe("small", [*changes, "loss.weights.a=2", "network.config.T=64", "seed = 7"])
    assert recipe.optimizer.learning_rate == 3e-3
    assert recipe.data.stems == ("a", "b")
    assert recipe.network.freeze == ("encoder.*",)
    assert recipe.loss.kind == "mse"
    assert recipe.loss.weights == {"a": 2}
    assert recipe.network.config["T"] == 64
    assert recipe.seed == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "optimizer.learning_rat=1",
            "'optimizer.learning_rat'; the nearest known one is 'optimizer.learning_rate'",
        ),
        ("augmnt.shift_s=1", "unknown key 'augmnt'; the nearest known one is 'augment'"),
        ("optimizer.learning_rate=fast", "'optimizer.learning_rate' must be a number, got 'fast'"),
        ("data.batch_size=0", "data.batch_size must be 1 or more, got 0"),
        ("data.batch_size=1.5", "'data.batch_size' must be a whole number, got 1.5"),
        ("optimizer.kind=adan", "optimizer.kind must be one of adam, adamw, muon, got 'adan'; the nearest is 'adam'"),
        ("seed.x=1", "'seed' must be a whole number"),
        ("nothing", "--set takes section.key=value, got 'nothing'"),
        ("average.steps=[1.5]", "decays of average must be between 0 and 1, got 1.5"),
        ("optimizer=1", "'optimizer' is a section, got 1"),
    ],
)
def test_a_change_that_cannot_be_is_refused(change: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("small", [change])
    assert message in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no recipe 'htdemuc'; the nearest is 'htdemucs'"):
        load_recipe("htdemuc")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[optimizer]\nlearning_rate = 1\n")
    assert load_recipe(str(path)) == Recipe(name="mine", optimizer=OptimizerConfig(learning_rate=1.0))
    path.write_text("learning_rate =")
    with pytest.raises(UsageError, match="not TOML"):
        load_recipe(str(path))
    with pytest.raises(UsageError, match="cannot read the recipe"):
        load_recipe(str(tmp_path / "none.toml"))


def test_differences_are_named() -> None:
    one, other = load_recipe("small"), load_recipe("small", ["optimizer.learning_rate=1", "seed=3"])
    assert difference(settings(one), settings(one)) == []
    assert difference(settings(one), settings(other)) == [
        "optimizer.learning_rate was 0.002 and is 1.0",
        "seed was 0 and is 3",
    ]
    assert difference(settings(one), settings(other), ["seed"]) == ["optimizer.learning_rate was 0.002 and is 1.0"]
