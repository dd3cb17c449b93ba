"""How one model is served, as far as its version says; what it leaves open is the server's default."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.errors import InvalidArgument
from headrace_inference.core.batching import Batching
from headrace_inference.core.ensemble import Step
from headrace_inference.core.signature import Signature

MAX_SAMPLE_ELEMENTS = 1 << 26  # of one input: 512 MiB while they are made up
MAX_SAMPLE_RUNS = 1000


@dataclass(frozen=True)
class Sample:
    """A request that warms a model up.

    Args:
        rows: Length of the first axis, where that may vary.
        shapes: Of inputs by name, without such a first axis; inputs that are not named get made-up ones.
        zeros: Names of the inputs that are all zero; others get made-up values.
        count: How often it runs, >= 1.
    Raises:
        InvalidArgument: A size is negative, or all is more than a load should take.
    """

    rows: int = 1
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse what would fill the memory, or never end."""
        for name, shape in self.shapes.items():
            if min(shape, default=0) < 0:
                raise InvalidArgument(
                    f"model_warmup input {name!r} has dims {list(shape)}; give sizes of 0 or more"
                )
        elements = self.rows * max((math.prod(shape) for shape in self.shapes.values()), default=1)
        if elements > MAX_SAMPLE_ELEMENTS or self.count > MAX_SAMPLE_RUNS:
            raise InvalidArgument(
                f"model_warmup makes {elements} elements and runs {self.count} times; "
                f"make {MAX_SAMPLE_ELEMENTS} at most, and run {MAX_SAMPLE_RUNS} times at most"
            )


@dataclass(frozen=True)
class PaddingWish:
    """The arguments of `padding.padding_along` beside the signature, which is known when the model is there."""

    axis: str
    values: Mapping[str, float] = field(default_factory=dict)
    buckets: tuple[int, ...] = ()
    multiple: int = 1


@dataclass(frozen=True)
class ModelConfig:
    """How one model is served.

    Args:
        batching: How its requests share its workers.
        threads: Threads that share the work of one run; 0: the server's.
        providers: onnxruntime's execution providers with options, most wanted first; empty: the server's.
        warm_up: What it runs before its first caller comes; empty: made-up inputs.
        keeps_answers: Whether equal requests get the answer of the first: for models that always answer alike.
        function: What runs it, "module:attribute", if that is a Python function.
        streams: Whether that function gives any number of answers to a request.
        function_config: Keyword arguments that make the function.
        signature: As declared; None: as the file says.
        label_files: For outputs that are classes, the version's file with the names of these.
        steps: What an ensemble consists of; empty for other models.
        padding: What makes requests of different lengths equal; None: nothing.
    """

    batching: Batching
    threads: int = 0
    providers: tuple[tuple[str, Mapping[str, str]], ...] = ()
    warm_up: tuple[Sample, ...] = ()
    keeps_answers: bool = False
    function: str = ""
    streams: bool = False
    function_config: Mapping[str, object] = field(default_factory=dict)
    signature: Signature | None = None
    label_files: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    padding: PaddingWish | None = None
