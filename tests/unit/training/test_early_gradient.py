"""Which parts of a gradient a backward pass says it has finished, and when."""

import torch

from headrace.parameters.layout import FlatLayout
from headrace_training.core.early_gradient import ReadyParts
from headrace_training.core.flat_model import layout_of, trainable


class Taken:
    """Keeps the parts it was told of, and their gradients at that moment."""

    share_sent = 0.0

    def __init__(self, layout: FlatLayout, parameters: dict[str, torch.nn.Parameter]) -> None:
        self._names = {layout.ranges([name])[0]: name for name in parameters}
        self._parameters = parameters
        self.names: list[str] = []
        self.gradients: dict[str, torch.Tensor] = {}
        self.cancelled = False

    def ready(self, part: range) -> None:
        name = self._names[part]
        gradient = self._parameters[name].grad
        assert gradient is not None
        self.names.append(name)
        self.gradients[name] = gradient.clone()

    def cancel(self) -> None:
        self.cancelled = True


def _watched(module: torch.nn.Module) -> tuple[Taken, ReadyParts]:
    parameters = trainable(module)
    layout = layout_of(parameters)
    return Taken(layout, parameters), ReadyParts(parameters, layout)


class Tied(torch.nn.Module):
    """Two layers with the weight of one, and a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.spare = (torch.nn.Linear(4, 4) for _ in range(3))
        self.last.weight = self.first.weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.last(torch.tanh(self.first(rows)))
        return outputs.square().mean()


def test_parts_are_told_from_the_last_layer_to_the_first_once_their_gradients_stay() -> None:
    model = Tied()
    taken, parts = _watched(model)

    with parts.told_to(taken):
        model(torch.ones(3, 4)).backward()

    assert taken.names[0] == "last.bias"
    assert sorted(taken.names) == ["first.bias", "first.weight", "last.bias"]
    for name, gradient in taken.gradients.items():
        final = model.get_parameter(name).grad
        assert final is not None
        assert torch.equal(gradient, final)
    assert not taken.cancelled


def test_only_the_pass_within_is_told_with_what_earlier_passes_have_added() -> None:
    model = Tied()
    taken, parts = _watched(model)
    model(torch.ones(3, 4)).backward()

    with parts.told_to(taken):
        model(torch.ones(3, 4)).backward()
    model(torch.ones(3, 4)).backward()

    assert len(taken.names) == 3
    final = model.last.bias.grad
    assert final is not None
    torch.testing.assert_close(taken.gradients["last.bias"] * 3 / 2, final)


def test_a_second_gradient_of_one_parameter_makes_all_go_whole() -> None:
    model = Tied()
    taken, parts = _watched(model)

    with parts.told_to(taken):
        for _ in range(2):
            model(torch.ones(3, 4)).backward()

    assert taken.cancelled
    assert len(taken.names) == 3
