"""The measures of a job's attempts as one curve."""

from headrace.client.curves import Curve, merged
from headrace.tasks.v1.inspection_pb2 import Metrics, Series


def metrics(**curves: dict[int, float]) -> Metrics:
    return Metrics(
        series=[
            Series(name=name, steps=points.keys(), values=points.values()) for name, points in curves.items()
        ]
    )


def test_an_attempt_that_goes_on_replaces_what_was_lost() -> None:
    """The first got to step 5, its checkpoint was of step 3."""
    first = metrics(loss={1: 5.0, 2: 4.0, 3: 3.0, 4: 2.0, 5: 1.0}, accuracy={2: 0.2, 4: 0.4})
    second = metrics(loss={4: 2.5, 5: 1.5, 6: 0.5}, accuracy={6: 0.6})
    assert merged([first, second]) == {
        "loss": Curve([1, 2, 3, 4, 5, 6], [5.0, 4.0, 3.0, 2.5, 1.5, 0.5]),
        "accuracy": Curve([2, 6], [0.2, 0.6]),
    }


def test_an_attempt_that_measured_nothing_changes_nothing() -> None:
    assert merged([metrics(loss={1: 5.0}), metrics()]) == {"loss": Curve([1], [5.0])}
