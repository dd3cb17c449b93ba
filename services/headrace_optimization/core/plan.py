"""The passes of a pipeline, in the order they run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pass:
    """One kind of step: its id, what a progress display says while it runs, and what it does."""

    id: str
    stage: str
    description: str


EXPORT = Pass("export", "exporting", "Turns program and weights into an ONNX model and compares the two.")
QUANTIZE = Pass(
    "quantize", "quantizing", "Makes a form of 8-bit integers, with one scale per output channel."
)
VERIFY = Pass(
    "verify", "verifying", "Measures quality, latency and size of every candidate on the test split."
)
CHOOSE = Pass("choose", "choosing", "Judges every candidate by its gates and picks the one to serve.")
REPORT = Pass("report", "reporting", "Writes what was measured and decided, as JSON and as a plot.")
REGISTER = Pass("register", "registering", "Uploads the files and makes them a new version of the model.")

PASSES = (EXPORT, QUANTIZE, VERIFY, CHOOSE, REPORT, REGISTER)
