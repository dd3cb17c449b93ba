import gzip
import io
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidArgument
from headrace.program.archive import MAX_BYTES, MAX_FILES, pack, unpack


def archive(*members: tarfile.TarInfo, content: bytes = b"x = 1\n") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members:
            member.size = len(content) if member.isfile() else 0
            tar.addfile(member, io.BytesIO(content) if member.isfile() else None)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_a_file_survives_the_journey(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("x = 1\n")
    target = tmp_path / "target"
    target.mkdir()
    assert unpack(pack(source), target) == ["mine.py"]
    assert (target / "mine.py").read_text() == "x = 1\n"


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "nets").mkdir(parents=True)
        (folder / "nets" / "cnn.py").write_text("y = 2\n")
        (folder / "mine.py").write_text("x = 1\n")
    (second / "mine.py").touch()
    assert pack(first) == pack(second)


def test_a_package_keeps_its_name_and_another_folder_does_not(tmp_path: Path) -> None:
    for name, file in (("package", "__init__.py"), ("folder", "mine.py")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("x = 1\n")
    target = tmp_path / "target"
    assert unpack(pack(tmp_path / "package"), target) == ["package/__init__.py"]
    assert unpack(pack(tmp_path / "folder"), target) == ["mine.py"]


def test_what_is_no_source_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for path in (".git/config", "__pycache__/mine.pyc", ".env", "mine.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x")
    (folder / "link.py").symlink_to("/etc/hostname")
    assert unpack(pack(folder), tmp_path / "target") == ["mine.py"]


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no folder with files"):
        pack(tmp_path)


def test_a_folder_with_too_much_in_it_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "data.bin").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InvalidArgument, match="pack the sources alone"):
        pack(tmp_path)


@pytest.mark.parametrize("name", ["../evil.py", "a/../../evil.py", "/etc/evil.py", "..", "a\\..\\evil.py"])
def test_a_member_that_leads_out_is_refused_by_name_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(InvalidArgument) as refused:
        unpack(archive(member("good.py"), member(name)), target)
    assert repr(name) in str(refused.value)
    assert list(tmp_path.rglob("*.py")) == []


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"'odd.py' is no file"):
        unpack(archive(member("odd.py", kind, "/etc/passwd")), tmp_path)


def test_a_member_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="twice"):
        unpack(archive(member("a.py"), member("a.py")), tmp_path)


def test_a_file_that_should_also_be_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="twice"):
        unpack(archive(member("a"), member("a/b.py")), tmp_path)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    many = [member(f"f{number}.py") for number in range(MAX_FILES + 1)]
    with pytest.raises(InvalidArgument, match=f"{MAX_FILES + 1} files"):
        unpack(archive(*many), tmp_path)


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="unpacks to more than"):
        unpack(gzip.compress(bytes(3 * MAX_BYTES)), tmp_path)


def test_a_member_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="at most"):
        unpack(archive(member("large.py"), content=bytes(MAX_BYTES + 1)), tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"not gzip", gzip.compress(b"no tar"), gzip.compress(b"")],
    ids=[
        "empty",
        "no gzip",
        "no tar",
        "an empty gzip",
    ],  # a gzip file holds the time, so its bytes are no name
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        unpack(data, tmp_path)


def test_an_archive_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cut off"):
        unpack(archive(member("a.py"))[:-20], tmp_path)


@given(st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 255)), min_size=1, max_size=5))
def test_damage_is_never_more_than_an_error(damage: list[tuple[int, int]]) -> None:
    tar = bytearray(gzip.decompress(archive(member("a.py"), member("b/c.py"))))
    for position, value in damage:
        tar[position] = value
    with tempfile.TemporaryDirectory() as folder:
        try:
            names = unpack(gzip.compress(bytes(tar)), Path(folder))
        except InvalidArgument:
            return
        assert all((Path(folder) / name).is_file() for name in names)
