"""``accelerate launch -m scaled_sgd.train``."""

import sys

from scaled_sgd.train.main import main

if __name__ == "__main__":
    sys.exit(main())
