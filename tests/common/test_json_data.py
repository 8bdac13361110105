"""JSON from elsewhere: one line for whatever is wrong with it."""

import json

import pytest

from natsel.common import json_data
from natsel.common.json_data import MAX_DEPTH, parse_json, read_json, read_object


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b'{"a": NaN}', "NaN is no finite number"),
        (b"[-Infinity]", "-Infinity is no finite number"),
        (b"[1e400]", "1e400 is no finite number"),
        (b"9" * 5000, "not valid JSON"),
        (b"[" * 10**5 + b"]" * 10**5, "nested deeper"),
        (b"[" * 10**5, "nested deeper"),
        (b'{"a":' * 10**5 + b"1" + b"}" * 10**5, "nested deeper"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), f"deeper than {MAX_DEPTH} levels"),
    ],
)
def test_what_is_refused(tmp_path, content, told):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told) as error:
        read_json(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_what_is_allowed():
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert json.dumps(parse_json(deep, "x")) == deep.decode()
    assert parse_json('{"a": [1, 2.5, null, true, "\\ud800"]}', "x")["a"][:2] == [1, 2.5]
    assert parse_json("[Infinity, 1e400]", "x", finite=False) == [float("inf")] * 2


@pytest.mark.parametrize("content", ["[]", "3", '"a"', "null"])
def test_an_object_is_an_object(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json is damaged: it holds no JSON object"):
        read_object(tmp_path / "a.json")


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_data, "MAX_BYTES", 10)
    (tmp_path / "a.json").write_text("[" + " " * 10 + "]")
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        read_json(tmp_path / "a.json")
