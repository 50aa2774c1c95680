"""``python -m benchmarks``: the CPU set, small enough for five minutes."""

import sys

from benchmarks import scaling_overhead

if __name__ == "__main__":
    sys.exit(scaling_overhead.main(["--widths", "1024", "2048", "--rounds", "9"]))
