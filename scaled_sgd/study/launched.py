"""``scaled-sgd train`` in a process that ends when the one that started it does."""

import signal
import sys

from scaled_sgd.study.child_processes import die_with_parent


def main() -> int:
    """Train; returns the exit status."""
    parent, *arguments = sys.argv[1:]
    # Schedulers send these to all processes; the parent passes on what is meant.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(signal.SIGTERM, int(parent))
    from scaled_sgd.cli import main as scaled_sgd

    return scaled_sgd(["train", *arguments])


if __name__ == "__main__":
    sys.exit(main())
