"""What torch's autograd offers beside `backward`: hooks and functional calls work, transforms are refused in one sentence."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import func
from torch.autograd import forward_ad
from torchvision.models.feature_extraction import create_feature_extractor

import i2p_zoo
from i2p_zoo import UnsupportedError, image_to_plane
from i2p_zoo.networks.unet import UNet
from tests.helpers import plane_values, random_cloud, randomise_norms_, relative_error


@pytest.fixture(scope="module")
def networks():
    """timm's 2D network and the 3D one that computes the same, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = randomise_norms_(timm.create_model("test_resnet", num_classes=5)).double().eval()
    return source, i2p_zoo.inflate(source)


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def activations_and_gradients(model, x, layer):
    """Grad-CAM's two ingredients, by the hooks that its implementations use."""
    seen = {}

    def hook(module, inputs, output):
        seen["activations"] = output
        output.retain_grad()
        output.register_hook(lambda gradient: seen.update(gradient=gradient))

    with model.get_submodule(layer).register_forward_hook(hook):
        model(x)[:, 3].sum().backward()
    return seen["activations"], seen["gradient"], seen["activations"].grad


@pytest.mark.parametrize("layer", ["layer4", "layer2.0.conv1", "bn1"])
def test_grad_cam_sees_the_gradients_that_it_sees_in_2d(networks, layer):
    source, model = networks
    activations, gradient, retained = activations_and_gradients(source, images(), layer)
    sparse, sparse_gradient, sparse_retained = activations_and_gradients(model, image_to_plane(images()), layer)
    assert relative_error(plane_values(sparse), activations) < 1e-9
    for value, expected in ((sparse_gradient, gradient), (sparse_retained, retained)):
        assert relative_error(plane_values(sparse.derive(value)), expected) < 1e-9


def test_tensors_tell_what_autograd_knows_of_them():
    x = random_cloud(3)
    x = x.derive(x.features.clone())
    assert (x.is_leaf, x.grad, x.grad_fn, x.requires_grad) == (True, None, None, False)
    assert x.requires_grad_() is x
    y = x * 2
    assert (y.is_leaf, y.requires_grad) == (False, True)
    y.mean((2, 3)).sum().backward()
    assert x.grad.shape == x.features.shape
    assert not x.requires_grad_(False).requires_grad


def test_functional_call_computes_with_other_weights(networks):
    _, model = networks
    other = {name: tensor * 1.1 for name, tensor in model.named_parameters()}
    expected = copy.deepcopy(model)
    expected.load_state_dict({**model.state_dict(), **other})
    x = random_cloud(3)
    assert torch.equal(func.functional_call(model, other, (x,)), expected(x))
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in other.items()}
    gradients = torch.autograd.grad(func.functional_call(model, leaves, (x,)).sum(), list(leaves.values()))
    wanted = torch.autograd.grad(expected(x).sum(), list(expected.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))


def sums(model, x):
    return lambda weights: func.functional_call(model, weights, (x,)).sum()


def cloud():
    return torch.rand(1, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


TRANSFORMS = {
    "grad": lambda call, weights: func.grad(call)(weights),
    "vjp": lambda call, weights: func.vjp(call, weights),
    "jvp": lambda call, weights: func.jvp(call, (weights,), (weights,)),
    "vmap": lambda call, weights: func.vmap(call)({name: tensor[None] for name, tensor in weights.items()}),
    "jacrev": lambda call, weights: func.jacrev(call)(weights),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("make_input", [lambda: random_cloud(3), cloud], ids=["voxels", "points"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_transforms_are_refused_in_one_sentence(networks, transform, make_input):
    _, model = networks
    with pytest.raises(UnsupportedError, match=r"no transform of `torch\.func`.*`torch\.autograd\.grad`"):
        transform(sums(model, make_input()), {name: tensor.detach() for name, tensor in model.named_parameters()})


def test_vmap_over_clouds_is_refused_in_one_sentence(networks):
    for model in (networks[1], create_double_unet()):
        with pytest.raises(UnsupportedError, match=r"no transform of `torch\.func`"):
            func.vmap(model)(torch.stack([cloud(), cloud()]))


def create_double_unet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(i2p_zoo.create_model("test_resnet", features_only=True, voxel_size=0.1), num_classes=4).double().eval()


def compile_in_place(model):
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("compile_network", [lambda model: torch.compile(model, backend="eager"), compile_in_place])
def test_compiled_networks_give_the_outputs_and_gradients_of_uncompiled_ones(networks, compile_network):
    unet = create_double_unet()
    torch._dynamo.reset()
    for model in (networks[1], unet):
        clouds = [cloud()[0].numpy(), cloud()[0, :30].numpy()]
        compiled = compile_network(copy.deepcopy(model))
        outputs, expected = compiled(clouds), model(clouds)
        assert torch.equal(outputs, expected)
        outputs.square().sum().backward()
        gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
        assert all(torch.equal(p.grad, g) for p, g in zip(compiled.parameters(), gradients, strict=True))


RECORDERS = {
    "trace": lambda model: torch.jit.trace(model, cloud()),
    "script": torch.jit.script,
    "script of a part": lambda model: torch.jit.script(torch.nn.Sequential(model)),
    "export": lambda model: torch.export.export(model, (cloud(),)),
    "onnx": lambda model: torch.onnx.export(model, (cloud(),), dynamo=False),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("record", RECORDERS.values(), ids=RECORDERS.keys())
def test_recorded_graphs_are_refused_in_one_sentence(networks, record):
    for model in (networks[1], create_double_unet()):
        with pytest.raises(UnsupportedError, match=r"cannot record a network.*`save_pretrained`"):
            record(model)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_forward_mode_and_double_backward_are_refused_in_one_sentence(networks):
    _, model = networks
    x = random_cloud(3)
    with forward_ad.dual_level(), pytest.raises(UnsupportedError, match="no forward-mode gradients"):
        model(x.derive(forward_ad.make_dual(x.features, torch.ones_like(x.features))))
    features = x.features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x.derive(features)).sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


def test_tracing_by_fx_is_refused_with_the_ways_out(networks):
    _, model = networks
    with pytest.raises(UnsupportedError, match=r"torch\.fx cannot trace.*forward_intermediates"):
        torch.fx.symbolic_trace(model)
    with pytest.raises(UnsupportedError, match=r"torch\.fx cannot trace"):
        create_feature_extractor(model, ["layer4"])


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hook_that_would_never_be_called_is_refused(networks, register):
    model = copy.deepcopy(networks[1])
    handle = getattr(model.layer4, register)(lambda *_: None)
    with pytest.raises(UnsupportedError, match=r"`register_forward_hook`.*`register_hook`"):
        model(random_cloud(3))
    assert not model.layer4._forward_hooks
    handle.remove()
    called = []
    getattr(model.fc, register)(lambda *_: called.append(True))
    model(random_cloud(3)).sum().backward()
    assert called == [True]


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0"])
def test_fusing_of_branches_is_refused_and_the_way_out_works(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = randomise_norms_(timm.create_model(name, num_classes=3)).eval()
    model = i2p_zoo.inflate(source)
    with pytest.raises(UnsupportedError, match=r"on the 2D network, then `inflate`"):
        timm.utils.reparameterize_model(model)
    fused = i2p_zoo.inflate(timm.utils.reparameterize_model(source))
    x = random_cloud(3, voxels=60, dtype=torch.float32)
    with torch.no_grad():
        assert relative_error(fused(x), model(x)) < 1e-4
