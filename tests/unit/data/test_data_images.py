"""Folders of images, and text."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrace.data import images, text

COLORS = {"cat": (255, 0, 0), "dog": (0, 51, 0)}


def write_images(folder: Path, count: int = 3) -> None:
    """Write `count` images of one color for each class, in several formats."""
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number, suffix in zip(range(count), ("png", "bmp", "gif"), strict=False):
            Image.new("RGB", (6, 4 + number), color).save(folder / name / f"{number}.{suffix}")
    (folder / "cat" / "notes.txt").write_text("not an image")


def test_the_folder_is_the_class_and_pixels_are_between_0_and_1(tmp_path: Path) -> None:
    write_images(tmp_path)
    (batch,) = images(tmp_path, size=(5, 7)).open().batches(9)
    assert batch.inputs["image"].shape == (6, 3, 5, 7)
    assert batch.inputs["image"].dtype == np.float32
    assert batch.targets.tolist() == [0, 0, 0, 1, 1, 1]
    means = batch.inputs["image"].mean((2, 3))
    np.testing.assert_allclose(means[0], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(means[3], [0, 0.2, 0], atol=1e-6)


def test_gray_images_have_one_channel_and_keep_their_size(tmp_path: Path) -> None:
    write_images(tmp_path, count=1)
    taken = images(tmp_path, color="gray", input="pixels").open().take(np.array([1, 0]))
    assert taken.inputs["pixels"].shape == (2, 1, 4, 6)
    assert taken.targets.tolist() == [1, 0]


def test_classes_can_be_numbered_by_hand(tmp_path: Path) -> None:
    write_images(tmp_path, count=1)
    (batch,) = images(tmp_path, classes=["dog", "bird", "cat"]).open().batches(9)
    assert batch.targets.tolist() == [2, 0]


def test_images_of_one_folder_go_to_one_worker(tmp_path: Path) -> None:
    write_images(tmp_path)
    rows = images(tmp_path, size=(4, 4)).partitioned(by="folder").open()
    assignment = rows.assignment(6, 0)
    owned = [
        {
            int(label)
            for step in range(4)
            if len(share := assignment.share(step, rank, 2))
            for label in rows.take(share).targets
        }
        for rank in range(2)
    ]
    assert owned[0].isdisjoint(owned[1])
    assert owned[0] | owned[1] == {0, 1}


@pytest.mark.parametrize("packed", [False, True])
def test_text_is_windows_of_bytes_and_targets_one_further(packed: bool, tmp_path: Path) -> None:
    content = bytes(np.random.default_rng(0).integers(0, 256, 1000, np.uint8))
    for name, part in (("a.txt", content[:600]), ("b.txt", content[600:])):
        (tmp_path / (name + ".gz" * packed)).write_bytes(gzip.compress(part) if packed else part)
    rows = text(tmp_path, context=10).open()
    assert len(rows) == 59 + 39  # a window needs one byte beyond it
    codes = np.frombuffer(content, np.uint8)
    starts = np.array([0, 580, 600, 980])
    taken = rows.take(np.array([0, 58, 59, 97]))
    np.testing.assert_array_equal(taken.inputs["tokens"], codes[starts[:, None] + np.arange(10)])
    np.testing.assert_array_equal(taken.targets, codes[starts[:, None] + np.arange(1, 11)])
    assert taken.targets.dtype == np.int64


def test_any_window_may_stand_anywhere_in_an_epoch(tmp_path: Path) -> None:
    """What can be read row by row is shuffled as a whole."""
    (tmp_path / "x.txt").write_bytes(bytes(100_001))
    order = text(tmp_path / "x.txt", context=10).open().assignment(10_000, 1).share(0, 0, 1)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
