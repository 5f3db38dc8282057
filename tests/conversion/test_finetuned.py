"""The zoo's finetuned networks: made by the command of their recipe, small, and with the figures that were measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard

import i2p_zoo
from conversion import finetuned
from conversion.__main__ import main
from conversion.cards import MODEL_CARDS
from conversion.finetuned import LARGEST_ADAPTER, NETWORKS, RECORDS, card_of_finetuned, finetune, load_finetuned
from conversion.recipes import load_recipes
from i2p_zoo import InvalidInputError, data
from i2p_zoo.checkpoints.weight_files import sha256_of
from i2p_zoo.cli.training_recipes import RECIPES, Recipe
from i2p_zoo.finetune import evaluate
from tests.conftest import fingerprint
from tests.finetune.conftest import shapes
from tests.hub_cards import check_card

NETWORK = "i2p-test_resnet.shapes"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe of the zoo on small clouds and a small network, in the place of kicad-mini's."""
    train_set, test_set = shapes(24), shapes(15)
    points = np.concatenate([train_set.points, test_set.points])
    labels = np.concatenate([train_set.labels, test_set.labels])
    path = tmp_path / "shapes.npz"
    np.savez(path, points=points, label=labels, split=np.repeat([0, 1], [24, 15]), classes=np.array(train_set.classes))
    base = i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path / "base")
    options = {"model": str(base), "data": f"npz:{path}", "mode": "io+bn", "voxel_size": 0.2, "steps": 3, "batch_size": 6}
    small = Recipe("finetune", "npz", "Shapes", {"a test": {**options, "adapter": True}}, license="mit", network=NETWORK)
    monkeypatch.setitem(RECIPES, "kicad-mini", small)
    monkeypatch.setattr(finetuned, "NETWORKS", {NETWORK: "kicad-mini"})
    return small


def test_network_is_trained_by_its_recipe_and_its_figures_are_noted(recipe, tmp_path):
    records = tmp_path / "finetuned.json"
    records.write_text('{"i2p-other.net": {}}')
    adapter = finetune(NETWORK, tmp_path / "work", records)
    assert adapter == tmp_path / "work" / NETWORK / "adapter"
    noted = load_finetuned(records)
    assert set(noted) == {"i2p-other.net", NETWORK}
    record, weights = noted[NETWORK], adapter / "adapter.safetensors"
    assert record["bytes"] == weights.stat().st_size
    assert record["config"]["i2p"]["weights"] == {weights.name: sha256_of(weights)}
    _, test_set = data.load_data(recipe.options["data"])
    assert record["run"]["test"]["top1"] == evaluate(i2p_zoo.from_pretrained(adapter), test_set).top1
    assert "history" not in record["run"]
    text = (adapter / "README.md").read_text()
    assert text == card_of_finetuned(NETWORK, record), "the card of the repository is the one that is published"
    assert f"# {NETWORK}" in text
    assert "i2p-zoo finetune --recipe kicad-mini --out run" in text


def test_finished_network_is_not_trained_again(recipe, tmp_path, monkeypatch):
    records = tmp_path / "finetuned.json"
    adapter = finetune(NETWORK, tmp_path / "work", records)
    before = (
        (adapter / "adapter.safetensors").stat().st_mtime_ns,
        records.read_text(),
        fingerprint(i2p_zoo.from_pretrained(adapter)),
    )
    monkeypatch.setattr("i2p_zoo.experiments.run_folder.train", None)
    finetune(NETWORK, tmp_path / "work", records)
    assert before == (
        (adapter / "adapter.safetensors").stat().st_mtime_ns,
        records.read_text(),
        fingerprint(i2p_zoo.from_pretrained(adapter)),
    )


def test_large_adapter_is_not_noted(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuned, "LARGEST_ADAPTER", 1000)
    with pytest.raises(InvalidInputError, match="expected at most 1,000"):
        finetune(NETWORK, tmp_path / "work", tmp_path / "finetuned.json")
    assert not (tmp_path / "finetuned.json").exists()


def test_command_trains_what_matches_and_says_how_to_publish(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(finetuned, "finetune", lambda name, work: trained.append(name) or work / name / "adapter")
    result = CliRunner().invoke(main, ["finetune", "*.kicad-mini", "--work", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (name,) = trained
    assert f"i2p-zoo push {tmp_path}/{name}/adapter i2p-zoo/{name} --yes" in result.output
    assert "there are" in CliRunner().invoke(main, ["finetune", "nothing*"]).output


@pytest.mark.parametrize("name", NETWORKS)
def test_card_of_a_finetuned_network_is_of_its_record_and_its_recipe(name):
    record, recipe = load_finetuned(RECORDS)[name], RECIPES[NETWORKS[name]]
    text = (MODEL_CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert text == card_of_finetuned(name, record)
    assert check_card(text) == ([], [])
    assert record["bytes"] <= LARGEST_ADAPTER
    assert f"| licence of the data | {recipe.license} |" in text
    run = record["run"]
    assert run["recipe"]["changes"] == {}
    done = {**run["setup"], **run["options"]}
    options = {key: value for key, value in recipe.options.items() if key not in ("adapter", "data")}
    assert {key: done[key] for key in options} == options, "measured with another recipe than the one that stands there"
    base = record["config"]["i2p"]["base"]
    assert base["name"].rpartition("/")[2] == recipe.options["model"]
    assert base["name"].rpartition("/")[2] in {zoo.name for zoo in load_recipes()}
    assert name == f"{recipe.options['model']}.{NETWORKS[name]}"
    figures = {result.metric_type: result.metric_value for result in ModelCard(text).data.eval_results}
    assert figures["accuracy"] == round(run["test"]["top1"], 4)


@pytest.mark.parametrize("name", NETWORKS)
def test_figures_are_of_the_data_that_the_repository_carries(name):
    run, spec = load_finetuned(RECORDS)[name]["run"], RECIPES[NETWORKS[name]].options["data"]
    splits = dict(zip(("train", "test"), data.load_data(spec), strict=True))
    assert run["sha256"] == {split: clouds.fingerprint().hex() for split, clouds in splits.items()}
    assert run["clouds"] == {split: len(clouds) for split, clouds in splits.items()}
    assert run["classes"] == list(splits["train"].classes)


def test_records_have_nothing_of_the_machine():
    text = json.dumps(load_finetuned(RECORDS))
    assert "/root" not in text
    assert "/home" not in text
