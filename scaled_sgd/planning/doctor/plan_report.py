"""A plan as text and as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from scaled_sgd.planning import Advice, Cluster, Cost, Load, fits
from scaled_sgd.planning.fused import layer_traffic
from scaled_sgd.planning.units import duration, operations, size, speed


@dataclass(frozen=True)
class Plan:
    """A question and its answer."""

    load: Load
    cluster: Cluster
    costs: tuple[Cost, ...]
    advice: Advice

    def json(self) -> str:
        """One object, indented."""
        strategies = [
            asdict(cost)
            | {
                "held_bytes": cost.held_bytes,
                "peak_bytes": cost.peak_bytes,
                "sent": cost.traffic.sent,
                "fits": fits(cost, self.cluster),
            }
            for cost in self.costs
        ]
        take = None if self.advice.cost is None else self.advice.cost.strategy
        found: dict[str, Any] = {"load": asdict(self.load), "cluster": asdict(self.cluster)}
        found |= {"strategies": strategies, "take": take, "reason": self.advice.reason}
        return json.dumps(found, indent=2, ensure_ascii=False)

    def text(self, *, layers: bool) -> str:
        """Tables for people."""
        lines = [*self._question(), "", *self._strategies()]
        if layers:
            lines += ["", *self._layers()]
        return "\n".join([*lines, "", f"take      {self.advice.reason}"])

    def _question(self) -> list[str]:
        load, cluster = self.load, self.cluster
        widths = [str(width) for width in load.widths]
        if len(widths) > 14:
            widths = [*widths[:7], "…", *widths[-6:]]
        processes = f"{cluster.ranks:,} process{'' if cluster.ranks == 1 else 'es'}"
        passes = f"{load.accumulation} microbatch{'' if load.accumulation == 1 else 'es'}"
        return [
            f"network   {' × '.join(widths)}: {load.weights:,} weights, {size(load.weights * load.itemsize)}",
            f"step      {load.batch:,} samples, {passes}{', momentum' if load.momentum else ''}",
            f"cluster   {processes}, {cluster.per_machine} a machine, {size(cluster.memory)} and "
            f"{operations(cluster.rate)} each, sending {speed(cluster.inside)} within and "
            f"{speed(cluster.across)} between machines",
        ]

    def _strategies(self) -> list[str]:
        lines = [
            f"{'strategy':<14}{'held':>10}{'peak':>10}{'fits':>6}{'sent':>10}{'between':>10}"
            f"{'collectives':>13}{'step':>12}  worst moment"
        ]
        for cost in self.costs:
            memory = f"{size(cost.held_bytes):>10}{size(cost.peak_bytes):>10}"
            memory += f"{'yes' if fits(cost, self.cluster) else 'no':>6}"
            traffic = f"{size(cost.traffic.sent):>10}{size(cost.traffic.across):>10}"
            traffic += f"{cost.traffic.collectives:>13}  {duration(cost.seconds):>10}"
            lines.append(f"{cost.strategy:<14}{memory}{traffic}  {cost.moment}")
        return lines

    def _layers(self) -> list[str]:
        """What moves of each layer under ``ddp`` with fused steps."""
        fused = next((cost for cost in self.costs if cost.factors), None)
        if fused is None:
            return ["no layer has a choice: one process, or fused steps cannot do what is configured"]
        lines = [
            f"{'layer':>5}  {'shape':<16}{'weights':>10}{'factors':>10}{'gradient':>10}  ddp+fused moves"
        ]
        for k, by_factors in enumerate(fused.factors, start=1):
            moved = [
                size(layer_traffic(self.load, self.cluster, k, by_factors=choice).sent)
                for choice in (True, False)
            ]
            shape = f"{self.load.widths[k]} × {self.load.widths[k - 1]}"
            weights = size(self.load.sizes[k - 1] * self.load.itemsize)
            lines.append(
                f"{k:>5}  {shape:<16}{weights:>10}{moved[0]:>10}{moved[1]:>10}  "
                f"{'factors' if by_factors else 'gradient'}"
            )
        return lines
