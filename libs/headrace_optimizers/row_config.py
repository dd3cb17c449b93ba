"""What changes the rows of a table: the kinds of optimizers and their settings.

Each touches nothing but the rows that have a gradient: no momentum or decay goes on in rows that have none.
"""

from dataclasses import dataclass

from headrace_optimizers.bounds import check


@dataclass(frozen=True)
class RowSgd:
    """Stochastic gradient descent: x = x - learning_rate g."""

    learning_rate: float

    def __post_init__(self) -> None:
        check("optimizer.sgd.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)


@dataclass(frozen=True)
class _Accumulating:
    """What both kinds of Adagrad can be told."""

    learning_rate: float
    initial_accumulator: float = 0.0
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        prefix = f"optimizer.{self._field}"
        check(f"{prefix}.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        start = self.initial_accumulator
        check(f"{prefix}.initial_accumulator", start, "0 or more", start >= 0)
        check(f"{prefix}.epsilon", self.epsilon, "above 0", self.epsilon > 0)

    @property
    def _field(self) -> str:
        return "adagrad" if isinstance(self, RowAdagrad) else "row_wise_adagrad"


@dataclass(frozen=True)
class RowWiseAdagrad(_Accumulating):
    """Adagrad with one accumulator per row: s = s + mean(g^2) over the row; x = x - learning_rate g / (sqrt(s) + epsilon).

    Source: Mudigere et al. 2022, arXiv:2104.05158, section 4.1.4, which FBGEMM calls EXACT_ROWWISE_ADAGRAD ("exact": gradients of
    one row are summed before they are squared), after Duchi et al. 2011.
    """


@dataclass(frozen=True)
class RowAdagrad(_Accumulating):
    """Adagrad (Duchi et al. 2011): s = s + g^2; x = x - learning_rate g / (sqrt(s) + epsilon)."""


@dataclass(frozen=True)
class RowAdam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) of the rows that have a gradient, as torch.optim.SparseAdam computes it.

    The bias is corrected by the number of the table's update, not by how often the row was in one.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check("optimizer.adam.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        check("optimizer.adam.beta1", self.beta1, "above 0 and below 1", 0 < self.beta1 < 1)
        check("optimizer.adam.beta2", self.beta2, "above 0 and below 1", 0 < self.beta2 < 1)
        check("optimizer.adam.epsilon", self.epsilon, "above 0", self.epsilon > 0)


RowOptimizer = RowSgd | RowWiseAdagrad | RowAdagrad | RowAdam
