"""The demonstration: what it writes and says, and the claim that image weights help on real shapes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import i2p_zoo
from i2p_zoo.cli import main
from i2p_zoo.errors import NotFoundError
from i2p_zoo.experiments import demonstration as demo

KICAD = Path(__file__).parents[1] / "data" / "kicad-mini.npz"
KINDS = ["ALL, image weights", "IO+BN, image weights", "ALL, from scratch"]


def write_clouds(path):
    """8 train and 5 test clouds of 16 points in 3 classes."""
    random = np.random.default_rng(0)
    labels = np.arange(13) % 3
    points = random.normal(size=(13, 16, 3)) * np.array([(1, 0.1, 0.1), (0.1, 0.1, 1), (1, 1, 1)])[labels][:, None]
    split = (np.arange(13) >= 8).astype(np.uint8)
    np.savez(path, points=points.astype(np.float16), label=labels, split=split, classes=np.array(["rod", "pole", "ball"]))
    return path


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    """One run with a single step of training, on photographs of 64 pixels a side, which takes a tenth of the time."""
    folder = tmp_path_factory.mktemp("demo")
    preprocess = demo.preprocess
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        shrink = torch.nn.AdaptiveAvgPool2d(64)
        patch.setattr(demo, "preprocess", lambda images, model: shrink(preprocess(images, model)))
        metrics = demo.run_demo(write_clouds(folder / "clouds.npz"), folder / "deep" / "out", 1, 1, say=lines.append)
    return SimpleNamespace(out=folder / "deep" / "out", metrics=metrics, text="\n".join(lines))


@pytest.mark.parametrize("name", ["photographs", "kernels", "clouds", "curves"])
def test_pictures_are_pngs_of_a_sensible_size_that_are_not_blank(demonstration, name):
    with Image.open(demonstration.out / f"{name}.png") as image:
        assert image.format == "PNG"
        assert all(300 <= side <= 2500 for side in image.size)
        pixels = np.asarray(image.convert("L"))
    assert 0.001 < (pixels < 250).mean() < 0.999


def test_metrics_are_written_as_returned(demonstration):
    assert json.loads((demonstration.out / "metrics.json").read_text()) == demonstration.metrics
    assert list(demonstration.metrics) == KINDS
    for run in demonstration.metrics.values():
        assert set(run) == {"top1", "mean_class", "trained", "total"}
        (top1,), (mean_class,) = run["top1"], run["mean_class"]
        assert top1 * 5 == pytest.approx(round(top1 * 5)), "a fraction of the five test clouds"
        assert 0 <= mean_class <= 1


def test_each_kind_trains_the_parameters_of_its_mode(demonstration):
    source = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    names = dict(source.named_parameters())
    norms = {name.removesuffix("running_mean") for name in source.state_dict() if name.endswith("running_mean")}
    in_norms = sum(p.numel() for name, p in names.items() if name.rpartition(".")[0] + "." in norms)
    ends = 32 * 27 * 3 + 1280 * 3 + 3  # the point stem and the classifier
    total = sum(p.numel() * (max(p.shape[2:]) if p.ndim == 4 else 1) for p in names.values())
    found = {name: (run["trained"], run["total"]) for name, run in demonstration.metrics.items()}
    assert found == dict(zip(KINDS, [(total, total), (in_norms + ends, total), (total, total)], strict=True))
    assert "parameters trained" in demonstration.text
    assert f"{in_norms + ends:,d} of {total:,d}" in demonstration.text


def test_the_certificate_on_the_photographs_is_told_and_holds(demonstration):
    (line,) = [line for line in demonstration.text.splitlines() if "certificate" in line]
    assert "certificate passed: relative error float32 " in line
    assert "on images (4, 3, 64, 64)" in line
    assert float(re.search(r"float64 (\S+)", line).group(1)) <= 1e-9


def test_both_networks_name_the_same_classes_of_each_photograph(demonstration):
    pairs = re.findall(r"2D ([\d.]+) (.+?) +3D ([\d.]+) (.+)", demonstration.text)
    assert len(pairs) == 4 * 5
    for value_2d, name_2d, value_3d, name_3d in pairs:
        assert name_2d == name_3d
        assert float(value_2d) == pytest.approx(float(value_3d), abs=2e-4)
    assert all(f"\n   {name}\n" in demonstration.text for name in ("coffee", "camera", "chelsea", "flower"))


def test_the_converted_network_stays_as_a_checkpoint(demonstration):
    folder = demonstration.out / "i2p-tf_efficientnet_lite0"
    assert f"saved in {folder}" in demonstration.text
    model = i2p_zoo.from_pretrained(folder, num_classes=2)
    assert model([np.eye(3, dtype=np.float32)]).shape == (1, 2)


def test_the_text_tells_the_counts_and_the_accuracies(demonstration):
    assert "3. Finetune on 8 real shapes of 3 classes, 1 step, 1 seed" in demonstration.text
    for name, run in demonstration.metrics.items():
        (line,) = [line for line in demonstration.text.splitlines() if line.strip().startswith(name)]
        assert [float(value) for value in re.findall(r"([\d.]+) %", line)] == [
            pytest.approx(100 * run[key][0], abs=0.051) for key in ("top1", "mean_class")
        ]


def test_missing_clouds_are_told_before_any_work(tmp_path, monkeypatch):
    def work(*_):
        raise AssertionError("the conversion has begun")

    monkeypatch.setattr(demo, "convert", work)
    with pytest.raises(NotFoundError, match=r"missing\.npz"):
        demo.run_demo(tmp_path / "missing.npz", tmp_path / "out", 1, 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_image_weights_beat_random_ones_by_eight_points_on_real_shapes(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(demo, "RUNS", {kind: demo.RUNS[kind] for kind in ("ALL, image weights", "ALL, from scratch")})
    (steps,) = [option.default for option in main.commands["demo"].params if option.name == "steps"]
    folder = tmp_path / "lite0"
    demo.convert(demo.ARCHITECTURE, folder)
    metrics, _ = demo.compare_runs(folder, *demo.load_npz(KICAD), steps, 3, tmp_path)
    pretrained, scratch = (np.array(run["top1"]) for run in metrics.values())
    assert len(pretrained) == len(scratch) == 3
    assert pretrained.mean() - scratch.mean() >= 0.08, (pretrained, scratch)
