"""What most quantities keep between measurements: nothing, or where their searches begin."""

from collections.abc import Mapping

from torch import Tensor

from scaled_sgd.diagnostics.quantities.searches import Searches


class Stateless:
    """Keeps nothing, and needs no settings."""

    def __init__(self, config: object) -> None:
        del config

    def state_dict(self) -> dict[str, Tensor]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """No state."""


class Searching:
    """Keeps the start vectors of later searches."""

    _searches: Searches

    def state_dict(self) -> dict[str, Tensor]:
        """The start vectors of later searches."""
        return self._searches.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self._searches.load_state_dict(state)
