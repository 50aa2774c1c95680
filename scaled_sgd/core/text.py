"""Text from files and folders that others made: names, and what a terminal shows of it."""

import re
import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control characters, invisible format characters, halves of characters, line and paragraph separators."""


def escaped(text: str) -> str:
    """The text on one line, with an escape such as ``\\x1b`` for each character that is not shown."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(one) if unicodedata.category(one) in _HIDDEN else one for one in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def is_plain_name(text: object) -> bool:
    """Whether ``text`` is up to 200 letters, digits, ``.``, ``_`` and ``-``, the first a letter or digit."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", text) is not None


def is_folder_name(text: str) -> bool:
    """Whether ``text`` names one folder inside another, in any language, on one line."""
    return bool(text.strip(".")) and "/" not in text and escaped(text) == text
