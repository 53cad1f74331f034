import errno
import os
import resource

import pytest
import torch
from safetensors.torch import save_file

from cl_ac.errors import ConfigurationError, DamagedRun, StorageError
from cl_ac.recording.files import reading, save_state, storing, writable_folder, write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(unfinished):
        unfinished.write_text("half")
        raise OSError(errno.ENOSPC, "whatever")

    with pytest.raises(StorageError, match=r"cannot write '.*file': No space left on device; make room there"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_share_no_file(tmp_path):
    path = tmp_path / "file"

    def write(unfinished):
        unfinished.write_text("outer")
        write_atomically(path, lambda other: other.write_text("inner"))

    write_atomically(path, write)
    assert path.read_text() == "outer"


@pytest.fixture
def small_files():
    """Limits files to 1,000 bytes, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("save", [save_state, save_file])
def test_libraries_that_hide_the_reason_are_understood(small_files, tmp_path, save):
    with pytest.raises(StorageError, match="File too large; make room there"):
        write_atomically(tmp_path / "file", lambda path: save({"a": torch.zeros(999)}, path))
    assert not list(tmp_path.iterdir())


def test_other_errors_are_nobodys_disk(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), storing(tmp_path):
        raise RuntimeError("a bug")


def test_a_folder_in_whose_place_a_file_is_cannot_be_written(tmp_path):
    assert writable_folder(tmp_path / "a" / "b").is_dir()
    assert not os.listdir(tmp_path / "a" / "b")
    (tmp_path / "c").touch()
    with pytest.raises(StorageError, match=r"cannot write '.*c': File exists"):
        writable_folder(tmp_path / "c")


def test_whatever_reading_raises_names_the_file(tmp_path):
    def read(error: Exception) -> None:
        with reading(tmp_path / "x", "start again"):
            raise error

    with pytest.raises(DamagedRun, match=r"damaged: '.*x' is missing; start again"):
        read(FileNotFoundError())
    with pytest.raises(DamagedRun, match="cut short or changed"):
        read(KeyError("tensor"))
    with pytest.raises(ConfigurationError, match="mine"):
        read(ConfigurationError("mine"))
