"""A program whose last steps wait for a file: its run cannot be over before what the test waits for, however long that takes."""

from pathlib import Path

_SOURCE = """
from pathlib import Path
from time import sleep

from headrace_examples.tabular import BreastCancer


class Awaited(BreastCancer):
    def __init__(self, file: str, last: int) -> None:
        super().__init__()
        self._file, self._last, self._steps = Path(file), int(last), 0

    def loss(self, outputs, targets):
        self._steps += 1
        while self._steps > self._last and not self._file.exists():
            sleep(0.02)
        return super().loss(outputs, targets)
"""


def awaited(folder: Path) -> str:
    """Write the program into `folder` and return its name.

    Its configuration: `file`, which is waited for, and `last`, how many steps a rank does without.
    """
    source = folder / "awaited.py"
    source.write_text(_SOURCE)
    return f"{source}:Awaited"
