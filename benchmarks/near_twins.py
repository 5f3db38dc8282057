"""How much accuracy rests on near twins among the training clouds: `python -m benchmarks.near_twins --help`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import i2p_zoo
from i2p_zoo.data import CloudSet, load_data
from i2p_zoo.experiments.nearest_neighbour import chamfer_distances
from i2p_zoo.finetune.evaluation import predict_classes

POINTS = 512
TWIN, NO_TWIN = 1.1, 1.25


@dataclass(frozen=True)
class Nearness:
    """How near the training clouds are to each test cloud.

    Attributes:
        classes: (M,) of the nearest training cloud.
        ratios: (M,) the Chamfer distance to it, of that between two halves of the test cloud: near 1 it cannot be told from
            another sample of the same shape.
    """

    classes: NDArray[np.int64]
    ratios: NDArray[np.float64]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("models", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", default="kicad-mini", help="As `i2p-zoo finetune --data`.")
def main(models: tuple[Path, ...], data: str) -> None:
    """Tell the accuracy of finetuned MODELS by how near the training clouds are to the test clouds.

    A test cloud has a near twin where the nearest training cloud is less than 1.1 times as far as another sample of the
    test cloud itself, by the Chamfer distance of 512 points, and none where it is 1.25 times as far or more.

    Example: python -m benchmarks.near_twins all/model solved/model --data npz:kicad-dev.npz
    """
    i2p_zoo.keep_freed_memory()
    train_set, test_set = load_data(data)
    nearness = measure_nearness(train_set, test_set)
    predicted = {"nearest training cloud": nearness.classes}
    for path in models:
        predicted[str(path)] = predict_classes(i2p_zoo.from_pretrained(path), test_set)
    click.echo(format_accuracies(nearness.ratios, predicted, test_set.hard_labels()))


def measure_nearness(train_set: CloudSet, test_set: CloudSet, points: int = POINTS) -> Nearness:
    """Compares each of M test clouds with every training cloud, by the Chamfer distance of `points` of each one's points."""
    candidates = torch.stack([_sample(cloud, points, 0) for cloud in train_set.points])
    labels, classes, ratios = train_set.hard_labels(), [], []
    for cloud in tqdm(test_set.points, desc="Chamfer distances", unit="cloud"):
        query, other = _sample(cloud, points, 0), _sample(cloud, points, 1)
        distances = chamfer_distances(query, candidates)
        classes.append(labels[int(distances.argmin())])
        ratios.append(float(distances.min() / chamfer_distances(query, other[None])))
    return Nearness(np.asarray(classes), np.asarray(ratios))


def format_accuracies(
    ratios: NDArray[np.float64], predicted: Mapping[str, NDArray[np.int64]], labels: NDArray[np.int64]
) -> str:
    """Returns a Markdown table of accuracies in %, a row each prediction, a column each range of ratios.

    Args:
        ratios: (M,), as `Nearness` has them.
        predicted: (M,) classes of the test clouds, by the name of what predicted them.
        labels: (M,) their true classes.
    """
    groups = {
        "all": ratios >= 0,
        f"twin below {TWIN}": ratios < TWIN,
        "between": (ratios >= TWIN) & (ratios < NO_TWIN),
        f"none below {NO_TWIN}": ratios >= NO_TWIN,
    }
    titles = ["", *(f"{name} ({rows.sum()})" for name, rows in groups.items())]
    rows = [
        [name, *(f"{100 * np.mean(classes[rows] == labels[rows]):.1f}" if rows.any() else "" for rows in groups.values())]
        for name, classes in predicted.items()
    ]
    return "\n".join(_row(cells) for cells in (titles, ["---", *["--:"] * len(groups)], *rows))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _sample(cloud: NDArray[np.float32], points: int, half: int) -> Tensor:
    """(points, 3) of the even or the odd rows of a cloud; of one with fewer some come several times."""
    rows = np.asarray(cloud, np.float32)[half::2]
    return torch.from_numpy(rows[np.linspace(0, len(rows) - 1, points).round().astype(int)])


if __name__ == "__main__":
    main()
