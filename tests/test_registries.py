"""Tables of the documentation say what the registries say."""

import pytest

from scaled_sgd.diagnostics.registry import QUANTITIES
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning.table import COSTS
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.steps.rules import RULES
from scaled_sgd.train.strategies.build import BUILDERS
from tests.launching import REPOSITORY


def page(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", RULES.entries, ids=lambda rule: rule.name)
def test_the_readme_has_the_formula_of_every_rule(rule):
    (row,) = (line for line in page("README.md").splitlines() if line.startswith(f"| `{rule.name}` |"))
    assert f"| {rule.formula} |" in row
    assert rule.label in row


@pytest.mark.parametrize("name", QUANTITIES.names)
def test_the_documentation_names_every_column_of_a_diagnostic(name):
    rows = [line for line in page("docs/diagnostics.md").splitlines() if line.startswith(f"| `{name}` |")]
    row = rows[-1]
    for column in QUANTITIES[name].columns:
        assert column.name.rpartition(".")[2] in row or column.name.startswith("taylor.c"), column.name


def test_the_documentation_names_every_strategy_and_optimizer():
    for name in STRATEGIES:
        assert f"`{name}`" in page("docs/sharding.md")
    for name in OPTIMIZERS:
        assert f"`{name}`" in page("docs/configuration.md") or name in page("docs/design.md")


def test_every_strategy_has_a_builder_and_a_cost():
    assert set(BUILDERS) == set(COSTS) == set(STRATEGIES)
