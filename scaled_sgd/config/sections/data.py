"""The section ``data``."""

from dataclasses import dataclass
from typing import Annotated, Literal

from scaled_sgd.config.sections.marks import Count, Fraction, Natural, NonNegative
from scaled_sgd.config.values import Holds, Within


def _separates(text: str) -> bool:
    return len(text) == 1 and text.isascii() and not text.isalnum() and text not in '\n\r"\0.'


@dataclass
class DataConfig:
    """Where examples come from and how they become tensors."""

    source: str = "digits"
    """"digits" (1,797 handwritten digits, embedded), "parity" or "teacher" (generated), a local file of a
    known format such as parquet, CSV, JSON or NumPy's, a folder of such files, of images or of IDX files
    (MNIST), a `save_to_disk` folder, or a name on the Hugging Face hub such as "ylecun/mnist\""""
    separator: Annotated[str, Holds(_separates, "one character, such as ;")] | None = None
    """of columns in CSV files; null: found: comma, semicolon, tab or |"""
    header: bool | None = None
    """whether the first line of a CSV file holds names; null: found; without names columns are column_1, …"""
    codes: Literal["text", "number"] = "text"
    """what columns of integers with leading zeros are in CSV files, such as 01, 02"""
    split: str = "train"
    """split to train on"""
    eval_split: str | None = "auto"
    """split to evaluate on; auto: test, if there is one; null: a seeded part of `split`, or the test set of
    IDX files"""
    eval_fraction: Fraction = 0.2
    """part of `split` that is held out where no other split is evaluated on"""
    inputs: list[str] | None = None
    """input columns, joined in this order; null: the image column, else the list column, else all columns of
    numbers and of text with few texts but the target"""
    target: str | None = None
    """target column; null: the class-label column, else one called label, labels, target, y or class. Class
    labels, strings, booleans and integers without gaps from 0 or 1 are classes; other numbers are regression
    targets"""
    task: Literal["auto", "classification", "regression"] = "auto"
    """what the target is: auto goes by the rule above; classification takes any integers for classes,
    regression any numbers for numbers"""
    categories: Natural = 100
    """most texts of a column of text that becomes an input, a number (0 or 1) for each; 0: none does"""
    missing: Literal["mean", "refuse"] | Annotated[float, Within()] = "mean"
    """what stands for empty cells in columns of numbers: the mean of the training examples, or this number;
    refuse: an error"""
    standardize: bool | None = None
    """give every number of an input zero mean and unit variance over the training examples, before every
    example is scaled to norm √m_0; null: where all inputs are columns of numbers and text"""
    constant: bool | None = None
    """append a constant of the norm of a typical example, so that examples keep their magnitude when they are
    scaled; null: as for standardize"""
    standardize_target: bool = True
    """learn regression targets at zero mean and unit variance; metrics and predictions are in their unit"""
    streaming: bool = False
    """read while training, for data larger than memory; evaluates on another split"""
    shuffle_buffer: Count = 10_000
    """examples among which a stream is shuffled"""
    limit: Count | None = None
    """train on this many examples only, chosen by seed"""
    samples: Annotated[int, Within(2, 10**8)] = 4096
    """source parity or teacher: number of rows, held-out ones included; with streaming every step has new
    rows, and only held-out ones are fixed"""
    features: Annotated[int, Within(1, 10**6)] = 50
    """source parity or teacher: numbers of a row, m_0 unless random_features is given"""
    random_features: Annotated[int, Within(1, 10**6)] | None = None
    """source teacher: the network sees so many random projections of the inputs, m_0; null: the inputs"""
    parity_bits: Count = 3
    """source parity: k; rows are bits ±1, the class is the sign of the product of the first k of them"""
    spectrum: Annotated[float, Within(0, 10)] = 1.5
    """source teacher: b; inputs have variances ∝ k^−b, k = 1, 2, …, and then one norm"""
    signal: Annotated[float, Within(0, 20)] = 2.0
    """source teacher: a; the target is w·x with (k-th variance) w_k² ∝ k^−a"""
    noise: NonNegative = 0.0
    """source teacher: deviation of Gaussian noise on targets, relative to that of w·x"""
    seed: Natural = 0
    """source parity or teacher: fixes the rows and the teacher, whatever run.seed"""
