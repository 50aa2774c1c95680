import pytest

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.text import escaped, is_folder_name, is_plain_name


@pytest.mark.parametrize("text", ["", "a b", "νP → größe ✓ 漢字 שלום 🚀", "−0.5\u00a0%"])
def test_text_that_a_terminal_shows_stays(text):
    assert escaped(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[2J", "\\x1b[2J"), ("a\nb\r\t", "a\\nb\\r\\t"), ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
     ("\u202egnp.exe", "\\u202egnp.exe"), ("\ud800", "\\ud800"), ("\u2028", "\\u2028"),
     ("\u200b", "\\u200b")],
)  # fmt: skip
def test_what_a_terminal_would_obey_becomes_an_escape(text, shown):
    assert escaped(text) == shown
    assert str(UserError(f"key: {shown}")) == f"key: {shown}"
    assert escaped(shown).encode().decode() == shown


def test_errors_are_one_line_that_a_terminal_shows():
    assert str(UserError("key: a\nb \x1b[31m\ud800")) == "key: a b \\x1b[31m\\ud800"


def test_names_stay_in_their_folder():
    for name in ("a", "0.1_x-y", "A" * 200):
        assert is_plain_name(name)
        assert is_folder_name(name)
    for name in ("größe", "two words", "=1"):
        assert is_folder_name(name)
        assert not is_plain_name(name)
    for name in ("", ".", "..", "a/b", "/", "a\n", "\x1b"):
        assert not is_plain_name(name)
        assert not is_folder_name(name)
