import signal

import pytest
import torch.distributed as dist

from scaled_sgd.core.errors import StoppedError
from scaled_sgd.parallel.endings import stopped_by_signals
from scaled_sgd.train.interrupts import Consensus, Wish
from tests.processes import run_processes


def wishes():
    """What each round tells while the first rank wants one save until it has heard of it."""
    consensus, heard = Consensus(), []
    consensus._wanted_interval = lambda: 1
    for _ in range(6):
        wants = dist.get_rank() == 0 and Wish.SAVE not in heard
        heard.append(consensus(Wish.SAVE if wants else Wish.NOTHING))
    heard.append(consensus(Wish.STOP_TERMINATE if dist.get_rank() == 1 else Wish.NOTHING))
    heard.append(consensus(Wish.NOTHING))
    consensus.finish()
    return heard


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_step_raises_with_its_number(number):
    with pytest.raises(StoppedError, match="so far") as stopped, stopped_by_signals("so far"):
        signal.raise_signal(number)
    assert stopped.value.number == number


@pytest.mark.slow
def test_a_wish_is_known_everywhere_at_the_same_step_and_a_save_is_made_once():
    found = run_processes(wishes, 2)
    assert found[0] == found[1]
    assert found[0].count(Wish.SAVE) == 1
    assert found[0][-1] == Wish.STOP_TERMINATE
