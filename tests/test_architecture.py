"""What keeps the package easy to walk through: few modules at the top, small files, imports without circles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
FILES = sorted((SRC / "potstill").rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imported(path: Path) -> set[str]:
    """List the modules of potstill that are imported when this one is, with the packages that they are in."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:  # neither in functions nor for type checkers alone
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (members & MODULES) or {node.module}
    own = module_name(path)
    parents = {name[:place] for name in found for place, letter in enumerate(name) if letter == "."}
    inside = {name for name in parents if own.startswith(f"{name}.")}  # these are being imported already
    return ((found | parents) & MODULES) - inside - {own}


def test_no_module_imports_itself_by_way_of_others():
    TopologicalSorter({module_name(path): imported(path) for path in FILES}).prepare()  # raises CycleError


def test_directly_in_the_package_are_few_modules():
    assert {path.stem for path in FILES if path.parent == SRC / "potstill"} == {
        *("__init__", "__main__", "console", "distillation", "errors", "task")
    }


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
