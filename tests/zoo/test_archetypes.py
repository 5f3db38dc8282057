"""One network of each structure that the ledger lists, the smallest: certificates, and training on real clouds."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from conversion.ledger import measure
from i2p_zoo import SparseTensor, create_model, voxelize
from i2p_zoo.data import load_npz
from i2p_zoo.zoo.certificate import TOLERANCES
from i2p_zoo.zoo.ledger import load_ledger

KICAD = Path(__file__).parents[1] / "data" / "kicad-mini.npz"


@functools.cache
def smallest_of_each_archetype(kind: str) -> list[str]:
    """The smallest network of each archetype whose record has `kind`, "passed" or "refused"."""
    smallest: dict[str, tuple[int, str]] = {}
    for name, record in load_ledger()["models"].items():
        if record.get(kind):
            size = (record["parameters"], name)
            smallest[record["archetype"]] = min(size, smallest.get(record["archetype"], size))
    return sorted(name for _, name in smallest.values())


def sized(name: str, *values: object) -> object:
    """A row of a table of tests; that of a network of more than 5 million parameters, 2.5 of one of tokens, is marked long."""
    record = load_ledger()["models"][name]
    large = record["parameters"] > (2.5e6 if "shift" in record else 5e6)
    return pytest.param(name, *values, marks=pytest.mark.long if large else ())


CERTIFIED = smallest_of_each_archetype("passed")
STEMS = [(stem, channels) for channels in (1, 3, 4, 6) for stem in ("image", "point")]


@functools.cache
def real_clouds(channels: int) -> SparseTensor:
    """Two clouds of kicad-mini with channels of coordinates and their products."""
    train, _ = load_npz(KICAD)
    points = [np.asarray(train.points[i], dtype=np.float32) for i in (0, len(train) // 2)]
    x = voxelize(points, voxel_size=0.1, features="xyz")
    z, y, x_ = x.features.unbind(1)
    columns = torch.stack([z, y, x_, z * y, y * x_, z * x_], 1)
    return x.derive(columns[:, :channels].contiguous())


def check_training(name: str, stem: str, channels: int) -> None:
    """Asserts a finite gradient for every parameter in a training step, and then finite outputs in evaluation."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, in_chans=channels, stem=stem)
    cloud = real_clouds(channels)
    logits = model.train()(cloud)
    assert logits.shape == (2, 5)
    torch.nn.functional.cross_entropy(logits, torch.tensor([1, 3])).backward()
    without = [key for key, p in model.named_parameters() if p.grad is None]
    broken = [key for key, p in model.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    assert not without, f"no gradient: {without}"
    assert not broken, f"gradients that are not finite: {broken}"
    with torch.no_grad():
        assert bool(torch.isfinite(model.eval()(cloud)).all())


def test_archetypes_are_many_and_the_smallest_of_each_is_taken():
    assert len(CERTIFIED) > 260
    assert {"test_resnet", "test_vit"} <= set(CERTIFIED)
    assert "resnet152" not in CERTIFIED


@pytest.mark.parametrize("name", [sized(name) for name in CERTIFIED])
def test_certificate_of_each_archetype_holds_as_recorded(name):
    recorded = load_ledger()["models"][name]
    found = measure(name)
    assert found["passed"]
    assert (found["mapped"], found["unmapped"]) == (found["inflated"] + found["copied"], 0)
    unmeasured = [key for key in found["unmeasured"] if not key.endswith(("bias", "running_mean"))]
    assert not unmeasured, "only what a softmax or a difference cancels may go unseen"
    for key in ("class", "archetype", "parameters", "inflated", "copied", "unmapped", "images"):
        assert found[key] == recorded[key], key
    assert max(found["float32"] * 1e-6, found["float64"] or 0) < 1e-3 * found["response"], (
        "outputs that hardly move prove little"
    )


@pytest.mark.parametrize(
    ("name", "stem", "channels"), [sized(name, *STEMS[i % len(STEMS)]) for i, name in enumerate(CERTIFIED)]
)
def test_each_archetype_trains_on_real_clouds_with_one_of_the_stems(name, stem, channels):
    check_training(name, stem, channels)


@pytest.mark.long
@pytest.mark.parametrize(("stem", "channels"), STEMS)
@pytest.mark.parametrize("name", CERTIFIED)
def test_each_archetype_trains_on_real_clouds_with_every_stem(name, stem, channels):
    check_training(name, stem, channels)


def test_every_network_in_the_ledger_is_certified():
    models = load_ledger()["models"]
    if load_ledger()["timm"] == timm.__version__:  # `python -m conversion certify --all` begins anew for another
        assert set(models) == set(timm.list_models())
    assert len(models) >= 1_371
    assert all(record.get("passed") for record in models.values()), "none fails, none is refused"
    assert all(record["unmapped"] == 0 for record in models.values())
    for dtype, tolerance in TOLERANCES.items():
        assert max(record[dtype] for record in models.values()) <= tolerance
    assert min(record["response"] for record in models.values()) > 1e-4, "none forgets its image"


def test_networks_of_tokens_forget_neither_the_image_nor_where_it_shows_what():
    measured = {name: record for name, record in load_ledger()["models"].items() if "shift" in record}
    assert len(measured) >= 721
    assert not [name for name, record in measured.items() if not min(record["response"], record["shift"]) > 1e-4]


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, record in load_ledger()["models"].items() if record.get("passed")])
def test_certificate_of_every_network_holds(name):
    assert measure(name)["passed"]


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, record in load_ledger()["models"].items() if "refused" in record])
def test_every_refused_network_raises_the_recorded_error(name):
    assert measure(name)["refused"] == load_ledger()["models"][name]["refused"]
