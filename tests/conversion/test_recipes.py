"""The zoo's recipes: what they say is what timm says, and a file that says otherwise or nonsense is refused."""

from __future__ import annotations

import pytest
import timm

from conversion.recipes import RECIPES, load_recipes, shard
from i2p_zoo import InvalidInputError
from i2p_zoo.checkpoints.card import is_noncommercial
from i2p_zoo.zoo.ledger import load_ledger

GOOD = {"tag": '"a"', "license": '"mit"', "source": '"timm/x.a"', "inflation": '"center"'}


def write(path, name="i2p-x", **changes):
    entries = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path.write_text(f'"{name}" = {{ {", ".join(f"{key} = {value}" for key, value in entries.items())} }}\n')
    return path


def test_zoo_has_sixty_architectures_of_many_families():
    recipes = load_recipes()
    assert len({recipe.architecture for recipe in recipes}) >= 60
    assert len({load_ledger()["models"][recipe.architecture]["class"] for recipe in recipes}) >= 15
    assert any(recipe.noncommercial for recipe in recipes)


@pytest.mark.parametrize("recipe", load_recipes(), ids=lambda recipe: recipe.name)
def test_recipe_agrees_with_timm_and_the_ledger(recipe):
    pretrained = timm.get_pretrained_cfg(f"{recipe.architecture}.{recipe.tag}")
    assert pretrained.hf_hub_id == recipe.source
    assert (pretrained.license or "unknown") == recipe.license
    assert recipe.noncommercial == is_noncommercial(recipe.license)
    assert load_ledger()["models"][recipe.architecture]["passed"]
    default = timm.get_pretrained_cfg(recipe.architecture).tag
    assert recipe.name == f"i2p-{recipe.architecture}" + ("" if default == recipe.tag else f".{recipe.tag}")


@pytest.mark.parametrize("recipe", load_recipes()[:3], ids=lambda recipe: recipe.name)
def test_name_gives_the_recipes_weights(recipe):
    name = recipe.name.removeprefix("i2p-")
    assert timm.get_pretrained_cfg(name).hf_hub_id == recipe.source


def test_good_recipe_is_read(tmp_path):
    (recipe,) = load_recipes(write(tmp_path / "r.toml"))
    assert (recipe.name, recipe.architecture, recipe.tag, recipe.noncommercial) == ("i2p-x", "x", "a", False)
    (recipe,) = load_recipes(write(tmp_path / "r.toml", license='"cc-by-nc-4.0"', noncommercial="true"))
    assert recipe.noncommercial


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "x"}, "i2p-"),
        ({"name": "i2p-"}, "i2p-"),
        ({"name": "i2p-x.b"}, "'.a'"),
        ({"tag": None}, "missing keys"),
        ({"tag": "5"}, "`tag` is 5"),
        ({"tag": '""'}, "`tag` is ''"),
        ({"licence": '"mit"'}, "unknown keys"),
        ({"inflation": '"middle"'}, "'middle'"),
        ({"noncommercial": '"yes"'}, "'yes'"),
        ({"noncommercial": "true"}, "expected False"),
        ({"license": '"cc-by-nc-4.0"'}, "expected True"),
    ],
)
def test_bad_recipe_is_refused_with_the_place(tmp_path, changes, words):
    path = write(tmp_path / "r.toml", **changes)
    with pytest.raises(InvalidInputError) as caught:
        load_recipes(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["not toml", "i2p-x = 5", "\x00"])
def test_file_that_is_no_set_of_recipes_is_refused(tmp_path, text):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(InvalidInputError):
        load_recipes(tmp_path / "r.toml")
    with pytest.raises(InvalidInputError):
        load_recipes(tmp_path / "none.toml")


def test_two_recipes_of_one_source_are_refused(tmp_path):
    first = write(tmp_path / "r.toml").read_text()
    (tmp_path / "r.toml").write_text(first + first.replace("i2p-x", "i2p-y"))
    with pytest.raises(InvalidInputError, match=r"timm/x\.a"):
        load_recipes(tmp_path / "r.toml")


@pytest.mark.parametrize("machines", [1, 3, 8, 200])
def test_shards_share_the_recipes_out(machines):
    recipes = load_recipes()
    parts = [shard(recipes, f"{number}/{machines}") for number in range(1, machines + 1)]
    assert sorted(r.name for part in parts for r in part) == sorted(r.name for r in recipes)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("part", ["", "0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", " 1/2"])
def test_bad_shard_is_refused(part):
    with pytest.raises(InvalidInputError):
        shard(load_recipes(RECIPES), part)
