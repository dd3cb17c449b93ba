"""Rows that a model has with it, found without a store: as the store would."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace_optimizers.embedding import EmbeddingTable
from headrace_optimizers.row_config import RowSgd
from headrace_optimizers.row_initializer import Constant, Initializer, Normal, Uniform, first_rows
from headrace_optimizers.row_lookup import first_values

KEYS = st.integers(-(1 << 63), (1 << 63) - 1)
NORMAL = Normal(0.5, 2.0, seed=7)


def layer(initializer: Initializer = NORMAL, dim: int = 3) -> EmbeddingTable:
    return EmbeddingTable("users", dim, optimizer=RowSgd(0.1), initializer=initializer)


@pytest.mark.parametrize("initializer", [Constant(0.25), Uniform(-0.5, 2.0, seed=3), NORMAL])
@given(keys=st.lists(KEYS, min_size=1, max_size=20), dim=st.integers(1, 7))
def test_a_key_without_a_row_has_the_values_that_a_shard_would_give_it(
    initializer: Initializer, keys: list[int], dim: int
) -> None:
    asked = np.array(keys, np.int64)

    found = first_values(initializer, "users", torch.from_numpy(asked), dim)

    assert np.array_equal(found.numpy(), first_rows(initializer, "users", asked.view(np.uint64), dim))


@given(rows=st.dictionaries(KEYS, st.floats(-1, 1, width=32), max_size=40), others=st.lists(KEYS, max_size=9))
def test_each_key_finds_its_own_row_and_no_other(rows: dict[int, float], others: list[int]) -> None:
    table = layer(Constant(9.0), dim=1)
    keys = torch.tensor(list(rows), dtype=torch.int64)
    table.load_state_dict({"keys": keys, "rows": torch.tensor(list(rows.values())).reshape(-1, 1)})

    found = table(torch.tensor([*rows, *others], dtype=torch.int64))

    assert found.squeeze(1).tolist() == [*rows.values(), *(rows.get(key, 9.0) for key in others)]


def test_a_state_dict_brings_the_rows_to_another_model() -> None:
    table, other = layer(), torch.nn.Sequential(layer())
    table.load_state_dict({"keys": torch.tensor([5, -3, 8]), "rows": torch.arange(9.0).reshape(3, 3)})

    other.load_state_dict({f"0.{name}": value for name, value in table.state_dict().items()})

    keys = torch.tensor([[8, -3], [5, 77]])
    assert torch.equal(other(keys), table(keys))
    assert table.state_dict()["keys"].tolist() == [-3, 5, 8]


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(RuntimeError, match="has 3 values a row"):
        layer().load_state_dict({"keys": torch.tensor([5]), "rows": torch.zeros(1, 2)})
    with pytest.raises(RuntimeError, match="Missing key"):
        layer().load_state_dict({})
