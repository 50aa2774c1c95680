"""The built-in metrics as `evaluate.Metric` modules, to extend or to combine with others."""

from typing import Any

import evaluate
from datasets import Features, Sequence, Value

from scaled_sgd.data.metrics.formulas import accuracy, mean_squared_error


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    """Part of the class ids that agree."""

    def _info(self) -> evaluate.MetricInfo:
        ids = Value("int64")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions and references: class ids",
            features=Features({"predictions": ids, "references": ids}),
            format="numpy",
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": accuracy(predictions, references)}


class MeanSquaredError(evaluate.Metric):  # type: ignore[misc]
    """Mean over samples and target entries of the squared error."""

    def _info(self) -> evaluate.MetricInfo:
        rows, scalars = Sequence(Value("float64")), Value("float64")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions and references: numbers, or lists of numbers",
            features=[
                Features({"predictions": rows, "references": rows}),
                Features({"predictions": scalars, "references": scalars}),
            ],
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"mse": mean_squared_error(predictions, references)}
