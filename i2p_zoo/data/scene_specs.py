"""Data sets of scenes by a short text, as the command line takes them: `s3dis:DIR`, `scenes:FILE.npz` and so on."""

from __future__ import annotations

from collections.abc import Callable

from i2p_zoo.data.scenes import SceneSet
from i2p_zoo.data.sets.s3dis import load_s3dis
from i2p_zoo.data.sets.scannet import load_scannet
from i2p_zoo.data.sets.scene_npz import load_scene_npz
from i2p_zoo.data.sets.semantickitti import load_semantickitti
from i2p_zoo.data.specs import load_splits

_LOADERS: dict[str, Callable[..., tuple[SceneSet, SceneSet]]] = {
    "s3dis": load_s3dis,
    "semantickitti": load_semantickitti,
    "scannet": load_scannet,
    "scenes": load_scene_npz,
    "parts": load_scene_npz,
}
_EXAMPLES = (
    "s3dis:data/Stanford3dDataset_v1.2_Aligned_Version (or the folder of Area_1_conferenceRoom_1.npy and so on), "
    "semantickitti:data/semantickitti (which holds dataset/sequences), scannet:data/scannet (which holds scans), "
    "scenes:boards.npz, parts:kicad-parts.npz"
)


def load_scenes(spec: str, colors: bool = False) -> tuple[SceneSet, SceneSet]:
    """Lists the scenes of a data set that a text names.

    Args:
        spec: a name and, after a colon, a folder or file: `s3dis:DIR`, `semantickitti:DIR`, `scannet:DIR`,
            `scenes:FILE.npz` or `parts:FILE.npz`.
        colors: whether scenes of an .npz file have `rgb`; those of scans have what their files hold.

    Returns:
        The train split and the test split, each of at least one scene: Area 5 of S3DIS, sequence 08 of SemanticKITTI, and
        ScanNet's validation split.

    Raises:
        NotFoundError: the folder or file is missing; the message says where the data set is available.
        InvalidInputError: an unknown name, data that cannot be read, or an empty split.
    """
    options = {"colors": True} if colors and spec.partition(":")[0] in ("scenes", "parts") else {}
    return load_splits(spec, _LOADERS, "scenes", _EXAMPLES, **options)
