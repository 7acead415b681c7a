"""What is written of a file has a name of its own."""

from drfer.each_scan import output_name


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
    }
    assert output_name(one, "y", None) in names
    one.write_bytes(b"2")
    names.add(output_name(one, "y", None))
    assert len(names) == 5 and all(name.startswith("face-") for name in names)
