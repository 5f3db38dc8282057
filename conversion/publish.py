"""From recipe to repository: convert, certify, draw, write the card, push. What is done already is not done again."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from conversion.recipes import Recipe
from conversion.side_by_side import call_side_by_side
from i2p_zoo.checkpoints.card import write_card
from i2p_zoo.checkpoints.config import CONFIG, read_config
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.publishing import PICTURE, push_folder
from i2p_zoo.checkpoints.saving import CARD, is_edited_card, sha256_of_tensors
from i2p_zoo.downloading import first_line
from i2p_zoo.errors import CertificateError, CheckpointError, I2PError, InvalidInputError
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.pictures import draw_kernels
from i2p_zoo.staging import staged_folder
from i2p_zoo.zoo.certificate import TOLERANCES
from i2p_zoo.zoo.conversion import convert
from i2p_zoo.zoo.pretrained import build_network


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
        push: change the Hub; otherwise only say what would change.
        processes: how many networks at once.

    Yields:
        An outcome each, as they come.
    """
    work.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        yield from (publish_recipe(recipe, work, organisation, push) for recipe in recipes)
        return
    function = functools.partial(_publish_on_share, work=work, organisation=organisation, push=push)
    for recipe, outcome in call_side_by_side(function, recipes, processes):
        yield outcome or Outcome(recipe.name, "failed", "its process was killed twice, as where memory runs out.")


def _publish_on_share(recipe: Recipe, processes: int, *, work: Path, organisation: str, push: bool) -> Outcome:
    _share_cores(processes)
    return publish_recipe(recipe, work, organisation, push)


def _share_cores(processes: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def publish_recipe(recipe: Recipe, work: Path, organisation: str, push: bool) -> Outcome:
    """Publishes one network; an error is the outcome."""
    folder = work / recipe.name
    try:
        with FileLock(work / f".{recipe.name}.lock"):
            prepare(recipe, folder)
            plan = push_folder(folder, f"{organisation}/{recipe.name}", dry_run=not push)
    except (I2PError, OSError) as error:
        return Outcome(recipe.name, "failed", " ".join(str(error).split()))
    except Exception as error:  # of timm's or torch's code, about this network alone
        return Outcome(recipe.name, "failed", f"{type(error).__name__}: {first_line(error)}")
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
    check_certificate(recipe.name, model.source.get("certificate"), sha256_of_tensors(model))
    if (license_ := model.source.get("license") or "unknown") != recipe.license:
        raise InvalidInputError(
            f"{recipe.name}: the weights have the licence {license_!r}, the recipe says {recipe.license!r}. Correct the recipe."
        )
    drawn = False
    with staged_folder(folder, lambda path: path.name == PICTURE and not drawn, is_edited_card) as stage:
        drawn = _draw_filter(model, stage / PICTURE)  # each time: one that is there may show an earlier network
        parameters = sum(parameter.numel() for parameter in model.parameters())
        text = write_card(read_config(folder / CONFIG), parameters, picture=PICTURE if drawn else None)
        (stage / CARD).write_text(text, encoding="utf-8", newline="\n")


def check_certificate(name: str, certificate: dict[str, Any] | None, tensors: str) -> None:
    """Raises CertificateError unless both precisions were measured and hold, for a network of tensors with this sha256."""
    certificate = certificate or {}
    errors = certificate.get("errors", {})
    if not all(isinstance(errors.get(dtype), float) and errors[dtype] <= bound for dtype, bound in TOLERANCES.items()):
        raise CertificateError(f"{name}: not certified ({errors or 'nothing measured'}; bounds {TOLERANCES}): not published.")
    if (certified := certificate.get("tensors")) != tensors:
        raise CertificateError(
            f"{name}: its tensors have sha256 {tensors!r}, but {certified!r} was certified: not published. Remove its folder "
            "to have it converted again."
        )


def _load_prepared(recipe: Recipe, folder: Path) -> Any:
    """The network of an earlier run, if its folder is whole and of this recipe."""
    try:
        model = load_folder(folder, build_network)
    except CheckpointError:
        return None
    made = model.architecture, model.pretrained_cfg.get("tag"), model.settings.inflation
    return model if made == (recipe.architecture, recipe.tag, recipe.inflation) else None


def _draw_filter(model: Any, path: Path) -> bool:
    """Draws the strongest filter of the first convolution that is wider than a voxel; returns whether there is one."""
    wide = [m for m in model.modules() if isinstance(m, SparseConv3d) and max(m.kernel_size) > 1]
    if not wide:
        return False
    weight = wide[0].weight.detach().float().flatten(0, -5)  # (filters, kz, ky, kx, inputs)
    strongest = weight[weight.flatten(1).norm(dim=1).argmax()]
    draw_kernels(path, {model.settings.inflation: strongest.mean(-1)})
    return True
