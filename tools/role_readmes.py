"""Writes the README.md of each role from its meta/argument_specs.yml."""

import json
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROLES = Path(__file__).resolve().parent.parent / "roles"


def readme(role: Path) -> str:
    """The README that the role should have."""
    spec = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]
    rows = "\n".join(row(name, **option) for name, option in spec["options"].items())
    parts = [
        f"# Role `{role.name}`: {spec['short_description']}",
        *paragraphs(spec["description"]),
        f"| option | type | default | what it is |\n|---|---|---|---|\n{rows}",
        "Made by `make docs` from [`meta/argument_specs.yml`](meta/argument_specs.yml): change that file, not this one.",
    ]
    return "\n\n".join(parts) + "\n"


def row(name: str, *, type: str, description: str | list[str], default: Any = None, required: bool = False) -> str:
    """One option as a line of the table. A key that has no place in the table is a TypeError."""
    shown = f"`{default if isinstance(default, str) else json.dumps(default)}`"
    if default == "":
        shown = "empty"
    if required:
        shown = "none: required"
    return f"| `{name}` | {type} | {shown} | {' '.join(paragraphs(description))} |"


def paragraphs(text: str | list[str]) -> list[str]:
    """A description is one text, or a list of them."""
    return [text] if isinstance(text, str) else text


if __name__ == "__main__":
    for role in ROLES.iterdir():
        (role / "README.md").write_text(readme(role))
