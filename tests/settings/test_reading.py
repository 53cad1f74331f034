import time

import pytest

from cl_ac.errors import ConfigurationError
from cl_ac.settings.reading import LARGEST, read

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_numbers_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("a: 1e-3\nb: 1.5e3\nc: 5\nd: 2024-01-01\ne: '1e-3'\nf: &f [1]\ng: *f\n")
    assert read(str(path)) == {"a": 1e-3, "b": 1500.0, "c": 5, "d": "2024-01-01", "e": "1e-3", "f": [1], "g": [1]}


@pytest.mark.parametrize(
    "content",
    [
        b"name: \xff",
        b"a: " + b"[" * 2000 + b"]" * 2000,
        b"a: " + b"[" * 100_000,
        BOMB.encode(),
        MERGES.encode(),
        b"a: &a [*a]",
        b"a: " + b"9" * 5000,
        b"a: !!python/object/apply:os.system [true]",
        b"a: 1\n" * 300_000,
        b"[1]",
        b"",
        b"a: \x1b",
        b"a: 1\nb: 2\na: 3",
        b"a: {b: 1, b: 2}",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_bad_files_are_refused_at_once(tmp_path, content):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    began = time.process_time()
    with pytest.raises(ConfigurationError) as refused:
        read(str(path))
    assert time.process_time() - began < 1
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("path", ["/dev/zero", "/nowhere/x", "a\0b", "n" * 300, "/"])
def test_what_is_no_file_is_refused(path):
    with pytest.raises(ConfigurationError, match=f"cannot read|larger than {LARGEST}"):
        read(path)
