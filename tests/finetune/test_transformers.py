"""Finetuning transformers: what each mode trains, losses that fall, runs that go on exactly, folders of every bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import i2p_zoo
from i2p_zoo.data import load_data
from i2p_zoo.finetune import freeze, train
from tests.finetune.conftest import assert_same_bits, figures, shapes, state_of

# Architecture: arguments that make it small, and timm's names of what reads the image, tells positions and classifies.
ENDS = {
    "test_vit": ({}, ["patch_embed.proj", "pos_embed", "cls_token", "head"]),
    "deit3_small_patch16_224": ({"depth": 2}, ["patch_embed.proj", "pos_embed", "cls_token", "head"]),
    "vit_small_patch16_dinov3": ({"depth": 2}, ["patch_embed.proj", "reg_token", "cls_token", "head"]),
    "swin_tiny_patch4_window7_224": ({}, ["patch_embed.proj", "relative_position_bias_table", "head.fc"]),
    "swinv2_tiny_window8_256": ({}, ["patch_embed.proj", ".cpb_mlp.", "head.fc"]),
    "maxvit_tiny_tf_224": ({}, ["stem.conv1", "relative_position_bias_table", "head.fc"]),
    "levit_128s": ({}, ["stem.conv1.linear", "attention_biases", "head.", "head_dist."]),
    "mixer_s32_224": ({}, ["stem.proj", "head."]),
    "mobilevit_xxs": ({}, ["stem.conv.", "head.fc"]),
}
NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


@pytest.mark.parametrize("name", ENDS)
def test_io_trains_patch_embedding_position_tables_extra_tokens_and_head_and_norms_are_norms(name):
    arguments, ends = ENDS[name]
    model = i2p_zoo.create_model(name, num_classes=3, **arguments)
    names = [key for key, _ in model.named_parameters()]
    io = {key for key in names if any(key.startswith(end) or (end[0] in ".ar" and end in key) for end in ends)}
    norms = {
        f"{path}.{key}"
        for path, module in model.named_modules()
        if isinstance(module, NORMS)
        for key, _ in module.named_parameters(recurse=False)
    }
    assert norms
    for mode, expected in {"io": io, "io+stats": io, "io+bn": io | norms, "all": set(names)}.items():
        freeze(model, mode)
        assert {key for key, parameter in model.named_parameters() if parameter.requires_grad} == expected


def small_vit():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return i2p_zoo.create_model("test_vit", num_classes=3, stem="point", voxel_size=0.4, drop_path_rate=0.1)


OPTIONS = {"batch_size": 6, "optimizer": "adamw", "learning_rate": 0.003, "steps": 12}


@pytest.mark.parametrize("mode", ["all", "io+bn"])
def test_losses_fall_a_run_goes_on_exactly_and_a_folder_keeps_every_bit(tmp_path, mode):
    models = [small_vit() for _ in range(2)]
    for model in models:
        freeze(model, mode)
    whole = train(models[0], shapes(), **OPTIONS)
    assert sum(step.loss for step in whole.steps[-3:]) < sum(step.loss for step in whole.steps[:3])

    def stop(entry):
        if getattr(entry, "step", 0) == 7:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(models[1], shapes(), folder=tmp_path / "state", save_every=5, report=stop, **OPTIONS)
    again = small_vit()
    freeze(again, mode)
    resumed = train(again, shapes(), folder=tmp_path / "state", save_every=5, resume=True, **OPTIONS)
    assert figures(resumed) == figures(whole)
    assert_same_bits(again, state_of(models[0]))
    again.eval().save_pretrained(tmp_path / "model")
    loaded = i2p_zoo.from_pretrained(tmp_path / "model")
    assert loaded.settings == again.settings
    assert_same_bits(loaded, state_of(again))
    with torch.no_grad():
        clouds = [torch.rand(40, 3, generator=torch.Generator().manual_seed(0))]
        assert torch.equal(loaded(clouds), again(clouds))


@pytest.mark.long
@pytest.mark.parametrize("mode", ["all", "io+bn"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_real_transformers_learn_on_real_shapes(name, mode):
    clouds, _ = load_data("kicad-mini")
    torch.manual_seed(0)
    model = i2p_zoo.create_model(name, num_classes=len(clouds.classes), stem="point", voxel_size=0.2)
    freeze(model, mode)
    history = train(model, clouds, steps=30, batch_size=16, optimizer="adamw", learning_rate=0.0005)
    losses = [step.loss for step in history.steps]
    assert sum(losses[-8:]) < sum(losses[:8])
