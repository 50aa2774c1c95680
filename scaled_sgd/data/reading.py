"""Turns every exception of a file reader into one line."""

import re
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
        reason, way_out = _reason(error)
        raise UserError(
            f"{key}: cannot read {what}: {reason}; allowed: {way_out or others or allowed()}"
        ) from error


def _reason(error: Exception) -> tuple[str, str | None]:
    """The root cause, which readers wrap in errors of their own, and what is allowed if that is known."""
    cause = error.__cause__ or error
    text = str(cause) or type(cause).__name__
    if isinstance(cause, StopIteration) or re.search("corresponds to no data|No columns to parse", text):
        return "there are no rows", "at least one"
    if isinstance(cause, UnicodeDecodeError):
        return textwrap.shorten(text, 200), "text in UTF-8"
    if fields := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", text):
        expected, line, saw = fields.groups()
        return f"line {line} has {saw} fields, the first one {expected}", "equally many in all lines"
    return textwrap.shorten(text, 200, placeholder=" …"), None
