"""Figures of clouds in 3D and of classes, by plotly: for pages, the app and notebooks alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.scene_runs import color_classes
from i2p_zoo.pictures import COLORS, thin
from i2p_zoo.viewing.cloud_views import CloudView, VoxelLevel
from i2p_zoo.viewing.cubes import find_faces
from i2p_zoo.wording import count_of

MOST_POINTS, MOST_VOXELS = 40_000, 6_000
"""Drawn of a cloud: a browser turns these smoothly, and a page of them has a few megabytes."""
# viridis, from the lowest to the highest, without its ends, which not every background shows
_HEIGHTS = np.array(
    [(72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (83, 197, 104), (181, 222, 44)]
)
_CLEAR = "rgba(0, 0, 0, 0)"  # the page's own background
_MARGIN = 0.04
_TOOLS = "zoom pan zoomin zoomout autoscale resetscale select lasso orbitRotation tableRotation resetCameraLastSave".split()


@dataclass(frozen=True)
class _Stage:
    """What one mark of the slider shows."""

    label: str
    title: str
    traces: list[Any]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def draw_cloud(view: CloudView, most_points: int = MOST_POINTS, most_voxels: int = MOST_VOXELS) -> Any:
    """Draws a cloud in 3D with a slider: its points, of a scene their classes in colour, and its voxels at each stride.

    Args:
        view: as `view_cloud` returns it.
        most_points: points to draw; of more, every so many.
        most_voxels: cubes to draw of a stride; of more, those nearest the middle. Titles tell how many of how many.

    Returns:
        A `plotly.graph_objects.Figure`, which notebooks show as it is.

    Raises:
        MissingExtraError: plotly is not installed.
        InvalidInputError: a number that is not positive.
    """
    if most_points < 1 or most_voxels < 1:
        raise InvalidInputError(f"Points and voxels to draw must be 1 or more; got {most_points} and {most_voxels}.")
    objects = require("plotly.graph_objects", extra="view")
    middle = (view.points.min(0).astype(np.float64) + view.points.max(0)) / 2  # float32, which browsers draw, keeps a map's
    stages = _point_stages(objects, view, middle, most_points)
    stages += [_voxel_stage(objects, level, middle, most_voxels) for level in view.levels]
    first = int(view.labels is not None)
    figure = objects.Figure([trace for stage in stages for trace in stage.traces])
    owners = np.repeat(np.arange(len(stages)), [len(stage.traces) for stage in stages])
    steps = []
    for number, stage in enumerate(stages):
        layout = {"title.text": stage.title, **{f"scene.{key}": value for key, value in _frame(stage).items()}}
        steps.append({"label": stage.label, "method": "update", "args": [{"visible": (owners == number).tolist()}, layout]})
    for trace, owner in zip(figure.data, owners, strict=True):
        trace.visible = bool(owner == first)
    nested = {"camera": {"eye": {"x": 0.95, "y": -1.15, "z": 0.65}}, "bgcolor": _CLEAR, "aspectmode": "manual"}
    figure.update_layout(
        title={"text": stages[first].title, "x": 0.02, "y": 0.98, "yanchor": "top", "font": {"size": 14}},
        scene={**nested, "dragmode": "orbit"},
        sliders=[
            {
                "active": first,
                "steps": steps,
                "currentvalue": {"visible": False},
                "pad": {"t": 8, "b": 4},
                "x": 0.02,
                "len": 0.96,
            }
        ],
        legend={"itemsizing": "constant", "bgcolor": _CLEAR, "y": 0.95},
        **_plain_layout(520),
    )
    figure.update_layout({f"scene.{key}".replace(".", "_"): value for key, value in _frame(stages[first]).items()})
    figure.update_scenes(xaxis_visible=False, yaxis_visible=False, zaxis_visible=False)
    return figure


def draw_classes(classes: Mapping[str, float], title: str = "") -> Any:
    """Draws classes as bars with their shares in percent, the first at the top.

    Args:
        classes: shares, fractions of 1, by class.
        title: above the bars.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    objects = require("plotly.graph_objects", extra="view")
    shares = [100 * share for share in classes.values()]
    bars = objects.Bar(
        x=shares,
        y=list(range(len(shares))),
        orientation="h",
        text=[f"{share:.1f} %" for share in shares],
        textposition="outside",
        cliponaxis=False,
        marker={"color": [COLORS[0], *["#8fb3cf"] * (len(shares) - 1)][: len(shares)]},
        hoverinfo="skip",
    )
    figure = objects.Figure([bars])
    ticks = {"tickmode": "array", "tickvals": list(range(len(shares))), "ticktext": [_plain(name) for name in classes]}
    figure.update_layout(
        title={"text": title, "x": 0.02, "font": {"size": 14}},
        xaxis={"range": [0, 165], "visible": False, "fixedrange": True},
        yaxis={**ticks, "autorange": "reversed", "automargin": True, "fixedrange": True, "ticklabelstandoff": 6},
        bargap=0.35,
        plot_bgcolor=_CLEAR,
        **_plain_layout(60 + 34 * max(len(shares), 1)),
    )
    return figure


def _plain_layout(height: int) -> dict[str, Any]:
    margin = {"l": 8, "r": 8, "t": 44, "b": 8}
    modebar = {"bgcolor": _CLEAR, "color": "#888", "activecolor": "#444", "orientation": "v", "remove": _TOOLS}
    return {
        "modebar": modebar,
        "template": "plotly_white",
        "paper_bgcolor": _CLEAR,
        "height": height,
        "margin": margin,
        "uirevision": "kept",
    }


def _plain(text: str) -> str:
    """Returns a name as plotly shows it as it is, which takes some HTML for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _point_stages(objects: Any, view: CloudView, middle: NDArray[np.float64], most: int) -> list[_Stage]:
    rows, thinned = thin(len(view.points), most)
    title = thinned.strip() or count_of(len(view.points), "point")
    points = (view.points - middle)[rows].astype(np.float32)
    size = float(np.clip(110 / np.sqrt(len(points)), 1.3, 5))
    box = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    colors = _shade(points[:, 2]) if view.colors is None else view.colors[rows]
    stages = [_Stage("points", title, [_scatter(objects, points, _hex(colors), size)], *box)]
    if view.labels is not None:
        labels = view.labels[rows]
        present = [number for number in np.argsort(-np.bincount(labels, minlength=len(view.names))) if (labels == number).any()]
        traces = []
        for number in present:
            (color,) = _hex(color_classes(np.array([number])))
            named = {"name": _plain(view.names[number]), "showlegend": True}
            traces.append(_scatter(objects, points[labels == number], color, size, **named))
        stages.append(_Stage("classes", f"{title}, by class", traces, *box))
    return stages


def _scatter(objects: Any, points: NDArray[np.float32], color: Any, size: float, **named: Any) -> Any:
    x, y, z = points.T
    marker = {"size": size, "color": color, "line": {"width": 0}}
    return objects.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, hoverinfo="name" if named else "skip", **named)


def _voxel_stage(objects: Any, level: VoxelLevel, middle: NDArray[np.float64], most: int) -> _Stage:
    stride = max(level.stride)
    title = f"stride {stride}: {count_of(len(level.sites), 'voxel')} of {level.edge.max():.3g}"
    rows = np.arange(len(level.sites))
    if len(rows) > most:
        offsets = np.abs((level.sites - np.median(level.sites, axis=0)) * level.edge).max(1)
        rows = np.argsort(offsets, kind="stable")[:most]
        title += f"; drawn are the {most:,} nearest the middle"
    faces = find_faces(level.sites[rows], level.edge, level.origin - middle)
    colors = _shade(level.sites[rows, 2]) if level.colors is None else level.colors[rows]
    x, y, z = faces.corners.T
    i, j, k = faces.triangles.T.astype(np.int32)
    shades = np.repeat(np.array(_hex(colors))[faces.voxels], 2)
    lighting = {"ambient": 0.75, "diffuse": 0.5, "specular": 0, "fresnel": 0}
    mesh = objects.Mesh3d(
        x=x, y=y, z=z, i=i, j=j, k=k, facecolor=shades.tolist(), flatshading=True, lighting=lighting, hoverinfo="skip"
    )
    low, high = faces.corners.min(0).astype(np.float64), faces.corners.max(0).astype(np.float64)
    return _Stage(f"stride {stride}", title, [mesh], low, high)


def _frame(stage: _Stage) -> dict[str, Any]:
    """Returns the ranges of the axes, which are those of a cube about what is shown: a slider must not turn or stretch it."""
    extent = max(float((stage.high - stage.low).max()), 1e-9) * (1 + 2 * _MARGIN)
    middle = (stage.low + stage.high) / 2
    ranges = {f"{axis}axis.range": [m - extent / 2, m + extent / 2] for axis, m in zip("xyz", middle.tolist(), strict=True)}
    return {**ranges, "aspectratio": {"x": 1, "y": 1, "z": 1}}


def _shade(heights: NDArray[Any]) -> NDArray[np.uint8]:
    """Returns (N, 3) colours of heights, from the lowest to the highest."""
    values = heights.astype(np.float64)
    places = (values - values.min()) / max(float(np.ptp(values)), 1e-12) * (len(_HEIGHTS) - 1)
    columns = [np.interp(places, np.arange(len(_HEIGHTS)), channel) for channel in _HEIGHTS.T]
    shades: NDArray[np.uint8] = np.stack(columns, axis=1).astype(np.uint8)
    return shades


def _hex(colors: NDArray[np.uint8]) -> list[str]:
    """Returns (N, 3) colours as words of HTML."""
    numbers = colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return [f"#{number:06x}" for number in numbers.tolist()]
