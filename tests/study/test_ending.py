"""How a command ends: its status, and one line about what is wrong."""

import pytest

from scaled_sgd.core.errors import StoppedError, UserError
from scaled_sgd.study.ending import run_command


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("--k: 0 is not usable; allowed: 1"), 2, "error: --k: 0 is not usable; allowed: 1\n"),
        (
            ModuleNotFoundError("No module", name="matplotlib"),
            2,
            "error: line: matplotlib is not installed; allowed: pip install 'scaled-sgd[study]'\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted: rows are kept\n"),
        (StoppedError("", 15), 143, "interrupted: rows are kept\n"),
    ],
)
def test_a_command_ends_with_a_status_and_a_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(arguments: list[str]) -> int:
        assert arguments == ["run"]
        raise error

    assert run_command("line", ["run"], act, interrupted="rows are kept") == status
    assert capsys.readouterr().err == line


def test_mistakes_are_raised_with_debug_and_modules_of_the_package_always() -> None:
    def act(arguments: list[str]) -> int:
        raise UserError("a mistake") if arguments == ["a"] else ModuleNotFoundError(name="scaled_sgd.gone")

    with pytest.raises(UserError, match="a mistake"):
        run_command("line", ["a", "--debug"], act)
    with pytest.raises(ModuleNotFoundError):
        run_command("line", ["b"], act)
