"""ShapeNet-55: the clouds of all 55 classes of ShapeNetCore, as Point-BERT divides them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.files.paths import require_file, require_folder
from i2p_zoo.data.objects import check_counts, read_objects
from i2p_zoo.data.unit_sphere import UNIT_SPHERE
from i2p_zoo.errors import InvalidInputError

# WordNet's number of each class, and its name; the labels follow the numbers.
_NAMES = (
    "02691156 airplane, 02747177 trash bin, 02773838 bag, 02801938 basket, 02808440 bathtub, 02818832 bed, 02828884 bench, "
    "02843684 birdhouse, 02871439 bookshelf, 02876657 bottle, 02880940 bowl, 02924116 bus, 02933112 cabinet, "
    "02942699 camera, 02946921 can, 02954340 cap, 02958343 car, 02992529 cellphone, 03001627 chair, 03046257 clock, "
    "03085013 keyboard, 03207941 dishwasher, 03211117 display, 03261776 earphone, 03325088 faucet, 03337140 file cabinet, "
    "03467517 guitar, 03513137 helmet, 03593526 jar, 03624134 knife, 03636649 lamp, 03642806 laptop, 03691459 loudspeaker, "
    "03710193 mailbox, 03759954 microphone, 03761084 microwave, 03790512 motorcycle, 03797390 mug, 03928116 piano, "
    "03938244 pillow, 03948459 pistol, 03991062 pot, 04004475 printer, 04074963 remote control, 04090263 rifle, "
    "04099429 rocket, 04225987 skateboard, 04256520 sofa, 04330267 stove, 04379243 table, 04401088 telephone, "
    "04460130 tower, 04468005 train, 04530566 vessel, 04554684 washer"
)
SYNSETS = dict(entry.split(maxsplit=1) for entry in _NAMES.split(", "))
COUNTS = (41952, 10518)
ADVICE = (
    "ShapeNet-55 is available from the page on data sets of Point-BERT's repository; give the folder ShapeNet55-34, which "
    "holds shapenet_pc and ShapeNet-55."
)


def load_shapenet55(folder: str | os.PathLike[str], points: int = 2048, check: bool = True) -> tuple[CloudSet, CloudSet]:
    """Reads the clouds that `ShapeNet-55/train.txt` and `test.txt` list, from `shapenet_pc`.

    The files have 8,192 points each; those kept are drawn at random by a seed that is a hash of the file's name.

    Args:
        folder: Point-BERT's `ShapeNet55-34`.
        points: how many to keep of each cloud.
        check: whether the number of clouds must be that of the release.

    Returns:
        The train and the test split, each cloud centred on its mean and scaled to the unit sphere.

    Raises:
        NotFoundError: no such folder, or a list or a cloud that it names is missing.
        InvalidInputError: a line or a cloud that cannot be read, or another number of clouds.
    """
    folder = require_folder(folder, ADVICE)
    names = [_read_list(folder / "ShapeNet-55" / f"{split}.txt") for split in ("train", "test")]
    train, test = map(len, names)
    if check:
        check_counts(folder, (train, test), COUNTS)
    synsets = list(SYNSETS)
    labels = [synsets.index(name.partition("-")[0]) for split in names for name in split]
    paths = [folder / "shapenet_pc" / name for split in names for name in split]
    objects = read_objects(paths, points, "reading ShapeNet-55")
    whole = CloudSet(labels=np.array(labels, np.int64), classes=tuple(SYNSETS.values()), normalization=UNIT_SPHERE, **objects)
    return whole.subset(range(train)), whole.subset(range(train, train + test))


def _read_list(path: Path) -> list[str]:
    require_file(path, ADVICE)
    names = path.read_text(encoding="utf-8", errors="replace").split()
    for number, name in enumerate(names, 1):
        if name.partition("-")[0] not in SYNSETS or not name.endswith(".npy") or Path(name).name != name:
            raise InvalidInputError(
                f"{path}: name {number} is {name!r}; expected one such as 02691156-1a04e3eab45ca15dd86060f189eb133.npy, which "
                "begins with one of ShapeNet's 55 synsets."
            )
    return names
