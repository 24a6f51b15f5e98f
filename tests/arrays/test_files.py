"""Files in memory: without a name, by whatever way there is, or a clear error."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mpengine.arrays import files

SHARED_MEMORY = Path("/dev/shm")
PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


def fail_with(number: int) -> Any:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def target(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def assert_usable(fd: int) -> None:
    """Empty, to read and write, closed on exec, and only there as long as its descriptor is."""
    try:
        assert os.fstat(fd).st_size == 0
        assert not os.get_inheritable(fd)
        os.ftruncate(fd, 1 << 40)
        os.pwrite(fd, b"content", 1 << 39)
        assert os.pread(fd, 7, 1 << 39) == b"content"
        assert os.fstat(fd).st_blocks * 512 < 1 << 20
        assert os.fstat(fd).st_nlink == 0
    finally:
        os.close(fd)


def test_a_file_has_no_name_but_for_those_who_look_at_the_process() -> None:
    fd = files.create("mpengine-test")
    assert target(fd) == "/memfd:mpengine-test (deleted)"
    assert_usable(fd)


def test_each_file_is_another() -> None:
    one, other = files.create("same"), files.create("same")
    os.pwrite(one, b"one", 0)
    assert os.fstat(other).st_size == 0
    os.close(one)
    os.close(other)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EACCES])
def test_where_the_call_is_not_to_be_had_a_file_of_shared_memory_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = set(SHARED_MEMORY.iterdir())
    monkeypatch.setattr(os, "memfd_create", fail_with(number))
    fd = files.create("mpengine-test")
    assert set(SHARED_MEMORY.iterdir()) <= before
    assert target(fd).startswith(f"{PLACE}/mpengine-test-")
    assert_usable(fd)


def test_a_platform_without_the_call_is_one_of_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    fd = files.create("mpengine-test")
    assert target(fd).startswith(f"{PLACE}/mpengine-test-")
    assert_usable(fd)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINVAL])
def test_any_other_error_is_the_callers(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "memfd_create", fail_with(number))
    with pytest.raises(OSError) as caught:
        files.create("mpengine-test")
    assert caught.value.errno == number


@pytest.fixture
def not_writable(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Folders in which no file can be made; there is no memfd_create, either."""
    folders = {"/dev/shm"}
    mkstemp: Any = tempfile.mkstemp

    def make(*args: Any, dir: str, **options: Any) -> Any:
        if dir in folders:
            raise OSError(errno.EROFS, "Read-only file system")
        return mkstemp(*args, dir=dir, **options)

    monkeypatch.setattr(os, "memfd_create", fail_with(errno.EPERM))
    monkeypatch.setattr(tempfile, "mkstemp", make)
    return folders


def test_without_shared_memory_a_file_of_the_temporary_folder_takes_its_place(
    not_writable: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fd = files.create("mpengine-test")
    assert list(tmp_path.iterdir()) == []
    assert target(fd).startswith(f"{tmp_path}/mpengine-test-")
    os.close(fd)


def test_without_any_of_these_the_error_says_so(
    not_writable: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    not_writable.add(str(tmp_path))
    with pytest.raises(OSError, match=rf"memfd_create.*/dev/shm or {tmp_path}; make one of them writable") as caught:
        files.create("mpengine-test")
    assert caught.value.errno == errno.ENOSYS
