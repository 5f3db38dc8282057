"""torchvision's weights in timm's networks: the mapped network computes what torchvision's computes."""

from __future__ import annotations

import pytest
import torch
import torchvision
from click.testing import CliRunner
from safetensors.torch import save_file

import i2p_zoo
from conversion import __main__ as workshop
from i2p_zoo.errors import CheckpointError, NotFoundError
from i2p_zoo.networks.timm_models import randomize_constants_, randomize_statistics_
from i2p_zoo.zoo.torchvision_weights import ARCHITECTURES, convert_state
from tests.helpers import relative_error

ONE_OF_EACH = [
    "resnet18",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "efficientnet_b0",
    "regnet_x_400mf",
    "regnet_y_800mf",
    "inception_v3",
]


def random_network(name: str, classes: int = 7) -> torch.nn.Module:
    """torchvision's network with live random parameters and statistics."""
    options = {"init_weights": False} if name == "inception_v3" else {}
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=classes, **options).eval()
    randomize_constants_(model)
    side = 299 if name == "inception_v3" else 64
    randomize_statistics_(model, torch.randn(1, 3, side, side))
    return model


def check_conversion(name: str) -> None:
    source = random_network(name)
    target, architecture, model_args = convert_state(name, source.state_dict())
    assert architecture == ARCHITECTURES[name]
    images = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(target.double()(images), source.double()(images)) < 1e-9
    rebuilt = i2p_zoo.networks.models.create_timm_model(architecture, num_classes=7, **model_args).double().eval()
    rebuilt.load_state_dict(target.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(rebuilt(images), target(images))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_mapped_network_computes_what_torchvisions_computes(name):
    check_conversion(name)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ONE_OF_EACH])
def test_every_mapped_network_computes_what_torchvisions_computes(name):
    check_conversion(name)


def test_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(NotFoundError, match=r"'googlenet' is not known. Known: resnet18"):
        convert_state("googlenet", {})


DAMAGED = {
    "a missing tensor": lambda s: {k: t for k, t in s.items() if k != "layer1.0.bn1.weight"},
    "an unknown tensor": lambda s: {**s, "extra.weight": torch.ones(1)},
    "another network": lambda s: random_network("resnet34").state_dict(),
    "no classifier": lambda s: {k: t for k, t in s.items() if t.ndim != 2},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_weights_that_do_not_fit_are_refused(damage):
    with pytest.raises(CheckpointError):
        convert_state("resnet18", damage(random_network("resnet18").state_dict()))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_command_writes_a_folder_that_loads(tmp_path, suffix):
    source = random_network("mobilenet_v3_small", classes=4)
    file = tmp_path / f"weights.{suffix}"
    state = {key: tensor.contiguous() for key, tensor in source.state_dict().items()}
    torch.save(state, file) if suffix == "pth" else save_file(state, file)
    result = CliRunner().invoke(workshop.main, ["torchvision", "mobilenet_v3_small", str(file), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "certificate passed" in result.output
    model = i2p_zoo.from_pretrained(tmp_path / "out")
    assert model.num_classes == 4
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        assert relative_error(model(i2p_zoo.image_to_plane(images)), source(images)) < 1e-5


def test_command_reports_a_misfit_in_one_line(tmp_path):
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "weights.pth")
    result = CliRunner().invoke(workshop.main, ["torchvision", "resnet18", str(tmp_path / "weights.pth"), "--out", "out"])
    assert result.exit_code == 2
    missing = "102 missing: conv1.weight, bn1.weight, bn1.bias and so on"
    assert result.stderr == f"python -m conversion: The weights do not fit ResNet: {missing}; 1 unknown: weight.\n"


REFUSED = {
    "an unknown name before the file is read": (["googlenet", "text.pth", "--out", "out"], "'googlenet' is not known"),
    "a folder that cannot be written": (["mobilenet_v3_small", "ok.pth", "--out", "/proc/tv"], "/proc/tv"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_command_tells_what_cannot_be_in_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save(random_network("mobilenet_v3_small", classes=4).state_dict(), "ok.pth")
    result = CliRunner().invoke(workshop.main, ["torchvision", *arguments])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("python -m conversion: ")
    assert words in result.stderr
