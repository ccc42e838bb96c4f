"""The documents say what the code does: what is made from the sources, links, and quoted messages."""

import re
from pathlib import Path

import pytest
from reference import REFERENCE, ROLES, draw, readme, reference, seal

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*ROOT.glob("docs/*.md"), *ROLES.glob("*/README.md")]
CODE = [ROOT / "Vagrantfile", *ROOT.glob("vagrant/*.rb"), *ROOT.glob("tools/*.py"), *ROOT.glob("ansible/*.yml")]
CODE += [*ROOT.glob("apps/*/src/*/*.py")]
CODE += [file for file in ROLES.rglob("*") if file.is_file() and file.suffix != ".md"]


@pytest.mark.parametrize("role", sorted(ROLES.iterdir()), ids=lambda role: role.name)
def test_the_readme_of_each_role_is_made_from_its_options(role: Path) -> None:
    assert (role / "README.md").read_text() == readme(role), "`make docs` renews it."


def test_an_option_with_a_key_that_has_no_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    option = "{type: str, description: A, aliases: [b]}"
    spec = f"argument_specs: {{main: {{short_description: A, description: A, options: {{a: {option}}}}}}}"
    (tmp_path / "meta/argument_specs.yml").write_text(spec)
    with pytest.raises(TypeError, match="aliases"):
        readme(tmp_path)


def test_the_reference_is_made_from_the_sources() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "`make docs` renews it."


def test_the_drawing_is_made_from_its_source_and_knows_dark_colours() -> None:
    picture = (ROOT / "docs/architecture.svg").read_text(encoding="utf-8")
    assert seal() in picture, "`make docs` renews it."
    assert "prefers-color-scheme: dark" in picture


def test_a_drawing_that_is_up_to_date_needs_no_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    draw()


def test_every_variable_that_is_read_from_the_environment_is_in_the_reference() -> None:
    programs = [ROOT / "Vagrantfile", ROOT / "compose.yaml", *ROOT.glob("vagrant/*.rb"), *ROOT.glob("tools/*.py")]
    programs += [*ROOT.glob("apps/*/src/*/*.py"), ROOT / "ansible/site.yml"]
    read = r"""(?:environ(?:\.get\(|\[)|ENV(?:\.fetch\(|\[)|lookup\('ansible.builtin.env', )["'](\w+)|\$\{(\w+):-"""
    names = {name for file in programs for pair in re.findall(read, file.read_text()) for name in pair if name}
    assert {"SETTINGS_LOCAL", "USER_ID", "DATA_DIR"} <= names
    text = REFERENCE.read_text(encoding="utf-8")
    assert {name for name in names if f"`{name}`" not in text} == set()


def anchors(document: Path) -> set[str]:
    """The names that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", document.read_text(encoding="utf-8")):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), anchor


def test_each_message_of_ours_in_troubleshooting_is_one_that_the_code_says() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    ours = text.split("\n## Messages of this project\n")[1].split("\n## ")[0]
    quotes = [quote for heading in re.findall(r"^### (.*)$", ours, re.MULTILINE) for quote in heading.split("`")[1::2]]
    assert len(quotes) > 20
    # Texts that stand side by side are one, and so are lines.
    sources = [re.sub(r"""["']\s*\\?\n\s*f?["']""", "", file.read_text()) for file in CODE]
    code = "\n".join(re.sub(r"\s+", " ", source) for source in sources)

    def pattern(quote: str) -> str:
        return ".{1,80}?".join(map(re.escape, quote.split("…")))

    assert [quote for quote in quotes if not re.search(pattern(quote), code)] == []
