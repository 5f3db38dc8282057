"""The trainer: it learns, it is a loop written out, many processes agree with one, and nothing is picked slyly."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.data import CloudSet, TrainingBatches
from i2p_zoo.errors import DivergedError
from i2p_zoo.finetune import Classification, Options, evaluate, freeze, trainer, training_state
from i2p_zoo.finetune import train as train_for_real
from i2p_zoo.finetune.devices import make_accelerator
from i2p_zoo.finetune.evaluation import predict_logits
from i2p_zoo.modules import class_names
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.engines.selection import use_engine
from tests.finetune.conftest import (
    assert_same_bits,
    figures,
    no_clouds,
    resnet,
    shapes,
    state_of,
    tiny,
    train,
    train_in_ways,
    without_norms,
)

ROOT = Path(__file__).parents[2]


# --- The loop against one written out ---

RULES = {
    "sgd": ({}, lambda p: torch.optim.SGD(p, lr=1, momentum=0.9, nesterov=True, weight_decay=1e-4)),
    "adamw": ({"optimizer": "adamw", "weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, lr=1, weight_decay=0.1)),
}


@pytest.mark.parametrize(("options", "make"), RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("extra", [{}, {"label_smoothing": 0.2}, {"temperature": 3.0}], ids=str)
def test_steps_are_those_of_a_loop_written_out(options, make, extra):
    settings = Options(steps=5, batch_size=6, learning_rate=0.02, seed=3, **options, **extra)
    model, clouds = tiny(), shapes()
    twin = copy.deepcopy(model)
    history = train_for_real(model, clouds, options=settings)
    optimizer, losses = make(twin.parameters()), []
    twin.train()
    for step in range(5):
        points, labels = zip(*TrainingBatches(clouds, 6, 3)[step], strict=True)
        logits = twin(list(points)) / settings.temperature
        loss = F.cross_entropy(logits, torch.tensor(labels), label_smoothing=settings.label_smoothing) * settings.temperature**2
        optimizer.param_groups[0]["lr"] = settings.learning_rate_at(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [step.loss for step in history.steps] == pytest.approx(losses, rel=1e-6)
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("options", "make"), RULES.values(), ids=RULES.keys())
def test_the_body_learns_by_its_own_rate(options, make):
    settings = Options(steps=5, batch_size=6, learning_rate=0.02, seed=3, body_rate=0.25, **options)
    model, clouds = resnet(), shapes()
    twin = copy.deepcopy(model)
    train_for_real(model, clouds, options=settings)
    outer = [*twin.conv1[0].parameters(), *twin.fc.parameters()]
    body = [p for p in twin.parameters() if not any(p is other for other in outer)]
    optimizers = [make(outer), make(body)]
    twin.train()
    for step in range(5):
        points, labels = zip(*TrainingBatches(clouds, 6, 3)[step], strict=True)
        loss = F.cross_entropy(twin(list(points)), torch.tensor(labels))
        for optimizer, factor in zip(optimizers, (1, 0.25), strict=True):
            optimizer.param_groups[0]["lr"] = settings.learning_rate_at(step) * factor
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_no_step_leaves_the_network_as_it_is(tmp_path):
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    history = train_for_real(model, shapes(), steps=0, folder=tmp_path)
    assert history.steps == []
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("normalization", ["unit_sphere", ""])
def test_a_network_notes_how_the_clouds_lie_that_it_trained_on(normalization, tmp_path):
    model, clouds = tiny(), dataclasses.replace(shapes(), normalization=normalization)
    model.settings = model.settings.changed(normalization="centred")
    train(model, clouds, steps=1, folder=tmp_path)
    assert model.settings.normalization == normalization
    train(model, clouds, steps=1, folder=tmp_path, resume=True)  # the same network, though it notes it now
    assert model.settings.normalization == normalization


def test_accumulated_parts_give_the_gradients_of_the_whole_batch():
    models = [without_norms() for _ in range(2)]
    whole, parts = (train(model, shapes(), accumulate=n) for model, n in zip(models, (1, 3), strict=True))
    assert [s.loss for s in parts.steps] == pytest.approx([s.loss for s in whole.steps], rel=1e-5)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("workers", [1])
def test_workers_prepare_the_same_batches(workers):
    assert figures(train(tiny(), shapes(), workers=workers)) == figures(train(tiny(), shapes()))


def test_bf16_trains_near_float32():
    plain, half = (train(tiny(), shapes(), precision=precision) for precision in ("no", "bf16"))
    losses = [step.loss for step in plain.steps]
    assert [step.loss for step in half.steps] == pytest.approx(losses, rel=0.1)
    assert [step.loss for step in half.steps] != losses
    again = train(tiny(), shapes())
    assert figures(again) == figures(plain), "a later run has its own precision"


def test_soft_labels_of_one_class_train_as_the_hard_ones():
    clouds = shapes()
    soft = CloudSet(clouds.points, np.eye(3, dtype=np.float32)[clouds.labels], clouds.classes)
    hard_history, soft_history = train(tiny(), clouds), train(tiny(), soft)
    assert [s.loss for s in soft_history.steps] == pytest.approx([s.loss for s in hard_history.steps], rel=1e-5)
    assert [s.batch_top1 for s in soft_history.steps] == [s.batch_top1 for s in hard_history.steps]


def test_average_of_the_weights_is_what_is_kept():
    model, plain = tiny(), tiny()
    seen = [state_of(tiny())]
    train(model, shapes(), ema=0.5, steps=4)
    train(plain, shapes(), steps=4, report=lambda entry: seen.append(state_of(plain)))
    name = "0.weight"
    average = seen[1][name].double()  # the first update copies
    for state in seen[2:]:
        average = 0.5 * average + 0.5 * state[name].double()
    assert torch.allclose(model.get_parameter(name).double(), average, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(model.get_parameter(name), plain.get_parameter(name), rtol=1e-3)


@pytest.mark.parametrize("mode", ["io", "io+bn", "io+stats"])
def test_only_what_freeze_left_trains(mode):
    model = i2p_zoo.create_model("test_resnet", num_classes=3)
    freeze(model, mode)
    before = state_of(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    train(model, shapes(), steps=2)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    assert changed - statistics == trained
    assert (changed & statistics == set()) is (mode == "io")


# --- Monitored clouds ---


def test_monitored_clouds_are_measured_when_asked_and_at_the_end():
    model = tiny()
    history = train(model, shapes(), monitor=shapes(9), evaluate_every=3)
    assert [evaluation.step for evaluation in history.evaluations] == [3, 6, 8]
    assert history.evaluations[-1].scores["top1"] == evaluate(model, shapes(9)).top1
    assert figures(train(tiny(), shapes()))[0] == figures(history)[0], "measuring changes no step"


def test_best_weights_are_those_of_the_best_evaluation():
    states, model = {}, tiny()

    def keep(entry):
        states.setdefault(entry.step, state_of(model))

    history = train(model, shapes(), monitor=shapes(9), evaluate_every=1, keep="best", learning_rate=2.0, report=keep)
    best = max(history.evaluations, key=lambda e: (e.score, -e.step))
    assert history.best() == best
    assert best.step < 8, "or the last would do"
    assert_same_bits(model, states[best.step])


def test_training_stops_at_the_target():
    history = train(tiny(), shapes(), monitor=shapes(9), evaluate_every=2, target=0.3, steps=40)
    reached = history.reached(0.3)
    assert reached == history.evaluations[-1]
    assert len(history.steps) == reached.step < 40


def test_target_that_is_never_reached_runs_to_the_end_and_says_so():
    history = train(tiny(), shapes(), monitor=shapes(9), evaluate_every=4, target=1.0, steps=4, learning_rate=1e-6)
    assert history.reached(1.0) is None
    assert len(history.steps) == 4


@pytest.mark.parametrize("options", [{"keep": "best"}, {"target": 0.5}], ids=str)
def test_choice_needs_monitored_clouds(options):
    with pytest.raises(InvalidInputError, match="monitor"):
        train(tiny(), shapes(), **options)


# --- What goes wrong ---


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(tmp_path):
    model = without_norms()
    with pytest.raises(DivergedError, match=r"loss is (nan|inf) at step.*learning rate \(=1e\+30\)"):
        train(model, shapes(), learning_rate=1e30, steps=40, folder=tmp_path, save_every=1)
    assert training_state.count_steps(tmp_path) > 0
    assert not model.training


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(InvalidInputError, match="batch_size of 6 does not divide evenly among 1 process with accumulate=4"):
        train(tiny(), shapes(), accumulate=4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has fp16")
def test_fp16_is_refused_on_a_cpu_and_not_passed_over():
    with pytest.raises(InvalidInputError, match="needs a GPU; on a CPU there is 'bf16'"):
        train(tiny(), shapes(), precision="fp16")
    assert len(train(tiny(), shapes(), steps=1).steps) == 1


def test_model_is_the_one_that_was_given_afterwards():
    model = tiny()
    forward, kind = model.forward.__func__, type(model)
    train(model, shapes(), precision="bf16")
    assert type(model) is kind
    assert model.forward.__func__ is forward
    assert "_original_forward" not in model.__dict__
    copy.deepcopy(model)


def compile_in_place(model):
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("compile_network", [lambda model: torch.compile(model, backend="eager"), compile_in_place])
def test_compiled_networks_train_as_they_are(compile_network):
    """`torch.compile` leaves them alone: to the same bits, what is frozen stays, and what a run notes, the network notes."""
    torch._dynamo.reset()
    plain, model = resnet(), resnet()
    compiled = compile_network(model)
    histories = []
    for network in (plain, compiled):
        freeze(network, "io")
        histories.append(figures(train(network, shapes(), steps=3)))
    assert histories[0] == histories[1]
    assert_same_bits(model, plain.state_dict())
    assert class_names(model) == shapes().classes
    assert evaluate(compiled, shapes(9)).top1 == evaluate(plain, shapes(9)).top1


@pytest.mark.long  # Triton's interpreter
def test_steps_on_the_device_s_way_are_those_on_the_cpu_s():
    """Batches are voxelized, and their points classified, as on a GPU; both sum in orders of their own."""
    losses = []
    for path in (contextlib.nullcontext, force_device_path):
        with path(), use_engine("torch"):
            results = train_in_ways([(2, 0)])
            losses.append({name: [step[1] for step in steps] for name, ((steps, _), _) in results.items()})
    for name, expected in losses[0].items():
        assert losses[1][name] == pytest.approx(expected, rel=1e-9), name


# --- Several processes ---

TOGETHER = """
import os, sys
import torch
sys.path.insert(0, {root!r})
from tests.finetune.conftest import train_in_ways
if __name__ == "__main__":
    results = train_in_ways({ways})
    if int(os.environ["RANK"]) == 0:
        torch.save(results, sys.argv[1])
    torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("ways", [[(2, 0)], pytest.param([(1, 0), (2, 1)], marks=pytest.mark.long)], ids=str)
def test_two_processes_train_as_one_does(tmp_path, ways):
    """Every step's loss, to the last digits of float64: parts of batches, statistics and points are those of all processes."""
    (tmp_path / "run.py").write_text(TOGETHER.format(root=str(ROOT), ways=ways))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, tmp_path / "run.py", tmp_path / "together.pt"], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    together = torch.load(tmp_path / "together.pt")
    for name, ((steps, evaluations), state) in train_in_ways(ways).items():
        (other_steps, other_evaluations), other_state = together[name]
        assert [s[1] for s in other_steps] == pytest.approx([s[1] for s in steps], rel=1e-11), name
        assert [s[2] for s in other_steps] == pytest.approx([s[2] for s in steps]), name
        assert other_evaluations == evaluations, name
        for key, tensor in state.items():
            assert torch.allclose(other_state[key], tensor, rtol=1e-9, atol=1e-11), (name, key)


def test_helper_processes_say_and_save_nothing():
    class Helper:
        is_main_process, num_processes, process_index, device = False, 1, 0, torch.device("cpu")

        def prepare(self, *parts):
            return parts

    seen = []
    run = trainer._Run(tiny(), Classification(shapes()), Options(batch_size=6), Helper(), seen.append)
    run.note(trainer.Step(1, 1.0, 0.0, 0.1, 0.1))
    run.save(Path("/nowhere"))
    assert seen == []
    assert len(run.history.steps) == 1


def test_refused_run_leaves_the_model_as_it_was(tmp_path):
    train(tiny(), shapes(), folder=tmp_path)
    model = tiny()
    for arguments in ({}, {"resume": True, "precision": "bf16"}):
        with pytest.raises(InvalidInputError):
            train(model, shapes(), folder=tmp_path, **arguments)
    assert_same_bits(model, tiny().state_dict())
    assert torch.equal(predict_logits(model, shapes()), predict_logits(tiny(), shapes())), "not in bfloat16"


def test_accelerator_of_another_precision_is_refused():
    with pytest.raises(InvalidInputError, match=r"precision is 'bf16', the accelerator's mixed_precision 'no'"):
        train(tiny(), shapes(), precision="bf16", accelerator=make_accelerator("no", torch.device("cpu")))


def test_classes_to_judge_by_are_those_to_train():
    other = dataclasses.replace(shapes(9), classes=tuple(reversed(shapes().classes)))
    with pytest.raises(InvalidInputError, match=r"classes to train are rod x, rod z, ball; those to judge by are ball, rod z"):
        train(tiny(), shapes(), monitor=other)


def test_network_of_too_few_outputs_is_refused():
    model = i2p_zoo.create_model("test_resnet", num_classes=2, voxel_size=0.2)
    with pytest.raises(InvalidInputError, match="2 outputs for 3 classes"):
        train(model, shapes())


def test_run_that_diverges_in_its_last_step_is_told():
    model = without_norms()
    with pytest.raises(DivergedError, match="NaN or infinite"):
        train(model, shapes(), monitor=shapes(9), steps=1, learning_rate=1e38)


def losses_and_accuracies(history):
    return [(step.loss, step.batch_top1) for step in history]


def test_training_learns_an_easy_problem():
    model = tiny()
    clouds = shapes()
    untrained = evaluate(model, clouds)
    history = train_for_real(model, clouds, steps=60, batch_size=12).steps
    assert np.mean([step.loss for step in history[-5:]]) < 0.3 < 0.9 < history[0].loss
    assert untrained.top1 < 0.7
    assert evaluate(model, shapes(30)).top1 > 0.9


def test_a_timm_network_learns_too():
    model = resnet()
    history = train_for_real(model, shapes(), steps=25, batch_size=8, learning_rate=0.02).steps
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert np.mean([step.loss for step in history[-3:]]) < 0.7 * np.mean([step.loss for step in history[:3]])


def test_the_first_step_is_measured_before_any_update():
    model = tiny()
    points, labels = map(list, zip(*TrainingBatches(shapes(), 6, 2)[0], strict=True))
    labels = torch.tensor(labels)
    with torch.no_grad():
        logits = copy.deepcopy(model).train()(points)
    (first, *_) = train_for_real(model, shapes(), steps=2, batch_size=6, seed=2).steps
    assert first.loss == pytest.approx(float(-logits.log_softmax(1)[range(6), labels].mean()), rel=1e-5)
    assert first.batch_top1 == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    runs = []
    for seed, global_seed in ((0, 1), (0, 2), (5, 1)):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        model = tiny(dropout=0.5)
        history = train_for_real(model, shapes(), steps=6, batch_size=6, seed=seed).steps
        runs.append((losses_and_accuracies(history), model.state_dict()))
    (first, first_state), (again, again_state), (other, _) = runs
    assert first == again != other
    assert all(torch.equal(tensor, again_state[name]) for name, tensor in first_state.items())


def test_dropout_is_drawn_from_the_seed_and_drops():
    plain, dropped, again, other = (
        losses_and_accuracies(train_for_real(tiny(dropout), shapes(), steps=4, batch_size=6, seed=seed).steps)
        for dropout, seed in ((0.0, 0), (0.5, 0), (0.5, 0), (0.5, 1))
    )
    assert dropped == again
    assert plain != dropped != other


def test_training_leaves_the_callers_random_state_alone():
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    train_for_real(tiny(), shapes(), steps=2, batch_size=4)
    assert torch.equal(torch.rand(3), expected)


def test_training_nothing_is_refused():
    model = tiny()
    freeze(model, "none")
    with pytest.raises(InvalidInputError, match=r"trainable parameters \(0 tensors\)"):
        train_for_real(model, shapes(), steps=1)


def test_training_on_no_clouds_is_refused():
    with pytest.raises(InvalidInputError, match=r"clouds \(0\)"):
        train_for_real(tiny(), no_clouds(), steps=1)


def test_the_bar_is_on_stderr_and_only_when_asked_for(capsys):
    train_for_real(tiny(), shapes(), steps=2, batch_size=4)
    assert capsys.readouterr() == ("", "")
    train_for_real(tiny(), shapes(), steps=2, batch_size=4, progress="my run")
    out, err = capsys.readouterr()
    assert out == ""
    assert "my run" in err
    assert "2/2" in err


def test_a_batch_larger_than_the_set_trains():
    assert len(train_for_real(tiny(), shapes(5), steps=2, batch_size=16).steps) == 2


# --- What a network notes ---


def test_training_notes_the_classes_of_clouds_in_a_network_of_as_many():
    clouds = shapes()
    model = resnet()
    train(model, clouds, steps=1)
    assert class_names(model) == clouds.classes
    model.reset_classifier(5)
    train(model, clouds, steps=1)
    assert class_names(model) == (), "five outputs are not these three classes"
    model.fc = nn.Linear(model.num_features, 3)
    train(model, clouds, steps=1)
    assert class_names(model) == clouds.classes


def test_a_feature_that_clouds_lack_is_told_before_anything_is_written(tmp_path):
    model = resnet()
    model.settings = model.settings.changed(features="normals")
    with pytest.raises(InvalidInputError, match="The clouds have no normals"):
        train(model, shapes(), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidInputError, match="The clouds have no normals"):
        evaluate(model, shapes())
