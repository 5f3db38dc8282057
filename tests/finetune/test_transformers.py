"""Finetuning transformers: what each mode trains, losses that fall, runs that go on exactly, folders of every bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import i2p_zoo
from i2p_zoo.data import load_data
from i2p_zoo.finetune import freeze, train
from tests.conftest import fingerprint, output
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


def small_swin():
    """A network of windows that shift and merge, so small that a step takes milliseconds."""
    small = {"depths": [1, 1, 2, 1], "embed_dim": 24, "num_heads": [1, 2, 4, 8]}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return i2p_zoo.create_model("swin_tiny_patch4_window7_224", num_classes=3, stem="point", voxel_size=0.4, **small)


@pytest.mark.parametrize("make", [small_vit, small_swin])
def test_finetuned_transformer_is_pushed_and_loaded_elsewhere_bit_for_bit(hub, client, tmp_path, make):
    model = make()
    freeze(model, "io+bn")
    train(model, shapes(), **{**OPTIONS, "steps": 3})
    folder = model.eval().save_pretrained(tmp_path / "model")
    assert_pushed_and_loaded(client, model, folder)


def assert_pushed_and_loaded(client, model, folder):
    assert "a cloud passes for an image of" in (folder / "README.md").read_text()
    pushed = client.push(folder, "acme/transformer", token="hf_test")
    assert pushed.error is None, pushed.message
    loaded = client.load("acme/transformer", run=True)
    assert loaded.error is None, loaded.message
    assert (loaded.fingerprint, loaded.output) == (fingerprint(model), output(model))


@pytest.mark.long
@pytest.mark.parametrize("mode", ["all", "io+bn"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_real_transformers_learn_real_shapes_go_on_exactly_and_are_pushed_and_loaded(hub, client, tmp_path, name, mode):
    clouds, _ = load_data("kicad-mini")
    options = {"batch_size": 16, "optimizer": "adamw", "learning_rate": 0.0005, "steps": 40, "save_every": 20}

    def run(**more):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = i2p_zoo.create_model(name, num_classes=len(clouds.classes), stem="point", voxel_size=0.2)
        freeze(model, mode)
        return model, train(model, clouds, **options, **more)

    model, whole = run()
    losses = [step.loss for step in whole.steps]
    assert sum(losses[-8:]) < sum(losses[:8])

    def stop(entry):
        if getattr(entry, "step", 0) == 24:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(folder=tmp_path / "state", report=stop)
    again, resumed = run(folder=tmp_path / "state", resume=True)
    assert figures(resumed) == figures(whole)
    assert_same_bits(again, state_of(model))
    folder = again.eval().save_pretrained(tmp_path / "model")
    assert_same_bits(i2p_zoo.from_pretrained(folder), state_of(model))
    assert_pushed_and_loaded(client, again, folder)
