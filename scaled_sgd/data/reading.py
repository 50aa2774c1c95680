"""Turns every exception of a file reader into one line."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from scaled_sgd.core.errors import UserError
from scaled_sgd.data.formats import allowed


@contextmanager
def reading(key: str, what: str, others: str | None = None) -> Iterator[None]:
    """Context for reading `what`, which the configuration's `key` names.

    Args:
        key: as in messages.
        what: likewise.
        others: what is allowed instead; None: files.

    Raises:
        UserError: it is damaged, missing or empty.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise UserError(
            f"{key}: cannot read {what}: {_reason(error)}; allowed: {others or allowed()}"
        ) from error


def _reason(error: Exception) -> str:
    """The root cause, which readers wrap in general errors of their own."""
    cause = error.__cause__ or error
    text = str(cause) or type(cause).__name__
    if isinstance(cause, StopIteration) or "corresponds to no data" in text:
        return "there are no rows"
    return textwrap.shorten(text, 200, placeholder=" …")
