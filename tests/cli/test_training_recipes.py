"""Recipes: each is whole, runs by one command on its data set, and is what its command then does."""

from __future__ import annotations

import json

import click
import numpy as np
import pytest
import timm

from i2p_zoo.cli import main
from i2p_zoo.cli import training_recipes as recipes
from i2p_zoo.cli.training_recipes import RECIPES, Recipe, Reported, find_changes, format_command
from i2p_zoo.data.sets import modelnet40, scanobjectnn, semantickitti
from i2p_zoo.names import split_name
from tests.cli.conftest import fail, run, succeed
from tests.data.sets.test_modelnet40 import clouds, write_hdf5
from tests.data.sets.test_s3dis import write_room
from tests.data.sets.test_scanobjectnn import write_split
from tests.data.sets.test_semantickitti import write_scan
from tests.finetune.conftest import shapes

STATED = {
    *("model", "mode", "inflation", "axis", "stem", "skip_downsamples", "voxel_size", "features", "batch_size"),
    *("learning_rate", "weight_decay", "optimizer", "warm_up"),
}
"""What no recipe leaves to defaults, which change from version to version."""


def command_of(recipe):
    command = main
    for word in recipe.command.split():
        command = command.get_command(click.Context(command), word)
    return command


def parse(name, *arguments):
    """The context of a recipe's command."""
    recipe = RECIPES[name]
    data = () if "data" in recipe.options else ("--data", f"{recipe.data}:FOLDER")
    return command_of(recipe).make_context("x", ["--recipe", name, *data, "--out", "run", *map(str, arguments)])


def type_out(recipe, options):
    """Options of a command as they are typed."""
    names = {parameter.name: parameter for parameter in command_of(recipe).params}
    return [part for name, value in options.items() for part in [names[name].opts[0], *([] if value is True else [str(value)])]]


@pytest.mark.parametrize(("name", "recipe"), RECIPES.items(), ids=RECIPES.keys())
def test_recipe_states_every_number_once_and_where_it_comes_from(name, recipe):
    assert sum(map(len, recipe.settings.values())) == len(recipe.options)
    assert recipe.options.keys() == recipe.sources.keys()
    assert STATED - recipe.options.keys() == set()
    assert len({"steps", "epochs"} & recipe.options.keys()) == 1
    assert recipe.options.keys() <= {parameter.name for parameter in command_of(recipe).params}
    values = parse(name).params
    assert {key: values[key] for key in recipe.options} == recipe.options, "its command takes them as they are"


@pytest.mark.parametrize(("name", "recipe"), RECIPES.items(), ids=RECIPES.keys())
def test_weights_are_ones_that_timm_names(name, recipe):
    for options in (recipe.options, *(reported.options for reported in recipe.reported)):
        if "model" in options:
            architecture, tag = split_name(options["model"])
            assert timm.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture).hf_hub_id


@pytest.mark.parametrize(("name", "recipe"), RECIPES.items(), ids=RECIPES.keys())
def test_figure_that_is_reported_is_told_for_its_options_alone(name, recipe, capsys):
    assert recipe.reported or "no figures" in recipe.differs
    for reported in recipe.reported:
        with parse(name, *type_out(recipe, reported.options), "--seed", 3, "--device", "cpu"):
            assert find_changes(recipe) == reported.options
            recipes.print_reported(recipe)
        assert capsys.readouterr().out == f"expected: {recipe.metric} {reported.percent:.1f} % ({recipe.reporter})\n"
    with parse(name, "--label-smoothing", 0.5):
        recipes.print_reported(recipe)
    assert capsys.readouterr().out == ""


def test_other_data_are_another_run(capsys):
    with command_of(RECIPES["modelnet40"]).make_context(
        "finetune", ["--recipe", "modelnet40", "--data", "npz:own.npz", "--out", "run"]
    ):
        assert find_changes(RECIPES["modelnet40"]) == {"data": "npz"}
        assert recipes.describe_recipe(RECIPES["modelnet40"])["data"] is None


def test_what_a_run_notes_of_its_recipe_is_json(tmp_path):
    with parse("kicad-mini", "--teacher", tmp_path, "--shots", 2):
        described = recipes.describe_recipe(RECIPES["kicad-mini"])
    assert json.loads(json.dumps(described))["changes"] == {"teacher": str(tmp_path), "shots": 2}


def write_modelnet40(folder, monkeypatch):
    monkeypatch.setattr(modelnet40, "HDF5_COUNTS", (40, 2))
    folder.mkdir()
    write_hdf5(folder / "ply_data_train0.h5", clouds(40, 0, label=np.arange(40, dtype=np.uint8)[:, None]))
    write_hdf5(folder / "ply_data_test0.h5", clouds(2, 1))


def write_scanobjectnn(folder, monkeypatch):
    name, ending, _ = scanobjectnn.VARIANTS["hardest"]
    monkeypatch.setattr(scanobjectnn, "VARIANTS", {"hardest": (name, ending, (15, 2))})
    for split, count in (("training", 15), ("test", 2)):
        path = folder / "main_split" / f"{split}_objectdataset_augmentedrot_scale75.h5"
        write_split(path, 0, count, label=np.arange(count))


def write_s3dis(folder, monkeypatch):
    random = np.random.default_rng(0)
    for area in range(1, 7):
        lines = [" ".join(map(str, [*xyz, 185, 187, 182])) for xyz in random.uniform(0, 1, (50, 3)).round(3)]
        write_room(folder, area, "office_1", wall_1="\n".join(lines).encode(), floor_1="\n".join(lines).encode())


def write_semantickitti(folder, monkeypatch):
    random = np.random.default_rng(0)
    for number in range(11):
        points = random.uniform(0, 1, (60, 4)).astype("<f4")
        write_scan(folder / "dataset" / "sequences" / f"{number:02d}", points=points, ids=random.choice([10, 40], 60))


RELEASES = {
    "modelnet40": (write_modelnet40, modelnet40.CLASSES),
    "scanobjectnn": (write_scanobjectnn, scanobjectnn.CLASSES),
    "s3dis": (write_s3dis, 13),
    "semantickitti": (write_semantickitti, semantickitti.CLASSES),
}


@pytest.mark.parametrize(("name", "release"), RELEASES.items(), ids=RELEASES.keys())
def test_recipe_runs_by_one_command_on_files_of_its_data_set(name, release, tmp_path, monkeypatch):
    """On random weights and for a step, since the real ones are on the Hub; all else is the recipe's."""
    write, classes = release
    write(tmp_path / "data", monkeypatch)
    recipe = RECIPES[name]
    command = format_command(name).replace("FOLDER", str(tmp_path / "data")).split()[1:]
    result = succeed(*command, "--scratch", "--steps", 1, "--batch-size", 3)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    done = {**metrics["setup"], **metrics["options"], "loss": metrics.get("loss")}
    if blocks := metrics.get("blocks"):
        crop = blocks["crop"]
        done |= {
            "crop": crop["extent"],
            "max_points": crop["max_points"],
            "block": blocks["extent"],
            "overlap": blocks["overlap"],
        }
    expected = {key: value for key, value in recipe.options.items() if key not in ("epochs", "steps", "batch_size")}
    assert {key: done[key] for key in expected} == expected
    assert metrics["recipe"]["changes"] == {"scratch": True, "steps": 1, "batch_size": 3}
    assert len(metrics["classes"]) == (classes if isinstance(classes, int) else len(classes))
    assert "expected:" not in result.stdout
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["i2p"]["settings"]["preset"] == "image2point"
    if config["i2p"]["unet"]:
        assert (metrics["dropout"], config["i2p"]["unet"]["dropout"]) == (0.3, 0.3)
    assert recipe.title in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.fixture
def small(network, tmp_path, monkeypatch):
    """A recipe for small clouds and a small network, in the place of kicad-mini's."""
    train_set, test_set = shapes(24), shapes(15)
    points = np.concatenate([train_set.points, test_set.points])
    labels = np.concatenate([train_set.labels, test_set.labels])
    np.savez("shapes.npz", points=points, label=labels, split=np.repeat([0, 1], [24, 15]), classes=np.array(train_set.classes))
    options = {
        "model": str(network),
        "voxel_size": 0.2,
        "epochs": 0.5,
        "batch_size": 6,
        "optimizer": "sgd",
        "weight_decay": 0.1,
    }
    options |= {"learning_rate": 0.3, "mode": "io+bn", "adapter": True, "data": "npz:shapes.npz"}
    recipe = Recipe("finetune", "npz", "Shapes", {"a test": options}, reported=(Reported(55.5),), license="mit")
    monkeypatch.setitem(RECIPES, "kicad-mini", recipe)
    return ["finetune", "--recipe", "kicad-mini", "--out"]


def options_of(folder):
    return json.loads((folder / "metrics.json").read_text())["options"]


def test_a_recipe_is_its_options_typed_out(small, network, tmp_path):
    result = succeed(*small, "recipe")
    assert "expected: top-1 accuracy 55.5 % (Image2Point)" in result.stdout
    typed = type_out(RECIPES["kicad-mini"], RECIPES["kicad-mini"].options)
    other = succeed("finetune", *typed, "--out", "typed")
    assert "expected" not in other.stdout
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("recipe", "typed"))
    assert first["test"] == second["test"]
    assert [step["loss"] for step in first["history"]] == [step["loss"] for step in second["history"]]
    assert (first["setup"], first["options"], first["saved"]) == (second["setup"], second["options"], "adapter")
    assert first["recipe"] == {
        "name": "kicad-mini",
        "changes": {},
        "data": "Shapes",
        "license": "mit",
        "command": "i2p-zoo finetune --recipe kicad-mini --out run",
    }
    assert "recipe" not in second


def test_options_that_are_given_replace_a_recipes(small, tmp_path):
    succeed(*small, "steps", "--steps", 1, "--voxel-size", 0.3)
    assert options_of(tmp_path / "steps")["steps"] == 1, "in place of the epochs"
    metrics = json.loads((tmp_path / "steps" / "metrics.json").read_text())
    assert metrics["setup"]["voxel_size"] == 0.3
    assert metrics["recipe"]["changes"] == {"steps": 1, "voxel_size": 0.3}
    assert metrics["recipe"]["command"] is None
    assert "Give --lr with --optimizer adamw" in fail(*small, "adamw", "--optimizer", "adamw"), "the recipe's is SGD's"
    succeed(*small, "adamw", "--optimizer", "adamw", "--lr", 0.001)
    assert (options_of(tmp_path / "adamw")["learning_rate"], options_of(tmp_path / "adamw")["weight_decay"]) == (0.001, 0.05)
    succeed(*small, "sgd", "--optimizer", "sgd")
    assert options_of(tmp_path / "sgd")["learning_rate"] == 0.3
    succeed(*small, "scratch", "--scratch")
    assert json.loads((tmp_path / "scratch" / "metrics.json").read_text())["saved"] == "model"
    assert "not both" in fail(*small, "both", "--steps", 1, "--epochs", 1)


def test_few_labels_follow_a_recipe_too(small, tmp_path):
    result = succeed(*small, "few", "--shots", 2)
    assert "solved for, not trained" not in result.stdout
    assert json.loads((tmp_path / "few" / "metrics.json").read_text())["setup"]["mode"] == "io+bn"


def test_help_of_a_recipe_shows_its_options():
    text = " ".join(succeed("finetune", "--recipe", "modelnet40", "--help").stdout.split())
    assert "Peak learning rate" in text
    for value in ("i2p-resnet18.tv_in1k", "0.1]", "100.0]", "image2point]"):
        assert f"[default: {value}" in text
    assert "[default: 100.0" not in succeed("finetune", "--help").stdout


def test_recipe_of_the_other_command_or_none_is_refused():
    result = run("finetune", "--recipe", "s3dis", "--data", "s3dis:x", "--out", "run")
    assert result.exit_code == 2
    assert "'s3dis' is not one of" in result.stderr
    result = run("finetune", "--recipe", "modelnet40", "--out", "run")
    assert "Missing option '--data'" in result.stderr


def test_preset_is_told_before_data_are_read():
    options = ["--model", "i2p-test_resnet", "--data", "npz:missing.npz", "--out", "run", "--preset", "image2point"]
    assert "is only for resnet18" in fail("finetune", *options)
    options[1] = "i2p-resnet18"
    assert "has inflation='copy'" in fail("finetune", *options, "--inflation", "center")
    assert "readout 'last'" in fail("finetune", *options, "--readout", "pyramid")
    assert "missing.npz" in fail("finetune", *options)
