"""Plugins: modules named in a configuration that register rules, optimizers or diagnostics."""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points

from scaled_sgd.core.errors import UserError

GROUP = "scaled_sgd.plugins"
"""Group of the entry points that ``run.plugins`` may name; none is loaded unless named."""


def load_plugins(names: Sequence[str]) -> None:
    """Import each plugin: the entry point of that name, else the module. Nothing is imported twice.

    Raises:
        UserError: neither exists, or the import fails; what was registered before the failure is kept.
    """
    for name in names:
        points = list(entry_points(group=GROUP, name=name))
        try:
            if points:
                points[0].load()
            else:
                import_module(name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"run.plugins: {name!r} cannot be imported ({reason}); allowed: modules that "
                f"Python finds, and entry points of {GROUP}"
            ) from error
