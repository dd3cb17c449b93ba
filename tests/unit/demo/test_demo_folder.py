"""What the demo removes at its end is its own."""

from pathlib import Path

from headrace.demo.run import Demo
from headrace.local.plan import Sizes


def demo(folder: Path) -> Demo:
    return Demo("digits", folder, Sizes(), lambda _stage: None, lambda _job: None)


def test_what_its_services_kept_is_removed_and_reports_stay(tmp_path: Path) -> None:
    made = demo(tmp_path)
    (tmp_path / "services" / "registry").mkdir(parents=True)
    (tmp_path / "result").mkdir()

    made.clean()

    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_models_that_were_in_the_folder_before_are_never_removed(tmp_path: Path) -> None:
    models = tmp_path / "services" / "registry" / "registry.db"
    models.parent.mkdir(parents=True)
    models.write_text("from `headrace up`")

    demo(tmp_path).clean()

    assert models.exists()
