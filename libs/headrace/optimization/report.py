"""What an optimization measured and decided: `report.json` of the version it made.

    report = Report.from_json(registry.download(...))
    report.candidate("int8").metrics["accuracy"]

The file is one JSON object; numbers that are not finite are written as the strings "NaN", "Infinity" and "-Infinity".

    schema_version     1; grows when a field changes its meaning
    source_version     the version that was optimized
    goal               {"metric", "best": "max" | "min"}: the metric the gates look at
    options            what was asked for, defaults filled in: {"precisions", "gates", "objective", "calibration_examples", "batch_sizes"}
    test_examples      size of the held-out split all metrics were measured on
    threads            threads each inference computed with
    machine            facts about the machine the latencies hold for
    libraries          name -> version of what made and measured the files
    candidates         fp32 first; each {"name", "file", "size_bytes", "metrics", "latency", "gates", "kernel_difference"}
      latency          [{"batch_size", "p50_ms", "p99_ms", "rounds"}], in the order of options.batch_sizes
      gates            [{"gate", "passed", "reason"}]; a candidate passed when all of its gates did
      kernel_difference   how much the fused integer kernels change the outputs, relative to the largest one; null for fp32
    pick               {"candidate", "why"}
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from headrace.program import Goal


class _Part(BaseModel):
    # A report of a newer minor version may have more fields; readers skip what they do not know.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


class Gates(_Part):
    """What a candidate must satisfy to be served."""

    max_metric_drop: float  # absolute, in units of the goal metric
    min_speedup: float | None  # ratio of fp32's median latency at the first batch size to the candidate's
    max_bytes: int | None  # size of the file


class Options(_Part):
    """What was asked for, defaults filled in."""

    precisions: tuple[Literal["fp32", "int8"], ...]  # fp32 always first
    gates: Gates
    objective: Literal["latency", "size"]
    calibration_examples: int  # of the train split
    batch_sizes: tuple[int, ...]  # the first decides


class Latency(_Part):
    """Time of one inference of a batch, in milliseconds."""

    batch_size: int
    p50_ms: float
    p99_ms: float
    rounds: int  # inferences measured; between any two of them every other candidate ran once


class Verdict(_Part):
    """How one gate judged a candidate."""

    gate: str  # the field of `Gates`; "reference" for fp32, which passes by definition
    passed: bool
    reason: str  # the values compared


class Candidate(_Part):
    """One form of the model, with what was measured of it on the held-out split."""

    name: str  # "fp32", "int8"
    file: str  # path within the version
    size_bytes: int
    metrics: dict[str, float]
    latency: tuple[Latency, ...]
    kernel_difference: float | None = None
    gates: tuple[Verdict, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it was judged, and every gate let it through."""
        return bool(self.gates) and all(verdict.passed for verdict in self.gates)

    @property
    def decisive_p50_ms(self) -> float:
        """Median latency at the batch size that decides, in milliseconds."""
        return self.latency[0].p50_ms


class Pick(_Part):
    """The candidate to serve."""

    candidate: str
    why: str


class Report(_Part):
    """Everything a reader needs to check the decision; fields as in the module's description."""

    schema_version: Literal[1] = 1
    source_version: str
    goal: Goal
    options: Options
    test_examples: int
    threads: int
    machine: dict[str, str]
    libraries: dict[str, str]
    candidates: tuple[Candidate, ...]
    pick: Pick

    def candidate(self, name: str) -> Candidate:
        """Return the candidate called `name`; KeyError if there is none."""
        return {candidate.name: candidate for candidate in self.candidates}[name]

    def to_json(self) -> bytes:
        """Write the file, indented for people."""
        return self.model_dump_json(indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read the file. Raises pydantic.ValidationError, a ValueError, if it is not a report of this schema."""
        return cls.model_validate_json(data)
