"""What a card says of the run that trained its network, and what the Hub reads of it."""

from __future__ import annotations

import copy

import pytest
from huggingface_hub import ModelCard

import i2p_zoo
from i2p_zoo.checkpoints.card import is_edited, write_card
from i2p_zoo.checkpoints.config import make_config
from i2p_zoo.checkpoints.run_text import list_results
from i2p_zoo.checkpoints.saving import note_run
from tests.hub_cards import check_card

RUN = {
    "test": {"top1": 0.73366, "mean_class": 0.73210, "per_class": {"a": 1.0}},
    "setup": {"mode": "io+bn", "scratch": False},
    "options": {"steps": 60, "batch_size": 32, "seed": 5},
    "clouds": {"train": 1400, "test": 199},
    "trained": 57418,
    "total": 4066378,
    "history": [{}] * 60,
}
RECIPE = {
    "name": "parts",
    "changes": {},
    "data": "Parts | of machines",
    "license": "cc-by-sa-4.0",
    "command": "i2p-zoo finetune",
}
SCENES = {
    **{key: value for key, value in RUN.items() if key != "clouds"},
    "test": {"miou": 0.5, "accuracy": 0.75, "mean_accuracy": 0.6},
    "scenes": {"train": 1, "test": 2},
}


def card_of(run, **kwargs):
    return write_card(make_config(i2p_zoo.create_model("test_resnet", num_classes=10)), 5, run=run, **kwargs)


def test_card_tells_data_training_and_figures():
    text = card_of({**RUN, "recipe": RECIPE})
    for row in (
        r"| data | Parts \| of machines: 1,400 clouds to train on, 199 to test |",
        "| licence of the data | cc-by-sa-4.0 |",
        "| trained | from image weights in mode io+bn, 57,418 of 4,066,378 parameters, 60 steps of 32 clouds, seed 5 |",
        "| test | accuracy 73.4 %, mean over classes 73.2 %, measured once, with the weights at the end |",
        "\n    i2p-zoo finetune\n",
    ):
        assert row in text
    assert not is_edited(text)


def test_the_hub_reads_the_figures_with_their_data():
    text = card_of({**RUN, "recipe": RECIPE}, name="i2p-test_resnet.parts")
    assert check_card(text) == ([], [])
    data = ModelCard(text).data
    assert data.model_name == "i2p-test_resnet.parts"
    results = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "accuracy": 0.7337,
        "mean_class_accuracy": 0.7321,
    }
    assert {(result.dataset_type, result.dataset_name, result.task_type) for result in results.values()} == {
        ("parts", "Parts | of machines", "image-classification")
    }
    assert "# i2p-test_resnet.parts" in text
    assert 'from_pretrained("i2p-test_resnet.parts")' in text


def test_run_on_own_data_names_none_and_gives_the_hub_no_figure():
    text = card_of(RUN)
    assert "| data | 1,400 clouds to train on, 199 to test |" in text
    assert "| licence of the data | not stated |" in text
    assert "The command that made it" not in text
    assert ModelCard(text).data.eval_results is None


def test_a_run_of_a_known_data_set_with_other_options_has_no_command():
    text = card_of({**RUN, "recipe": {**RECIPE, "license": None, "command": None}})
    assert "| licence of the data | the data set's own terms |" in text
    assert "The command that made it" not in text


def test_scenes_have_their_own_scores():
    text = card_of({**SCENES, "recipe": RECIPE})
    assert "1 scenes to train on, 2 to test" in text
    assert "| test | mean IoU 50.0 %, accuracy of points 75.0 %, measured once" in text
    assert {result.metric_type: result.metric_value for result in list_results({**SCENES, "recipe": RECIPE})} == {
        "mean_iou": 0.5,
        "accuracy": 0.75,
    }


def test_steps_are_those_that_were_made():
    short = {**RUN, "history": [{}] * 7}
    assert ", 7 steps of 32 clouds" in card_of(short)
    del short["history"]
    assert ", 60 steps of 32 clouds" in card_of(short)
    scratch = copy.deepcopy(RUN)
    scratch["setup"]["scratch"] = True
    assert "from random weights in mode" in card_of(scratch)


@pytest.mark.parametrize("edited", [False, True])
def test_run_is_noted_in_a_folder_unless_its_card_was_edited(tmp_path, edited):
    folder = i2p_zoo.create_model("test_resnet", num_classes=10).save_pretrained(tmp_path / "net")
    card = folder / "README.md"
    if edited:
        card.write_text("mine\n")
    before = {path.name for path in folder.iterdir()}
    note_run(folder, RUN)
    assert ("accuracy 73.4 %" in card.read_text()) is not edited
    assert {path.name for path in folder.iterdir()} == before
    assert i2p_zoo.from_pretrained(folder).num_classes == 10
