"""Writes what documents take from the sources: docs/reference.md, and the README.md of each role."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from users_backend import settings as backend_settings
from users_backend.api import create_app as create_backend
from users_frontend import create_app as create_frontend
from users_frontend.settings import Settings as FrontendSettings

ROOT = Path(__file__).resolve().parent.parent
ROLES = ROOT / "roles"
SCHEMA = json.loads((ROOT / "vagrant/settings.schema.json").read_text(encoding="utf-8"))
REFERENCE = ROOT / "docs/reference.md"

# --- The roles -----------------------------------------------------------------------


def readme(role: Path) -> str:
    """The README that the role should have."""
    spec = role_spec(role)
    rows = "\n".join(row(name, **option) for name, option in spec["options"].items())
    parts = [
        f"# Role `{role.name}`: {spec['short_description']}",
        *paragraphs(spec["description"]),
        f"| option | type | default | what it is |\n|---|---|---|---|\n{rows}",
        "Made by `make docs` from [`meta/argument_specs.yml`](meta/argument_specs.yml): change that file, not this one.",
    ]
    return "\n\n".join(parts) + "\n"


def role_spec(role: Path) -> Any:
    return yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]


def row(name: str, *, type: str, description: str | list[str], default: Any) -> str:
    """One option as a line of the table. A key that has no place in the table is a TypeError."""
    return f"| `{name}` | {type} | {as_written(default)} | {' '.join(paragraphs(description))} |"


def paragraphs(text: str | list[str]) -> list[str]:
    """A description is one text, or a list of them."""
    return [text] if isinstance(text, str) else text


# --- The reference -------------------------------------------------------------------


LOCAL_VARIABLES = [
    ("`FRONTEND_PORT`", "`8000`", "where the page listens, on 127.0.0.1 alone"),
    ("`BACKEND_PORT`", "`8080`", "where the API listens, on 127.0.0.1 alone"),
    ("`DATA_DIR`", "`data`", "the folder of `users.db`"),
]
OTHER_VARIABLES = [
    ("`SETTINGS_LOCAL`", "the file to read in place of `settings.local.yml`"),
    (
        "`http_proxy`, `https_proxy`, `no_proxy`",
        "the proxy, for what your computer downloads; without VirtualBox, `make up` sets it in the VM, too",
    ),
    (
        "`PIP_CERT`, `SSL_CERT_FILE`",
        "a file with your company's certificates; without VirtualBox, `make up` sets it in the VM, too",
    ),
    ("`PIP_INDEX_URL`", "a Python package index; without VirtualBox, `make up` sets it in the VM, too"),
    (
        "`VAGRANT_HOME`, `VAGRANT_DOTFILE_PATH`, `VAGRANT_SERVER_URL`",
        "[Vagrant's own](https://developer.hashicorp.com/vagrant/docs/other/environmental-variables), which `make doctor` heeds",
    ),
    ("`WITHOUT_COPY`", "set to anything: `vagrant destroy` goes on where no copy of the only database could be made"),
    ("`USERS_TIMING`", "where the playbook writes the seconds of its steps; without it, nowhere"),
    ("`VBOX_MSI_INSTALL_PATH`", "set by VirtualBox's installer on Windows; `make doctor` looks there"),
]


def reference() -> str:
    """What docs/reference.md should be."""
    return f"""# Reference

Made by `make docs` from the sources that each part names: change those, not this page.

## Settings

From [`settings.yml`](../settings.yml); write those that you change into `settings.local.yml`, which git ignores. A
value that is not allowed is refused with a sentence before anything starts. NAME is the name of a service.

{table("setting | in settings.yml | allowed | what it is", settings())}

## Make targets

From the [`Makefile`](../Makefile). Where there is no make, as on Windows, [README](../README.md#every-day) has the
commands that stand behind the daily ones.

{table("command | does", targets())}

## Environment variables

Each app prints its own with `python -m users_backend --help` and `python -m users_frontend --help`. In the VM they
are set by `environment` and `secrets` of the service's entry in the settings.

### The backend

{table("variable | default | allowed", backend_variables())}

### The frontend

{table("variable | default | what it is | allowed", frontend_variables())}

### `docker compose up`

From [`compose.yaml`](../compose.yaml). They may also stand in a file `.env`.

{table("variable | what it is, and its default", compose_variables())}

### `make local`

Read by [`tools/local.py`](../tools/local.py).

{table("variable | default | what it is", LOCAL_VARIABLES)}

### Vagrant, `make up`, `ansible-playbook`

{table("variable | what it is", OTHER_VARIABLES)}

## The HTTP API

On port 8080. From FastAPI's OpenAPI document, which a running backend shows at `/openapi.json`, and as pages to try
it, without internet, at `/docs`. An id is a whole number from 1 to 2⁵³−1; a name has 1 to 200 characters, none of them
a control character, and is kept without white space around it. Errors are `application/problem+json`
([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)), with a sentence in `detail` that says what to do. Every answer has an
`X-Request-ID`: yours, if you sent one.

{table("call | does | parameters | body | answers", api())}

{table("status | means", statuses())}

## The pages

On port 8000. From the docstrings in [`pages.py`](../apps/frontend/src/users_frontend/pages.py).

{table("call | does", pages())}
"""


def table(heading: str, rows: Any) -> str:
    """A table; a bar in a cell would end it."""
    lines = [heading, "|".join("---" for _ in heading.split("|"))]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in cells) for cells in rows]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def code(text: str) -> str:
    return f"`{text}`" if text else "empty"


def as_written(value: Any) -> str:
    """A value as YAML has it."""
    return code(value if isinstance(value, str) else json.dumps(value))


def settings() -> Iterator[tuple[str, ...]]:
    """Each key of vagrant/settings.schema.json, with its default, what is allowed, and its comment in settings.yml."""
    text = (ROOT / "settings.yml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    for key, allowed in allowed_settings("", SCHEMA):
        group, name = key.split(".")[0], key.split(".")[-1]
        of_group = re.search(rf"^{group}:.*?(?=^\w|\Z)", text, re.MULTILINE | re.DOTALL)
        # Also where it is but a comment, as in `# memory: 256m   # …`.
        line = rf"((?:^ *# .*\n)*)^ *(?:# )?{name}:(?: +([^#\s]\S*))?.*?(?: # (.*(?:\n {{20,}}# .*)*))?$"
        found = re.search(line, of_group[0] if of_group and name != group else text, re.MULTILINE)
        assert found, f"settings.yml does not explain {key}."
        above, written, after = found.groups()
        comment = re.sub(r"\s*\n *# |^ *# ", " ", after or above).strip()
        if group == "services":
            each = [service.get(name) for service in values[group].values()]
        else:
            each = [values[group] if name == group else values[group][name]]
        shown = list(dict.fromkeys(shown_default(value) for value in each if value is not None))
        yield code(key), ", ".join(shown) or code(written), allowed, comment


def allowed_settings(key: str, rule: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is allowed for each key that is no group of others."""
    rule = SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]] | rule if "$ref" in rule else rule
    inner = rule.get("properties") or ({"NAME": rule["additionalProperties"]} if key == "services" else {})
    if not inner:
        yield key, rule["description"]
    for name, each in inner.items():
        yield from allowed_settings(f"{key}.{name}".lstrip("."), each)


def shown_default(value: Any) -> str:
    if isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)):
        return "see the file"
    return as_written(value)


def targets() -> Iterator[tuple[str, ...]]:
    """Each target of the Makefile and what the comment after it says."""
    for name, text in re.findall(r"^([a-z-]+):.*## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE):
        yield code(f"make {name}"), text


def backend_variables() -> Iterator[tuple[str, ...]]:
    for name, default in backend_settings.DEFAULTS.items():
        yield code(name), code(default), backend_settings.ALLOWED[name]


def frontend_variables() -> Iterator[tuple[str, ...]]:
    for each in fields(FrontendSettings):
        about = each.metadata
        yield (
            code(each.name.upper()),
            code(about["default"]) if about["default"] else "none: needed",
            about["meaning"],
            about["allowed"],
        )


def compose_variables() -> Iterator[tuple[str, ...]]:
    """The list at the top of compose.yaml."""
    head = (ROOT / "compose.yaml").read_text(encoding="utf-8").split("\n\n")[0]
    for names, text in re.findall(r"^#   (\w+(?:, \w+)*) +(\w.*)$", head, re.MULTILINE):
        yield ", ".join(map(code, names.split(", "))), text


def api() -> Iterator[tuple[str, ...]]:
    """Each call of the backend. The statuses that any call may answer are left to the table below it."""
    for method, path, call in api_calls():
        parameters = ", ".join(code(each["name"]) for each in call.get("parameters", []) if each["in"] == "query")
        schema = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        body = {"User": '{"id": 1, "name": "Ana"}', "NewName": '{"name": "Bia"}', "": ""}[
            schema.get("$ref", "").rpartition("/")[2]
        ]
        yield (
            code(f"{method.upper()} {path}"),
            " ".join(call["description"].split()),
            parameters,
            body and code(body),
            ", ".join(sorted(call["responses"].keys() - {"421"})),
        )
    yield code("GET /docs"), "Pages to try the API.", "", "", "200"


def api_calls() -> Iterator[tuple[str, str, Any]]:
    app = create_backend(backend_settings.load({}))
    for path, calls in app._fastapi.openapi()["paths"].items():
        for method, call in calls.items():
            yield method, path, call


def statuses() -> Iterator[tuple[str, ...]]:
    """What each status above 400 means."""
    texts = {
        status: answer["description"]
        for _, _, call in api_calls()
        for status, answer in call["responses"].items()
        if int(status) >= 400
    }
    for status in sorted(texts):
        yield status, texts[status] + (" (any call)" if status == "421" else "")


def pages() -> Iterator[tuple[str, ...]]:
    """Each address of the frontend, with the docstring of what answers there."""
    app = create_frontend(FrontendSettings.from_environment({"SECRET_KEY": "-" * 32}))
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: (rule.rule, max(rule.methods or ()))):
        method = "POST" if "POST" in (rule.methods or ()) else "GET"
        if rule.endpoint != "static":
            address = re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule)
            yield code(f"{method} {address}"), " ".join((app.view_functions[rule.endpoint].__doc__ or "").split())


if __name__ == "__main__":
    for role in ROLES.iterdir():
        (role / "README.md").write_text(readme(role))
    REFERENCE.write_text(reference(), encoding="utf-8")
