"""Figures 1 and 4 as pages for a browser, to be turned with the mouse."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from drfer.evaluation.result import Result
from drfer.figures.faces import mesh_trace, surface
from drfer.figures.maps import has_manifold, trajectories
from drfer.figures.portraits import has_rotated_faces
from drfer.figures.style import COLOURS, NOT_RUN

if TYPE_CHECKING:
    import plotly.graph_objects as go


def pages(results: list[Result]) -> dict[str, str]:
    """Return the pages, and the script that they share, by file name; none without plotly."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:  # it belongs to the notebooks' extra
        return {}
    figures = {"figure-1": turned_manifold(results), "figure-4": turned_faces(results)}
    made = {
        f"{name}.html": figure.to_html(include_plotlyjs="directory", div_id=name)
        for name, figure in figures.items()
    }
    return made | {"plotly.min.js": get_plotlyjs()}


def turned_manifold(results: list[Result]) -> go.Figure:
    """Return figure 1 on three principal components."""
    figure = _scenes(results, 1, [has_manifold(result) for result in results])
    for row, result in enumerate(results, 1):
        for line in trajectories(result.samples, 3)[1] if has_manifold(result) else ():
            x, y, z = line.mean.T
            steps = range(1, len(x))
            name, colour = line.expression, COLOURS[line.expression]
            figure.add_scatter3d(
                x=x,
                y=y,
                z=z,
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                mode="lines+markers",
                line={"color": colour, "width": 6},
                marker={"color": colour, "size": 4},
                hovertext=["neutral", *(f"{name}, intensity {step}" for step in steps)],
                hoverinfo="text",
                row=row,
                col=1,
            )
    titles = {f"{axis}axis_title": f"component {n}" for n, axis in enumerate("xyz", 1)}
    return figure.update_scenes(**titles)


def turned_faces(results: list[Result]) -> go.Figure:
    """Return figure 4 with a slider for the pose; a turned face shows what the camera did not see."""
    shown = [has_rotated_faces(result) for result in results]
    figure = _scenes(results, 2, shown)
    pose_of_trace: list[int] = []
    labels: dict[int, str] = {}
    reach = 1.0
    for row, result in enumerate(results, 1):
        for column, poses in enumerate(result.samples.get("posed clouds", ()), 1):
            reach = max(reach, float(np.abs(poses).max()))
            for pose, cloud in enumerate(poses):
                rotation, angle = result.heading["poses"][pose]
                labels[pose] = f"{rotation} {angle}°"
                pose_of_trace.append(pose)
                trace = {**mesh_trace(surface(cloud)), "visible": pose == 0}
                figure.add_trace(trace, row=row, col=column)
    steps = [
        {
            "label": html.escape(label),
            "method": "restyle",
            "args": [{"visible": [pose == each for each in pose_of_trace]}],
        }
        for pose, label in labels.items()
    ]
    figure.update_layout(sliders=[{"steps": steps}] if steps else [])
    sides = {f"{axis}axis_range": (-reach, reach) for axis in "xyz"}  # the same in every pose
    camera = {
        "eye": {"x": 0, "y": 0, "z": 1.8},
        "up": {"x": 0, "y": 1, "z": 0},
        "projection": {"type": "orthographic"},
    }
    return figure.update_scenes(aspectmode="cube", camera=camera, **sides)


def _scenes(results: list[Result], columns: int, shown: list[bool]) -> go.Figure:
    """A figure with a row of 3D panels for each evaluation."""
    from plotly.subplots import make_subplots

    titles = [
        html.escape(result.caption if has else f"{result.title}: {NOT_RUN}")
        for result, has in zip(results, shown)
        for _ in range(columns)
    ]
    specs = [[{"type": "scene"}] * columns] * len(results)
    figure = make_subplots(len(results), columns, specs=specs, subplot_titles=titles)
    return figure.update_layout(height=650 * len(results), template="plotly_white")
