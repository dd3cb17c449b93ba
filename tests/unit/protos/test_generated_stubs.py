"""The committed stubs are what the protos say."""

from pathlib import Path

from tools.generate_stubs import ROOT, committed, generate, outdated


def test_the_committed_stubs_match_the_protos() -> None:
    assert outdated(ROOT / "libs") == [], "run `make protos` and commit the result"


def test_generating_removes_the_stubs_of_a_proto_that_is_gone(tmp_path: Path) -> None:
    stale = tmp_path / "headrace" / "types" / "v1" / "forgotten_pb2.py"
    stale.parent.mkdir(parents=True)
    stale.touch()

    stubs = generate(tmp_path)

    assert not stale.exists()
    assert committed(tmp_path) == stubs


def test_generating_twice_rewrites_nothing(tmp_path: Path) -> None:
    times = [{stub: (tmp_path / stub).stat().st_mtime_ns for stub in generate(tmp_path)} for _ in range(2)]

    assert times[0] == times[1]
