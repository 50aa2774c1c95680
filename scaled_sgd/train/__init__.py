"""The training loop, and what it needs of processes, strategies and interrupts."""
