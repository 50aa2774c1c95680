"""The section ``checkpoint``."""

from dataclasses import dataclass, field

from scaled_sgd.config.sections.marks import Count, Positive


@dataclass
class CheckpointConfig:
    """When a run is saved, besides when a signal ends it."""

    every_steps: Count | None = None
    """steps between checkpoints; null: none by steps"""
    every_minutes: Positive | None = 10.0
    """minutes between checkpoints; null: none by time"""
    at_end: bool = True
    """save when training is done"""
    keep: Count = 2
    """newest checkpoints kept, besides keep_steps and folders with names of their own"""
    keep_steps: list[Count] = field(default_factory=list)
    """steps that are saved and kept for good"""

    def due(self, step: int, last: int) -> bool:
        """Whether to save after ``step`` of ``last`` updates."""
        if step == last:
            return self.at_end or step in self.keep_steps
        return step in self.keep_steps or (self.every_steps is not None and step % self.every_steps == 0)
