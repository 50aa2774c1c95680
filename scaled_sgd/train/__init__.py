"""The training loop, with processes, strategies and interrupts."""
