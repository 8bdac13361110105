"""Cells and their files are the same wherever they lie, and a parcel stays in its folder."""

import pytest

from natsel.runs.cells import path_of
from natsel.runs.parcels import Parcel, pack, unpack
from natsel_papers.plateau_grid import PlateauGrid, cells


def test_where_a_network_lies_is_no_part_of_the_cell(tmp_path):
    def names(folder, digest):
        found = cells(PlateauGrid(seeds=1), [(folder, digest)], "digits")
        return [path_of(tmp_path, cell).name for cell in found]

    assert names("here/model", "a1") == names("/there/model", "a1")
    assert not set(names("here/model", "a1")) & set(names("here/model", "b2"))


def test_a_parcel_arrives_whole_in_the_place_of_what_was_there(tmp_path):
    (tmp_path / "sent" / "deep").mkdir(parents=True)
    (tmp_path / "sent" / "deep" / "a.bin").write_bytes(b"\x00\x01")
    (tmp_path / "sent" / "link").symlink_to(tmp_path)
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "old").write_text("old")
    unpack(pack(tmp_path / "sent"), tmp_path / "got")
    assert pack(tmp_path / "got").files == {"deep/a.bin": b"\x00\x01"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["got", "sent"]


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out"])
def test_a_parcel_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of it"):
        unpack(Parcel("got", {name: b"x"}, ""), tmp_path / "in" / "got")
    assert [p.name for p in tmp_path.rglob("*")] == ["in"]
