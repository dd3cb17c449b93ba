"""Three programs to begin with: a convolutional network, a perceptron and a small language model.

Each is one file with one class that satisfies `headrace.program.Program`; read `digits` first. `RECIPES` says how to train them.
This module imports none of them, so it is cheap to import.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How an example is trained well in a few seconds on two cores, with AdamW.

    `program` is its `module:attribute`; `batch_size` counts examples per step over all workers.
    """

    program: str
    steps: int
    batch_size: int
    learning_rate: float


RECIPES = {
    "digits": Recipe("headrace_examples.digits:Digits", steps=300, batch_size=64, learning_rate=2e-3),
    "tabular": Recipe("headrace_examples.tabular:BreastCancer", steps=200, batch_size=64, learning_rate=2e-3),
    "text": Recipe("headrace_examples.text:CharacterModel", steps=400, batch_size=32, learning_rate=3e-3),
}
