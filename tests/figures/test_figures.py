"""The paper's figures and tables: drawn whole from stored evaluations, the same bytes twice, nothing invented."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.experiment import PRESETS
from drfer.figures import architecture
from drfer.figures import paper as paper_figures
from drfer.figures.paper import SETTINGS, draw
from drfer.figures.tables import BASELINE, ROWS, WHOLE, Evaluation, load_evaluations, tables

FILES = {
    f"{name}.{kind}"
    for name in ("main", *(f"figure-{n}" for n in range(1, 7)))
    for kind in ("pdf", "png")
} | {
    "figure-1.html",
    "figure-4.html",
    "plotly.min.js",
    "tables.md",
    "table-1.md",
    "table-2.md",
    "table-3.md",
    "table-readings.md",
    "table-disentanglement.md",
    "table-diagnosis.md",
}
POSES = [["frontal", 0]] + [
    [kind, angle] for kind in ("pitch", "yaw") for angle in range(-80, 81, 20) if angle
]


def evaluation(dataset="anny3dfe", seed=0, folds=3, scans=36):
    """Made-up numbers in the shape of a true evaluation."""
    generator = np.random.default_rng(seed)
    truth = np.tile(np.arange(6), scans // 6)

    def guessed(share):
        return np.where(
            generator.random(scans) < share, truth, generator.integers(6, size=scans)
        ).tolist()

    def fold(number, **rest):
        return {"repeat": 0, "fold": number, "truth": truth.tolist(), **rest}

    return {
        "dataset": dataset,
        "data hash": "0123456789abcdef",
        "preset": "classroom",
        "seed": seed,
        "protocol": {"subjects": 60, "folds": 10, "levels": [3, 4], "draw_seed": 0},
        "expressions": list(EXPRESSIONS),
        "rows": {
            row: [fold(number, predicted=guessed(0.8)) for number in range(folds)]
            for row in ROWS[:-1]
        },
        "poses": POSES,
        "pose": [
            {
                "setting": setting,
                "row": row,
                **fold(number, predicted=[guessed(0.9 - abs(a) / 400) for _, a in POSES]),
            }
            for setting in SETTINGS
            for row in (BASELINE, WHOLE)
            for number in range(folds)
        ],
        "features": [
            {
                "row": row,
                "repeat": 0,
                "fold": 0,
                "labels": truth.tolist(),
                "silhouette": 0.31,
                "purity": 0.74,
                "tsne": (generator.normal(size=(scans, 2)) + spread * truth[:, None]).tolist(),
            }
            for row, spread in ((BASELINE, 1), (WHOLE, 3))
        ],
        "disentanglement": [
            {"repeat": 0, "fold": number, "leakage": {"subject probe, %": 20.0 + 2 * number}}
            for number in range(2)
        ],
    }


def samples(seed=0, subjects=3):
    generator = np.random.default_rng(seed)
    kinds = [(person, -1, 0) for person in range(subjects)]
    kinds += [(p, e, level) for p in range(subjects) for e in range(6) for level in range(1, 5)]
    subject, expression, level = np.array(kinds).T
    towards = generator.normal(size=(7, 16))
    clouds = generator.normal(size=(2, 17, 2048, 3)) * 0.3
    return {
        "manifold features": (
            level[:, None] * towards[expression] + generator.normal(size=(len(kinds), 16))
        ).astype("f4"),
        "manifold expression": expression,
        "manifold level": level,
        "manifold subject": subject,
        "posed clouds": clouds.astype("f4"),
        "posed left": generator.integers(400, 2048, size=(2, 17)),
    }


def store(folder, facts, arrays=None):
    place = folder / f"{facts['dataset']}-{facts['preset']}"
    place.mkdir(parents=True)
    (place / "evaluation.json").write_text(json.dumps(facts))
    if arrays:
        np.savez(place / "samples.npz", **arrays)
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two evaluations drawn by the command line, and once more in a process whose hashes are other."""
    folder = tmp_path_factory.mktemp("figures")
    store(folder / "results", evaluation(), samples())
    store(folder / "results", evaluation("bosphorus", seed=1), samples(1))
    for name in ("one", "two"):
        command = [
            sys.executable,
            "-m",
            "drfer.cli",
            "figures",
            "--results",
            "results",
            "--out",
            name,
        ]
        environment = {**os.environ, "PYTHONHASHSEED": str(len(name) + ord(name[0]))}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        assert done.returncode == 0 and not done.stderr, done.stderr
    return folder


def test_everything_is_written_and_the_same_twice(drawn):
    for name in ("one", "two"):
        assert {path.name for path in (drawn / name).iterdir()} == FILES
    for name in FILES:
        assert (drawn / "one" / name).read_bytes() == (drawn / "two" / name).read_bytes(), name


def test_interactive_figures_need_no_network(drawn):
    for page in (drawn / "one").glob("*.html"):
        sources = re.findall(r"<script[^>]* src=\"([^\"]+)\"", page.read_text())
        assert sources == ["plotly.min.js"], page


def test_tables_keep_the_papers_numbers_apart_from_ours(drawn):
    first, second, third = ((drawn / "one" / f"table-{n}.md").read_text() for n in (1, 2, 3))
    rows = load_evaluations(drawn / "results")[0].facts["rows"]
    for row, paper in (("stage i", "84.83"), ("w/ L_KL", "85.98"), ("w/o L_tri", "85.92")):
        shares = [np.mean([a == b for a, b in zip(f["truth"], f["predicted"])]) for f in rows[row]]
        assert f"| {row} | {paper} | {100 * sum(shares) / len(shares):.2f} ± " in third
    assert "| stage i, as long | not in the paper | not run |  | not run |  |" in third
    assert (
        "as reported by the paper | this kit, Anny-3DFE (synthetic), classroom | this kit, BU-3DFE |"
        in first
    )
    assert (
        "| not run |" in first
        and "89.15" in first
        and "Zhu et al. [46] | 3D | deep learning | 87.69" in first
    )
    assert "Bosphorus, classroom" in second and "86.77" in second and "not run" not in second
    assert (
        "| leakage, subject probe, % | 21 | 21 |"
        in (drawn / "one" / "table-disentanglement.md").read_text()
    )


def test_rows_stand_beside_the_whole_method_on_the_folds_of_both():
    """A row of two folds is compared with those two; one of another fold with none; readings have a table of their own."""
    facts = evaluation()
    rows = facts["rows"]
    rows["w/o skip"], rows["a reading"] = rows["w/o skip"][1:], rows["stage i"][:1]
    rows["w/o fusion"] = [{**rows["w/o fusion"][0], "fold": 9}]
    of_fold = [
        {f["fold"]: 100 * np.mean(np.equal(f["truth"], f["predicted"])) for f in rows[row]}
        for row in (WHOLE, "w/o skip")
    ]
    lead = np.mean([of_fold[0][fold] - of_fold[1][fold] for fold in (1, 2)])
    table, readings = (
        tables([Evaluation("anny3dfe", facts)])[f"table-{name}.md"] for name in ("3", "readings")
    )
    cells = {
        line.split(" | ")[0].lstrip("| "): line.rstrip(" |").split(" | ")[-1]
        for line in (*table, *readings)
    }
    assert cells["w/o skip"] == f"{lead:+.2f} (2 folds)", "of two folds an interval says nothing"
    assert " ± " in cells["stage i"] and cells["stage i"].endswith("(3 folds)")
    assert re.fullmatch(r"[\d.]+ \(1 fold\)", cells["w/o fusion"]), (
        "no difference, since no fold is of both"
    )
    assert cells["a reading"].endswith("(1 fold)") and not any("w/o" in line for line in readings)
    assert not re.search(r"[+-]", cells[WHOLE].replace(WHOLE, ""))


def test_a_dataset_without_truth_says_so():
    both, one = {"probe": 1.0, "transfer": {"error": 2.0}}, {"probe": 3.0}
    evaluations = [
        Evaluation(
            name,
            {
                **evaluation(name),
                "disentanglement": [{"repeat": 0, "fold": 0, **entry}] if entry else [],
            },
        )
        for name, entry in (("anny3dfe", both), ("bosphorus", one), ("bu3dfe", None))
    ]
    table = tables(evaluations)["table-disentanglement.md"]
    assert "| transfer, error | 2 | no ground truth | not run |" in table


@pytest.mark.parametrize(
    "section", [None, "rows", "pose", "features", "disentanglement", "samples"]
)
def test_what_is_missing_is_said_and_nothing_else_is_lost(section, tmp_path, drawn):
    facts = evaluation()
    if section is None:
        (tmp_path / "results").mkdir()
    else:
        facts |= {"rows": {}} if section == "rows" else {}
        if section not in ("rows", "samples"):
            del facts[section]
        store(tmp_path / "results", facts, None if section == "samples" else samples())
    shown = load_evaluations(tmp_path / "results") or [Evaluation("anny3dfe")]
    pictures = {
        "pose": paper_figures.pose_curves,
        "features": paper_figures.feature_maps,
        "samples": paper_figures.manifold,
    }
    for name, picture in pictures.items():
        said = [text.get_text() for text in picture(shown).findobj(Text)]
        assert any("not run" in text for text in said) == (section in (None, name)), name
    texts = tables(load_evaluations(tmp_path / "results"))
    for name, table in (("rows", "table-3.md"), ("disentanglement", "table-disentanglement.md")):
        whole_column = all("not run" in line for line in texts[table][4:] if line.startswith("|"))
        assert whole_column == (section in (None, name)), name
    if section in (None, "samples"):
        assert {path.name for path in draw(tmp_path / "results", tmp_path / "out")} == FILES


def test_a_fold_that_is_not_there_is_not_invented(tmp_path):
    facts = evaluation()
    facts["pose"] = [
        entry for entry in facts["pose"] if entry["row"] == BASELINE and entry["setting"] == "raw"
    ]
    shown = load_evaluations(store(tmp_path, facts))
    said = [text.get_text() for text in paper_figures.pose_curves(shown).findobj(Text)]
    counts = [text.splitlines()[1] for text in said if text.startswith(tuple(SETTINGS))]
    assert counts == [
        "DrFER: not run, baseline: 3 folds",
        *["DrFER: not run, baseline: not run"] * 2,
    ]


@pytest.mark.parametrize(
    "broken",
    [
        lambda facts: "{",
        lambda facts: "[]",
        lambda facts: json.dumps({**facts, "rows": []}),
        lambda facts: json.dumps({name: value for name, value in facts.items() if name != "seed"}),
        lambda facts: json.dumps(
            {**facts, "rows": {"stage i": [{"truth": [0, 1], "predicted": [0]}]}}
        ),
        lambda facts: json.dumps({**facts, "pose": [{**facts["pose"][0], "predicted": [[0]]}]}),
        lambda facts: json.dumps(
            {**facts, "features": [{**facts["features"][0], "tsne": [[0.0, 0.0]]}]}
        ),
    ],
)
def test_a_broken_evaluation_is_one_sentence(broken, tmp_path):
    place = store(tmp_path, evaluation()) / "anny3dfe-classroom" / "evaluation.json"
    place.write_text(broken(evaluation()))
    with pytest.raises(DrferError, match=r"evaluation\.json is broken .*: evaluate again") as said:
        draw(tmp_path, tmp_path / "out")
    assert "\n" not in str(said.value) and not (tmp_path / "out").exists()


def test_broken_samples_and_a_missing_folder_are_one_sentence(tmp_path):
    store(tmp_path, evaluation(), samples())
    (tmp_path / "anny3dfe-classroom" / "samples.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DrferError, match=r"samples\.npz is broken"):
        draw(tmp_path)
    for name in ("manifold level", "posed left"):
        np.savez(
            tmp_path / "anny3dfe-classroom" / "samples.npz", **{**samples(), name: np.zeros((2, 3))}
        )
        with pytest.raises(DrferError, match=r"samples\.npz is broken"):
            draw(tmp_path)
    with pytest.raises(DrferError, match="there is no folder"):
        draw(tmp_path / "nowhere")


def test_the_manifold_starts_at_the_mean_neutral_and_keeps_distances():
    """Slow twin: principal components by the covariance's eigenvectors, lines by loops over subjects and levels."""
    arrays = samples()
    shares, trajectories = paper_figures._trajectories(arrays, 16)
    features = arrays["manifold features"].astype(float)
    values, vectors = np.linalg.eigh(np.cov(features.T))
    assert np.allclose(shares, values[::-1] / values.sum())
    neutral = features[arrays["manifold expression"] == -1].mean(axis=0)
    for number, (name, subjects, mean) in enumerate(trajectories):
        assert name == EXPRESSIONS[number] and np.allclose(mean[0], 0)
        for person, line in enumerate(subjects):
            for level, place in enumerate(line):
                expression = number if level else -1
                chosen = (arrays["manifold subject"] == person) & (
                    arrays["manifold level"] == level
                )
                feature = features[chosen & (arrays["manifold expression"] == expression)][0]
                for axis in range(16):
                    along = (feature - neutral) @ vectors[:, 15 - axis]
                    assert np.isclose(abs(place[axis]), abs(along))
        assert np.allclose(mean, np.mean(subjects, axis=0))


def labels(figure):
    return [text for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("picture", [architecture.method, architecture.architecture])
@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_labels_stand_on_the_page_and_apart(picture, preset):
    figure = picture(preset)
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in labels(figure)]
    for number, (name, box) in enumerate(boxes):
        assert (
            box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        ), name
        for other, place in boxes[:number]:
            assert not box.overlaps(place), f"{name!r} lies on {other!r}"


def named(figure):
    return {artist.get_gid() for artist in figure.findobj() if artist.get_gid()}


@pytest.mark.parametrize("gaussian", [False, True])
def test_every_module_of_the_model_is_drawn(gaussian):
    preset = PRESETS["paper"]
    preset = replace(preset, sizes=replace(preset.sizes, gaussian_feature=gaussian))
    model = architecture.untrained(preset)
    overview, detail = named(architecture.method(preset)), named(architecture.architecture(preset))
    assert {name for name, _ in model.named_children()} <= overview
    for part in ("expression", "identity", "fusion"):
        for child, module in model.get_submodule(part).named_children():
            inner = (
                {f"{part}.{child}.{name}" for name, _ in architecture.layers_of(module)}
                if child != "gaussian"
                else {f"{part}.{child}"}
            )
            assert inner <= detail


def test_a_changed_size_changes_what_is_drawn():
    preset = PRESETS["paper"]
    level, *others = preset.sizes.encoder.levels
    encoder = replace(
        preset.sizes.encoder,
        levels=(replace(level, centres=333, radius=0.15, widths=(7, 9)), *others),
    )
    sizes = replace(
        preset.sizes, encoder=encoder, decoder_widths=(1111, 2222), classifier_widths=(55,)
    )
    texts = "\n".join(
        text.get_text() for text in labels(architecture.architecture(replace(preset, sizes=sizes)))
    )
    for said in (
        "333 centroids",
        "ball 0.15, 32 points",
        "MLP 7-9\n",
        "1024 to 1111",
        "1111 + 512 to 2222",
        "2222 + 18 to 6144",
        "1024 to 55",
        "55 to 6",
    ):
        assert said in texts, said
    no_skips = replace(preset, sizes=replace(sizes, skips=False))
    assert " + " not in "\n".join(
        text.get_text() for text in labels(architecture.architecture(no_skips))
    )


def test_stage_labels_come_from_the_stages():
    assert architecture.stages_of("expression.classifier") == "i · ii · iii"
    assert architecture.stages_of("expression.encoder") == "i · ii · iii"
    assert architecture.stages_of("identity.classifier") == "i"
    assert architecture.stages_of("identity.decoder") == "ii · iii"
    assert architecture.stages_of("fusion") == "i · iii"
