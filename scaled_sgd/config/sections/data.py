"""The section ``data``."""

from dataclasses import dataclass
from typing import Literal

from scaled_sgd.config.sections.marks import Count, Fraction


@dataclass
class DataConfig:
    """Where examples come from and how they become tensors."""

    source: str = "digits"
    """"digits" (1,797 handwritten digits, embedded), a local file of a known format such as parquet, CSV or
    JSON, a folder of such files, of images or of IDX files (MNIST), a `save_to_disk` folder, or a name on the
    Hugging Face hub such as "ylecun/mnist\""""
    split: str = "train"
    """split to train on"""
    eval_split: str | None = None
    """split to evaluate on; without it the test set of IDX files, or a seeded part of `split`"""
    eval_fraction: Fraction = 0.2
    """part of `split` that is held out where no `eval_split` is named"""
    inputs: list[str] | None = None
    """input columns, joined in this order; null: the image column, else the list column, else all numeric
    columns but the target"""
    target: str | None = None
    """target column; null: the class-label column, else one called label, labels, target, y or class. Class
    labels, strings, booleans and integers without gaps from 0 or 1 are classes; other numbers are regression
    targets"""
    task: Literal["auto", "classification", "regression"] = "auto"
    """what the target is: auto goes by the rule above; classification takes any integers for classes,
    regression any numbers for numbers"""
    standardize: bool = False
    """give every feature zero mean and unit variance over the training examples, before every example is
    scaled to norm √m_0"""
    streaming: bool = False
    """read while training, for data larger than memory; needs `eval_split`"""
    shuffle_buffer: Count = 10_000
    """examples among which a stream is shuffled"""
    limit: Count | None = None
    """train on this many examples only, chosen by seed"""
