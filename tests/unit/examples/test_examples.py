"""What every example promises, checked on all of them."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits

from headrace.program import Examples, Program, Split
from headrace.program.loading import load_attribute
from headrace.testing.data import examples_of
from headrace_examples import RECIPES, bundled
from headrace_examples.bundled import Floats, Ints
from headrace_examples.text import VOCABULARY, CharacterModel, encode

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
EXAMPLES = pytest.mark.parametrize("name", list(RECIPES))


def program_of(name: str) -> Program:
    return load_attribute(RECIPES[name].program)


def tensors(examples: Examples, count: int) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array[:count]) for name, array in examples.inputs.items()}


@EXAMPLES
def test_every_split_is_the_same_each_time(name: str) -> None:
    first, second = program_of(name), program_of(name)
    for split in SPLITS:
        for array, again in zip(
            examples_of(first, split).inputs.values(), examples_of(second, split).inputs.values(), strict=True
        ):
            np.testing.assert_array_equal(array, again)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(bundled.digits, load_digits), (bundled.breast_cancer, load_breast_cancer)]
)
def test_the_data_that_come_with_scikit_learn_are_read_as_it_reads_them(
    ours: Callable[[], tuple[Floats, Ints]], theirs: Callable[..., tuple[Floats, Ints]]
) -> None:
    for read, given in zip(ours(), theirs(return_X_y=True), strict=True):
        np.testing.assert_array_equal(read, given)


@EXAMPLES
def test_no_example_is_in_two_splits(name: str) -> None:
    program = program_of(name)
    rows = [
        {b"".join(array[i].tobytes() for array in data.inputs.values()) for i in range(len(data))}
        for data in (examples_of(program, split) for split in SPLITS)
    ]
    assert sum(map(len, rows)) == len(set.union(*rows))


@EXAMPLES
def test_the_model_takes_the_inputs_by_name_and_gives_a_loss_and_the_goal(name: str) -> None:
    program = program_of(name)
    data = examples_of(program, "validation")
    outputs = program.model()(**tensors(data, 8))
    loss = program.loss(outputs, torch.from_numpy(data.targets[:8]))
    assert outputs.shape[0] == 8
    assert loss.shape == ()
    metrics = program.metrics(outputs.detach().numpy(), data.targets[:8])
    assert program.goal.metric in metrics


@EXAMPLES
def test_parameters_are_float32_and_there_are_no_buffers(name: str) -> None:
    """So every value of the state dict travels through the parameter shards."""
    model = program_of(name).model()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert list(model.buffers()) == []


@EXAMPLES
def test_the_model_exports_to_onnx_for_any_batch(name: str, tmp_path: Path) -> None:
    program = program_of(name)
    inputs = tensors(examples_of(program, "test"), 3)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its dependencies
        exported = torch.onnx.export(
            program.model().eval(),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes={key: {0: batch} for key in inputs},
            verbose=False,
        )
    assert exported is not None
    graph = exported.model_proto.graph
    onnx.checker.check_model(exported.model_proto)
    assert [entry.name for entry in graph.input] == list(inputs)
    assert all(entry.type.tensor_type.shape.dim[0].dim_param for entry in (*graph.input, *graph.output))


def test_the_text_of_a_user_is_encoded_with_the_fixed_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("caf\N{LATIN SMALL LETTER E WITH ACUTE}\n" * 20_000)
    data = CharacterModel(text_path=str(path)).data("train")
    assert (
        "".join(VOCABULARY[code] for code in data.inputs["tokens"][0, :5]) == "caf\N{REPLACEMENT CHARACTER}\n"
    )
    np.testing.assert_array_equal(data.inputs["tokens"][:, 1:], data.targets[:, :-1])


def test_every_character_of_the_vocabulary_encodes_to_its_place() -> None:
    np.testing.assert_array_equal(encode(VOCABULARY), np.arange(len(VOCABULARY)))


def test_a_text_that_is_too_short_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("too short")
    with pytest.raises(ValueError, match="at least 49153 are needed"):
        CharacterModel(text_path=str(path)).data("train")


def test_a_uniform_guess_costs_the_bits_of_the_vocabulary() -> None:
    guesses = np.zeros((2, 3, len(VOCABULARY)), np.float32)
    bits = CharacterModel().metrics(guesses, np.zeros((2, 3), np.int64))["bits_per_character"]
    assert bits == pytest.approx(np.log2(len(VOCABULARY)))


def test_the_model_sees_no_character_of_the_future() -> None:
    model = CharacterModel().model().eval()
    tokens = torch.zeros(1, 64, dtype=torch.int64)
    changed = tokens.clone()
    changed[0, 40:] = 5
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40:], after[:, 40:])


def test_the_end_of_a_text_is_the_whole_test_split_if_that_is_what_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("".join(chr(97 + i % 26) for i in range(100_000)))
    program = CharacterModel(text_path=str(path), held_out="end")
    train, validation, test = (program.data(split).targets for split in SPLITS)

    np.testing.assert_array_equal(
        np.concatenate([train, validation, test]).ravel(), encode(path.read_text())[1:][: 1562 * 64]
    )
    assert len(test) == 1562 // 10


def test_what_is_held_out_must_be_known() -> None:
    with pytest.raises(ValueError, match="held_out is 'middle'; use one of scattered, end"):
        CharacterModel(held_out="middle")  # type: ignore[arg-type]  # as a config from the command line may have it
