"""Dtypes that a checkpoint supports, by their codes in the safetensors format."""

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def code_of(dtype: torch.dtype) -> str:
    """The code of ``dtype``.

    Raises:
        ValueError: checkpoints do not support this dtype.
    """
    if dtype not in _CODES:
        raise ValueError(f"{dtype} cannot be stored; allowed: {', '.join(map(str, _CODES))}")
    return _CODES[dtype]
