"""Publishing recipes: nothing uncertified or of another licence leaves, what is done is not done again, failures are told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

import i2p_zoo
from conversion import publish as publishing
from conversion.__main__ import main
from conversion.publish import Outcome, check_certificate, prepare, publish
from conversion.recipes import Recipe
from i2p_zoo import CertificateError, InvalidInputError
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.publishing import PICTURE, PlannedFile, PushPlan
from i2p_zoo.checkpoints.saving import CARD, save_pretrained
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.networks.timm_models import create_random_model
from i2p_zoo.zoo.conversion import convert_network
from i2p_zoo.zoo.pretrained import build_network

RECIPE = Recipe("i2p-test_resnet", "test_resnet", "r160_in1k", "timm/test_resnet.r160_in1k", "apache-2.0", False, "center")
ORIGIN = {"repo": RECIPE.source, "commit": "1" * 40, "sha256": "2" * 64, "license": "apache-2.0"}


def convert_random(folder, inflation="center"):
    """Leaves a checkpoint as `convert` does, from random weights in the place of timm's."""
    source = create_random_model("test_resnet")
    source.pretrained_cfg = {**source.pretrained_cfg, "tag": RECIPE.tag}
    model, _ = convert_network(source, ORIGIN, "test_resnet", {}, Settings(inflation))
    save_pretrained(model, folder)
    return model


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "net"
    convert_random(folder)
    return folder


@pytest.fixture
def conversions(monkeypatch):
    """Puts random weights in the place of timm's; returns the names asked for."""
    asked = []

    def convert(name, folder, inflation):
        asked.append((name, inflation))
        return convert_random(folder, inflation)

    monkeypatch.setattr(publishing, "convert", convert)
    return asked


@pytest.fixture
def pushes(monkeypatch):
    """Puts a note in the place of pushes."""
    pushed = []

    def push_folder(folder, repo, dry_run):
        pushed.append((folder.name, repo, dry_run))
        return PushPlan(repo, None, (PlannedFile(CONFIG, 1, "upload"),), "")

    monkeypatch.setattr(publishing, "push_folder", push_folder)
    return pushed


def test_recipe_becomes_a_certified_folder_with_picture_and_card(conversions, tmp_path):
    prepare(RECIPE, tmp_path / "net")
    assert conversions == [("test_resnet.r160_in1k", "center")]
    assert (tmp_path / "net" / PICTURE).read_bytes().startswith(b"\x89PNG")
    card = (tmp_path / "net" / CARD).read_text()
    assert PICTURE in card
    assert ORIGIN["commit"] in card
    assert i2p_zoo.from_pretrained(tmp_path / "net").source["certificate"]["passed"]


def test_whole_folder_is_not_converted_again_and_a_damaged_or_foreign_one_is(conversions, tmp_path):
    folder = tmp_path / "net"
    for _ in range(2):
        prepare(RECIPE, folder)
    assert len(conversions) == 1
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    prepare(RECIPE, folder)
    assert len(conversions) == 2
    config = json.loads((folder / CONFIG).read_text())
    config["pretrained_cfg"]["tag"] = "other"
    (folder / CONFIG).write_text(json.dumps(config))
    prepare(RECIPE, folder)
    assert len(conversions) == 3


def test_card_edited_by_hand_is_kept(conversions, tmp_path):
    prepare(RECIPE, tmp_path / "net")
    (tmp_path / "net" / CARD).write_text("mine")
    prepare(RECIPE, tmp_path / "net")
    assert (tmp_path / "net" / CARD).read_text() == "mine"


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed before drawing"])
def test_picture_is_that_of_a_network_converted_anew(conversions, tmp_path, monkeypatch, killed):
    folder = tmp_path / "net"
    prepare(RECIPE, folder)
    before = (folder / PICTURE).read_bytes()
    copied = replace(RECIPE, inflation="copy")
    if killed:
        with monkeypatch.context() as patch:
            patch.setattr(publishing, "draw_kernels", interrupt)
            with pytest.raises(KeyboardInterrupt):
                prepare(copied, folder)
    prepare(copied, folder)
    assert conversions == [("test_resnet.r160_in1k", "center"), ("test_resnet.r160_in1k", "copy")]
    prepare(copied, tmp_path / "new")
    expected = (tmp_path / "new" / PICTURE).read_bytes()
    assert (folder / PICTURE).read_bytes() == expected != before


def interrupt(*args):
    raise KeyboardInterrupt


def test_card_of_a_network_without_a_wide_filter_links_no_picture(conversions, tmp_path, monkeypatch):
    prepare(RECIPE, tmp_path / "net")
    monkeypatch.setattr(publishing, "SparseConv3d", type("Other", (), {}))
    prepare(RECIPE, tmp_path / "net")
    assert not (tmp_path / "net" / PICTURE).exists()
    assert PICTURE not in (tmp_path / "net" / CARD).read_text()


def test_edited_card_that_is_no_utf8_is_kept(conversions, tmp_path):
    prepare(RECIPE, tmp_path / "net")
    (tmp_path / "net" / CARD).write_bytes(b"# M\xefn\n")
    prepare(RECIPE, tmp_path / "net")
    assert (tmp_path / "net" / CARD).read_bytes() == b"# M\xefn\n"


def test_network_trained_since_its_certificate_is_not_published(conversions, pushes, tmp_path):
    folder = tmp_path / RECIPE.name
    prepare(RECIPE, folder)
    model = load_folder(folder, build_network)
    model.fc.bias.data += 1
    save_pretrained(model, folder)
    (outcome,) = publish([RECIPE], tmp_path, "acme", push=True)
    assert (outcome.state, pushes) == ("failed", [])
    assert "was certified: not published" in outcome.detail
    assert torch.equal(load_folder(folder, build_network).fc.bias, model.fc.bias)  # whoever trained it has it still


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        {},
        {"errors": {"float32": 1e-7}},
        {"errors": {"float32": 1e-4, "float64": 1e-15}},
        {"errors": {"float32": 1e-7, "float64": 1e-8}},
        {"errors": {"float32": float("nan"), "float64": 1e-15}},
        {"errors": {"float32": None, "float64": 1e-15}},
    ],
)
def test_uncertified_network_is_refused(certificate):
    with pytest.raises(CertificateError, match="i2p-net"):
        check_certificate("i2p-net", None if certificate is None else {**certificate, "tensors": "1" * 64}, "1" * 64)


@pytest.mark.parametrize("tensors", [{}, {"tensors": None}, {"tensors": "2" * 64}])
def test_certificate_of_other_tensors_is_refused(tensors):
    with pytest.raises(CertificateError, match=f"i2p-net: its tensors have sha256 '{'1' * 64}'"):
        check_certificate("i2p-net", {"errors": {"float32": 1e-6, "float64": 1e-12}, **tensors}, "1" * 64)


def test_certified_network_passes():
    check_certificate("i2p-net", {"errors": {"float32": 1e-6, "float64": 1e-12}, "tensors": "1" * 64}, "1" * 64)


def test_uncertified_folder_is_not_pushed_even_if_it_is_whole(conversions, pushes, converted, tmp_path):
    folder = tmp_path / RECIPE.name
    shutil.copytree(converted, folder)
    config = json.loads((folder / CONFIG).read_text())
    config["i2p"]["certificate"] = None
    (folder / CONFIG).write_text(json.dumps(config))
    (outcome,) = publish([RECIPE], tmp_path, "acme", push=True)
    assert (outcome.state, pushes) == ("failed", [])
    assert "not certified" in outcome.detail


def test_licence_other_than_the_recipe_says_is_refused(conversions, tmp_path):
    recipe = Recipe(*[*RECIPE.__dict__.values()][:4], "mit", False, "center")
    with pytest.raises(InvalidInputError, match=r"'apache-2\.0'.*'mit'"):
        prepare(recipe, tmp_path / "net")


@pytest.mark.parametrize("error", [RuntimeError("no memory\nand more"), RecursionError("too deep"), KeyError("x")], ids=repr)
def test_error_of_any_code_fails_its_recipe_alone(conversions, pushes, tmp_path, error, monkeypatch):
    working = publishing.convert

    def convert(name, folder, inflation):
        if name.startswith("bad"):
            raise error
        return working(name, folder, inflation)

    monkeypatch.setattr(publishing, "convert", convert)
    bad = replace(RECIPE, name="i2p-bad", architecture="bad")
    outcomes = list(publish([bad, RECIPE], tmp_path, "acme", push=True))
    assert [o.state for o in outcomes] == ["failed", "published"]
    assert outcomes[0].detail == f"{type(error).__name__}: {str(error).splitlines()[0]}"


@pytest.mark.parametrize("push", [False, True])
def test_one_failure_does_not_stop_the_others(conversions, pushes, tmp_path, push, monkeypatch):
    working = publishing.convert

    def convert(name, folder, inflation):
        if name.startswith("bad"):
            raise OSError(28, "No space left on device")
        return working(name, folder, inflation)

    monkeypatch.setattr(publishing, "convert", convert)
    bad = Recipe("i2p-bad", "bad", "x", "timm/bad.x", "mit", False, "center")
    outcomes = list(publish([bad, RECIPE], tmp_path, "acme", push=push))
    assert [o.state for o in outcomes] == ["failed", "published" if push else "would publish"]
    assert "No space left" in outcomes[0].detail
    assert pushes == [(RECIPE.name, f"acme/{RECIPE.name}", not push)]


def test_process_of_its_own_reports_its_recipe(tmp_path):
    recipe = Recipe("i2p-none", "none", "x", "timm/none.x", "mit", False, "center")  # nothing is asked of a Hub
    (outcome,) = publish([recipe], tmp_path, "acme", processes=2)
    assert (outcome.name, outcome.state) == (recipe.name, "failed")
    assert "no architecture" in outcome.detail


def test_process_that_is_killed_twice_fails_its_recipe(monkeypatch, tmp_path):
    done = Outcome("i2p-b", "published", "")
    monkeypatch.setattr(
        publishing, "call_side_by_side", lambda function, recipes, n: iter(zip(recipes, [None, done], strict=True))
    )
    recipes = [replace(RECIPE, name=name) for name in ("i2p-a", "i2p-b")]
    killed, published = publish(recipes, tmp_path, "acme", push=True, processes=2)
    assert (killed.name, killed.state) == ("i2p-a", "failed")
    assert "was killed twice" in killed.detail
    assert published == done


def test_command_chooses_shares_out_and_fails_with_the_names(monkeypatch, tmp_path):
    seen = []

    def publish_recipes(recipes, work, organisation, *, push, processes):
        seen.append(([r.name for r in recipes], push))
        yield from (Outcome(r.name, "failed" if "resnet50" in r.name else "published", "x") for r in recipes)

    monkeypatch.setattr(publishing, "publish", publish_recipes)
    result = CliRunner().invoke(main, ["publish", "--recipe", "i2p-resnet18", "--work", str(tmp_path)])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["publish", "--recipe", "i2p-resnet*", "--yes"])
    assert result.exit_code == 1
    assert "i2p-resnet50" in result.output
    whole, push = seen[1]
    assert (seen[0], push) == ((["i2p-resnet18"], False), True)
    parts = []
    for number in (1, 2, 3):
        CliRunner().invoke(main, ["publish", "--recipe", "i2p-resnet*", "--shard", f"{number}/3"])
        parts += seen[-1][0]
    assert sorted(parts) == sorted(whole)
    result = CliRunner().invoke(main, ["publish", "--shard", "4/3"])
    assert result.exit_code == 2
    assert "'4/3'; expected 'i/n'" in result.output
    assert CliRunner().invoke(main, ["publish", "--recipe", "nothing*"]).exit_code == 2


def test_threads_are_shared_out():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        publishing._share_cores(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
