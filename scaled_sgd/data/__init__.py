"""Data as (x, y) tensors: Hugging Face datasets, local files, or the embedded digits."""

from scaled_sgd.data.batches import Batch, Resident, Stream, rank_rows
from scaled_sgd.data.loaded import Data
from scaled_sgd.data.loading import load_data

__all__ = ["Batch", "Data", "Resident", "Stream", "load_data", "rank_rows"]
