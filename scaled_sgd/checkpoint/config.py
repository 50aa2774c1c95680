"""The ``checkpoint.`` section of the configuration."""

from dataclasses import dataclass, field


@dataclass
class CheckpointConfig:
    """When a run is saved, besides when a signal ends it."""

    every_steps: int | None = None
    """steps between checkpoints; null: none by steps"""
    every_minutes: float | None = 10.0
    """minutes between checkpoints; null: none by time"""
    at_end: bool = True
    """save when training is done"""
    keep: int = 2
    """newest checkpoints kept, besides keep_steps and folders with names of their own"""
    keep_steps: list[int] = field(default_factory=list)
    """steps that are saved and kept for good"""

    def due(self, step: int, last: int) -> bool:
        """Whether to save after ``step`` updates of ``last``."""
        if step == last:
            return self.at_end or step in self.keep_steps
        return step in self.keep_steps or (self.every_steps is not None and step % self.every_steps == 0)
