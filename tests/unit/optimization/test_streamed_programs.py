"""Programs whose data are streamed are optimized as others are: a sample calibrates, the whole test split verifies."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

from headrace.data import Dataset, parquet
from headrace.optimization.report import Gates, Options, Report
from headrace.program import Examples, Program, Split
from headrace.program.calls import load_split
from headrace_optimization.pipeline import Source, optimize
from tests.unit.optimization.tiny_programs import Bars, save

OPTIONS = Options(
    precisions=("fp32", "int8"),
    gates=Gates(max_metric_drop=0.05, min_speedup=None, max_bytes=None),
    objective="size",
    calibration_examples=48,
    batch_sizes=(1,),
)


class StreamedBars(Bars):
    """The same images, in row groups of 16."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for split in ("train", "validation", "test"):
            arrays = super().data(split)
            table = pa.table({"pixels": arrays.inputs["image"].tolist(), "bar": arrays.targets})
            pq.write_table(table, folder / f"{split}.parquet", row_group_size=16)

    def data(self, split: Split) -> Dataset:  # type: ignore[override]  # where Bars says that it returns arrays
        return parquet(self._folder / f"{split}.parquet", inputs={"image": "pixels"}, target="bar")


def report_of(program: Program, model: nn.Module, folder: Path) -> Report:
    folder.mkdir()
    save(model, folder / "weights.safetensors")
    (folder / "result").mkdir()
    source = Source("projects/default/models/bars/versions/1", program, folder / "weights.safetensors")
    return optimize(source, OPTIONS, 1, folder / "result", lambda *_: None)


def test_a_streamed_program_is_verified_on_all_of_its_test_split(bars: nn.Module, tmp_path: Path) -> None:
    streamed = report_of(StreamedBars(tmp_path), bars, tmp_path / "streamed")
    in_memory = report_of(Bars(), bars, tmp_path / "in_memory")
    assert streamed.test_examples == in_memory.test_examples == 200
    assert streamed.candidate("fp32").metrics == in_memory.candidate("fp32").metrics
    assert streamed.candidate("int8").passed


def test_the_calibration_sample_is_no_larger_than_asked_for_and_of_all_classes(tmp_path: Path) -> None:
    """The images are sorted by class; the first 48 would be of one."""
    sample = load_split(StreamedBars(tmp_path), "train").sample(48)
    assert isinstance(sample, Examples)
    assert len(sample) == 48
    assert set(np.unique(sample.targets)) == set(np.unique(Bars().data("train").targets))
