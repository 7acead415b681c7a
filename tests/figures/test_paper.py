"""The paper's figures and tables: drawn whole from stored results, the same bytes twice, nothing invented."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import TriMesh
from matplotlib.text import Text

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.protocol import Draws, fields_of
from drfer.evaluation.result import Result
from drfer.evaluation.result_format import SAMPLE_FACES
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS, names_in
from drfer.evaluation.statistics import paired_difference
from drfer.figures import curves, maps, pages, portraits
from drfer.figures import tables as tables_module
from drfer.figures.curves import SETTINGS
from drfer.figures.paper import draw
from drfer.figures.tables import accuracy_table, tables

FIGURES = {
    f"{name}.{kind}"
    for name in ("main", *(f"figure-{n}" for n in range(1, 7)))
    for kind in ("pdf", "png")
} | {"figure-1.html", "figure-4.html", "plotly.min.js"}
TABLES = {
    "tables.md",
    "table-1.md",
    "table-2.md",
    "table-3.md",
    "table-controls.md",
    "table-differences.md",
    "table-readings.md",
    "table-pose.md",
    "table-features.md",
    "table-disentanglement.md",
    "table-diagnosis.md",
}
OF_A_RUN = {"curves.png", "confusion.png", "main.png", "faces.png", "table.md"}


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def without(result, *kinds):
    """A result that lacks entries of some kinds."""
    entries = {name: e for name, e in result.entries.items() if e["kind"] not in kinds}
    return replace(result, entries=entries)


def with_tests(result, row, entries):
    """A result with other test entries of a row."""
    others = [e for e in result.entries.values() if (e["kind"], e.get("row")) != ("test", row)]
    return replace(result, entries=dict(enumerate([*others, *entries])))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, made_result, made_samples):
    """Two results drawn by the command line, and once more in a process whose hashes are other."""
    folder = tmp_path_factory.mktemp("figures")
    for result in (
        made_result(samples=made_samples()),
        made_result("bosphorus", seed=1, samples=made_samples(1)),
    ):
        result.save(folder / "results" / result.name)
    script = "from pathlib import Path; from drfer.figures.paper import draw; print(*draw(*map(Path, {})))"
    for name in ("one", "two"):
        done = subprocess.run(
            [sys.executable, "-c", script.format(("results", name))],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": str(len(name) + ord(name[0]))},
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        (folder / f"{name}.txt").write_text(done.stdout)
    return folder


def test_everything_is_written_and_the_same_twice(drawn):
    of_runs = {
        f"{name}/{file}"
        for name in ("anny3dfe-classroom", "bosphorus-classroom-seed1")
        for file in OF_A_RUN
    }
    for name in ("one", "two"):
        assert files_in(drawn / name) == FIGURES | TABLES | of_runs
        said = (drawn / f"{name}.txt").read_text().split()
        assert {path.removeprefix(f"{name}/") for path in said} == FIGURES | TABLES | of_runs
    for name in FIGURES | TABLES | of_runs:
        assert (drawn / "one" / name).read_bytes() == (drawn / "two" / name).read_bytes(), name


def of_draws(result):
    """The same numbers, as if each fold were a draw."""
    protocol = {"kind": "draws", "development": False, "train_subjects": 18, "test_subjects": 300}
    heading = result.heading | {
        "protocol": protocol | {"measured_subjects": 60, "intensities": [3, 4]}
    }
    entries = {
        name: entry | {"repeat": 1 + entry["fold"], "fold": 0}
        for name, entry in result.entries.items()
    }
    return replace(result, heading=heading, entries=entries)


def test_draws_are_called_so_in_every_table_and_figure(made_result, tmp_path):
    folds = made_result()
    draws = of_draws(folds)
    draws.save(tmp_path / draws.name)
    assert draws.name == "anny3dfe-classroom-draws-18"
    written = {path.name: path for path in draw(tmp_path, tmp_path)}
    text = (tmp_path / "tables.md").read_text()
    assert "(3 draws)" in text and "(3 fold" not in text and "fold by fold" not in text
    assert "draw by draw" in text and "Means over draws, ± half of the 95 % interval" in text
    note = "Each draw trains on 18 subjects of a population of its own"
    assert note in text and note in written["table.md"].read_text()
    mean, half_width = tables_module.statistic(draws, draws.tests(METHOD))
    other_mean, wider = tables_module.statistic(folds, folds.tests(METHOD))
    assert mean == other_mean and wider > half_width > 0
    both = tables([folds, draws])["table-3.md"]
    assert sum(note in line for line in both) == 1
    assert any("(3 folds)" in line and "(3 draws)" in line for line in both)


def test_interactive_figures_need_no_network(drawn):
    for page in (drawn / "one").glob("*.html"):
        sources = re.findall(r"<script[^>]* src=\"([^\"]+)\"", page.read_text())
        assert sources == ["plotly.min.js"], page


def test_without_plotly_everything_else_is_drawn(tmp_path, monkeypatch, made_result, capsys):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    result = without(made_result(folds=1), "curves")
    result.save(tmp_path / "results" / result.name)
    draw(tmp_path / "results", tmp_path / "out")
    of_the_run = {f"{result.name}/{name}" for name in ("confusion.png", "main.png", "table.md")}
    pages_too = {"figure-1.html", "figure-4.html", "plotly.min.js"}
    assert files_in(tmp_path / "out") == (FIGURES - pages_too) | TABLES | of_the_run
    assert "need plotly (pip install 'drfer[notebooks]')" in capsys.readouterr().out


def test_no_results_are_refused_in_one_sentence(tmp_path):
    for folder, said in ((tmp_path, "holds no results"), (tmp_path / "x", "there is no folder")):
        with pytest.raises(DrferError, match=said) as error:
            draw(folder, tmp_path / "out")
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_is_one_sentence(tmp_path, made_result):
    result = without(made_result(folds=1), "curves", "pose", "features")
    result.save(tmp_path / "results" / result.name)
    for taken in ("main.png", "table-1.md", f"{result.name}/confusion.png"):
        out = tmp_path / taken.replace("/", "-")
        (out / taken / "mine").mkdir(parents=True)
        with pytest.raises(DrferError, match="cannot write") as error:
            draw(tmp_path / "results", out)
        assert "\n" not in str(error.value) and (out / taken / "mine").exists()


def test_tables_keep_the_papers_numbers_apart_from_ours(drawn, made_result):
    first, second, third = ((drawn / "one" / f"table-{n}.md").read_text() for n in (1, 2, 3))
    result = made_result()
    for row, paper in (("stage i", "84.83"), ("w/ L_KL", "85.98"), ("w/o L_tri", "85.92")):
        shares = [np.mean(np.equal(f["truth"], f["predicted"])) for f in result.tests(row)]
        assert f"| {row} | {paper} | {100 * sum(shares) / len(shares):.2f} ± " in third
    assert "| stage i, as long | not in the paper | not run |  | not run |  |" in third
    ours = "this kit, Anny-3DFE (synthetic), classroom | this kit, BU-3DFE |"
    assert f"as reported by the paper | {ours}" in first
    assert "| not run |" in first and "89.15" in first
    assert "Zhu et al. [46] | 3D | deep learning | 87.69" in first
    assert "Bosphorus, classroom" in second and "86.77" in second and "not run" not in second
    measured = (drawn / "one" / "table-disentanglement.md").read_text()
    assert "| leakage, subject probe, % | 22 ± 5.7 | 22 ± 5.7 |" in measured


def cells_of(lines):
    """The last cell of each row, by its first one."""
    return {
        line.split(" | ")[0].lstrip("| "): line.rstrip(" |").split(" | ")[-1]
        for line in lines
        if line.startswith("|")
    }


def test_rows_stand_beside_the_whole_method_on_the_folds_of_both(made_result):
    """A row of two folds is compared with those two; one of another fold with none."""
    result = made_result()
    reading = names_in("reading")[0]
    other_fold = {**result.tests("w/o fusion")[0], "fold": 9}
    one_fold = {**result.tests(BASELINE)[0], "row": reading}
    result = with_tests(result, "w/o skip", result.tests("w/o skip")[1:])
    result = with_tests(result, "w/o fusion", [other_fold])
    result = with_tests(result, reading, [one_fold])
    of_fold = [
        {e["fold"]: 100 * np.mean(np.equal(e["truth"], e["predicted"])) for e in result.tests(row)}
        for row in (METHOD, "w/o skip")
    ]
    lead = np.mean([of_fold[0][fold] - of_fold[1][fold] for fold in (1, 2)])
    made = tables([result])
    cells = cells_of(made["table-3.md"])
    assert cells["w/o skip"] == f"{lead:+.2f} (2 folds)", "of two folds an interval says nothing"
    assert " ± " in cells["stage i"] and cells["stage i"].endswith("(3 folds)")
    assert re.fullmatch(r"[\d.]+ \(1 fold\)", cells["w/o fusion"]), "no fold is of both"
    assert not re.search(r"[+-]", cells[METHOD].replace(METHOD, "")) and reading not in cells
    readings = cells_of(made["table-readings.md"])
    assert list(readings) == ["row", "---", METHOD, reading]
    assert readings[reading].endswith("(1 fold)")


def test_a_dataset_without_truth_says_so(made_result):
    both, one = {"probe": 1.0, "transfer": {"error": 2.0}}, {"probe": 3.0}
    results = []
    for name, measured in (("anny3dfe", both), ("bosphorus", one), ("bu3dfe", None)):
        result = without(made_result(name), "disentanglement")
        entry = {"kind": "disentanglement", "repeat": 0, "fold": 0, "measured": measured}
        entries = {**result.entries, "measured": entry} if measured else result.entries
        results.append(replace(result, entries=entries))
    table = tables(results)["table-disentanglement.md"]
    assert "| transfer, error | 2 | no ground truth | not run |" in table


def test_features_of_the_control_stand_beside_those_of_the_two_models(made_result):
    older = made_result("bu3dfe")
    of_control = [e for e in older.select("features") if e["row"] == CONTROL]
    kept = {name: entry for name, entry in older.entries.items() if entry not in of_control}
    made = tables([made_result(), replace(older, entries=kept)])["table-features.md"]
    assert [line for line in made if line.startswith("| ")][2:] == [
        "| stage i, silhouette | 0.31 | 0.31 |",
        "| stage i, purity among five neighbours | 0.74 | 0.74 |",
        "| stage i + ii + iii, silhouette | 0.31 | 0.31 |",
        "| stage i + ii + iii, purity among five neighbours | 0.74 | 0.74 |",
        f"| {CONTROL}, silhouette | 0.375 | not run |",
        f"| {CONTROL}, purity among five neighbours | 0.6 | not run |",
    ]


def test_names_from_outside_are_neither_html_nor_cells(made_result):
    result = made_result("<script>alert(1)</script> | x\n\n# y", folds=1)
    made = tables([result]) | {"table.md": accuracy_table(result)}
    columns = {name: lines[2].count(" | ") for name, lines in made.items()}
    for name, lines in made.items():
        assert not any("<script>" in line for line in lines), name
        assert name == "table-2.md" or any("&lt;script&gt;" in line for line in lines), name
        assert all("\n" not in line for line in lines)
        for line in lines:
            assert not line.startswith("|") or line.count(" | ") == columns[name], line


def test_differences_of_draws_are_taken_draw_by_draw(made_result):
    """Of twelve people, all of whose twelve scans the method has right, and the baseline half."""
    draws, scans = Draws(test_subjects=12, measured_subjects=2), 144
    answers = {BASELINE: [0, 1] * (scans // 2), METHOD: [0] * scans, CONTROL: [0] * scans}
    entries = {
        f"{row} {draw}": {
            "kind": "test",
            "row": row,
            "repeat": draw,
            "fold": 0,
            "truth": [0] * scans,
            "predicted": predicted,
        }
        for row, predicted in answers.items()
        for draw in (1, 2, 3)
        if row != CONTROL or draw < 3
    }
    folds = made_result()
    drawn = replace(folds, heading=folds.heading | {"protocol": fields_of(draws)}, entries=entries)
    lines = tables([folds, drawn])["table-differences.md"]
    sure = "+50.00 to +50.00 | +50.00 to +50.00"
    assert [line for line in lines if line.startswith("| stage")] == [
        f"| {METHOD} | {BASELINE} | +50.00 | {sure} | 3 |",
        f"| {CONTROL} | {BASELINE} | +50.00 | {sure} | 2 |",
        f"| {BASELINE} | {CONTROL} | -50.00 | {sure.replace('+', '-')} | 2 |",
        f"| {METHOD} | {CONTROL} | +0.00 | +0.00 to +0.00 | +0.00 to +0.00 | 2 |",
    ]


def test_the_table_of_a_run_has_every_tested_row_and_says_what_one_scan_is(made_result):
    one, several = (accuracy_table(made_result(folds=folds)) for folds in (1, 3))
    assert [line.split(" | ")[0][2:] for line in one[4:-3]] == list(names_in("table3"))
    assert any("one is 2.8 points" in line for line in one)
    assert not any("points" in line for line in several)
    assert any(line.startswith("| stage i | ") and line.endswith("| 84.83 |") for line in one)
    bosphorus = accuracy_table(made_result("bosphorus", folds=1))
    assert any(line.endswith("| 83.23 |") for line in bosphorus)
    assert sum(line.endswith("| not given |") for line in bosphorus) == 7


def said_in(figure):
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("missing", ["test", "pose", "features", "disentanglement", "samples"])
def test_what_is_missing_is_said_and_nothing_else_is_lost(
    missing, tmp_path, made_result, made_samples
):
    result = without(made_result(samples=made_samples()), missing)
    result = replace(result, samples={}) if missing == "samples" else result
    pictures = {
        "test": curves.rows_by_fold,
        "pose": curves.pose_curves,
        "features": maps.feature_maps,
        "samples": maps.manifold,
    }
    for name, picture in pictures.items():
        said = any("not run" in text for text in said_in(picture([result])))
        assert said == (missing == name), name
    made = tables([result])
    for name, table in (
        ("test", "table-3.md"),
        ("features", "table-features.md"),
        ("disentanglement", "table-disentanglement.md"),
    ):
        rows = [line for line in made[table][4:] if line.startswith("|")]
        assert all("not run" in line for line in rows) == (missing == name), name
    if missing in ("test", "samples"):
        result.save(tmp_path / "results" / result.name)
        draw(tmp_path / "results", tmp_path / "out")
        lacking = {"test": {"confusion.png", "main.png", "table.md"}, "samples": {"faces.png"}}[
            missing
        ]
        of_the_run = {f"{result.name}/{name}" for name in OF_A_RUN - lacking}
        assert files_in(tmp_path / "out") == FIGURES | TABLES | of_the_run


def test_a_fold_that_is_not_there_is_not_invented(made_result):
    result = made_result()
    kept = {
        name: entry
        for name, entry in result.entries.items()
        if entry["kind"] != "pose" or (entry["row"], entry["setting"]) == (BASELINE, "raw")
    }
    said = said_in(curves.pose_curves([replace(result, entries=kept)]))
    counts = [text.splitlines()[1] for text in said if text.startswith(tuple(SETTINGS))]
    assert counts == ["not run; baseline: 3 folds", "not run", "not run"]


def test_figure_5_draws_the_accuracy_of_each_pose(made_result):
    result = made_result(folds=1)
    figure = curves.pose_curves([result])
    [axis] = [axis for axis in figure.axes if axis.get_ylabel().startswith("yaw")]
    [line] = [c.lines[0] for c in axis.containers if c.get_label() == "DrFER"]
    [entry] = result.select("pose", row=METHOD, setting=list(SETTINGS)[0])
    for angle, drawn_share in zip(*line.get_data()):
        pose = result.heading["poses"].index(["yaw", angle] if angle else ["frontal", 0])
        share = 100 * np.mean(np.equal(entry["truth"], entry["predicted"][pose]))
        assert np.isclose(drawn_share, share)


def test_the_table_of_poses_takes_the_rotated_ones_together(made_result):
    result = made_result(folds=3)
    gains, shares = [], []
    for fold in range(3):
        by_row = {}
        for row in (METHOD, CONTROL):
            [entry] = [
                e for e in result.select("pose", row=row, setting="raw") if e["fold"] == fold
            ]
            by_row[row] = 100 * np.mean(np.equal(entry["predicted"][1:], entry["truth"]))
        gains.append(by_row[METHOD] - by_row[CONTROL])
        shares.append(by_row[CONTROL])
    text = "\n".join(tables([result])["table-pose.md"])
    [line] = [line for line in text.splitlines() if f" | raw | {CONTROL} | " in line]
    *_, rotated, gain = line.strip("| ").split(" | ")
    assert rotated.startswith(f"{np.mean(shares):.2f} ± ")
    assert gain.startswith(f"{np.mean(gains):+.2f} ± ")


@pytest.mark.parametrize(
    "folds, said", [(3, "no bars: fewer than 5 folds"), (5, "bars: 95 % interval of the mean")]
)
def test_figure_5_says_on_its_axis_what_its_bars_are(made_result, folds, said):
    result = made_result(folds=folds)
    figure = curves.pose_curves([result])
    first = figure.findobj(lambda each: getattr(each, "get_xlabel", str)() != "")[0]
    assert first.get_xlabel() == f"angle, degrees\n({said})"
    bars = [bar for each in first.containers for bar in each.lines[2]]
    drawn = [line for bar in bars for line in bar.get_segments() if len(line)]
    assert bool(drawn) == (folds == 5)


def test_curves_are_the_terms_of_each_epoch_and_their_mean(made_result):
    result = made_result(folds=2)
    for entry in result.select("curves", fold=1):
        for epoch in entry["curves"]:
            epoch.update({term: 3 * value for term, value in epoch.items()})
    figure = curves.training_curves(result)
    axis = figure.axes[0]
    assert axis.get_title() == "stage i-expression, eq. (1)"
    heights = [line.get_ydata().tolist() for line in axis.lines]
    first = [1.0, 0.5, 1 / 3]
    assert np.allclose(heights, [first, np.multiply(3, first), np.multiply(2, first)])
    assert len(figure.axes[1].get_legend().get_texts()) == 3
    for entry in result.select("curves"):
        entry["curves"][0]["term 0"] = 0.0  # a logarithm has no zero
    assert curves.training_curves(result).axes[0].get_yscale() == "linear"


def test_confusion_is_that_of_all_folds(made_result):
    result = made_result()
    axis = curves.confusion_matrices(result).axes[0]
    counts = np.zeros((6, 6))
    for entry in result.tests(BASELINE):
        for true, predicted in zip(entry["truth"], entry["predicted"]):
            counts[true, predicted] += 1
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    assert np.allclose(axis.images[0].get_array(), shares) and "(3 folds)" in axis.get_title()


def meshes(figure):
    return figure.findobj(TriMesh)


def test_faces_are_surfaces_in_one_scale(made_result, made_samples):
    result = made_result(samples=made_samples())
    faces, rotated = portraits.sample_faces(result), portraits.rotated_faces([result])
    assert len(meshes(faces)) == 36 and len(meshes(rotated)) == 36
    for figure in (faces, rotated):
        widths = {round(np.ptp(mesh.axes.get_xlim()), 6) for mesh in meshes(figure)}
        assert len(widths) == 1 and "50 mm" in said_in(figure)
    assert said_in(faces).count("surprise") == 1 and "exp, then id" in said_in(faces)
    backwards = made_result(samples=dict(sorted(result.samples.items(), reverse=True)))
    columns = [axis.get_title() for axis in portraits.sample_faces(backwards).axes[:6]]
    assert columns == list(SAMPLE_FACES)
    for count in result.samples["posed left"][:, 1:].ravel():
        assert f"{count:,}" in said_in(rotated)


def test_pages_show_every_pose_as_a_surface(made_result, made_samples):
    result = made_result(samples=made_samples())
    figure = pages.turned_faces([result, made_result("bu3dfe")])
    assert {trace.type for trace in figure.data} == {"mesh3d"} and len(figure.data) == 34
    [slider] = figure.layout.sliders
    for pose, step in enumerate(slider.steps):
        visible = step.args[0]["visible"]
        assert [i for i, shown in enumerate(visible) if shown] == [pose, 17 + pose]
    assert figure.layout.title.text == "BU-3DFE, classroom: not run"
    samples = result.samples
    for hostile in (made_result("<b>x"), made_result("<b>x", samples=samples)):
        drawn = pages.turned_faces([hostile])
        texts = [drawn.layout.title.text, *(note.text for note in drawn.layout.annotations)]
        assert any(text.startswith("&lt;b&gt;x") for text in texts)


def test_the_manifold_starts_at_the_mean_neutral_and_keeps_distances(made_samples):
    """Slow twin: principal components by the covariance's eigenvectors, lines by loops."""
    arrays = made_samples()
    shares, lines = maps.trajectories(arrays, EXPRESSIONS, 16)
    features = arrays["manifold features"].astype(float)
    values, vectors = np.linalg.eigh(np.cov(features.T))
    assert np.allclose(shares, values[::-1] / values.sum())
    neutral = features[arrays["manifold expression"] == -1].mean(axis=0)
    for label, line in enumerate(lines):
        assert line.expression == EXPRESSIONS[label] and np.allclose(line.mean[0], 0)
        for person, of_subject in enumerate(line.subjects):
            for intensity, found in enumerate(of_subject):
                chosen = (arrays["manifold subject"] == person) & (
                    arrays["manifold intensity"] == intensity
                )
                expression = label if intensity else -1
                feature = features[chosen & (arrays["manifold expression"] == expression)][0]
                for axis in range(16):
                    along = (feature - neutral) @ vectors[:, 15 - axis]
                    assert np.isclose(abs(found[axis]), abs(along))
        assert np.allclose(line.mean, np.mean(line.subjects, axis=0))


def test_the_main_figure_marks_means_over_the_folds_of_all_rows(made_result):
    result = made_result()
    fewer = with_tests(result, METHOD, result.tests(METHOD)[:2])
    figure = curves.rows_by_fold([fewer])
    values = [
        100 * np.mean(np.equal(entry["truth"], entry["predicted"]))
        for entry in result.tests(BASELINE)[:2]
    ]
    assert f"{np.mean(values):.1f}" in said_in(figure)
    assert "2 folds; bars: 95 % interval of the mean" in said_in(figure)
    one_fold = made_result("bu3dfe", folds=1)
    both = said_in(curves.rows_by_fold([result, one_fold]))
    assert result.caption in both and one_fold.caption not in both
    assert one_fold.caption in said_in(curves.rows_by_fold([one_fold]))


def test_a_dataset_that_was_not_evaluated_has_a_column_that_says_so():
    made = tables([])
    for name in ("table-1.md", "table-2.md", "table-3.md"):
        assert any("not run" in line for line in made[name]), name
    assert "- BU-3DFE: not run" in made["table-1.md"]
    assert Result({"dataset": "bu3dfe"}).rows == [] and set(ROWS) > set(names_in("table3"))


def test_the_main_figure_shows_gains_beside_the_papers(made_result):
    for dataset, gain in (("anny3dfe", 4.32), ("bu3dfe", 4.32), ("bosphorus", 3.54)):
        result = made_result(dataset)
        _, axis = curves.rows_by_fold([result]).axes
        said = [text.get_text() for text in axis.texts]
        assert f"{gain:+.2f} in the paper" in said
        ours, low, high, _ = paired_difference(
            result.tests(METHOD), result.tests(BASELINE), result.protocol
        )
        assert f"{ours:+.2f}" in said
        where = [text for text in axis.texts if text.get_text() == f"{gain:+.2f} in the paper"]
        assert where[0].xy[1] == pytest.approx(gain)
