"""What is asked of any network: its modes, its classifier, its classes' names and its image's channels."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from i2p_zoo import InvalidInputError
from i2p_zoo.modules import (
    class_codes,
    class_names,
    count_classes,
    eval_mode,
    find_classifier,
    has_other_classes,
    head_name,
    image_channels,
    set_class_names_,
)


class Classified(nn.Module):
    """A network of timm's kind: it gives its classifier and notes what is known of its weights."""

    def __init__(self, head=None, pretrained_cfg=None):
        super().__init__()
        self.head = head or nn.Linear(4, 2)
        self.pretrained_cfg = pretrained_cfg

    def get_classifier(self):
        return self.head


@pytest.mark.parametrize("error", [None, KeyboardInterrupt], ids=str)
def test_each_module_is_put_back_into_its_own_mode(error):
    model = nn.Sequential(nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3)), nn.Dropout()).train()
    model[0][1].eval()
    before = [module.training for module in model.modules()]
    assert before == [True, True, True, False, True]
    seen = []
    try:
        with eval_mode(model):
            seen = [module.training for module in model.modules()]
            model[1].train()  # whatever is done to the modes meanwhile
            if error:
                raise error
    except KeyboardInterrupt:
        assert error
    assert seen == [False] * 5
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("head", [nn.Linear(4, 2), nn.Conv2d(4, 2, 1), nn.Sequential(nn.Linear(4, 2))], ids=type)
def test_classifier_is_the_one_that_the_network_gives(head):
    assert find_classifier(Classified(head)) is head


@pytest.mark.parametrize("model", [nn.Linear(4, 2), Classified(nn.Identity()), None], ids=lambda model: type(model).__name__)
def test_network_without_a_classifier_is_named_with_the_way_out(model):
    with pytest.raises(InvalidInputError, match=rf"{type(model).__name__} has no classifier; .*num_classes"):
        find_classifier(model)


def test_two_classifiers_of_a_distilled_network_are_one_list():
    model = Classified()
    model.distilled = nn.Linear(3, 2)
    model.get_classifier = lambda: (model.head, model.distilled)
    assert list(find_classifier(model)) == [model.head, model.distilled]
    assert head_name(model) is None  # no one name


def test_what_a_network_keeps_of_its_weights_in_eval_mode_is_dropped_behind_it():
    """timm drops LeViT's tables of biases where `train(True)` is called, and an evaluation amid training calls no such."""
    model = timm.create_model("levit_128s", num_classes=3).train()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), eval_mode(model):
        model(images)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention_biases" in name:
                parameter.add_(torch.arange(parameter.shape[-1]) % 7)
        with eval_mode(model):
            seen = model(images)
        assert torch.equal(seen, copy.deepcopy(model).train().eval()(images))


def test_what_a_network_kept_before_eval_mode_is_there_again_behind_it():
    """Whatever dictionary its `train` puts in place of the one that held it."""
    model = timm.create_model("levit_128s", num_classes=3).eval()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(images)
    layers = [(name, module) for name, module in model.named_modules() if hasattr(module, "attention_bias_cache")]
    before = {name: dict(module.attention_bias_cache) for name, module in layers}
    assert all(before.values())
    with eval_mode(model):  # with gradients, which a cache then holds
        model(images)
    for name, tensors in before.items():
        after = model.get_submodule(name).attention_bias_cache
        assert after.keys() == tensors.keys()
        assert all(after[key] is tensor for key, tensor in tensors.items())


CONFIGS = {
    "no config": None,
    "empty config": {},
    "no names": {"label_names": None},
    "an empty list of names": {"label_names": []},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_classes_that_are_not_noted_have_no_names(config):
    assert class_names(Classified(pretrained_cfg=config)) == ()


def test_network_without_any_config_has_no_names_of_classes():
    assert class_names(nn.Linear(4, 2)) == ()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_names_of_classes_are_noted_in_their_order(config):
    model = Classified(pretrained_cfg=config)
    set_class_names_(model, (name for name in ("lamp", "chair")))
    assert class_names(model) == ("lamp", "chair")
    assert model.pretrained_cfg["label_names"] == ["lamp", "chair"], "a list, as JSON gives it back"


def test_noting_names_leaves_the_rest_of_the_config_and_its_other_owners_alone():
    config = {"tag": "in1k", "label_names": ["tench"]}  # timm hands the same dict to every network of a name
    model = Classified(pretrained_cfg=config)
    set_class_names_(model, ["lamp", "chair"])
    assert model.pretrained_cfg == {"tag": "in1k", "label_names": ["lamp", "chair"]}
    assert config == {"tag": "in1k", "label_names": ["tench"]}


@pytest.mark.parametrize(
    ("noted", "outputs", "classes", "expected"),
    [
        ([], 2, ("lamp", "chair"), False),
        ([], 2, ["lamp", "chair"], False),
        ([], 3, ("lamp", "chair"), True),
        (["lamp", "chair"], 2, ("lamp", "chair"), False),
        (["lamp", "chair"], 2, ["lamp", "chair"], False),
        (["lamp", "chair"], 2, ("chair", "lamp"), True),
        (["lamp", "chair"], 2, ("lamp", "table"), True),
        (["lamp", "chair"], 3, ("lamp", "chair"), True),
        (["lamp", "chair"], 3, ("lamp", "chair", "table"), True),
    ],
    ids=str,
)
def test_classes_are_other_ones_by_their_number_or_noted_names(noted, outputs, classes, expected):
    model = Classified(pretrained_cfg={"label_names": noted})
    assert has_other_classes(model, outputs, classes) is expected


def test_channels_of_the_image_are_those_that_are_noted():
    model = nn.Sequential(nn.Conv2d(5, 4, 1))
    model.in_chans = 6
    assert image_channels(model) == 6


@pytest.mark.parametrize("noted", [None, "3", (3,)], ids=repr)
def test_channels_that_are_not_noted_as_a_number_are_those_of_the_first_convolution(noted):
    model = nn.Sequential(nn.BatchNorm2d(5), nn.Sequential(nn.Conv2d(5, 4, 1)), nn.Conv2d(4, 2, 1))
    assert image_channels(model) == 5
    model.in_chans = noted
    assert image_channels(model) == 5


def test_image_that_no_convolution_reads_has_three_channels():
    assert image_channels(nn.Sequential(nn.Flatten(), nn.Linear(8, 2))) == 3


def test_codes_of_classes_are_those_that_are_noted_or_count_from_nought():
    model = Classified()
    model.num_classes = 2
    assert class_codes(model) == (0, 1)
    set_class_names_(model, (), (2, 6))
    assert class_codes(model) == (2, 6)
    model.num_classes = 3  # as with another classifier
    assert class_codes(model) == (0, 1, 2)
    for codes in ("ab", [2, 6.5, 7], [2, "6", 7], None):  # of a config that others wrote
        model.pretrained_cfg = {"label_codes": codes}
        assert class_codes(model) == (0, 1, 2)


@pytest.mark.parametrize(
    ("head", "names"),
    [(nn.Linear(4, 2), ("lamp", "chair")), (nn.Linear(4, 5), ()), (nn.Identity(), ("lamp", "chair"))],
    ids=["as many", "others", "unknown"],
)
def test_names_of_another_number_of_classes_are_those_of_an_old_classifier(head, names):
    model = Classified(head, {"label_names": ["lamp", "chair"]})
    assert class_names(model) == names


def test_classes_are_counted_at_the_classifier_that_is_there():
    model = Classified(nn.Linear(4, 5))
    model.num_classes = 2  # what timm noted before a user replaced the head
    assert count_classes(model) == 5
    model.head = nn.Sequential(nn.Linear(4, 2))
    assert count_classes(model) == 2
    assert count_classes(nn.Linear(4, 2)) is None, "a layer is no network of timm's kind"


def test_no_names_leave_none():
    model = Classified(pretrained_cfg={"tag": "in1k", "label_names": ["tench"]})
    set_class_names_(model, ())
    assert model.pretrained_cfg == {"tag": "in1k"}


@pytest.mark.parametrize(("codes", "left"), [((), {}), ((4, 5), {"label_codes": [4, 5]})], ids=["none", "others"])
def test_codes_of_other_classes_go_with_their_names(codes, left):
    model = Classified(nn.Linear(4, 2), {"label_names": ["ground", "building"], "label_codes": [2, 6]})
    set_class_names_(model, ["lamp", "chair"], codes)
    assert model.pretrained_cfg == {"label_names": ["lamp", "chair"], **left}
