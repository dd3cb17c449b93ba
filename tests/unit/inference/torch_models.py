"""Small exported programs of torch for tests."""

import io
import json
import zipfile
from collections.abc import Callable

import torch


class Affine(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scaled": x * self.factor, "shifted": x + 1}


class Gather(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(6.0).reshape(3, 2))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": torch.nn.functional.embedding(x, self.get_buffer("table"))}


class Vast(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x.repeat(1 << 40, 1 << 10)}


class Lent(torch.nn.Module):
    """Gives what it was given, and what belongs to it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("own", torch.zeros(2, 3))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"given": x.view(-1, 3), "own": self.get_buffer("own").view(6)}


class Sized(torch.nn.Module):
    """Computes with sizes, splits, and names nothing."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        left, right = torch.split(x, [1, 2], dim=1)
        flat = torch.nn.functional.relu(left + right, inplace=True).reshape(x.shape[0] * 2)
        return flat / x.shape[0], y.to(torch.float64).clamp(min=0)


def exported(module: torch.nn.Module, *examples: torch.Tensor) -> bytes:
    """Save a program whose first axis may have any size."""
    batch = torch.export.Dim("batch")
    program = torch.export.export(module.eval(), examples, dynamic_shapes=tuple({0: batch} for _ in examples))
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def affine(factor: float = 2.0) -> bytes:
    return exported(Affine(factor), torch.ones(2, 3))


def gather() -> bytes:
    return exported(Gather(), torch.zeros(2, dtype=torch.int64))


def vast() -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(Vast(), (torch.ones(1),)), file)
    return file.getvalue()


def changed(data: bytes, path: str, change: Callable[[str], str]) -> bytes:
    """Return a copy of an archive with one of its texts changed; `path` is that below the archive's root."""
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.partition("/")[2] == path:
                content = change(content.decode()).encode()
                json.loads(content)  # what is tested is not broken JSON
            new.writestr(name, content)
    return copy.getvalue()
