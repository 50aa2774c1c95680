"""``scaled-sgd train`` in a process that ends when its starter ends."""

import signal
import sys

from scaled_sgd.parallel.endings import end_with
from scaled_sgd.parallel.streams import prepare_streams


def main() -> int:
    """Train; returns the exit status."""
    prepare_streams()
    starter, *arguments = sys.argv[1:]
    # Schedulers send these to all processes; the starter forwards those that apply.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    end_with(int(starter), signal.SIGTERM)
    from scaled_sgd.cli import main as scaled_sgd

    return scaled_sgd(["train", *arguments])


if __name__ == "__main__":
    sys.exit(main())
