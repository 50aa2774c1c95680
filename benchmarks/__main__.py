"""``python -m benchmarks``: the CPU set, small enough for five minutes."""

import sys

from benchmarks import data, factor_exchange, scaling_overhead, step_time


def main() -> int:
    """Run every benchmark at a small size; the modules have the full ones."""
    step_time.main(["--widths", "1024", "--rounds", "9"])
    scaling_overhead.main(["--widths", "1024", "2048", "--rounds", "9"])
    factor_exchange.main(["--rows", "16", "64", "--rounds", "7"])
    return data.main([])


if __name__ == "__main__":
    sys.exit(main())
