"""The documents say what the code does: what is made from the sources, links, and quoted messages."""

import re
import subprocess
from pathlib import Path

import pytest
from reference import REFERENCE, ROLES, readme, reference

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROLES.glob("*/README.md")]
MAKEFILE = (ROOT / "Makefile").read_text()
# English, and the same in Portuguese.
LANGUAGES = [
    (ROOT / "README.md", ROOT / "README.pt-BR.md"),
    (ROOT / "docs/first-change.md", ROOT / "docs/pt-BR/first-change.md"),
]
BLOCK = re.compile(r"^ *```(\w+)\n((?:.*\n)*?) *```$", re.MULTILINE)
CODE = [ROOT / "Vagrantfile", *ROOT.glob("vagrant/*"), *ROOT.glob("tools/*.py"), *ROOT.glob("ansible/*.yml")]
CODE += [
    *ROOT.glob("ansible/*/*.py"),
    *ROOT.glob("apps/*/src/*/*.py"),
    ROOT / "apps/database/start",
    ROOT / "tools/venv",
]
CODE += [file for file in ROLES.rglob("*") if file.is_file() and file.suffix not in (".md", ".pyc")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


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


def test_every_variable_that_is_read_from_the_environment_is_in_the_reference() -> None:
    programs = [ROOT / "Vagrantfile", ROOT / "compose.yaml", *ROOT.glob("vagrant/*.rb"), *ROOT.glob("tools/*.py")]
    programs += [*ROOT.glob("apps/*/src/*/*.py"), ROOT / "ansible/site.yml"]
    read = r"""(?:environ(?:\.get\(|\[)|ENV(?:\.fetch\(|\[)|lookup\('ansible.builtin.env', )["'](\w+)|\$\{(\w+):-"""
    names = {name for file in programs for pair in re.findall(read, file.read_text()) for name in pair if name}
    assert {"SETTINGS_LOCAL", "USER_ID", "DATA_DIR"} <= names
    text = REFERENCE.read_text(encoding="utf-8")
    assert {name for name in names if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_tables_have_a_heading_and_as_many_cells_in_each_row(document: Path) -> None:
    text = BLOCK.sub("", document.read_text(encoding="utf-8"))
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", row) for row in table.splitlines()]
        assert set(rows[1][1:-1]) == {"---"}, rows[0]
        assert {len(row) for row in rows} == {len(rows[0])}, table


def anchors(document: Path) -> set[str]:
    """The names that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> set[str]:
    """Where a document leads; a page that exists in both languages counts as the English one."""
    found = re.findall(r"\]\(([^)]+)\)|<(http[^>]+)>|src=\"([^\"]+)", document.read_text(encoding="utf-8"))
    english = {name_of(there): name_of(here) for here, there in LANGUAGES}
    targets = set()
    for link in map("".join, found):
        path, hash_, anchor = link.partition("#")
        if path and "://" not in path:
            path = name_of((document.parent / path).resolve())
            path = english.get(path, path)
        targets.add(path + hash_ + anchor)
    return targets


def commands_in_text(document: Path) -> set[str]:
    """What stands in backticks outside of blocks and has a blank: commands, mostly."""
    return {
        code for code in re.findall(r"`([^`\n]+)`", BLOCK.sub("", document.read_text(encoding="utf-8"))) if " " in code
    }


def blocks(document: Path) -> list[tuple[str, str]]:
    """The blocks without what is said in words there: comments, and the labels of a drawing."""
    found = []
    for language, content in BLOCK.findall(document.read_text(encoding="utf-8")):
        if language == "mermaid":
            content = re.sub(r'"[^"]*"|: .*|(?<= as ).*', "", content)
        found.append((language, re.sub(r" +# .*", "", content)))
    return found


@pytest.mark.parametrize(("english", "portuguese"), LANGUAGES, ids=name_of)
def test_both_languages_have_the_same_headings_blocks_commands_and_links(english: Path, portuguese: Path) -> None:
    def shape(document: Path) -> list[str]:
        text = BLOCK.sub("", document.read_text(encoding="utf-8"))
        return re.findall(r"^(?:#+|\||-|\d\.)(?= |-)", text, re.MULTILINE)  # headings, rows, items

    assert shape(portuguese) == shape(english)
    assert blocks(portuguese) == blocks(english)
    assert commands_in_text(portuguese) == commands_in_text(english)
    assert links(portuguese) == links(english)


def test_documents_name_no_make_target_that_does_not_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^ *)make ([a-z-]+)(?=[ `\n])", text, re.MULTILINE))
        assert named <= targets, name_of(document)


def test_readmes_name_every_target_for_users_and_contributing_every_other() -> None:
    for_users, for_work = (
        {f"`make {name}" for name in re.findall(r"^([a-z-]+):.*## ", part, re.MULTILINE)}
        for part in MAKEFILE.split("# --- The VM")[1].split("# --- Work on the project")
    )
    assert len(for_users) > 10
    assert len(for_work) > 5
    for readme_ in (ROOT / "README.md", ROOT / "README.pt-BR.md"):
        text = readme_.read_text(encoding="utf-8")
        assert {target for target in for_users if target not in text} == set()
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert {target for target in for_work if target not in text} == set()


def test_the_map_of_contributing_has_every_folder() -> None:
    files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    folders = {f"`{file.partition('/')[0]}/`" for file in files if "/" in file}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## A map")[1].split("\n## ")[0]
    assert set(re.findall(r"`[^`/]+/`", text)) >= folders


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
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
