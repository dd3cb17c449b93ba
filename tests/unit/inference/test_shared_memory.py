"""Regions of shared memory, in a folder that stands for the machine's."""

import gc
import os
from pathlib import Path

import pytest

from headrace.errors import (
    AlreadyExists,
    HeadraceError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SharedMemoryUnavailable,
)
from headrace_inference import shared_memory
from headrace_inference.shared_memory import Extent, Region, Regions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "object").write_bytes(bytes(range(100)))
    return tmp_path


@pytest.fixture
def regions(folder: Path) -> Regions:
    return Regions(folder)


def test_a_region_is_read_and_written_where_it_lies(regions: Regions, folder: Path) -> None:
    regions.register("p", "r", Extent("/object", 10, 20))
    region = regions.find("p", "r")
    assert region.read(2, 3) == bytes([12, 13, 14])
    assert region.read(20, 0) == b""
    region.write(18, memoryview(b"ab"))
    assert (folder / "object").read_bytes()[28:31] == b"ab" + bytes([30])


@pytest.mark.parametrize(("offset", "size"), [(0, 21), (20, 1), (1 << 62, 1 << 62), (0, 1 << 63)])
def test_what_does_not_lie_within_the_region_is_refused(regions: Regions, offset: int, size: int) -> None:
    regions.register("p", "r", Extent("object", 10, 20))
    with pytest.raises(InvalidArgument, match="do not lie within shared memory region 'r', which has 20"):
        regions.find("p", "r").read(offset, size)


def test_an_object_that_became_smaller_is_an_error_and_not_the_end_of_the_server(
    regions: Regions, folder: Path
) -> None:
    regions.register("p", "r", Extent("object", 0, 100))
    os.truncate(folder / "object", 50)
    region = regions.find("p", "r")
    assert region.read(0, 50) == bytes(range(50))
    for use in (lambda: region.read(0, 51), lambda: region.write(0, memoryview(bytes(51)))):
        with pytest.raises(InvalidArgument, match="has become smaller; register one that stays"):
            use()
    assert (folder / "object").stat().st_size == 50


@pytest.mark.parametrize(
    ("extent", "error", "message"),
    [
        (Extent("", 0, 1), InvalidArgument, "key '' names no memory object"),
        (Extent("/", 0, 1), InvalidArgument, "names no memory object"),
        (Extent("..", 0, 1), InvalidArgument, "names no memory object"),
        (Extent("/../object", 0, 1), InvalidArgument, "names no memory object"),
        (Extent("//object", 0, 1), InvalidArgument, "names no memory object"),
        (Extent("a\0b", 0, 1), InvalidArgument, "names no memory object"),
        (Extent("x" * 256, 0, 1), InvalidArgument, "names no memory object"),
        (Extent("no", 0, 1), NotFound, "there is no memory object 'no'"),
        (Extent("link", 0, 1), InvalidArgument, "'link' is no memory object"),
        (Extent("fifo", 0, 1), InvalidArgument, "'fifo' is no memory object"),
        (Extent("folder", 0, 1), InvalidArgument, "'folder' is no memory object"),
        (Extent("object", 0, 0), InvalidArgument, "byte_size is 0"),
        (
            Extent("object", 0, 101),
            InvalidArgument,
            "101 bytes from 0 on do not lie within the memory object",
        ),
        (Extent("object", 100, 1), InvalidArgument, "which has 100"),
        (Extent("object", (1 << 64) - 1, 1), InvalidArgument, "do not lie within"),
        (Extent("object", 1, (1 << 64) - 1), InvalidArgument, "do not lie within"),
    ],
)
def test_what_is_no_region_is_refused(
    regions: Regions, folder: Path, extent: Extent, error: type[HeadraceError], message: str
) -> None:
    (folder / "link").symlink_to("object")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    with pytest.raises(error, match=message) as raised:
        regions.register("p", "r", extent)
    assert type(raised.value) is error
    assert regions.list("p") == []


def test_a_region_needs_a_name(regions: Regions) -> None:
    with pytest.raises(InvalidArgument, match="needs a name"):
        regions.register("p", "", Extent("object", 0, 1))


def test_a_machine_without_shared_memory_says_so(tmp_path: Path) -> None:
    with pytest.raises(SharedMemoryUnavailable, match="this machine has no"):
        Regions(tmp_path / "none").register("p", "r", Extent("object", 0, 1))


def test_to_register_the_same_again_changes_nothing_and_another_is_refused(
    regions: Regions, folder: Path
) -> None:
    regions.register("p", "r", Extent("object", 0, 10))
    regions.register("p", "r", Extent("object", 0, 10))
    with pytest.raises(AlreadyExists, match="region 'r' is registered already"):
        regions.register("p", "r", Extent("object", 0, 11))
    (folder / "object").rename(folder / "old")
    (folder / "object").write_bytes(bytes(100))
    with pytest.raises(AlreadyExists):
        regions.register("p", "r", Extent("object", 0, 10))


def test_regions_are_listed_by_name_and_forgotten_one_or_all(regions: Regions) -> None:
    for name in ("b", "a", "c"):
        regions.register("p", name, Extent("object", 0, 10))
    assert [region.name for region in regions.list("p")] == ["a", "b", "c"]
    assert [region.name for region in regions.list("p", "b")] == ["b"]
    regions.unregister("p", "b")
    regions.unregister("p", "b")
    with pytest.raises(NotFound, match="region 'b' is not registered"):
        regions.list("p", "b")
    regions.unregister("p")
    assert regions.list("p") == []


def test_a_project_sees_only_its_own_regions_and_objects(regions: Regions, folder: Path) -> None:
    (folder / "other").write_bytes(bytes(10))
    regions.register("p", "r", Extent("object", 0, 10))
    with pytest.raises(NotFound):
        regions.find("q", "r")
    with pytest.raises(PermissionDenied, match="'object' is not of this project"):
        regions.register("q", "r", Extent("object", 50, 10))
    regions.register("q", "r", Extent("other", 0, 10))
    regions.unregister("q")
    assert [region.name for region in regions.list("p")] == ["r"]


def test_a_project_has_a_bounded_number_of_regions(regions: Regions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "MAX_REGIONS", 2)
    regions.register("p", "a", Extent("object", 0, 1))
    regions.register("p", "b", Extent("object", 0, 1))
    with pytest.raises(ResourceExhausted, match="2 shared memory regions already"):
        regions.register("p", "c", Extent("object", 0, 1))


def descriptors_of(path: Path) -> int:
    """Count how often this process has a file open."""
    links = [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return links.count(str(path))


def test_a_region_stays_open_while_somebody_uses_it_and_no_longer(regions: Regions, folder: Path) -> None:
    regions.register("p", "r", Extent("object", 0, 10))
    region = regions.find("p", "r")
    regions.unregister("p", "r")
    assert region.read(0, 2) == bytes([0, 1])
    assert descriptors_of(folder / "object") == 1
    del region
    gc.collect()
    assert descriptors_of(folder / "object") == 0


def test_what_the_machine_does_not_write_is_no_fault_of_the_server(folder: Path) -> None:
    """It has no memory for more, say; here a descriptor to read from stands for that."""
    region = Region("r", Extent("object", 0, 100), os.open(folder / "object", os.O_RDONLY))
    with pytest.raises(ResourceExhausted, match="cannot write to the memory object 'object'"):
        region.write(50, memoryview(b"ab"))
