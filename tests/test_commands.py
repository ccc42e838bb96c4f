"""Every command of the documents runs in a test, or is known as one that cannot: tests/commands.py says which."""

import re
from pathlib import Path

import pytest
from commands import CANNOT, ELSEWHERE, FOLLOWED, HERE, IN_THE_VM
from tutorial import Reader, steps

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {str(path.relative_to(ROOT)): path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))}


def commands(document: Path) -> list[str]:
    """The lines of its blocks for the shell, without comments."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```sh\n((?:.*\n)*?) *```$", text, re.MULTILINE)
    return [re.sub(r" +# .*", "", line.strip()) for block in blocks for line in block.splitlines()]


def test_every_command_of_the_documents_is_run_somewhere_or_known_as_one_that_cannot_be() -> None:
    found = {each for name, path in DOCUMENTS.items() if name not in FOLLOWED for each in commands(path)}
    known = [*HERE, *IN_THE_VM, *ELSEWHERE, *CANNOT]
    assert found == set(known), "tests/commands.py says where each runs, or why it cannot."
    assert len(known) == len(set(known))


def test_those_that_run_elsewhere_do() -> None:
    for file in FOLLOWED.values():
        assert (ROOT / file).exists()
    for document in ("docs/add-a-service.md", "docs/first-change.md"):
        assert f'"{document}"' in (ROOT / FOLLOWED[document]).read_text()
    for command, (file, text) in ELSEWHERE.items():
        assert text in (ROOT / file).read_text(), command


def test_those_that_need_no_vm_work_and_print_what_is_promised(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    output = {command: reader.execute(command) for command in HERE}
    assert "X-Request-ID: " in output["curl -s -o /dev/null -D - 127.0.0.1:8000/"]
    promised = 0
    command = ""
    for step in steps(ROOT / "docs/how-to.md"):
        if step.language in ("text", "json"):
            assert step.content.strip() in output[command]
            promised += 1
        command = step.content.strip()
    assert promised == 2


@pytest.mark.parametrize("line", ["make new", "curl 127.0.0.1:8080/users   # and why"])
def test_a_block_is_read_without_comments_wherever_it_stands(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(f"1. A\n\n   ```sh\n   {line}\n   ```\n\n```yaml\na: 1\n```\n\n```sh\n{line}\n```\n")
    assert commands(tmp_path / "a.md") == [line.split("   #")[0]] * 2
