"""Files of results: what is of another form is refused in one sentence, and no mutant does harm."""

import io
import json
import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutants import mutate
from stored_results import samples, small

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.protocol import Draws
from drfer.evaluation.result import load_result
from drfer.evaluation.result_format import SAMPLE_GROUPS, parse_provenance, parse_samples
from drfer.evaluation.statistics import accuracy_by_fold, summarise
from drfer.figures.tables import accuracy_table, tables


def refusal_of(folder):
    with pytest.raises(DrferError) as refusal:
        load_result(folder)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ------------------------------------------------------------------- files of another form, by hand


def changed_file(result, folder, change):
    """Write a result with something changed in the file's content."""
    result.save(folder)
    path = folder / "result.json"
    content = json.loads(path.read_text())
    content = change(content) or content
    path.write_text(json.dumps(content))
    return folder


def entry_of(content, kind):
    return next(entry for entry in content["entries"].values() if entry["kind"] == kind)


def put(section, name, value):
    return lambda content: content[section].__setitem__(name, value)


def put_in(kind, name, value):
    return lambda content: entry_of(content, kind).__setitem__(name, value)


OTHER_FORMS = {
    "null": lambda content: [None],
    "a list": lambda content: [content],
    "an older format": lambda content: content.__setitem__("format", 1),
    "no heading": lambda content: content.pop("heading") and None,
    "no entries": lambda content: content.pop("entries") and None,
    "a list of entries": lambda content: content.__setitem__("entries", [1]),
    "a heading that says more": put("heading", "mood", "good"),
    "a seed in words": put("heading", "seed", "zero"),
    "a negative seed": put("heading", "seed", -1),
    "a dataset that leads elsewhere": put("heading", "dataset", "../../elsewhere"),
    "a preset that is a number": put("heading", "preset", 3),
    "a hash that is a number": put("heading", "data hash", 3),
    "fewer expressions than labels": put("heading", "expressions", list(EXPRESSIONS[:3])),
    "no expressions": put("heading", "expressions", []),
    "expressions that are numbers": put("heading", "expressions", list(range(6))),
    "an expression twice": put("heading", "expressions", ["anger"] * 6),
    "a protocol in words": put("heading", "protocol", "tenfold"),
    "an unknown protocol field": lambda content: content["heading"]["protocol"].update(more=1),
    "a protocol without folds": lambda content: (
        content["heading"]["protocol"].pop("folds") and None
    ),
    "one fold": lambda content: content["heading"]["protocol"].update(folds=1),
    "a share in words": lambda content: content["heading"]["protocol"].update(train_share="half"),
    "a share above one": lambda content: content["heading"]["protocol"].update(train_share=2),
    "folds as a truth": lambda content: content["heading"]["protocol"].update(folds=True),
    "intensities in words": lambda content: content["heading"]["protocol"].update(intensities="34"),
    "a pose without angle": put("heading", "poses", [["yaw"]]),
    "an entry of null": lambda content: content["entries"].update(more=None),
    "an entry of an unknown kind": put_in("test", "kind", "guess"),
    "an entry whose kind is a list": put_in("test", "kind", ["test"]),
    "an entry without its fold": lambda content: entry_of(content, "test").pop("fold") and None,
    "a fold that there is not": put_in("test", "fold", 10),
    "a fold in words": put_in("test", "fold", "0"),
    "a repeat that is a fraction": put_in("test", "repeat", 0.5),
    "an unknown row": put_in("test", "row", "w/o anything"),
    "labels out of range": put_in("test", "predicted", [0, 1, 6]),
    "negative labels": put_in("test", "truth", [0, 1, -1]),
    "labels in words": put_in("test", "predicted", ["0", "1", "2"]),
    "labels that are truths": put_in("test", "predicted", [True, False, True]),
    "labels that are fractions": put_in("test", "predicted", [0.0, 1.0, 2.0]),
    "a prediction too few": put_in("test", "predicted", [0, 1]),
    "no scan": lambda content: entry_of(content, "test").update(truth=[], predicted=[]),
    "a pose too few": lambda content: entry_of(content, "pose")["predicted"].pop() and None,
    "an unknown setting": put_in("pose", "setting", "upside down"),
    "features of fewer scans": lambda content: entry_of(content, "features")["tsne"].pop() and None,
    "features of a drawn row without a plane": lambda content: (
        entry_of(content, "features").pop("tsne") and None
    ),
    "features in words": put_in("features", "tsne", [["0", "1"]] * 3),
    "a silhouette in words": put_in("features", "silhouette", "high"),
    "measures in words": put_in("disentanglement", "measured", {"leakage": "none"}),
    "a list of measures": put_in("diagnosis", "measured", [1.0]),
    "curves of an unknown stage": put_in("curves", "stage", "iv"),
    "no curves": put_in("curves", "curves", []),
    "epochs of other terms": put_in("curves", "curves", [{"a": 1.0}, {"b": 1.0}]),
    "epochs without terms": put_in("curves", "curves", [{}, {}]),
    "a stage with other terms in another fold": lambda content: content["entries"].update(
        again=entry_of(content, "curves") | {"fold": 1, "curves": [{"another": 1.0}]}
    ),
    "a loss in words": put_in("curves", "curves", [{"a": "low"}]),
    "subjects that are numbers": put_in("fold", "test subjects", [1, 2]),
    "two entries of one place": lambda content: content["entries"].update(
        again=entry_of(content, "test")
    ),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_another_form_is_refused_in_one_sentence(stored, form, tmp_path):
    changed_file(small(stored), tmp_path, OTHER_FORMS[form])
    assert "result.json is not a result of this version of drfer" in refusal_of(tmp_path)
    changed_file(small(stored), tmp_path / "as it was", lambda content: None)
    assert load_result(tmp_path / "as it was").entries == small(stored).entries


DRAWS = {
    "development": False,
    "kind": "draws",
    "train_subjects": 54,
    "test_subjects": 300,
    "measured_subjects": 60,
    "intensities": [3, 4],
}
OTHER_DRAWS = {
    "draw 0": (DRAWS, 0, 0),
    "draw 100": (DRAWS, 100, 0),
    "another fold": (DRAWS, 1, 1),
    "another kind": (DRAWS | {"kind": "raws"}, 1, 0),
    "people in words": (DRAWS | {"development": "no"}, 1, 0),
    "folds too": (DRAWS | {"folds": 10}, 1, 0),
    "too few training subjects": (DRAWS | {"train_subjects": 8}, 1, 0),
    "half a subject": (DRAWS | {"train_subjects": 54.5}, 1, 0),
    "subjects in words": (DRAWS | {"test_subjects": "all"}, 1, 0),
    "all are measured": (DRAWS | {"measured_subjects": 300}, 1, 0),
    "intensities in words": (DRAWS | {"intensities": "34"}, 1, 0),
    "a fifth intensity": (DRAWS | {"intensities": [3, 5]}, 1, 0),
    "identity in words": (DRAWS | {"identity": "half"}, 1, 0),
    "no share of labels": (DRAWS | {"wrong_labels": 2}, 1, 0),
    "labels yes or no": (DRAWS | {"wrong_labels": False}, 1, 0),
}


def result_of_draws(result, protocol, repeat, fold):
    """An entry of a result as that of a draw."""
    entry = result.select("test")[0] | {"repeat": repeat, "fold": fold}
    return replace(result, heading=result.heading | {"protocol": protocol}, entries={"one": entry})


@pytest.mark.parametrize("form", OTHER_DRAWS)
def test_draws_of_another_form_are_refused_in_one_sentence(stored, form, tmp_path):
    result = result_of_draws(small(stored), DRAWS, 99, 0)
    result.save(tmp_path / "good")
    again = load_result(tmp_path / "good")
    assert again.entries == result.entries
    assert again.protocol == Draws()
    assert again.name == "anny3dfe-classroom-draws"
    result_of_draws(small(stored), *OTHER_DRAWS[form]).save(tmp_path)
    assert "result.json is not a result of this version of drfer" in refusal_of(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "3",
        '"text"',
        "{",
        "{}",
        '{"format": 2}',
        "[" * 100_000,
        "9" * 5000,
        "\ufeff{}",
    ],
    ids=lambda content: content[:8],
)
def test_what_is_no_result_is_refused_in_one_sentence(content, tmp_path):
    (tmp_path / "result.json").write_text(content)
    assert "result.json is not a result" in refusal_of(tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1" + 400 * "0"])
def test_numbers_that_are_not_finite_are_refused(stored, number, tmp_path):
    path = changed_file(small(stored), tmp_path, put_in("features", "purity", 0.123456789))
    text = (path / "result.json").read_text()
    assert "0.123456789" in text
    (path / "result.json").write_text(text.replace("0.123456789", number))
    assert "result.json is not a result" in refusal_of(tmp_path)


def test_files_that_cannot_be_read_are_said(stored, tmp_path):
    (tmp_path / "result.json").mkdir()
    assert "result.json cannot be read (Is a directory)" in refusal_of(tmp_path)
    (tmp_path / "result.json").rmdir()
    (tmp_path / "result.json").write_bytes(b'{"format": "\xff"}')
    assert "result.json is not a result" in refusal_of(tmp_path)
    stored.save(tmp_path)
    (tmp_path / "samples.npz").unlink()
    (tmp_path / "samples.npz").mkdir()
    assert "samples.npz cannot be read (Is a directory)" in refusal_of(tmp_path)


# ----------------------------------------------------------------- files of another form, by chance


def use(result):
    """All that figures and tables do with a result, but for the drawing."""
    assert result.name and result.caption
    assert result.folds is not None
    for row in result.rows:
        found = summarise(result.tests(row), result.protocol)
        assert 0 <= found.mean <= 100
        assert accuracy_by_fold(result.tests(row))
    assert result.merged(result).entries == result.entries
    assert tables([result])
    assert accuracy_table(result)


@settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(chance=st.randoms(use_true_random=True), count=st.integers(1, 3))
def test_a_mutant_is_used_or_refused_in_one_sentence(stored, chance, count, tmp_path):
    def change(content):
        for _ in range(count):
            mutate(content, chance)
        return content

    changed_file(small(stored), tmp_path, change)
    try:
        result = load_result(tmp_path)
    except DrferError as refusal:
        assert "result.json is not a result" in str(refusal)
        assert "\n" not in str(refusal)
        return
    use(result)


# --------------------------------------------------------------------------- samples and provenance


def as_file(arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


HEADING = {"poses": [["frontal", 0]] * 17, "expressions": list(EXPRESSIONS)}


def test_samples_of_the_right_form_are_read():
    found = parse_samples(as_file(samples()), HEADING)
    assert found.keys() == samples().keys()
    for group in SAMPLE_GROUPS:
        part = {name: samples()[name] for name in group}
        assert parse_samples(as_file(part), HEADING).keys() == part.keys()
    assert parse_samples(as_file({}), HEADING) == {}


def with_nan(array):
    array = array.astype(np.float32)
    array.flat[0] = np.nan
    return array


OTHER_SAMPLES = {
    **{f"NaN in {name}": {name: with_nan(array)} for name, array in samples().items()},
    **{f"no {name}": {name: None} for name in samples()},
    **{f"too few of {name}": {name: array[1:]} for name, array in samples().items()},
    **{f"{name} in words": {name: array.astype(str)} for name, array in samples().items()},
    **{f"{name} of one dimension more": {name: a[..., None]} for name, a in samples().items()},
    "labels out of range": {"sample labels": np.array([0, 1, 2, 3, 4, 6])},
    "labels that are fractions": {"sample labels": np.arange(6) / 2},
    "unknown expressions": {"manifold expression": np.array([-1, 0, 6, 2, 1])},
    "a subject without a neutral scan": {"manifold subject": np.array([0, 0, 1, 0, 0])},
    "an unknown array": {"sample mood": np.zeros((6, 9, 3))},
    "points of two coordinates": {"sample fused": np.zeros((6, 9, 2))},
    "faces without points": {"sample fused": np.zeros((6, 0, 3))},
    "a single number": {"posed clouds": np.float32(1)},
}


@pytest.mark.parametrize("form", OTHER_SAMPLES)
def test_samples_of_another_form_are_refused_in_one_sentence(stored, form, tmp_path):
    arrays = {k: v for k, v in (samples() | OTHER_SAMPLES[form]).items() if v is not None}
    small(stored).save(tmp_path)
    (tmp_path / "samples.npz").write_bytes(as_file(arrays))
    assert "samples.npz is not a result" in refusal_of(tmp_path)


def test_samples_for_another_number_of_poses_are_refused():
    with pytest.raises(ValueError, match="not two at every pose"):
        parse_samples(as_file(samples()), HEADING | {"poses": HEADING["poses"][:16]})


def test_samples_are_not_unpickled(stored, tmp_path):
    small(stored).save(tmp_path)
    (tmp_path / "samples.npz").write_bytes(
        as_file({"sample labels": np.array([{"an": "object"}], object)})
    )
    assert "samples.npz is not a result" in refusal_of(tmp_path)


def test_samples_with_damaged_bytes_are_refused_in_one_sentence(stored, tmp_path):
    content = as_file(samples())
    small(stored).save(tmp_path)
    chance = random.Random(0)
    refused = 0
    for number in range(300):
        damaged = bytearray(content)
        if number % 3 == 0:
            damaged = damaged[: chance.randrange(len(damaged))]
        else:
            for _ in range(chance.randint(1, 8)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        (tmp_path / "samples.npz").write_bytes(damaged)
        try:
            load_result(tmp_path)
        except DrferError as refusal:
            refused += 1
            assert "samples.npz is not a result" in str(refusal)
            assert "\n" not in str(refusal)
    assert refused > 200, "zip archives have checksums"


def test_a_size_that_is_a_lie_is_refused(stored, tmp_path):
    """A header that claims more than any memory holds."""
    small(stored).save(tmp_path)
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "samples.npz", "w") as archive:
        archive.writestr("sample labels.npy", header.getvalue() + bytes(80))
    assert "samples.npz is not a result" in refusal_of(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "null", "[]", '{"iii-1": 3}', '{"iii-1": null}', "[" * 10**5]
)
def test_provenance_of_another_form_is_refused(content):
    with pytest.raises((ValueError, RecursionError)):
        parse_provenance(content)
    assert parse_provenance('{"iii-1": {"date": "today"}}') == {"iii-1": {"date": "today"}}
