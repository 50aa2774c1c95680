"""Reads YAML files with plain values, each key once."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from scaled_sgd.core.errors import UserError

_PLAIN = "allowed: keys and values in plain YAML"


def read_yaml(name: str | Path, *, option: str = "file") -> dict[str, Any]:
    """The mapping in a YAML file; empty for an empty file.

    Raises:
        UserError: the file does not exist or holds something else; the message names ``option``.
    """
    path, name = Path(name), str(name)
    if not path.is_file():
        raise UserError(f"{option}: no file {name!r}; allowed: a YAML file")
    try:
        values = load_plain(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{option}: cannot read {name!r}: {error.strerror}; {_PLAIN}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{option}: {name!r} is not valid YAML: {error}; {_PLAIN}") from error
    except RecursionError:
        raise UserError(f"{option}: {name!r} nests too deeply; {_PLAIN}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{option}: {name!r} holds a {type(values).__name__}; {_PLAIN}")
    return values


def load_plain(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        yaml.YAMLError: it is not YAML, or has tags, aliases or duplicate keys.
    """
    return yaml.load(text, _PlainLoader)


class _PlainLoader(yaml.SafeLoader):
    """Refuses tags, duplicate keys, and aliases, whose expansion may be endless."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key, count in Counter(keys).items() if count > 1)
            raise yaml.YAMLError(f"it has the key {twice} twice")
        return super().construct_mapping(node, deep)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | str:
    """Numbers with a leading zero stay text: YAML 1.1 reads 010 as 8, and nobody means that."""
    text = str(loader.construct_scalar(node))
    if re.fullmatch(r"[-+]?0[0-9_]+", text):
        return text
    number: int = loader.construct_yaml_int(node)
    return number


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _integer)

# YAML 1.1 reads no, off, yes and on as booleans, where they are precisions, labels and names of classes; keys
# that take true or false take them all the same.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")
)

# YAML 1.1 reads 1e-3 and -.1 as text.
_FLOAT = re.compile(r"[-+]?(\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+)$")
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
