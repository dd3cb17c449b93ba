"""Python functions that tests serve as models."""

from collections.abc import Iterator, Mapping

import numpy as np

from headrace.inference.tensors import Array

Arrays = Mapping[str, Array]


class Affine:
    """scaled = factor x, shifted = x + 1."""

    def __init__(self, factor: float = 2.0) -> None:
        self._factor = np.float32(factor)

    def __call__(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        return {"scaled": x * self._factor, "shifted": x + np.float32(1)}


class Gather:
    """y = table[x], with a table of 3 rows of 2."""

    def __call__(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        if (x > 2).any():
            raise ValueError("an index is beyond the table")
        return {"y": np.arange(6, dtype=np.float32).reshape(3, 2)[x]}


class Vast:
    def __call__(self, inputs: Arrays) -> Arrays:
        return {"y": np.ones((1 << 40, 1 << 10), np.float32)}


class Wrong:
    """Gives what was not declared: by default nothing."""

    def __init__(self, kind: str = "nothing") -> None:
        self._kind = kind

    def __call__(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        given = {
            "nothing": {},
            "type": {"y": x.astype(np.int64)},
            "shape": {"y": x[:, :1]},
            "list": {"y": [1]},
        }
        return given[self._kind]  # type: ignore[return-value] # what is wrong is the point


NO_CALLABLE = 3


class Counting:
    """index = 0, 1, 2, ... as often as `count` says; below none, an error comes after the first answer."""

    def __call__(self, inputs: Arrays) -> Iterator[Arrays]:
        count = int(inputs["count"][0])
        for index in range(abs(count)):
            yield {"index": np.array([index])}
            if count < 0:
                raise ValueError("it counts up")
