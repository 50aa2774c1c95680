"""The layout of weights over processes, and the collectives between them (theory §6).

Every process works on a slice of the rows of each W_k, that is, a slice of the columns of z_k. Samples and
activations move between processes; weights do not if every process already holds full rows.
"""

from typing import TYPE_CHECKING

from scaled_sgd.core.lazy import attach

if TYPE_CHECKING:
    from scaled_sgd.parallel.layout import (
        chunk_offsets,
        even_offsets,
        full_weight,
        holds_rows,
        is_replica,
        is_sharded,
        is_whole,
        like_shard,
        local_shard,
        row_range,
        unwrap,
    )
    from scaled_sgd.parallel.partition import Partition, reshard
    from scaled_sgd.parallel.ranks import Ranks

__all__ = [
    "Partition",
    "Ranks",
    "chunk_offsets",
    "even_offsets",
    "full_weight",
    "holds_rows",
    "is_replica",
    "is_sharded",
    "is_whole",
    "like_shard",
    "local_shard",
    "reshard",
    "row_range",
    "unwrap",
]

_HOMES = {"Partition": "partition", "Ranks": "ranks", "reshard": "partition"}
__getattr__, __dir__ = attach(__name__, {name: f"parallel.{_HOMES.get(name, 'layout')}" for name in __all__})
