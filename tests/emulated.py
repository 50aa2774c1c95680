"""A CUDA device whose tensors hold their numbers on the CPU, and whose graphs are tapes of operations.

What reads a number, copies between host and device or mixes tensors of both is seen as a GPU sees it: the
first two are waits, which a capture refuses, the last is an error. A tape replays operations on the tensors
that they were captured with, without the Python around them, and capturing leaves all tensors as they were.
A tape keeps nothing alive that it reads: replaying it when that is gone is an error.
Kernels, streams and memory pools are not emulated.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from scaled_sgd.steps import hook_checks, hook_measure, hook_scales

NAME = "emulated"

READS = {
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_linalg_eigh",
    "_linalg_svd",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_dim",
}
"""Operations for which the host waits."""

NARROW_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm"}


class OnDevice(Tensor):
    """A tensor on the device; ``numbers`` are on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "OnDevice":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=f"{NAME}:0",
        )

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: "OnDevice") -> None:
        assert other.shape == self.shape
        self.numbers = other.numbers

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert Device.here is not None
        return Device.here.run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """The device.

    Attributes:
        waits: what the host waited for.
        launches: names of operations that launch something.
        narrow: names of products of bfloat16 factors into float32.
    """

    here: "Device | None" = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.launches: list[str] = []
        self.narrow: list[str] = []
        self._tape: _Tape | None = None

    @property
    def capturing(self) -> bool:
        return self._tape is not None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation as the device would."""
        flat, spec = tree_flatten((args, kwargs))
        ours = [t for t in flat if isinstance(t, OnDevice)]
        target = kwargs.get("device")
        placed = target is not None and torch.device(target).type == NAME
        if not ours and not placed:
            return func(*args, **kwargs)
        name = func.name().removeprefix("aten::").partition(".")[0]
        others = [t for t in flat if isinstance(t, Tensor) and not isinstance(t, OnDevice)]
        moved = name == "_to_copy" and target is not None and bool(ours) != placed
        if moved or (name == "copy_" and others) or name in READS or _by_mask(name, flat):
            started = placed and bool(kwargs.get("non_blocking")) and not self.capturing
            if not started:
                self._wait(name)
        elif any(t.ndim for t in others) or (others and name in ("cat", "stack")):
            raise RuntimeError(f"Expected all tensors to be on the same device: aten::{name}")
        bare = [t.numbers if isinstance(t, OnDevice) else t for t in flat]
        own_args, own_kwargs = tree_unflatten(bare, spec)
        if target is not None:
            own_kwargs = {**own_kwargs, "device": torch.device("cpu")}
        if name == "_to_copy" and moved:
            own_kwargs.pop("device")
        function = func
        if name in NARROW_PRODUCTS and "dtype" in func._overloadname:
            function = _Product(name)
            self.narrow.append(name)
        found = self._record(function, func, own_args, own_kwargs)
        if moved and not placed:
            return found
        out = tree_map_only(Tensor, OnDevice, found)
        return return_and_correct_aliasing(func, args, kwargs, out)

    def _record(self, function: Any, func: Any, args: Any, kwargs: Any) -> Any:
        inputs = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        if self._tape is not None and func._schema.is_mutable:
            self._tape.keep(inputs)
        if self._tape is not None:
            args, kwargs = tree_map_only(Tensor, self._tape.alias, (args, kwargs))
        found = function(*args, **kwargs)
        outputs = [t for t in tree_flatten(found)[0] if isinstance(t, Tensor)]
        places = {_place(t) for t in inputs}
        view = not func._schema.is_mutable and outputs and all(_place(t) in places for t in outputs)
        if not view:
            self.launches.append(func.name().removeprefix("aten::").partition(".")[0])
            if self._tape is not None:
                fresh = [_place(t) not in places for t in outputs]
                self._tape.add(function, args, kwargs, outputs, fresh)
        return found

    def _wait(self, name: str) -> None:
        if self.capturing:
            raise RuntimeError(f"operation not permitted when stream is capturing: aten::{name}")
        self.waits.append(name)

    def warm_up(self, function: Callable[[], Any]) -> Any:
        """Run ``function`` before it is captured."""
        return function()

    def capture(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """The tape of ``function``."""
        assert self._tape is None
        tape = self._tape = _Tape()
        try:
            taken = function()
        finally:
            self._tape = None
            tape.restore()

        def replay() -> Any:
            self.launches.append("graph")
            tape.play()
            return taken

        return replay


class _Tape:
    def __init__(self) -> None:
        self._steps: list[tuple[Any, Any, Any, list[Tensor], list[bool]]] = []
        self._made: set[int] = set()
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._read: dict[int, list[Tensor]] = {}

    def alias(self, t: Tensor) -> Tensor:
        """``t``, in a tensor of the tape's own if it was there before the capture."""
        if _place(t) in self._made:
            return t
        own = t.detach()
        self._read.setdefault(_place(t), []).append(own)
        return own

    def keep(self, tensors: list[Tensor]) -> None:
        """Remember what was there before the capture."""
        for t in tensors:
            place = _place(t)
            if place not in self._made and place not in self._kept:
                whole = torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage())
                self._kept[place] = whole, whole.clone()

    def add(self, function: Any, args: Any, kwargs: Any, outputs: list[Tensor], fresh: list[bool]) -> None:
        self._steps.append((function, args, kwargs, outputs, fresh))
        self._made |= {_place(t) for t, new in zip(outputs, fresh, strict=True) if new}

    def restore(self) -> None:
        """Undo what capturing did: it runs nothing."""
        for whole, before in self._kept.values():
            whole.copy_(before)
        self._kept.clear()
        for *_, outputs, fresh in self._steps:
            for t, new in zip(outputs, fresh, strict=True):
                if new and t.is_floating_point():
                    t.fill_(torch.nan)

    def play(self) -> None:
        for place, own in self._read.items():
            # The count has itself in it.
            if torch._C._storage_Use_Count(place) <= len(own) + 1:
                raise RuntimeError(f"a graph reads a tensor {tuple(own[0].shape)} that is gone")
        for function, args, kwargs, outputs, fresh in self._steps:
            found = [t for t in tree_flatten(function(*args, **kwargs))[0] if isinstance(t, Tensor)]
            for out, new, t in zip(outputs, fresh, found, strict=True):
                if new:
                    out.copy_(t)


class _Product:
    """A product of bfloat16 factors into float32, which CPUs have not."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any, out: Tensor | None = None, **kwargs: Any) -> Tensor:
        *factors, dtype = args
        assert dtype == torch.float32
        found = getattr(torch, self._name)(*(t.float() for t in factors), **kwargs)
        return found if out is None else out.copy_(found)


def _by_mask(name: str, flat: list[Any]) -> bool:
    return name in ("index", "index_put_") and any(
        isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in flat[1:]
    )


def _place(t: Tensor) -> int:
    return t.untyped_storage()._cdata


@contextmanager
def emulated() -> Iterator[Device]:
    """The device, while it is open."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME)
    device = Device()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Device, "here", device)
        for module in (hook_checks, hook_measure, hook_scales):
            patch.setattr(module, "is_captured", lambda _: device.capturing)
        tensor, new_tensor, tolist = torch.tensor, Tensor.new_tensor, Tensor.tolist

        def placed(data: object, *, device: object = None, **options: Any) -> Tensor:
            return tensor(data, **options) if device is None else tensor(data, **options).to(device)

        def placed_like(self: Tensor, data: object, **options: Any) -> Tensor:
            if not isinstance(self, OnDevice):
                return new_tensor(self, data, **options)
            return tensor(data, **{"dtype": self.dtype, **options}).to(self.device)

        # They work below what a mode sees.
        patch.setattr(Tensor, "tolist", lambda self: tolist(self.cpu()))
        patch.setattr(torch, "tensor", placed)
        patch.setattr(Tensor, "new_tensor", placed_like)
        with device:
            yield device
