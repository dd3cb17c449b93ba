"""Folders of images: the folder's name is the class, and every image can be read by itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from headrace.data.columns import Array
from headrace.data.needed import needed
from headrace.data.permutation import Int64s
from headrace.data.storage import File
from headrace.errors import DataUnreadable
from headrace.program import Examples

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_MODES = {"rgb": "RGB", "gray": "L"}
_READERS = 4  # images at a time: most of the time goes by in Pillow, or in waiting for a store, both without Python's lock
_BLOCK = 256  # images that are read together where the order does not matter


class ImageSource:
    """Images as float32 of shape (channels, height, width) in [0, 1]; classes count from 0 in the order of the folders' names."""

    def __init__(
        self,
        files: Sequence[File],
        *,
        name: str,
        size: tuple[int, int] | None,
        color: str,
        classes: Sequence[str] | None,
    ) -> None:
        """List the images; the first one decides their size if none is given.

        Args:
            name: Of the input.
            size: Height and width that images are scaled to.
            color: "rgb" or "gray".
            classes: Folder names in the order of the class numbers; None takes those that are there.
        """
        needed("PIL", "reading images")
        self._files, self._name, self._mode = files, name, _MODES[color]
        folders = [PurePath(file.name).parent.name for file in files]
        self.classes = list(classes) if classes is not None else sorted(set(folders))
        unknown = next((index for index, folder in enumerate(folders) if folder not in self.classes), None)
        if unknown is not None:
            raise DataUnreadable(
                f"{files[unknown].name} is in folder {folders[unknown]!r}, which is none of the classes {self.classes}"
            )
        numbers = {folder: number for number, folder in enumerate(self.classes)}
        self._targets = np.array([numbers[folder] for folder in folders], np.int64)
        self._scales, self._size = size is not None, size
        if size is None:
            _, height, width = self._pixels(0).shape
            self._size = (height, width)
        starts = range(0, len(files), _BLOCK)
        self.block_rows = np.array([min(_BLOCK, len(files) - start) for start in starts], np.int64)
        self.block_bytes = _BLOCK * self._pixels(0).nbytes

    def read(self, block: int) -> Examples:
        """Return images that follow each other; see `Source.read`."""
        start = block * _BLOCK
        return self.take(np.arange(start, start + self.block_rows[block]))

    def take(self, rows: Int64s) -> Examples:
        """Return images by their numbers; see `RowSource.take`."""
        with ThreadPoolExecutor(_READERS, "images") as pool:
            pixels = list(pool.map(self._pixels, rows.tolist()))
        return Examples({self._name: np.stack(pixels)}, self._targets[rows])

    def keys(self, block: int, column: str) -> Array:
        """Return the folders, if `column` is "folder"; see `Source.keys`."""
        if column != "folder":
            raise DataUnreadable(f"images have no column {column!r}; partition them by 'folder'")
        start = block * _BLOCK
        return np.array(self.classes, object)[self._targets[start : start + int(self.block_rows[block])]]

    def _pixels(self, row: int) -> Array:
        """Return one image, scaled."""
        from PIL import Image, ImageOps, UnidentifiedImageError

        file = self._files[row]
        data = file.read(0, file.size)
        try:
            with Image.open(io.BytesIO(data)) as opened:
                image = ImageOps.exif_transpose(opened).convert(self._mode)
        except (
            UnidentifiedImageError,
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:
            raise DataUnreadable(
                f"image {row}, {file.name}, cannot be decoded: {error}; replace or remove it"
            ) from error
        return self._scaled(image, row)

    def _scaled(self, image: Image.Image, row: int) -> Array:
        from PIL import Image

        if self._size is not None and (image.height, image.width) != self._size:
            if not self._scales:
                raise DataUnreadable(
                    f"image {row}, {self._files[row].name}, has {image.height} x {image.width} pixels and the first one "
                    f"{self._size[0]} x {self._size[1]}; give a size that all are scaled to"
                )
            image = image.resize((self._size[1], self._size[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.float32) / 255
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
