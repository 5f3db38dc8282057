"""Tuning: the fastest candidate by the clock is kept and runs, every candidate is right, and the network stays as it is."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

import i2p_zoo
from i2p_zoo import InvalidInputError, MissingExtraError, UnsupportedError
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.engines import tile_cache, tiles, tuning
from i2p_zoo.sparse.engines.selection import use_engine
from i2p_zoo.sparse.engines.spconv_triton_engine import load_operations
from i2p_zoo.sparse.engines.tile_cache import cache_path, load_shapes
from tests.helpers import random_cloud, relative_error
from tests.launches import count_launches
from tests.triton_tools import compile_kernels, interpret_spconv_triton

KERNELS = ("_gather_gemm_kernel", "_dweight_masked_kernel")


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("I2P_ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(tile_cache, "describe_machine", lambda index: "a GPU")
    load_shapes.cache_clear()
    yield
    load_shapes.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """spconv-triton's operations on CPU tensors, which are taken for a GPU's."""
    operations = interpret_spconv_triton(monkeypatch)
    monkeypatch.setattr("i2p_zoo.sparse.kernels.depthwise_triton._SPLITS", 1)  # fewer programs to interpret
    with force_device_path():
        yield operations
    for name in KERNELS:
        getattr(operations, name).cache.clear()


@pytest.fixture
def launched(gpu, monkeypatch):
    """The shapes with which kernels run, by name, the last of each behind."""
    from triton.runtime.interpreter import InterpretedFunction

    shapes, run = {}, InterpretedFunction.run

    def note(kernel, *args, **options):
        sizes = {name: value for name, value in options.items() if name.startswith("BLOCK_") or name in ("ROWS", "CHANNELS")}
        staged = {name: options[name] for name in ("num_warps", "num_stages", "GROUP_SIZE_M") if name in options}
        shapes.setdefault(kernel.fn.__name__, []).append(sizes | staged)
        return run(kernel, *args, **{name: value for name, value in options.items() if name not in ("maxnreg", "ir_override")})

    monkeypatch.setattr(InterpretedFunction, "run", note)
    return shapes


def small_network():
    torch.manual_seed(0)
    first = nn.Conv2d(3, 16, (1, 3), padding=(0, 1), bias=False)
    last = nn.Conv2d(16, 16, (1, 3), 2, (0, 1))
    layers = [first, nn.BatchNorm2d(16), nn.Conv2d(16, 16, (1, 3), padding=(0, 1), groups=16), last]
    return i2p_zoo.inflate(nn.Sequential(*layers), inflation="copy")


def small_cloud():
    return random_cloud(3, voxels=12, extent=4, dtype=torch.float32)


def gradients(model, x):
    out = model(i2p_zoo.SparseTensor(x.features, x.coords, batch_size=x.batch_size)).features
    return [out, *torch.autograd.grad(out.square().sum(), list(model.parameters()))]


def favour(monkeypatch, launched, number):
    """Has a clock find the candidate of a number the fastest, of each layer; returns all that it timed, and the fastest."""
    timed, fastest = [], []

    def measure(call):
        before = {name: len(shapes) for name, shapes in launched.items()}
        call()
        (name,) = [name for name, shapes in launched.items() if len(shapes) > before.get(name, 0)]
        place = sum(other == name for other, _ in timed) % (6 if name in KERNELS else 4)
        timed.append((name, launched[name][-1]))
        if place == number:
            fastest.append(timed[-1])
        return 1.0 if place == number else 2.0

    monkeypatch.setattr(tuning, "measure", measure)
    return timed, fastest


@pytest.mark.parametrize("number", [0, 3])
def test_the_fastest_by_the_clock_is_kept_on_disk_and_runs_from_then_on(launched, monkeypatch, number):
    model, x = small_network(), small_cloud()
    _, fastest = favour(monkeypatch, launched, number)
    shapes = i2p_zoo.tune(model, x, progress=False)
    assert sorted(sorted(shape.items()) for shape in shapes.values()) == sorted(sorted(shape.items()) for _, shape in fastest)
    kernels = [layer.split()[0] for layer in shapes]
    assert [kernels.count(name) for name in (*KERNELS, "depthwise")] == [3, 2, 2], "two forwards and an input gradient"
    load_shapes.cache_clear()  # as a new process
    assert load_shapes(-1) == shapes
    launched.clear()
    gradients(model, x)
    for name in (*KERNELS, "_forward", "_correlate"):
        assert [shape for shape in launched[name] if (name, shape) not in fastest] == []


def test_each_candidate_is_timed_once_a_layer_shape_and_gives_the_same_result(launched, monkeypatch):
    model, x = small_network(), small_cloud()
    expected = gradients(copy.deepcopy(model).double(), small_cloud().derive(x.features.double()))
    timed, _ = favour(monkeypatch, launched, 0)
    shapes = i2p_zoo.tune(model, x, progress=False)
    assert len(timed) == sum(4 if "depthwise" in layer else 6 for layer in shapes)
    for number in range(6):
        chosen = tiles._pick
        monkeypatch.setattr(tiles, "load_shapes", lambda index: {"none": {}})

        def pick(layer, choices, tuned, by_rule, number=number):
            return list(choices)[number % len(choices)]

        monkeypatch.setattr(tiles, "_pick", pick)
        for name in KERNELS:
            getattr(load_operations(), name).cache.clear()
        for value, truth in zip(gradients(model, x), expected, strict=True):
            assert relative_error(value, truth) < 1e-5
        monkeypatch.setattr(tiles, "_pick", chosen)


def test_the_network_and_what_ran_before_stay_as_they_are(launched, monkeypatch):
    model, x = small_network().train(), small_cloud()
    model[1].eval()
    gradients(model, x)
    before = copy.deepcopy(model.state_dict())
    usual = {name: shapes[0] for name, shapes in launched.items()}
    favour(monkeypatch, launched, 0)
    i2p_zoo.tune(model, x, progress=False)
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    launched.clear()
    gradients(model, x)  # the rule's shape was the fastest
    assert {name: shapes[0] for name, shapes in launched.items()} == usual


@pytest.mark.parametrize(("name", "dense"), [("resnet18", 2 + 3 + 3 * 9), ("tf_efficientnet_lite0", 2)])
def test_each_layer_shape_of_a_network_is_tuned_in_the_precision_at_hand(name, dense, monkeypatch):
    monkeypatch.setattr(tuning, "measure", lambda call: 1.0)
    model = i2p_zoo.create_model(name, num_classes=4, stem="point", skip_downsamples=2)
    with count_launches(monkeypatch), torch.autocast("cpu", torch.bfloat16):  # which runs no kernel
        shapes = i2p_zoo.tune(model, [torch.rand(100, 3)], progress=False)
    assert all("bfloat16" in layer for layer in shapes)
    assert sum(layer.split()[0] in KERNELS for layer in shapes) == dense
    assert all(module.training for module in model.modules())


def test_an_interrupted_trial_leaves_the_rule_and_no_file(launched, monkeypatch):
    model, x = small_network(), small_cloud()

    def interrupt(call):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        i2p_zoo.tune(model, x, progress=False)
    assert tiles.trial is None
    assert not cache_path().exists()
    launched.clear()
    gradients(model, x)
    assert len(launched["_gather_gemm_kernel"]) == 3, "nothing is tried"


def test_a_trial_holds_in_other_threads_where_torch_runs_backward_passes(monkeypatch):
    asked = []

    class Trial:
        def choose_block(self, layer, launch):
            asked.append(layer)
            return tiles.BLOCKS[1]

    monkeypatch.setattr(tiles, "trial", Trial())
    thread = threading.Thread(target=tiles.choose_block, args=("depthwise", torch.zeros(1, 8), 27, None))
    thread.start()
    thread.join()
    assert asked == ["depthwise taps=27 channels=8 torch.float32"]


def test_a_kept_shape_that_is_no_candidate_is_passed_over_with_a_warning(monkeypatch):
    monkeypatch.setattr(tiles, "load_shapes", lambda index: {"depthwise taps=3 channels=8 torch.float32": {"ROWS": 7}})
    with pytest.warns(UserWarning, match=r"\{'ROWS': 7\} is no tile shape for 'depthwise taps=3"):
        assert tiles.choose_block("depthwise", torch.zeros(1, 8), 3, None) == tiles.BLOCKS[0]


def list_candidates(name, axes, dtype):
    """What a trial has of a kernel, over layers of all widths, and a width of each."""
    kernel, candidates = getattr(load_operations(), name), {}

    class Trial:
        def list_configs(self, layer, kernel, configs):
            candidates.update({str(tiles.to_shape(config)): (config, width) for config in configs})
            return configs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "trial", Trial())
        for width in (16, 64, 512):
            arguments = {"feats_ptr": torch.zeros(1, dtype=dtype), **{f"{axis}_dim": width for axis in axes}}
            kernel.early_config_prune(kernel.configs, arguments)
    return candidates.values()


@pytest.mark.long
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("kind", ["bf16", "fp32"])
def test_every_candidate_compiles(kind, target):
    sizes = dict.fromkeys(("M", "s_fr", "s_fc", "s_wkv", "s_wr", "s_wn", "s_pk", "s_pm", "s_or", "s_oc"), "i32")
    pointers = dict.fromkeys(("pairs_ptr", "pmask_ptr", "argsort_ptr"), "*i32")
    values = dict.fromkeys(("feats_ptr", "weight_ptr", "out_ptr", "bias_ptr"), f"*{kind}")
    steps = dict.fromkeys(("splits", "s_fr", "s_fc", "s_gr", "s_gc", "s_dk", "s_dkv", "s_dc", "s_ds"), "i32")
    lists = dict.fromkeys(("sig_i_ptr", "sig_o_ptr", "seg_ptr"), "*i32")
    types = {
        KERNELS[0]: {**values, **pointers, **sizes},
        KERNELS[1]: {"feats_ptr": f"*{kind}", "gout_ptr": f"*{kind}", "dw_ptr": "*fp32", **lists, **steps},
    }
    constants = {"kv": 27, "FP16_ACC": False, "IEEE": kind == "fp32", "ALLOW_TF32": False}
    cases, dtype = [], {"bf16": torch.bfloat16, "fp32": torch.float32}[kind]
    for name, axes, more in ((KERNELS[0], "NR", {"HAS_BIAS": False, "USE_MASK": True}), (KERNELS[1], "KC", {})):
        for config, width in list_candidates(name, axes, dtype):
            values = {**constants, **more, **tiles.to_shape(config), **{f"{axis}_dim": width for axis in axes}}
            cases.append(("spconv_triton.pytorch._impl.gemm", name, types[name], values, target))
    assert len(cases) > 12
    arrays = {"features": f"*{kind}", "table": "*i32", "rows": "i32", "channels": "i32", "taps": "i32"}
    for rows, channels in tiles.BLOCKS:
        block, module = {"ROWS": rows, "CHANNELS": channels}, "i2p_zoo.sparse.kernels.depthwise_triton"
        cases.append((module, "_forward", {**arrays, "weight": f"*{kind}", "out": f"*{kind}"}, block, target))
        cases.append((module, "_correlate", {**arrays, "gradient": f"*{kind}", "partial": "*fp32"}, block, target))
    faults = compile_kernels(cases)
    assert not {str(case): fault for case, fault in zip(cases, faults, strict=True) if fault}


def test_a_network_with_no_layer_to_tune_is_an_error(gpu):
    with use_engine("torch"), pytest.raises(UnsupportedError, match="nothing to tune"):
        i2p_zoo.tune(small_network(), small_cloud(), progress=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_so():
    with pytest.raises(UnsupportedError, match="torch finds none here"):
        i2p_zoo.tune(small_network(), small_cloud())


def test_a_network_beside_the_gpu_and_a_missing_package_are_told(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(InvalidInputError, match=r"on 'cpu': move it there, `model\.cuda\(\)`"):
        i2p_zoo.tune(small_network(), small_cloud())
    with pytest.raises(InvalidInputError, match="has no parameters"):
        i2p_zoo.tune(nn.ReLU(), small_cloud())
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    monkeypatch.setitem(__import__("sys").modules, "spconv_triton", None)
    with pytest.raises(MissingExtraError, match=r"i2p-zoo\[triton\]"):
        i2p_zoo.tune(small_network(), small_cloud())
