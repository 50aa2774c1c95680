"""``accelerate launch -m scaled_sgd.doctor``."""

import sys

from scaled_sgd.doctor.command import main

sys.exit(main())
