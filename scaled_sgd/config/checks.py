"""Validates value ranges and key combinations."""

from scaled_sgd.config.combinations import check_combinations
from scaled_sgd.config.keys import KEYS, value_of
from scaled_sgd.config.parsing import read_key
from scaled_sgd.config.sections import Config


def check(config: Config) -> None:
    """Check that every value is within its limits and that all keys are compatible.

    Raises:
        UserError: names the first offending key.
    """
    for name in KEYS:
        read_key(name, value_of(config, name))
    check_combinations(config)
