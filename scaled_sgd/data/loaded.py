"""The result of loading: training and held-out examples, and what is known of them."""

from dataclasses import dataclass
from typing import Literal

from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import printable
from scaled_sgd.data.batches import Resident, Stream
from scaled_sgd.data.columns import Columns, listed
from scaled_sgd.data.pipeline import Pipeline

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Data:
    """Training and held-out examples, every row scaled to norm √m_0.

    Args:
        train: Tensors, or a stream when `data.streaming` is set.
        evaluation: Held-out examples.
        pipeline: How further rows become inputs and targets in the same way.
        config: The `data.` section with what the data decided.
        is_table: Whether all inputs are columns of numbers and text.
        notes: What was found in them, a line each.
        warnings: What the configuration asks for and the data lose, a line each.
    """

    train: Resident | Stream
    evaluation: Resident
    pipeline: Pipeline
    config: DataConfig
    is_table: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def in_features(self) -> int:
        """Width of an input, m_0."""
        return self.pipeline.width

    @property
    def out_features(self) -> int:
        """Number of classes, or width of a target."""
        return self.pipeline.outputs

    @property
    def task(self) -> Task:
        """Whether targets are class ids or vectors."""
        return "regression" if self.class_names is None else "classification"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names in the order of their ids; None for regression."""
        return self.pipeline.encoding.class_names

    @property
    def columns(self) -> Columns:
        """Columns of the inputs and targets."""
        return self.pipeline.encoding.columns

    def describe(self) -> str:
        """One line about the data: columns that are used and columns that are not."""
        size = f"{len(self.train)}" if isinstance(self.train, Resident) else "a stream of"
        split = f" (split {self.config.eval_split})" if self.config.eval_split else ""
        inputs = listed(self.columns.inputs)
        text = f"{size} training and {len(self.evaluation)} held-out samples{split}; inputs {inputs}"
        if self.columns.left_out:
            text += f" (left out: {listed(self.columns.left_out)})"
        text += f"; target {self.columns.target}"
        if self.class_names is None:
            count = f", {self.out_features} numbers" if self.out_features > 1 else ""
            standardized = ", standardised" if self.pipeline.scale is not None else ""
            return printable(text + count + standardized)
        shown = ", ".join(self.class_names[:5]) + (", …" if len(self.class_names) > 5 else "")
        return printable(f"{text}, {len(self.class_names)} classes: {shown}")
