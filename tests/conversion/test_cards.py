"""The cards in model_cards/ are what the recipes, the ledger and timm say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from conversion.cards import MODEL_CARDS, card_of, write_cards
from conversion.finetuned import NETWORKS
from conversion.recipes import load_recipes
from i2p_zoo import InvalidInputError
from i2p_zoo.checkpoints.card import is_edited
from i2p_zoo.zoo.ledger import load_ledger
from tests.hub_cards import check_card


def test_every_recipe_has_its_card_and_no_other_has():
    names = {f"{name}.md" for name in [*(recipe.name for recipe in load_recipes()), *NETWORKS]}
    assert {path.name for path in MODEL_CARDS.iterdir()} == names | {"README.md"}


@pytest.mark.parametrize("recipe", load_recipes(), ids=lambda recipe: recipe.name)
def test_card_is_what_is_generated_and_the_hub_takes_it(recipe):
    text = (MODEL_CARDS / f"{recipe.name}.md").read_text(encoding="utf-8")
    assert text == card_of(recipe)
    assert not is_edited(text)
    data = ModelCard(text).data
    assert (data.base_model, data.library_name) == (recipe.source, "i2p-zoo")
    assert recipe.license in (data.license, data.to_dict().get("license_name"))
    assert f'from_pretrained("{recipe.name}")' in text
    assert ("Not for commercial use" in text) == recipe.noncommercial
    assert "{" not in text.replace("bibtex", "").split("## Citation")[0]
    errors, _ = check_card(text)
    assert errors == []


def test_card_of_a_recipe_that_is_gone_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("conversion.cards.load_recipes", lambda: load_recipes()[:1])
    (tmp_path / "i2p-gone.md").write_text(card_of(load_recipes()[1]))
    write_cards(tmp_path)
    names = [load_recipes()[0].name, *NETWORKS]
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", *(f"{name}.md" for name in names)}


@pytest.mark.parametrize("name", [load_recipes()[0].name, "i2p-gone"])
def test_edited_card_is_neither_overwritten_nor_removed(tmp_path, monkeypatch, name):
    monkeypatch.setattr("conversion.cards.load_recipes", lambda: load_recipes()[:1])
    path = tmp_path / f"{name}.md"
    path.write_text("My own card\n")
    with pytest.raises(InvalidInputError, match=path.name):
        write_cards(tmp_path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["My own card\n"]


def test_figures_that_need_the_weights_are_not_made_up():
    recipe = load_recipes()[0]
    text = card_of(recipe)
    record = load_ledger()["models"][recipe.architecture]
    figures = f"float32 {record['float32']:.1e}, float64 {record['float64']:.1e}"
    assert f"| {figures} with random weights; measured with the real ones on publishing |" in text
    assert f"| {recipe.source}; commit and sha256 are filled in on publishing |" in text


def test_certificate_of_an_average_network_is_its_center_twins():
    assert "(its center-inflated twin)" in card_of(replace(load_recipes()[0], inflation="average"))
