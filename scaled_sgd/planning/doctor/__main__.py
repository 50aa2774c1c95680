"""``accelerate launch -m scaled_sgd.planning.doctor``."""

import sys

from scaled_sgd.parallel.streams import prepare_streams
from scaled_sgd.planning.doctor.command import main

prepare_streams()
sys.exit(main())
