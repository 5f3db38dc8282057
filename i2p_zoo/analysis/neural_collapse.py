"""Neural collapse: how far the features that a classifier reads have gathered around the vertices of a simplex."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from i2p_zoo.analysis.features import penultimate_features
from i2p_zoo.data import CloudSet
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.layers.normalization import NormalizedLinear
from i2p_zoo.modules import find_classifier, has_other_classes
from i2p_zoo.pictures import COLORS, make_figure, save_figure
from i2p_zoo.wording import count_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NeuralCollapse:
    """The four signs of neural collapse (Papyan, Han and Donoho 2020), each 0 where it is complete.

    Attributes:
        nc1: variability within classes against that between them, tr(Sigma_W Sigma_B^+) / C.
        nc2_norms_means: standard deviation over mean of the lengths of the centred class means.
        nc2_norms_classifier: the same of the classifier's rows.
        nc2_angles_means: mean of |cos + 1 / (C - 1)| over the pairs of centred class means.
        nc2_angles_classifier: the same of the classifier's rows.
        nc3: squared Frobenius distance of classifier and centred class means, each scaled to length 1; 0 to 4.
        nc4: fraction of the samples whose nearest class mean is not the class that the classifier names.

    What needs a classifier is None where there is none.
    """

    nc1: float
    nc2_norms_means: float
    nc2_norms_classifier: float | None
    nc2_angles_means: float
    nc2_angles_classifier: float | None
    nc3: float | None
    nc4: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Returns the fields as JSON types."""
        return asdict(self)


def neural_collapse(
    features: Tensor | NDArray[Any],
    labels: Tensor | NDArray[Any],
    weight: Tensor | NDArray[Any] | None = None,
    bias: Tensor | NDArray[Any] | None = None,
) -> NeuralCollapse:
    """Measures the neural collapse of features, in float64.

    The paper's classes are of one size. Where they are not, each class counts the same here: the global mean is that of the
    class means, and Sigma_W the mean of the classes' covariances. Only NC4 is a fraction of the samples. A class mean that
    is the global mean, or a row of zeros, has no direction; its cosines count as 0.

    Args:
        features: (M, D) floating point, what the classifier reads.
        labels: (M,) integers. Only the C classes that occur count; rows of the classifier that belong to others are left
            out, also as answers in NC4.
        weight: (K, D) floating point, the classifier's row of each label 0 to K - 1; they are not centred, as in the paper.
        bias: (K,) floating point; None for zeros.

    Returns:
        The metrics; those of the classifier are None where `weight` is None.

    Raises:
        InvalidInputError: shapes or types that do not fit, values that are NaN or infinite, fewer than two classes, class
            means that are all equal, or a classifier whose rows are all zero.

    References:
        Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training", PNAS
        117 (2020): NC1 to NC4 as in "Results", figures 2 to 7.

    Example:
        >>> features = np.array([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [-3.0, 0.0]])
        >>> collapse = neural_collapse(features, np.array([0, 0, 1, 1]), weight=np.array([[1.0, 0.0], [-1.0, 0.0]]))
        >>> round(collapse.nc1, 3), round(collapse.nc3, 3), collapse.nc4
        (0.125, 0.0, 0.0)
    """
    samples = _floats(features, "features", 2)
    targets = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if targets.shape != samples.shape[:1] or targets.dtype.kind not in "iu":
        raise InvalidInputError(f"`labels` must be ({len(samples)},) integers; got {targets.dtype} {targets.shape}.")
    classes, numbers, counts = np.unique(targets, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise InvalidInputError(f"Neural collapse is about two classes or more; the labels have {len(classes)}.")

    shifted = samples - samples[0]  # no metric depends on the origin, and a large common offset would cost digits
    means = np.stack([shifted[numbers == number].mean(0) for number in range(len(classes))])  # (C, D)
    centred = means - means.mean(0)
    rounding = len(samples) * np.finfo(np.float64).eps * np.abs(shifted).max(initial=0.0)
    if np.abs(centred).max(initial=0.0) <= rounding:
        raise InvalidInputError("All classes have the same mean: the features do not tell them apart at all.")

    nearest = np.argmin((means**2).sum(1) - 2 * shifted @ means.T, axis=1)  # |h - mean|^2 less |h|^2
    rows = None if weight is None else _classifier_rows(weight, samples.shape[1], classes)
    if rows is None and bias is not None:
        raise InvalidInputError("`bias` was given without `weight`: a classifier needs both, or no bias.")
    return NeuralCollapse(
        nc1=_variability(shifted - means[numbers], centred, 1 / (len(classes) * counts[numbers])),
        nc2_norms_means=_norm_variation(centred),
        nc2_norms_classifier=None if rows is None else _norm_variation(rows),
        nc2_angles_means=_angle_deviation(centred),
        nc2_angles_classifier=None if rows is None else _angle_deviation(rows),
        nc3=None if rows is None else float(((rows / np.linalg.norm(rows) - centred / np.linalg.norm(centred)) ** 2).sum()),
        nc4=None if rows is None else float((_answers(samples, rows, weight, bias, classes) != nearest).mean()),
    )


def _floats(values: Any, name: str, dimensions: int) -> Floats:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    array = np.asarray(values)
    if array.ndim != dimensions or array.dtype.kind != "f":
        raise InvalidInputError(f"`{name}` must be floats of {dimensions} dimensions; got {array.dtype} {array.shape}.")
    if not np.isfinite(array).all():
        raise InvalidInputError(f"`{name}` has values that are NaN or infinite.")
    return array.astype(np.float64)


def _classifier_rows(weight: Any, channels: int, classes: NDArray[Any]) -> Floats:
    """The rows of the classes that occur, (C, D)."""
    rows = _floats(weight, "weight", 2)
    if rows.shape[1] != channels:
        raise InvalidInputError(f"`weight` must be (K, {channels}) as the features are (M, {channels}); got {rows.shape}.")
    if classes.min() < 0 or classes.max() >= len(rows):
        raise InvalidInputError(
            f"Labels run from {classes.min()} to {classes.max()} and `weight` has {count_of(len(rows), 'row')}."
        )
    present: Floats = rows[classes]
    if not present.any():
        raise InvalidInputError("The classifier's rows are all zero, so have no lengths or angles to compare: leave it out.")
    return present


def _answers(samples: Floats, rows: Floats, weight: Any, bias: Any, classes: NDArray[Any]) -> NDArray[np.int64]:
    """(M,) the place among the classes that occur of the one that the classifier names."""
    logits = samples @ rows.T
    if bias is not None:
        offsets = _floats(bias, "bias", 1)
        if len(offsets) != len(weight):
            raise InvalidInputError(f"`bias` must be ({len(weight)},), a number for each row of `weight`; got {offsets.shape}.")
        logits += offsets[classes]
    answers: NDArray[np.int64] = logits.argmax(1)
    return answers


def _variability(deviations: Floats, centred: Floats, shares: Floats) -> float:
    """NC1, without making a (D, D) matrix.

    With the singular values s and right singular vectors v of the C centred means, Sigma_B is the sum of (s^2 / C) v v^T, so
    tr(Sigma_W Sigma_B^+) / C is the sum of v^T Sigma_W v / s^2.
    """
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    values, vectors = values[: len(centred) - 1], vectors[: len(centred) - 1]  # centred rows add up to zero
    kept = values > values[0] * max(centred.shape) * np.finfo(np.float64).eps
    within = shares @ (deviations @ vectors[kept].T) ** 2
    return float((within / values[kept] ** 2).sum())


def _norm_variation(vectors: Floats) -> float:
    norms = np.linalg.norm(vectors, axis=1)
    return float(norms.std() / norms.mean())


def _angle_deviation(vectors: Floats) -> float:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(norms > 0, norms, 1)
    cosines = (directions @ directions.T)[np.triu_indices(len(vectors), 1)]
    return float(np.abs(cosines + 1 / (len(vectors) - 1)).mean())


def measure_collapse(model: Any, clouds: CloudSet, batch_size: int = 32) -> NeuralCollapse:
    """Measures the neural collapse of a network on labelled clouds, its classifier included.

    Args:
        model: a `PointCloudModel` whose classifier is linear or a 1x1 convolution. Where it has outputs for other classes
            than the clouds', as an image network's has, the figures of a classifier are None.
        clouds: labelled clouds, of at least two classes; of soft labels the likeliest counts.
        batch_size: clouds a batch.

    Returns:
        The metrics, as `neural_collapse` defines them.

    Raises:
        InvalidInputError: as `penultimate_features` and `neural_collapse`, or a classifier that has no weight of its own.

    Example:
        >>> import i2p_zoo
        >>> model = i2p_zoo.create_model("test_resnet", num_classes=2)
        >>> clouds = CloudSet(np.random.rand(4, 50, 3).astype(np.float32), np.array([0, 0, 1, 1]), ("chair", "table"))
        >>> measure_collapse(model, clouds).nc1 > 0
        True
    """
    classifier: Any = find_classifier(model)
    if not isinstance(getattr(classifier, "weight", None), Tensor):
        raise InvalidInputError(f"The classifier must be linear or a 1x1 convolution; got {type(classifier).__qualname__}.")
    features = penultimate_features(model, clouds, batch_size)
    weight, bias = classifier.weight.detach().flatten(1), getattr(classifier, "bias", None)
    if isinstance(classifier, NormalizedLinear):
        norm: Any = classifier.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight, bias = weight * scale[:, None], (bias - norm.running_mean) * scale + norm.bias
    if has_other_classes(model, len(weight), clouds.classes):
        weight = bias = None
    return neural_collapse(features, clouds.hard_labels(), weight, bias)


# Title: bars by what they are of.
_PANELS: dict[str, dict[str, str]] = {
    "NC1: variability": {"features": "nc1"},
    "NC2: lengths": {"class means": "nc2_norms_means", "classifier": "nc2_norms_classifier"},
    "NC2: angles": {"class means": "nc2_angles_means", "classifier": "nc2_angles_classifier"},
    "NC3: self-duality": {"both": "nc3"},
    "NC4: nearest mean": {"answers": "nc4"},
}


def draw_collapse(path: Path, measured: Mapping[str, NeuralCollapse]) -> None:
    """Draws the metrics of several networks as bars, NC1 on a logarithmic scale; what is None has no bar.

    Args:
        path: of the PNG.
        measured: by the network's name.

    Raises:
        InvalidInputError: nothing to draw.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> collapse = NeuralCollapse(0.5, 0.2, None, 0.1, None, None, None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_collapse(Path(folder) / "collapse.png", {"3D": collapse})
    """
    if not measured:
        raise InvalidInputError("There are no networks to draw.")
    figure, axes = make_figure(1, len(_PANELS), (15, 3.8))
    width = 0.8 / len(measured)
    for axis, (title, fields) in zip(axes[0], _PANELS.items(), strict=True):
        for place, (name, collapse) in enumerate(measured.items()):
            values = [getattr(collapse, field) for field in fields.values()]
            bars = [(group, value) for group, value in enumerate(values) if value is not None]
            left = [group + (place + 0.5) * width - 0.4 for group, _ in bars]
            axis.bar(left, [value for _, value in bars], width, color=COLORS[place % len(COLORS)], label=name)
        axis.set(title=title, xticks=range(len(fields)), xticklabels=list(fields), xlim=(-0.6, len(fields) - 0.4))
        axis.grid(axis="y", alpha=0.3)
    if any(collapse.nc1 > 0 for collapse in measured.values()):
        axes[0, 0].set_yscale("log")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    save_figure(figure, path)
