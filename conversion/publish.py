"""From recipe to repository: convert, certify, draw, write the card, push. What is done already is not done again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from conversion.recipes import Recipe
from i2p_zoo.card import is_edited, write_card
from i2p_zoo.certificate import TOLERANCES
from i2p_zoo.checkpoint import CARD, load_folder
from i2p_zoo.checkpoint_config import CONFIG, read_config
from i2p_zoo.errors import CertificateError, CheckpointError, I2PError, InvalidInputError
from i2p_zoo.hub import convert
from i2p_zoo.layers import SparseConv3d
from i2p_zoo.pictures import draw_kernels
from i2p_zoo.publishing import PICTURE, push_folder
from i2p_zoo.staging import staged_folder


@dataclass(frozen=True)
class Outcome:
    """What became of a recipe.

    Attributes:
        name: of the network.
        state: "published", "unchanged" (the repository has these files), "would publish" (dry run) or "failed".
        detail: the plan of the push, or the error.
    """

    name: str
    state: str
    detail: str


def publish(
    recipes: Sequence[Recipe], work: Path, organisation: str, *, push: bool = False, processes: int = 1
) -> Iterator[Outcome]:
    """Publishes networks one after the other or side by side; one that fails does not stop the others.

    Args:
        recipes: which.
        work: a folder of checkpoints, one a network; what is whole there from an earlier run is not converted again.
        organisation: of the repositories `organisation/name`.
        push: change the Hub; otherwise only tell what would change.
        processes: how many networks at once.

    Yields:
        An outcome each, as they come.
    """
    work.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        for recipe in recipes:
            yield publish_recipe(recipe, work, organisation, push)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_share_cores, initargs=(processes,)) as pool:
        futures = {pool.submit(publish_recipe, recipe, work, organisation, push): recipe for recipe in recipes}
        for future in as_completed(futures):
            error = future.exception()
            yield future.result() if error is None else Outcome(futures[future].name, "failed", f"the process died: {error}")


def _share_cores(processes: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def publish_recipe(recipe: Recipe, work: Path, organisation: str, push: bool) -> Outcome:
    """Publishes one network; an error of this package or of the file system is the outcome."""
    folder = work / recipe.name
    try:
        with FileLock(work / f".{recipe.name}.lock"):
            prepare(recipe, folder)
            plan = push_folder(folder, f"{organisation}/{recipe.name}", dry_run=not push)
    except (I2PError, OSError) as error:
        return Outcome(recipe.name, "failed", " ".join(str(error).split()))
    state = "unchanged" if not plan.changes else "published" if push else "would publish"
    return Outcome(recipe.name, state, plan.summary())


def prepare(recipe: Recipe, folder: Path) -> None:
    """Makes the checkpoint folder of a recipe, with picture and card, unless it is there.

    Raises:
        InvalidInputError: the weights have another licence than the recipe says.
        CertificateError: the network is not certified.
        I2PError, OSError: as `i2p_zoo.convert`.
    """
    model = _load_prepared(recipe, folder)
    if model is None:
        model = convert(f"{recipe.architecture}.{recipe.tag}", folder, inflation=recipe.inflation)
    check_certificate(recipe.name, model.source.get("certificate"))
    found = model.source.get("license") or "unknown"
    if found != recipe.license:
        raise InvalidInputError(
            f"{recipe.name}: the weights have the licence {found!r}, the recipe says {recipe.license!r}. Correct the recipe."
        )
    with staged_folder(folder, lambda path: False) as stage:
        if not (folder / PICTURE).is_file():
            _draw_filter(model, stage / PICTURE)
        card = folder / CARD
        if not card.is_file() or not is_edited(card.read_text(encoding="utf-8")):
            parameters = sum(parameter.numel() for parameter in model.parameters())
            text = write_card(read_config(folder / CONFIG), parameters, picture=PICTURE)
            (stage / CARD).write_text(text, encoding="utf-8")


def check_certificate(name: str, certificate: dict[str, Any] | None) -> None:
    """Raises CertificateError unless both precisions were measured and hold."""
    errors = (certificate or {}).get("errors", {})
    held = {dtype: isinstance(errors.get(dtype), float) and errors[dtype] <= bound for dtype, bound in TOLERANCES.items()}
    if not all(held.values()):
        raise CertificateError(f"{name}: not certified ({errors or 'nothing measured'}; bounds {TOLERANCES}): not published.")


def _load_prepared(recipe: Recipe, folder: Path) -> Any:
    """The network of an earlier run, if its folder is whole and of this recipe."""
    try:
        model = load_folder(folder)
    except CheckpointError:
        return None
    made = model.architecture, model.pretrained_cfg.get("tag"), model.settings.inflation
    return model if made == (recipe.architecture, recipe.tag, recipe.inflation) else None


def _draw_filter(model: Any, path: Path) -> None:
    """Draws the strongest filter of the first convolution that is wider than a voxel."""
    wide = (m for m in model.modules() if isinstance(m, SparseConv3d) and max(m.kernel_size) > 1)
    layer = next(wide, None)
    if layer is None:
        return
    weight = layer.weight.detach().float().flatten(0, -5)  # (filters, kz, ky, kx, inputs)
    strongest = weight[weight.flatten(1).norm(dim=1).argmax()]
    draw_kernels(path, {model.settings.inflation: strongest.mean(-1)})
