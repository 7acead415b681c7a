"""`scans.csv` as spreadsheets write it."""

import pytest

from drfer.common.errors import DrferError
from drfer.datasets.scan import ScanKey
from drfer.datasets.scans import read_table

ROWS = [
    ("file", "subject", "expression"),
    ("anna/1.obj", "Jörg", "fear"),
    ("2.ply", "b", "neutral"),
]
EXPECTED = {"anna/1.obj": ScanKey("Jörg", "fear", 1), "2.ply": ScanKey("b", "neutral", 0)}


def table(tmp_path, rows, separator=",", encoding="utf-8", end="\n"):
    path = tmp_path / "scans.csv"
    path.write_bytes(end.join(separator.join(row) for row in rows).encode(encoding))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_spreadsheets_table_is_read(separator, encoding, end, tmp_path):
    assert read_table(table(tmp_path, ROWS, separator, encoding, end)) == EXPECTED


def test_capitals_spaces_paths_and_other_names_do_not_matter(tmp_path):
    rows = [
        (" Subject", "FILE ", "Expression", "remark"),
        ("Jörg", r".\anna\1.obj", "Afraid", "said"),
        ("b", "./2.ply", " NEUTRAL ", ""),
        ("", "", "", ""),
    ]
    assert read_table(table(tmp_path, rows)) == EXPECTED


def test_labels_may_have_any_names_spelt_as_they_stand_first(tmp_path):
    labels = ("Jaw Drop", "AU12", "HAPPY", "au12", "jaw drop", "Neutral")
    rows = [(f"{number}.ply", "c", label) for number, label in enumerate(labels)]
    read = read_table(table(tmp_path, [ROWS[0], *rows]))
    assert [(key.expression, key.intensity) for key in read.values()] == [
        ("Jaw Drop", 1),
        ("AU12", 1),
        ("happiness", 1),
        ("AU12", 1),
        ("Jaw Drop", 1),
        ("neutral", 0),
    ]


@pytest.mark.parametrize(
    "row, sentence",
    [
        (("3.ply", " ", "fear"), "line 4: the column 'subject' is missing or empty"),
        (("3.ply", "c"), "line 4: the column 'expression' is missing or empty"),
        (("3.ply", "c", "j" * 41), "line 4: 'j+'... is too long a name .* at most 40 characters"),
        ((r"anna\1.obj", "c", "fear"), "line 4: 'anna/1.obj' stands in it twice"),
    ],
)
def test_a_wrong_line_is_named(row, sentence, tmp_path):
    with pytest.raises(DrferError, match=sentence):
        read_table(table(tmp_path, [*ROWS, row]))


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "line 1: there is no column 'file'"),
        (b"name,who,what\n", "line 1: there is no column 'file'"),
        (b"PK\x03\x04\0\0\0", "no text; save the table as CSV, UTF-8, with commas"),
    ],
)
def test_what_is_no_table_is_one_sentence(content, sentence, tmp_path):
    path = tmp_path / "scans.csv"
    path.write_bytes(content)
    with pytest.raises(DrferError, match=sentence):
        read_table(path)
