"""The package's rooms: imports point down, in no circle, and launchers are imported in few places."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import scaled_sgd

PACKAGE = Path(scaled_sgd.__file__).parent
ROOMS = (
    "core", "parallel", "steps", "diagnostics", "config", "data", "runs", "planning", "train", "study",
)  # fmt: skip
"""From the lowest floor to the highest."""
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    parts = ("scaled_sgd", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def statements(path):
    """All statements of a file, also those inside others."""
    found = list(tree_of(path).body)
    for node in found:
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, field, ())
            found += inner if isinstance(inner, list) else ()
    return found


@cache
def imported(path):
    """Names of modules that a file imports, inside functions and for types too."""
    found = []
    for node in statements(path):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def named(path):
    """Modules that a file names in texts, to be imported on first use."""
    return re.findall(r'"(scaled_sgd(?:\.\w+){2,})(?::\w+)?"', path.read_text(encoding="utf-8"))


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "scaled_sgd" and parts[1] in ROOMS else None


def test_there_is_nothing_at_the_top_but_the_doors():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "cli.py"}
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))} == {*ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room):
    above = ROOMS[ROOMS.index(room) + 1 :]
    for path in sorted((PACKAGE / room).rglob("*.py")):
        up = [name for name in (*imported(path), *named(path)) if room_of(name) in above]
        assert not up, f"{module_of(path)} imports {up}"


@cache
def home(name):
    """The module in which a name stands that a room hands on in its ``__init__.py``, or the name itself."""
    room, _, own = name.rpartition(".")
    for node in statements(MODULES[room]) if room in MODULES else ():
        if isinstance(node, ast.ImportFrom) and own in {alias.name for alias in node.names}:
            return home(f"{node.module}.{own}")
    return name if name in MODULES else room


def test_no_files_import_each_other_in_a_circle():
    faces = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    edges = {
        module: {home(name) for name in imported(path)} & MODULES.keys() - faces - {module}
        for module, path in MODULES.items()
    }
    done, walking = set(), []

    def walk(module):
        if module in done or module not in edges:
            return
        assert module not in walking, f"circle: {' → '.join([*walking[walking.index(module) :], module])}"
        walking.append(module)
        for name in sorted(edges[module]):
            walk(name)
        walking.pop()
        done.add(module)

    for module in edges:
        walk(module)


def test_no_two_classes_share_a_name():
    homes = {}
    for path in FILES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module_of(path))
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def test_launchers_are_imported_where_processes_are_launched():
    for path in FILES:
        if room_of(module_of(path)) not in ("train", "planning", "study"):
            found = {name.split(".")[0] for name in imported(path)}
            assert not found & {"accelerate", "deepspeed"}, module_of(path)
