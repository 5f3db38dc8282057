"""ScanObjectNN: real scans of 15 kinds of objects, from its official HDF5 files."""

from __future__ import annotations

import os

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.files.paths import require_folder
from i2p_zoo.data.objects import check_counts, read_hdf5
from i2p_zoo.data.unit_sphere import UNIT_SPHERE
from i2p_zoo.errors import InvalidInputError, NotFoundError

CLASSES = tuple("bag bin box cabinet chair desk display door shelf table bed pillow sink sofa toilet".split())
# Folder, ending of the file's name, clouds to train on and to test on.
VARIANTS = {
    "hardest": ("main_split", "_augmentedrot_scale75", (11416, 2882)),
    "objects": ("main_split_nobg", "", (2309, 581)),
    "objects_and_background": ("main_split", "", (2309, 581)),
}
ADVICE = (
    "ScanObjectNN's h5_files are available from its project page at HKUST, which asks for a form; give the folder h5_files, or "
    "the one that holds it."
)


def load_scanobjectnn(
    folder: str | os.PathLike[str], variant: str = "hardest", check: bool = True
) -> tuple[CloudSet, CloudSet]:
    """Reads the official main split of one variant.

    The training clouds of `hardest` include several perturbed ones of each scan, and the files do not say which belong
    together: a part that is held out of them has relatives of training clouds.

    Args:
        folder: `h5_files`, or the folder that holds it.
        variant: `hardest` is PB_T50_RS, cut out of the scans by moved, turned and scaled boxes; `objects` are the objects
            alone (OBJ_ONLY); `objects_and_background` are the scans within the objects' boxes (OBJ_BG).
        check: whether the number of clouds must be that of the release.

    Returns:
        The train and the test split, (M, 2048, 3), each cloud centred on its mean and scaled to the unit sphere.

    Raises:
        NotFoundError: no such folder, or none of the variant's files in it.
        InvalidInputError: an unknown variant, a file that is damaged or does not fit, or another number of clouds.
        MissingExtraError: h5py is not installed.
    """
    if variant not in VARIANTS:
        raise InvalidInputError(f"Unknown variant {variant!r} of ScanObjectNN; expected one of {', '.join(VARIANTS)}.")
    inner, ending, official = VARIANTS[variant]
    folder = require_folder(folder, ADVICE)
    places = [folder / inner, folder / "h5_files" / inner]
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        raise NotFoundError(f"{folder}: neither {inner} nor h5_files/{inner} in it. {ADVICE}")
    train, test = (read_hdf5([place / f"{split}_objectdataset{ending}.h5"], len(CLASSES)) for split in ("training", "test"))
    if check:
        check_counts(place, (len(train["labels"]), len(test["labels"])), official)
    whole = [CloudSet(part["points"], part["labels"], CLASSES, normalization=UNIT_SPHERE) for part in (train, test)]
    return whole[0], whole[1]
