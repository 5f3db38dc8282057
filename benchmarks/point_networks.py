"""Point networks of the field on the clouds of an experiment: `python -m benchmarks.point_networks --help`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.point_neighbours import search_neighbours_by_numba
from i2p_zoo.data import CloudSet, hold_out, load_data
from i2p_zoo.data.batches import TrainingBatches

NETWORKS = {
    "pointnet": "pointnet.modelnet40",
    "pointnet++": "pointnet2-ssg.modelnet40.xu-yan",
    "dgcnn": "dgcnn.modelnet40-1024.an-tao",
}
"""torch-pointcloud's names of the architectures that its papers train on ModelNet40."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("network", type=click.Choice(list(NETWORKS)))
@click.option("--data", default="kicad-mini", help="As `i2p-zoo finetune --data`.")
@click.option("--points", type=click.IntRange(min=1), default=1024, help="Drawn of each cloud, in each step anew.")
@click.option("--steps", type=click.IntRange(min=1), default=300)
@click.option("--batch-size", type=click.IntRange(min=2), default=32)
@click.option(
    "--lr", type=click.FloatRange(min=0, min_open=True), default=1e-3, help="Peak of AdamW's rate, which falls as a cosine."
)
@click.option(
    "--hold-out", "held_out", type=float, help="Measure on this fraction of the training clouds, not on the test split."
)
@click.option("--seed", type=int, default=0)
@click.option("--out", type=click.Path(path_type=Path), help="JSON lines, to which the run is added.")
def main(network: str, data: str, held_out: float | None, seed: int, out: Path | None, **options: Any) -> None:
    """Train NETWORK from random weights, augmented as ours are, and measure it once at the end.

    It takes `pip install torch-pointcloud`. Where pyg-lib is missing, of which PyPI has no wheel, neighbours are searched by
    compiled loops of ours.

    Example: python -m benchmarks.point_networks pointnet++ --data npz:kicad-dev.npz --steps 300
    """
    train_set, test_set = load_data(data)
    if held_out is not None:
        train_set, test_set = hold_out(train_set, held_out, seed)
    torch.manual_seed(seed)
    model = create_network(network, len(train_set.classes))
    start = time.perf_counter()
    train(model, train_set, seed=seed, **options)
    seconds = time.perf_counter() - start
    top1, mean_class = evaluate(model, test_set, options["points"], options["batch_size"])
    result = {"network": network, "data": data, "held_out": held_out, "seed": seed, **options, "top1": top1}
    result |= {"mean_class": mean_class, "seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())}
    line = json.dumps(result)
    click.echo(line)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def create_network(name: str, classes: int) -> Any:
    """Creates a network of torch-pointcloud with random weights that reads coordinates."""
    try:
        import torch_pointcloud
    except ImportError as error:
        raise click.ClickException(f"This benchmark needs `pip install torch-pointcloud` ({error}).") from error
    search_neighbours_by_numba()
    return torch_pointcloud.create_model(NETWORKS[name], task="classification", num_classes=classes, in_channels=3)


def train(model: Any, clouds: CloudSet, *, points: int, steps: int, batch_size: int, lr: float, seed: int) -> None:
    """Trains all parameters by AdamW with cross-entropy, weight decay 1e-4, on augmented clouds."""
    batches = TrainingBatches(clouds, batch_size, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = np.random.default_rng([seed, 2])
    model.train()
    for step in tqdm(range(steps), desc="training", unit="step"):
        samples = batches[step]
        positions = _stack([cloud["points"] for cloud, _ in samples], points, random)
        loss = F.cross_entropy(_classify(model, positions), torch.as_tensor(np.stack([label for _, label in samples])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def evaluate(model: Any, clouds: CloudSet, points: int, batch_size: int) -> tuple[float, float]:
    """Returns the accuracy over clouds and the mean of the classes' own, with points drawn by a fixed seed."""
    model.eval()
    random = np.random.default_rng(0)
    predictions = []
    for start in range(0, len(clouds), batch_size):
        rows = range(start, min(start + batch_size, len(clouds)))
        predictions.append(_classify(model, _stack([clouds.points[row] for row in rows], points, random)).argmax(1).numpy())
    labels = clouds.hard_labels()
    right = np.concatenate(predictions) == labels
    return float(right.mean()), float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def _stack(clouds: list[Any], points: int, random: np.random.Generator) -> Tensor:
    """(B, points, 3) of clouds; of one with fewer points some are drawn twice."""
    rows = [random.choice(len(cloud), points, replace=len(cloud) < points) for cloud in clouds]
    return torch.from_numpy(np.stack([cloud[row] for cloud, row in zip(clouds, rows, strict=True)]).astype(np.float32))


def _classify(model: Any, positions: Tensor) -> Tensor:
    flat = positions.flatten(0, 1)
    sample = torch.arange(len(positions)).repeat_interleave(positions.shape[1])
    logits: Tensor = model(flat, flat, sample)
    return logits


if __name__ == "__main__":
    main()
