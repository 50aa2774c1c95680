"""Facts that tell whether two data sets are the same."""

import hashlib
from typing import Any

import torch

from scaled_sgd.data.batches import Resident
from scaled_sgd.data.loaded import Data

_STREAM = "digest of the stream"


def data_facts(data: Data) -> dict[str, Any]:
    """Facts that identify a data set: its sizes, and digests of what is in memory and of a stream."""
    train = data.train if isinstance(data.train, Resident) else None
    stream = {} if isinstance(data.train, Resident) else {_STREAM: data.train.digest}
    digest = hashlib.blake2b(digest_size=16)
    for samples in (train, data.evaluation):
        for t in () if samples is None else (samples.x, samples.y):
            digest.update(t.contiguous().view(torch.uint8).numpy().data)
    return {
        "in_features": data.in_features,
        "out_features": data.out_features,
        "training samples": None if train is None else len(train),
        "held-out samples": len(data.evaluation),
        "digest": digest.hexdigest(),
        **stream,
    }


def changed_fact(saved: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first of :func:`data_facts` that differs; checkpoints of earlier versions have none of a stream."""
    known = [name for name in now if name != _STREAM or name in saved]
    return next((name for name in known if saved.get(name) != now[name]), None)
