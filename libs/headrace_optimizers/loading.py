"""From the name of an update rule to the rule, if the operator allows its module."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace.errors import HeadraceError, InvalidArgument, ProgramNotAllowed
from headrace.program.loading import is_allowed, load_object
from headrace_optimizers.rule import UpdateRule

# From a name, `module:attribute`, keyword arguments and a learning rate to a rule that was tried.
Load = Callable[[str, Mapping[str, Any], float], UpdateRule]

_FIELD = "optimizer.registered.update"


def loader(allowed_modules: Sequence[str]) -> Load:
    """Return a function that loads rules of these modules, and of all below them.

    It raises:
        ProgramNotAllowed: The module is no other's.
        InvalidArgument: There is no such rule, its config does not fit, or it is none: see `check_rule`.
    """

    def load(name: str, config: Mapping[str, Any], learning_rate: float) -> UpdateRule:
        _check_allowed(name, allowed_modules)
        try:
            made = load_object(name, config)
        except HeadraceError as error:
            raise InvalidArgument(error.message, field=_FIELD) from error
        except Exception as error:  # the user's code, which may raise anything
            raise InvalidArgument(
                f"{name} cannot be made: {type(error).__name__}: {error}", field=_FIELD
            ) from error
        from headrace_optimizers.rule_check import check_rule  # imports torch, which a `checker` needs not

        return check_rule(made, name, learning_rate)

    return load


def checker(allowed_modules: Sequence[str]) -> Load:
    """Return a function that only checks whether `loader` may load a rule, for a process that must not run it."""

    def check(name: str, _config: Mapping[str, Any], _learning_rate: float) -> UpdateRule:
        _check_allowed(name, allowed_modules)
        return _Unknown()

    return check


class _Unknown:
    """Stands for a rule that another process loads."""

    state: Mapping[str, float] = {}

    def apply(self, *_: object) -> None:
        """Never called."""
        raise NotImplementedError


def _check_allowed(name: str, allowed_modules: Sequence[str]) -> None:
    module = name.partition(":")[0]
    if not is_allowed(module, allowed_modules):
        shown = ", ".join(allowed_modules) or "none"
        raise ProgramNotAllowed(
            f"updates of module {module!r} may not run here, only those of: {shown}; ask the operator to add it to ALLOWED_UPDATES, "
            "or choose another optimizer",
            metadata={"module": module},
        )


refuse: Load = loader(())
