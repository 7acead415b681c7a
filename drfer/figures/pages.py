"""Figures 1 and 4 as pages for a browser, to be turned with the mouse."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from drfer.evaluation.result import Result
from drfer.figures.faces import mesh_trace
from drfer.figures.maps import has_manifold, trajectories
from drfer.figures.portraits import has_rotated_faces
from drfer.figures.shading import surface
from drfer.figures.style import NOT_RUN, marks_of

if TYPE_CHECKING:
    import plotly.graph_objects as go


def pages(results: list[Result]) -> dict[str, str]:
    """Return the pages, and the script that they share, by file name; none without plotly."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        print(
            "Left out: figures 1 and 4 as pages for a browser, which need plotly "
            "(pip install 'drfer[notebooks]')."
        )
        return {}
    figures = {"figure-1": turned_manifold(results), "figure-4": turned_faces(results)}
    made = {
        f"{name}.html": figure.to_html(include_plotlyjs="directory", div_id=name)
        for name, figure in figures.items()
    }
    return made | {"plotly.min.js": get_plotlyjs()}


def turned_manifold(results: list[Result]) -> go.Figure:
    """Return figure 1 on three principal components."""
    figure, shown = _scenes(results, has_manifold, 1)
    for row, result in enumerate(shown, 1):
        marks = marks_of(result.expressions)
        for line in trajectories(result.samples, result.expressions, 3)[1]:
            x, y, z = line.mean.T
            steps = range(1, len(x))
            name, (colour, _) = html.escape(line.expression), marks[line.expression]
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
    figure, shown = _scenes(results, has_rotated_faces, 2)
    pose_of_trace: list[int] = []
    labels: dict[int, str] = {}
    reach = 1.0
    for row, result in enumerate(shown, 1):
        for column, poses in enumerate(result.samples["posed clouds"], 1):
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
    camera = {
        "eye": {"x": 0, "y": 0, "z": 1},
        "up": {"x": 0, "y": 1, "z": 0},
        "projection": {"type": "orthographic"},
    }
    sides = {
        f"{axis}axis": {"range": (-reach, reach), "title": f"{axis}, mm", "nticks": 5}
        for axis in "xyz"
    }
    sides["zaxis"] |= {"title": "", "showticklabels": False}  # it looks at the viewer
    cube = {"aspectmode": "manual", "aspectratio": dict.fromkeys("xyz", 1.5)}
    return figure.update_scenes(camera=camera, **sides, **cube)


def _scenes(
    results: list[Result], has: Callable[[Result], bool], columns: int
) -> tuple[go.Figure, list[Result]]:
    """A figure with a row of 3D panels for each evaluation that has what is shown, and these."""
    from plotly.subplots import make_subplots

    shown = [result for result in results if has(result)]
    missing = [f"{result.title}: {NOT_RUN}" for result in results if not has(result)]
    titles = [html.escape(result.caption) for result in shown for _ in range(columns)]
    specs = [[{"type": "scene"}] * columns] * max(len(shown), 1)
    figure = make_subplots(len(specs), columns, specs=specs, subplot_titles=titles)
    said = {"text": html.escape("; ".join(missing)), "font": {"size": 12}}
    figure.update_layout(height=650 * len(specs), template="plotly_white", title=said)
    return figure, shown
