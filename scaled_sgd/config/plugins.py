"""Foreign code that a configuration names: modules that register rules, optimizers or diagnostics."""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points

from scaled_sgd.core.errors import UserError

GROUP = "scaled_sgd.plugins"
"""Entry points that may be named in ``run.plugins``; none is loaded unless it is named."""


def load_plugins(names: Sequence[str]) -> None:
    """Import each: the entry point of that name, else the module. What is imported already stays.

    Raises:
        UserError: there is neither, or its import fails; whatever it registered until then is kept.
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
