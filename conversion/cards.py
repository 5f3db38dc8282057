"""model_cards/: the card of each recipe, as far as it is known without the weights."""

from __future__ import annotations

from pathlib import Path

import timm

from conversion.finetuned import card_of_finetuned, load_finetuned
from conversion.recipes import Recipe, load_recipes
from i2p_zoo.checkpoints.card import is_edited, write_card
from i2p_zoo.checkpoints.config import make_config
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.structure import inflate_structure_
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.zoo.certificate import TOLERANCES
from i2p_zoo.zoo.ledger import load_ledger

MODEL_CARDS = Path(__file__).parents[1] / "model_cards"

_INDEX = """# Model cards

The cards of the zoo's networks, one a recipe of `conversion/recipes.toml`, written by `python -m conversion cards`. Publishing
writes them anew with what only the weights tell, and adds the picture. Those of finetuned networks have the figures that
`python -m conversion finetune` measured (`conversion/finetuned.json`).
"""


def write_cards(folder: Path = MODEL_CARDS) -> None:
    """Writes the card of each recipe and of each finetuned network into a folder and removes those of recipes that are gone.

    Raises:
        InvalidInputError: somebody edited a card; nothing is written then.
    """
    folder.mkdir(exist_ok=True)
    old = sorted(folder.glob("i2p-*.md"))
    if edited := [path.name for path in old if is_edited(path.read_text(encoding="utf-8"))]:
        raise InvalidInputError(f"{folder}: {', '.join(edited)} were edited by hand. Remove them to have them written again.")
    cards = {f"{recipe.name}.md": card_of(recipe) for recipe in load_recipes()}
    cards |= {f"{name}.md": card_of_finetuned(name, record) for name, record in load_finetuned().items()}
    for path in old:
        if path.name not in cards:
            path.unlink()
    for name, text in {**cards, "README.md": _INDEX}.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def card_of(recipe: Recipe) -> str:
    """Returns the card of a network that is not converted yet; its certificate is the ledger's, on random weights."""
    pretrained = timm.get_pretrained_cfg(f"{recipe.architecture}.{recipe.tag}")
    source = create_timm_model(recipe.architecture, structure=True, num_classes=pretrained.num_classes)
    model = inflate_structure_(source, Settings(recipe.inflation))
    model.pretrained_cfg = {**pretrained.to_dict(), "tag": recipe.tag}
    model.provenance = model.provenance.changed(source={"repo": recipe.source, "license": recipe.license})
    config = make_config(model)
    record = load_ledger()["models"][recipe.architecture]
    errors = {dtype: record[dtype] for dtype in TOLERANCES}
    config["i2p"] |= {"certificate": {"errors": errors, "inflation": "center"}, "compact": True}
    return write_card(config, sum(parameter.numel() for parameter in model.parameters()))
