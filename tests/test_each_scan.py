"""What is written of a file has a name of its own."""

import numpy as np
import pytest

from drfer.common.errors import ScanFormatError
from drfer.each_scan import made_of, output_name


def test_a_small_face_in_centimetres_is_tried_as_such_if_it_is_none_in_inches(tmp_path):
    """14 are a whole head in inches, and part of a face in centimetres."""
    path = tmp_path / "face.xyz"
    places = np.random.default_rng(0).uniform(-1, 1, (4000, 2))
    np.savetxt(path, np.column_stack([places * [5, 7], 3 - (places**2).sum(axis=1)]))

    def smaller_than(most):
        def make(scan):
            if np.ptp(scan.points[:, 1]) > most:
                raise scan.refusal("no face")
            return scan

        return make

    assert "in inches, by its size" in made_of(path, "y", None, smaller_than(400)).source
    scan = made_of(path, "y", None, smaller_than(200))
    assert str(path) in scan.source and "by its size" not in scan.source
    assert scan.source.endswith(" (in centimetres, since it is no face in inches)")
    assert "a surface made of its points" in scan.source, "what else was decided is still said"
    assert 130 < np.ptp(scan.points[:, 1]) < 140
    for unit in (None, "in"):
        with pytest.raises(ScanFormatError, match=r"face\.xyz.*: no face") as refusal:
            made_of(path, "y", unit, smaller_than(100 if unit is None else 200))
        assert ("by its size" in str(refusal.value)) == (unit is None), "as it was read first"


def test_another_path_content_axis_or_unit_has_another_name(tmp_path):
    one, other = tmp_path / "face.ply", tmp_path / "b" / "face.ply"
    other.parent.mkdir()
    one.write_bytes(b"1")
    other.write_bytes(b"1")
    names = {
        output_name(one, "y", None),
        output_name(other, "y", None),
        output_name(one, "z", None),
        output_name(one, "y", "cm"),
        output_name(one, "y", None, "neutral.ply"),
    }
    assert output_name(one, "y", None) in names
    one.write_bytes(b"2")
    names.add(output_name(one, "y", None))
    assert len(names) == 6 and all(name.startswith("face-") for name in names)
