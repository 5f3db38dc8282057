"""A run's network beside what it began as."""

from __future__ import annotations

import pytest
import torch

from i2p_zoo import InvalidInputError
from i2p_zoo.experiments import RunOptions, Setup, run
from i2p_zoo.experiments.run_similarity import compare_run
from i2p_zoo.finetune import Options


def test_what_a_run_did_not_train_has_not_moved(splits, tmp_path):
    setup = Setup("i2p-test_resnet", mode="io+bn", scratch=True, voxel_size=0.2)
    run(setup, *splits, Options(steps=3, batch_size=6, learning_rate=0.1), tmp_path)
    measured = compare_run(tmp_path, splits[1])
    assert {stage for stage, moved in measured.moved.items() if moved} <= {"stem", "layer1", "head"}
    assert measured.moved["stem"] > 0
    assert measured.moved["head"] > 0
    assert measured.moved["layer4"] == 0


def test_the_2d_network_of_a_run_from_scratch_is_the_same_each_time(splits, tmp_path):
    setup = Setup("i2p-test_resnet", mode="io", scratch=True, voxel_size=0.2)
    run(setup, *splits, Options(steps=1, batch_size=6), tmp_path)
    state = torch.random.get_rng_state()
    measured = [compare_run(tmp_path, splits[1]) for _ in range(2)]
    assert measured[0] == measured[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_low_rank_changes_move_what_others_keep(splits, tmp_path):
    setup = Setup("i2p-test_resnet", mode="lora", scratch=True, voxel_size=0.2)
    run(setup, *splits, Options(steps=2, batch_size=6, learning_rate=0.1), tmp_path)
    moved = compare_run(tmp_path, splits[1]).moved
    assert min(moved[stage] for stage in ("layer2", "layer3", "layer4", "head")) > 0, "layer1 begins without its branch"


def test_folders_that_hold_no_network_are_told(network, splits, tmp_path):
    with pytest.raises(InvalidInputError, match="no finished run"):
        compare_run(tmp_path, splits[1])
    setup = Setup(str(network), voxel_size=0.2)
    run(setup, *splits, Options(steps=1, batch_size=6), tmp_path / "figures", RunOptions(save=None))
    with pytest.raises(InvalidInputError, match="saved None of voxels of"):
        compare_run(tmp_path / "figures", splits[1])
