"""Methods: what each one trains, of which weights; controls that differ from what they control in one thing."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from i2p_zoo import InvalidInputError, MissingExtraError
from i2p_zoo.data.clouds import divide_shots
from i2p_zoo.experiments import RunOptions, Setup, run
from i2p_zoo.experiments.methods import METHODS, find_impossible, plan_method, run_method
from i2p_zoo.experiments.series import Series
from i2p_zoo.finetune import Options

OPTIONS = Options(steps=1, batch_size=4)
NETWORKS = [name for name, method in METHODS.items() if method]


@pytest.mark.parametrize("name", [name for name in METHODS if "views" not in name])
def test_every_method_gives_accuracies(name, network, splits, tmp_path):
    planned = plan_method(name, Setup(str(network), voxel_size=0.2), OPTIONS)
    metrics = run_method(Series(Setup(str(network)), *splits, OPTIONS, tmp_path), "run", name, planned, splits[0])
    assert 0 <= metrics["test"]["top1"] <= 1
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert metrics["trained"] <= metrics["total"]


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith(("pyramid and", "frozen random, pyramid and"))])
def test_pyramids_with_views_give_accuracies(name, network, splits, tmp_path):
    planned = plan_method(name, Setup(str(network), voxel_size=0.2), OPTIONS)
    series = Series(Setup(str(network)), *splits, OPTIONS, tmp_path)
    metrics = run_method(series, "run", name, planned, *divide_shots(splits[0], 2))
    assert 0 <= metrics["test"]["top1"] <= 1
    assert ("unlabelled" in metrics) == ("unlabelled" in name)


def test_unlabelled_clouds_are_taken_by_those_that_need_them_alone(network, splits, tmp_path):
    planned = plan_method("pyramid and views, ridge with unlabelled clouds", Setup(str(network), voxel_size=0.2), OPTIONS)
    with pytest.raises(InvalidInputError, match="unlabelled=True got 0 unlabelled clouds"):
        run(planned[0], *splits, planned[1], tmp_path, RunOptions(save=None))
    with pytest.raises(InvalidInputError, match="unlabelled=False got 15 unlabelled clouds"):
        run(replace(planned[0], unlabelled=False), *splits, planned[1], tmp_path, RunOptions(save=None), splits[1])
    assert (
        "All training clouds are labelled"
        in find_impossible(Setup(str(network)))["pyramid and views, ridge with unlabelled clouds"]
    )


@pytest.mark.parametrize(
    "mode",
    [
        "io+bn",
        "io+stats",
        "io",
        "pyramid, ridge",
        "pyramid, ridge on the clouds' statistics",
        "pyramid and views, ridge",
        "views, ridge",
    ],
)
def test_the_control_differs_in_its_weights_alone(mode):
    image, control = (plan_method(name, Setup("i2p-resnet18"), OPTIONS)[0] for name in (mode, f"frozen random, {mode}"))
    changed = {key for key, value in image.to_dict().items() if control.to_dict()[key] != value}
    assert changed == {"scratch"}
    assert control.scratch


@pytest.mark.parametrize("name", [name for name in NETWORKS if METHODS[name].options.get("steps") == 0])
def test_ridge_regression_takes_no_step(name):
    _, options = plan_method(name, Setup("i2p-resnet18"), Options(steps=300), learning_rate=0.3)
    assert options.steps == 0


def test_a_given_rate_is_that_of_every_method_and_adamw_needs_one():
    trained = [name for name in NETWORKS if METHODS[name].options.get("steps") != 0]
    assert {plan_method(name, Setup("i2p-resnet18"), OPTIONS, 0.3)[1].learning_rate for name in trained} == {0.3}
    with pytest.raises(InvalidInputError, match="learning rate with optimizer='adamw'"):
        plan_method("all", Setup("i2p-resnet18"), Options(optimizer="adamw"))


def test_unknown_methods_are_told_with_all_that_there_are():
    with pytest.raises(InvalidInputError, match=r"chamfer; got 'magic'"):
        plan_method("magic", Setup("i2p-resnet18"), OPTIONS)


@pytest.mark.parametrize("name", ["probe", "ridge"])
def test_a_folder_without_its_image_stem_is_told_what_it_cannot_do(name, pointed):
    with pytest.raises(InvalidInputError, match=f"leave {name} out of the methods"):
        plan_method(name, Setup(str(pointed)), OPTIONS)


def test_views_are_of_names(network):
    with pytest.raises(InvalidInputError, match="Views are of features xyz and of a network by name"):
        plan_method("views", Setup(str(network)), OPTIONS)
    with pytest.raises(InvalidInputError, match="features='ones'"):
        plan_method("views", Setup("i2p-resnet18", features="ones"), OPTIONS)


def test_a_run_that_diverges_is_counted_as_a_guess(network, splits, tmp_path):
    setup, options = Setup(str(network), voxel_size=0.2), replace(OPTIONS, steps=9)
    planned = plan_method("all", setup, options, 1e30)
    metrics = run_method(Series(setup, *splits, options, tmp_path), "run", "all", planned, splits[0])
    assert metrics["test"] == {"top1": 1 / 3, "mean_class": 1 / 3}
    assert "learning rate (=1e+30) is too high" in metrics["diverged"]


def test_a_method_whose_extra_is_not_installed_is_told_and_what_all_need_is_an_error(network, splits, tmp_path, monkeypatch):
    setup = Setup(str(network), voxel_size=0.2)
    runs = Series(setup, *splits, OPTIONS, tmp_path)
    planned = plan_method("lora", setup, OPTIONS)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "peft", None)
        metrics = run_method(runs, "run", "lora", planned, splits[0])
        assert metrics.keys() == {"skipped"}
        assert 'pip install "i2p-zoo[lora]"' in metrics["skipped"]
    assert "test" in run_method(runs, "run", "lora", planned, splits[0]), "once it is installed the same folder will do"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="finetune"):
        run_method(runs, "other", "lora", planned, splits[0])
