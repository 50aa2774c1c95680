"""The strategies side by side, as text and as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning import Advice, Cost, Hardware, Workload, fits
from scaled_sgd.planning.replicas import layer_traffic
from scaled_sgd.planning.units import duration, operations, size, speed


@dataclass(frozen=True)
class CostTable:
    """Costs of the strategies and a recommendation.

    Attributes:
        work: the workload of a step.
        hardware: the hardware.
        costs: costs of the strategies that can train this.
        left_out: labels of the others, by the key and value that rules them out.
        advice: the recommendation.
        otherwise: what would fit, if nothing fits.
    """

    work: Workload
    hardware: Hardware
    costs: tuple[Cost, ...]
    left_out: dict[str, list[str]]
    advice: Advice
    otherwise: str

    def json(self) -> str:
        """One object, indented."""
        strategies = [
            asdict(cost)
            | {
                "strategy": cost.label,
                "options": cost.options,
                "sent": cost.traffic.sent,
                "fits": fits(cost, self.hardware),
            }
            for cost in self.costs
        ]
        taken = self.advice.cost
        found: dict[str, Any] = {"load": asdict(self.work), "cluster": asdict(self.hardware)}
        found |= {"strategies": strategies, "left_out": self.left_out}
        found |= {"take": taken and taken.label, "options": taken and taken.options}
        return json.dumps(found | {"reason": self.advice.reason}, indent=2, ensure_ascii=False)

    def text(self, *, layers: bool) -> str:
        """The tables as text."""
        lines = [*self._question(), "", *self._strategies()]
        lines += [f"left out  {', '.join(labels)}: {why}" for why, labels in self.left_out.items()]
        if layers:
            lines += ["", *self._layers()]
        return "\n".join([*lines, "", *self._advice()])

    def _advice(self) -> list[str]:
        taken = self.advice.cost
        if taken is None:
            return [f"take      {self.otherwise}", f"why       none fits: {self.advice.reason}"]
        lines = [f"take      {taken.options}", f"why       {self.advice.reason}", *self._names()]
        file = STRATEGIES[taken.strategy].launch_file
        return (
            lines
            if file is None
            else [*lines, f"launch    accelerate launch --config_file configs/accelerate/{file}"]
        )

    def _names(self) -> list[str]:
        """The options of fused rows, whose names are no values of ``sharding.strategy``."""
        return [f"where     {cost.label} means {cost.options}" for cost in self.costs if cost.fused]

    def _question(self) -> list[str]:
        work, hardware = self.work, self.hardware
        widths = [str(width) for width in work.widths]
        if len(widths) > 14:
            widths = [*widths[:7], "…", *widths[-6:]]
        processes = f"{hardware.ranks:,} process{'' if hardware.ranks == 1 else 'es'}"
        kept = f", the optimizer keeps {work.states} × the weights" if work.states else ""
        passes = f"{work.accumulation} microbatch{'' if work.accumulation == 1 else 'es'}"
        return [
            f"network   {' × '.join(widths)}: {work.weights:,} weights, {size(work.weights * work.itemsize)}",
            f"step      {work.batch:,} samples, {passes}{kept}",
            f"cluster   {processes}, {hardware.per_machine} a machine, {size(hardware.memory)} and "
            f"{operations(hardware.rate)} each, sending {speed(hardware.inside)} within and "
            f"{speed(hardware.across)} between machines",
        ]

    def _strategies(self) -> list[str]:
        lines = [
            f"{'strategy':<14}{'held':>10}{'peak':>10}{'fits':>6}{'sent':>10}{'between':>10}"
            f"{'collectives':>13}{'step':>12}  worst moment"
        ]
        for cost in self.costs:
            memory = f"{size(cost.held_bytes):>10}{size(cost.peak_bytes):>10}"
            memory += f"{'yes' if fits(cost, self.hardware) else 'no':>6}"
            traffic = f"{size(cost.traffic.sent):>10}{size(cost.traffic.across):>10}"
            traffic += f"{cost.traffic.collectives:>13}  {duration(cost.seconds):>10}"
            lines.append(f"{cost.label:<14}{memory}{traffic}  {cost.moment}")
        return lines

    def _layers(self) -> list[str]:
        """What is exchanged for each layer under ``ddp`` with fused steps."""
        fused = next((cost for cost in self.costs if cost.factors), None)
        if fused is None:
            return ["no layer has a choice: one process, or fused steps cannot do what is configured"]
        lines = [
            f"{'layer':>5}  {'shape':<16}{'weights':>10}{'factors':>10}{'gradient':>10}  ddp+fused moves"
        ]
        for k, by_factors in enumerate(fused.factors):
            moved = [
                size(layer_traffic(self.work, self.hardware, k, by_factors=choice).sent)
                for choice in (True, False)
            ]
            shape = f"{self.work.widths[k + 1]} × {self.work.widths[k]}"
            weights = size(self.work.sizes[k] * self.work.itemsize)
            lines.append(
                f"{k + 1:>5}  {shape:<16}{weights:>10}{moved[0]:>10}{moved[1]:>10}  "
                f"{'factors' if by_factors else 'gradient'}"
            )
        return lines
