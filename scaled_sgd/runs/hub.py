"""Saves and publishes networks through the mixin of the Hugging Face hub.

The mixin is not a base of the network: importing it takes a third as long as importing torch, and it reads
``config.json`` before anything is checked, and pickled weights where a folder has no others. Reading is
:func:`scaled_sgd.runs.pretrained.from_pretrained`.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.runs.pretrained import network_kind, save

_CARD = """\
---
{{ card_data }}
---

# {{ name }}

A {{ kind }} of widths {{ widths }} ({{ parameterization }}), without a pipeline from
data to inputs. Its inputs have norm √{{ in_features }}.

```python
from scaled_sgd import HomogeneousMLP

model = HomogeneousMLP.from_pretrained("{{ name }}")
```
"""


class _Published(
    PyTorchModelHubMixin, library_name="scaled_sgd", tags=["scaled_sgd"], model_card_template=_CARD
):
    def __init__(self, network: HomogeneousMLP) -> None:
        self.network = network
        self._hub_mixin_config = None  # config.json is written beside the weights

    def _save_pretrained(self, save_directory: Path) -> None:
        save(save_directory, self.network)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
        network = self.network
        known = {
            "name": "owner/name",
            "kind": network_kind(network),
            "widths": " × ".join(map(str, network.widths)),
            "parameterization": network.parameterization,
            "in_features": network.widths[0],
        }
        return super().generate_model_card(*args, **known | kwargs)


def save_pretrained(network: HomogeneousMLP, folder: str | Path, **options: Any) -> str | None:
    """See :meth:`HomogeneousMLP.save_pretrained`."""
    return _whole(network, "save_pretrained").save_pretrained(folder, **options)


def push_to_hub(network: HomogeneousMLP, repository: str, **options: Any) -> str:
    """See :meth:`HomogeneousMLP.push_to_hub`."""
    card = {"name": repository} | dict(options.pop("model_card_kwargs", None) or {})
    return str(_whole(network, "push_to_hub").push_to_hub(repository, model_card_kwargs=card, **options))


def _whole(network: HomogeneousMLP, name: str) -> _Published:
    if any(hasattr(weight, "full_tensor") for weight in network.parameters()):
        raise UserError(f"{name}: the weights are sharded; allowed: whole weights, as load_run gives")
    return _Published(network)
