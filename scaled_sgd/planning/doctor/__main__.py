"""``accelerate launch -m scaled_sgd.planning.doctor``."""

import sys

from scaled_sgd.planning.doctor.command import main

sys.exit(main())
