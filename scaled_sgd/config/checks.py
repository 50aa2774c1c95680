"""Refuses values that have the right type but cannot be meant, or not together."""

from scaled_sgd.config.combinations import check_combinations
from scaled_sgd.config.keys import KEYS, value_of
from scaled_sgd.config.parsing import read_key
from scaled_sgd.config.sections import Config


def check(config: Config) -> None:
    """See that every value is within its limits and that keys go together.

    Raises:
        UserError: names the first key that is not.
    """
    for name in KEYS:
        read_key(name, value_of(config, name))
    check_combinations(config)
