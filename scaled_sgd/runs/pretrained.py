"""A network in a folder: ``config.json`` and ``model.safetensors``, in the layout of the Hugging Face hub."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scaled_sgd.core.arguments import FLOATS
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.runs.checkpoint.dtypes import DTYPES
from scaled_sgd.runs.checkpoint.files import content, header
from scaled_sgd.runs.own_files import delete, make_folder, read_file, reason
from scaled_sgd.runs.records import finite, replace_file, write_atomically

CONFIG, WEIGHTS, CARD, FIGURE = "config.json", "model.safetensors", "README.md", "loss.svg"
_ARGUMENTS = (
    "in_features", "out_features", "depth", "base_width", "width_exponent", "activation", "parameterization",
    "seed",
)  # fmt: skip


def save(
    folder: Path,
    network: HomogeneousMLP,
    *,
    layers: Iterable[Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a network; ``config.json`` comes last, so that a folder with it is complete.

    Args:
        folder: made if missing.
        network: its architecture, and its weights unless ``layers`` are given.
        layers: W_1..W_l, flat, taken one at a time.
        facts: further entries of ``config.json``.
        texts: further files by name, such as :data:`CARD`.

    Raises:
        OSError: the folder is a link, or cannot be written.
    """
    make_folder(folder)
    delete(folder / CONFIG)
    replace_file(folder / WEIGHTS, lambda path: _write_weights(path, network, layers))
    for name, text in (texts or {}).items():
        write_atomically(folder / name, text)
    config = finite(architecture(network) | dict(facts or {}))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def network_kind(network: HomogeneousMLP) -> str:
    """The network in words, for its card."""
    return "multilayer perceptron" if network.activation.curved else "homogeneous multilayer perceptron"


def architecture(network: HomogeneousMLP) -> dict[str, Any]:
    """What :func:`network_in` needs beside the weights, as JSON values."""
    return {
        "in_features": network.widths[0],
        "out_features": network.widths[-1],
        "depth": network.factored.depth,
        "base_width": network.base_width,
        "width_exponent": network.width_exponent,
        "activation": network.activation.given,
        "parameterization": network.parameterization,
        "output_scale": network.output_scale,
        "rank": network.factored.rank,
        "factor_start": network.factor_start,
        "centered": network.centered,
        "seed": network.seed,
        "dtype": str(network.scaled_layers[0].weight.dtype).removeprefix("torch."),
        "widths": list(network.widths),
    }


def _name(k: int) -> str:
    """The name of W_k in the file and in the network's ``state_dict``."""
    return f"layers.{k - 1}.weight"


def _write_weights(path: Path, network: HomogeneousMLP, layers: Iterable[Tensor] | None) -> None:
    weights = [layer.weight for layer in network.scaled_layers]
    with path.open("wb") as stream:
        stream.write(
            header(
                (_name(k), w.dtype, (layer.out_features, layer.in_features))
                for k, (w, layer) in enumerate(zip(weights, network.scaled_layers, strict=True), start=1)
            )
        )
        for values, weight in zip(weights if layers is None else layers, weights, strict=True):
            stream.write(content(values.to(weight.dtype)))
        stream.flush()
        os.fsync(stream.fileno())


def read_config(folder: Path, *, follow: bool = True) -> dict[str, Any]:
    """``config.json`` of a folder.

    Raises:
        UserError: it cannot be read.
    """
    try:
        found = json.loads(read_file(folder / CONFIG, follow=follow))
    except OSError as error:
        raise damaged(folder, reason(error)) from error
    except (ValueError, RecursionError) as error:
        raise damaged(folder, f"{CONFIG} is not JSON") from error
    if not isinstance(found, dict):
        raise damaged(folder, f"{CONFIG} is not an object")
    return found


def network_in(folder: Path, config: Mapping[str, Any], *, follow: bool = True) -> HomogeneousMLP:
    """The network of a folder, on the CPU; memory is taken only for shapes that the file has.

    Args:
        folder: a folder that may come from a stranger.
        config: its :func:`read_config`.
        follow: read through links, as caches of the hub need it.

    Raises:
        UserError: it is damaged.
    """
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}
    missing = [name for name in (*_ARGUMENTS, "dtype") if name not in config]
    if missing or config["dtype"] not in [*dtypes]:
        raise damaged(folder, f"{CONFIG} lacks {', '.join(missing) or 'a usable dtype'}")
    path, dtype = folder / WEIGHTS, dtypes[config["dtype"]]
    if not path.is_file() or (path.is_symlink() and not follow):
        raise damaged(folder, f"{WEIGHTS} is not there, or not a file")
    try:
        with safe_open(path, framework="pt") as file:
            count, depth = len(file.keys()), config["depth"]
            # A factorised layer has two.
            fits = depth <= count if config.get("rank") is not None else depth == count
            if not fits:
                raise damaged(folder, f"{WEIGHTS} has {count} tensors, not {depth!r}")
            network = HomogeneousMLP(
                **{name: config[name] for name in _ARGUMENTS},
                output_scale=config.get("output_scale", 1.0),
                rank=config.get("rank"),
                factor_start=config.get("factor_start", "spectral"),
                device="meta",
                dtype=dtype,
            )
            if count != network.depth:
                raise damaged(folder, f"{WEIGHTS} has {count} tensors, not {network.depth}")
            network.centered = config.get("centered", False) is True
            for k, layer in enumerate(network.scaled_layers, start=1):
                held = file.get_slice(_name(k))
                found, shape = DTYPES.get(held.get_dtype()), held.get_shape()
                if (found, shape) != (dtype, list(layer.weight.shape)):
                    raise damaged(folder, f"{WEIGHTS} has {_name(k)} of {found} {shape}")
            for k, layer in enumerate(network.scaled_layers, start=1):
                layer.to_empty(device="cpu")
                with torch.no_grad():
                    layer.weight.copy_(file.get_tensor(_name(k)))
    except (OSError, SafetensorError) as error:
        raise damaged(folder, f"{WEIGHTS}: {error}") from error
    except (TypeError, AttributeError, OverflowError) as error:
        raise damaged(folder, f"{CONFIG} has an architecture of another kind: {error}") from error
    return network


def damaged(folder: Path, why: str) -> UserError:
    """The error of a folder that cannot be used."""
    return UserError(f"model: {str(folder)!r} is damaged: {why}; allowed: an intact model folder")


def from_pretrained(name: str | Path, **options: Any) -> HomogeneousMLP:
    """See :meth:`HomogeneousMLP.from_pretrained`."""
    folder = Path(name)
    if not folder.is_dir():
        folder = _downloaded(str(name), options)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"model: {str(name)!r} has no {CONFIG}; allowed: model/ of a run, or a folder of save_pretrained"
        )
    return network_in(folder, read_config(folder))


def _downloaded(name: str, options: Mapping[str, Any]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS], **options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model: no folder {name!r}, and none on the hub: {str(error).splitlines()[0]}; allowed: a "
            "folder with config.json and model.safetensors, or the name of one on the hub"
        ) from error
