"""Data that are streamed from files and object stores: what `Program.data` may return in place of arrays.

    from headrace.data import parquet

    def data(self, split):
        return parquet(f"s3://houses/{split}/*.parquet", inputs={"features": ["rooms", "age", "income"]}, target="price")

Formats: `parquet`, `csv`, `jsonl`, `npz`, `images`, `text`. docs/training.md, "Data", has the rules: who sees which row when, how well it is
shuffled, and what stays in memory. Needs `pip install 'headrace[data]'` but for npz and text on local disks; importing it needs numpy alone.
"""

from headrace.data.dataset import Dataset
from headrace.data.formats import csv, images, jsonl, npz, parquet, text

__all__ = ["Dataset", "csv", "images", "jsonl", "npz", "parquet", "text"]
