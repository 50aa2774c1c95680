"""The output of ``--help`` and ``--print_config``."""

import textwrap
from shutil import get_terminal_size

import yaml

from scaled_sgd.config.keys import KEYS, SECTIONS, nested, value_of
from scaled_sgd.config.sections import Config
from scaled_sgd.config.values import labels, shown
from scaled_sgd.core.errors import UserError

PRINTING = ("help", "print_config")
_FLAGS = ("skip_default", "skip_null")


def help_text(prog: str) -> str:
    """Every key with its allowed values, default and meaning, and what registered choices are."""
    width = max(60, min(get_terminal_size().columns, 120) - 2)
    lines = [
        f"usage: {prog} [--config FILE] [--KEY VALUE …]",
        "",
        "Train a wide multilayer perceptron. Any key below may stand in the YAML file too.",
        "",
        "  --config FILE                 YAML file with any of the keys below; options win over it",
        f"  --print_config[={','.join(_FLAGS)}]",
        "                                print the configuration instead of training",
        "  --debug                       show the traceback of an error",
        "  -h, --help                    print this, with what run.plugins adds",
    ]
    group = None
    for name, key in KEYS.items():
        if (section := name.rpartition(".")[0]) != group:
            group = section
            lines += ["", f"{SECTIONS.get(group, Config).__doc__}"]
        head = f"  --{name} {{{key.allowed}}}"
        choices = "; ".join(f"{name}: {label}" for name, label in labels(key.hint).items())
        lines.append(head)
        for text in filter(None, (f"{key.help} (default: {shown(key.default)})", choices)):
            indent = " " * 6
            lines += textwrap.wrap(
                text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
            )
    return "\n".join(lines) + "\n"


def printed(config: Config, flags: str) -> str:
    """The configuration as YAML.

    Args:
        config: the configuration, as far as it is resolved.
        flags: ``skip_default``, ``skip_null``, or both separated by a comma.

    Raises:
        UserError: another flag.
    """
    asked = [flag for flag in flags.split(",") if flag]
    for flag in asked:
        if flag not in _FLAGS:
            raise UserError(f"--print_config: {flag!r} is unknown; allowed: {', '.join(_FLAGS)}")
    kept = {
        key.name: value_of(config, key.name)
        for key in KEYS.values()
        if not ("skip_default" in asked and value_of(config, key.name) == key.default)
        if not ("skip_null" in asked and value_of(config, key.name) is None)
    }
    return yaml.safe_dump(nested(kept), sort_keys=False, allow_unicode=True)
