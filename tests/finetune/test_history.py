"""The history of a run: an entry for each step, and back from JSON."""

from __future__ import annotations

import json
import math

from i2p_zoo.finetune import Evaluation, History, Step, train
from tests.finetune.conftest import shapes, tiny


def test_history_has_a_finite_entry_for_each_step():
    history = train(tiny(), shapes(), steps=7, batch_size=4)
    assert [step.step for step in history.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert all(math.isfinite(step.loss) and step.loss > 0 for step in history.steps)
    assert all(step.batch_top1 * 4 in (0, 1, 2, 3, 4) for step in history.steps)
    seconds = [step.seconds for step in history.steps]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    assert 0 < history.waited < seconds[-1]
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))) == history


def test_history_is_printed_in_one_line():
    assert repr(History()) == "History(0 steps in 0 s)"
    steps = [Step(number + 1, 2.0, 0.5, 0.1, 30.0) for number in range(300)]
    evaluations = [Evaluation(step, {"top1": step / 1000}, 1.0) for step in (100, 200)]
    assert repr(History(steps, evaluations)) == "History(300 steps in 30 s, loss 2; best at step 200: top1 0.2)"
