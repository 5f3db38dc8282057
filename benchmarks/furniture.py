"""Furniture of Sweet Home 3D's libraries as coloured clouds with a class each: `python -m benchmarks.furniture --help`."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import trimesh
from numpy.typing import NDArray
from tqdm import tqdm

CLASSES = {
    "armchair": r"armchair$",
    "bed": r"\bbed$|^crib$",
    "bottle or vase": r"\b(bottle|vase|cup|mug|jar|glass)$",
    "cabinet": r"\b(cabinet|cupboard|wardrobe|bookcase|shelves|dresser with drawers|chest)$",
    "chair": r"\b(chair|stool)( with cushion)?$",
    "door or window": r"\b(door|window)\b(?! cabinet)",
    "lamp": r"\b(lamp|light|lights|lantern|lamppost|spotlight)$",
    "person": r"\b(female|male|girl|boy)$",
    "plant": r"\b(plant|cactus|orchids|tree|bamboo|yucca|lily|tulips|ficus|bush|hedge|acacia|pine|pine under snow|beech|cypress"
    r"|maple|poplar)$",
    "sofa": r"\b(sofa|couch|futon)\b",
    "switch or socket": r"\b(plug|socket|switch)$",
    "table": r"\b(table|desk)$|^table (with|on)\b",
    "vehicle": r"\b(car|truck|bus|van|suv|beetle|sedan \d\d|sedan \d\d sport|ford focus|seat leon|renault scenic|chevrolet)$",
}
"""A pattern of the English names, in lower case, of each class's models; other models are left out."""

_UPRIGHT = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # y points up in the files, z in clouds


@dataclass(frozen=True)
class Model:
    """A model of a library.

    Attributes:
        path: of its .obj file in the library.
        label: row of its class.
        rotation: (3, 3), which stands it upright, y up.
    """

    path: str
    label: int
    rotation: NDArray[np.float64]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("libraries", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--points", type=click.IntRange(min=1), default=2048, help="Of each cloud, drawn evenly over the surface.")
@click.option("--seed", type=int, default=0, help="Of the points, and of the half of each class that is for training.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default="furniture.npz", help="The file to write.")
def main(libraries: tuple[Path, ...], points: int, seed: int, out: Path) -> None:
    """Write the models of Sweet Home 3D's LIBRARIES (.sh3f) as an .npz file that `--data npz:FILE` reads.

    Debian's package sweethome3d-furniture has five. Colours are those of materials, without their textures.

    Example: python -m benchmarks.furniture /usr/share/sweethome3d/furniture/*.sh3f --out furniture.npz
    """
    random = np.random.default_rng(seed)
    clouds, labels = [], []
    for library in sorted(libraries):
        with zipfile.ZipFile(library) as archive:
            for model in tqdm(list_models(archive), desc=library.stem, unit="model"):
                clouds.append(sample(archive, model, points, random))
                labels.append(model.label)
    if not labels:
        raise click.ClickException(
            f"{', '.join(map(str, libraries))}: no model has the name of a class ({', '.join(CLASSES)})."
        )
    split = divide(np.array(labels), random)
    drawn, normals, colors = (np.stack(arrays) for arrays in zip(*clouds, strict=True))
    label, classes = np.array(labels, np.int16), np.array(list(CLASSES))
    np.savez_compressed(out, points=drawn, normals=normals, colors=colors, label=label, split=split, classes=classes)
    click.echo(f"{out}: {(split == 0).sum()} training and {(split == 1).sum()} test clouds of {len(set(labels))} classes")


def list_models(archive: zipfile.ZipFile) -> list[Model]:
    """Lists the models of a library that have a class, in the order of its catalogue."""
    (catalogue,) = [name for name in archive.namelist() if name.endswith("Catalog.properties")]
    entries: dict[str, dict[str, str]] = {}
    lines = re.findall(r"^(\w+)#(\d+)\s*=\s*(.*?)\s*$", archive.read(catalogue).decode("latin-1"), re.MULTILINE)
    for key, number, value in lines:
        entries.setdefault(number, {})[key] = value
    models = []
    for entry in entries.values():
        if (label := find_label(entry["name"])) is not None:
            rotation = np.array(entry.get("modelRotation", "1 0 0 0 1 0 0 0 1").split(), float).reshape(3, 3)
            models.append(Model(entry["model"].lstrip("/"), label, rotation))
    return models


def find_label(name: str) -> int | None:
    """Returns the row of the class that a model's English name tells, or None."""
    return next((row for row, pattern in enumerate(CLASSES.values()) if re.search(pattern, name.lower())), None)


def sample(
    archive: zipfile.ZipFile, model: Model, points: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Draws points evenly over the surface of a model, z up, in the file's units.

    Returns:
        (points, 3) coordinates, unit normals, and the colours of the materials from 0 to 255.
    """
    folder = model.path.rpartition("/")[0]
    materials = {
        name: io.BytesIO(archive.read(name))
        for name in archive.namelist()
        if name.startswith(f"{folder}/") and name.endswith(".mtl")
    }
    resolver = trimesh.resolvers.ZipResolver(archive=materials, namespace=folder)
    loaded = trimesh.load(io.BytesIO(archive.read(model.path)), file_type="obj", resolver=resolver)
    parts = list(loaded.geometry.values()) if isinstance(loaded, trimesh.Scene) else [loaded]
    main_colors = [getattr(part.visual, "material", part.visual).main_color[:3] for part in parts]
    colors = np.repeat(main_colors, [len(part.faces) for part in parts], axis=0)
    triangles = np.concatenate([part.triangles for part in parts]) @ model.rotation.T @ _UPRIGHT.T
    mesh = trimesh.Trimesh(**trimesh.triangles.to_kwargs(triangles), process=False)
    drawn, faces = trimesh.sample.sample_surface(mesh, points, seed=int(random.integers(2**31)))
    return drawn.astype(np.float32), mesh.face_normals[faces].astype(np.float32), colors[faces].astype(np.uint8)


def divide(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.uint8]:
    """Returns (M,) 0 for a random half of each class, rounded up, and 1 for the others."""
    split = np.ones(len(labels), np.uint8)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        split[rows[: (len(rows) + 1) // 2]] = 0
    return split


if __name__ == "__main__":
    main()
