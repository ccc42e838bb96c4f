"""Reads the settings for a machine: settings.yml, and what is laid over it, each file over the one before.

Arguments: files, with paths from the project's folder; those that are missing are left out. The result has the
`settings`, and of them the `services` that are enabled.

Where something is wrong, the task fails with one sentence. On the laptop, vagrant/settings.rb says the same: there is no
Python on Windows, and no Ruby where Ansible runs. vagrant/settings.schema.json has what is allowed.
"""

from __future__ import annotations

import difflib
import json
import re
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "vagrant/settings.schema.json").read_text(encoding="utf-8"))
TYPES = {str: "string", int: "integer", bool: "boolean", list: "array", dict: "object"}
OF_A_PORT = ["port", "health_path"]  # a service has both, or none; host_port is for the laptop
FILES = [
    ("image", "base_archive"),
    ("network", "ca_certificate"),
    ("https", "users_file"),
    ("https", "acme_ca_certificate"),
]


class Wrong(Exception):
    """The sentence says which setting, and what is allowed."""


class ActionModule(ActionBase):
    _VALID_ARGS = frozenset(["files"])

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            settings = load(self._task.args["files"])
            services = enabled(settings)
            check_sources(services)
        except Wrong as wrong:
            return result | {"failed": True, "msg": str(wrong)}
        return result | {"settings": settings, "services": services}


def enabled(settings: dict[str, Any]) -> dict[str, Any]:
    """The services that shall run."""
    return {name: each for name, each in settings["services"].items() if each.get("enabled") is not False}


def load(files: list[str]) -> dict[str, Any]:
    """The merged settings. Raises Wrong."""
    settings: dict[str, Any] = reduce(merge, map(read, files))
    check("", settings, SCHEMA)
    for name, service in settings["services"].items():
        needed = ["source", *(OF_A_PORT if service.keys() & {"https_port", *OF_A_PORT} else [])]
        for key in needed:
            if key not in service:
                raise Wrong(f"The setting services.{name} has no {key}.")
        for secret in service.get("secrets", []):
            owner = secret.rpartition("/")[0]
            if owner and owner not in settings["services"]:
                raise Wrong(f"The setting services.{name}.secrets names the service {owner}, and there is none.")
    for group, key in FILES:
        file = settings[group][key]
        if file and not (ROOT / file).is_file():
            raise Wrong(f"{group}.{key} in the settings names {json.dumps(file)}, and there is no such file in {ROOT}.")
        if file and key.endswith("certificate") and b"-----BEGIN CERTIFICATE-----" not in (ROOT / file).read_bytes():
            raise Wrong(
                f"{group}.{key} in the settings names {json.dumps(file)}, which holds no certificate in PEM form. "
                "Export it again in that form; Windows calls it Base-64 encoded X.509."
            )
    for key in ("port", "https_port"):
        ports = [service[key] for service in enabled(settings).values() if key in service]
        for port in ports:
            if ports.count(port) > 1:
                raise Wrong(f"Two services have {key} {port}; give each a port of its own.")
    return settings


def check_sources(services: dict[str, Any]) -> None:
    """Raise Wrong for one that nothing can be built from."""
    for name, service in services.items():
        if not (ROOT / service["source"] / "Dockerfile").is_file():
            source = json.dumps(service["source"])
            raise Wrong(f"services.{name}.source in the settings names {source}, and in {ROOT} it has no Dockerfile.")


def read(name: str) -> dict[str, Any]:
    """What a file holds. Raises Wrong."""
    file = ROOT / name
    if not file.exists():
        return {}
    try:
        text = file.read_text(encoding="utf-8-sig")
        check_repetition(name, yaml.compose(text))
        settings = yaml.safe_load(text) or {}
    except UnicodeDecodeError:
        raise Wrong(f'{name} is not written in UTF-8. Save it so: editors ask for the encoding at "Save as".') from None
    except yaml.MarkedYAMLError as error:
        if "single document" in str(error.context):
            raise Wrong(f"{name} has a line `---` in the middle, below which nothing would count. Remove it.") from None
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Wrong(
            f"{name} is not valid YAML at line {line}: {error.problem}. "
            "Compare the spaces at the start of that line with settings.yml."
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # a control character; a date such as 2026-13-45
        raise Wrong(f"{name} is not valid YAML: {error}.") from None
    if not isinstance(settings, dict):
        raise Wrong(f"{name} must hold `key: value` lines, as settings.yml does.")
    return settings


def check_repetition(name: str, node: yaml.Node | None) -> None:
    """Of two same keys, YAML takes the last and says nothing. Raise Wrong."""
    lines: dict[str, int] = {}
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    for key in [key for key, _ in pairs if isinstance(key, yaml.ScalarNode)]:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise Wrong(
                f"{name} has {key.value} twice in one group, at the lines {lines[key.value]} and {line}. "
                "Write what stands below both under the first, and remove the second."
            )
        lines[key.value] = line
    for inner in [value for _, value in pairs]:
        check_repetition(name, inner)


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two groups as one; where both have a value, that of `over`."""
    return under | {
        key: merge(under[key], value) if isinstance(value, dict) and isinstance(under.get(key), dict) else value
        for key, value in over.items()
    }


def check(key: str, value: Any, rule: dict[str, Any]) -> None:
    """Check one dotted key ("": all settings) and the keys below it; `rule` is the part of SCHEMA for it. Raise Wrong."""
    rule = resolve(rule)
    if not is_allowed(value, rule):
        # Logs keep this: no variable's value, and no login of an address.
        shown = "empty" if value is None else json.dumps(value, ensure_ascii=False, default=str)
        shown = "wrong" if ".environment." in key else re.sub(".*@", "***@", shown)
        raise Wrong(f"The setting {key} is {shown}; it must be {rule['description']}.")
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        if not isinstance(name, str):
            raise Wrong(f"YAML does not take the key {json.dumps(name)} for a text. Put it between quotes.")
        inner_key = f"{key}.{name}".lstrip(".")
        inner_rule = rule.get("properties", {}).get(name) or rule["additionalProperties"]
        if not inner_rule:
            near = difflib.get_close_matches(name, names(SCHEMA), 1)
            hint = f"Did you mean {near[0]}?" if near else "The known ones are in settings.yml."
            raise Wrong(f"The settings have an unknown key, {inner_key}. {hint}")
        if not fits(name, rule.get("propertyNames", {})):
            raise Wrong(
                f"The name {json.dumps(name, ensure_ascii=False)} in {key} must be {rule['propertyNames']['description']}."
            )
        check(inner_key, inner, inner_rule)


def is_allowed(value: Any, rule: dict[str, Any]) -> bool:
    """Whether a value is what a part of SCHEMA describes. What stands below the keys of a group is not looked at."""
    if "enum" in rule:
        return value in rule["enum"]
    if TYPES.get(type(value)) != rule["type"]:  # a bool is an int, too, but has a type of its own
        return False
    if isinstance(value, str):
        return fits(value, rule)
    if isinstance(value, list):
        return all(is_allowed(item, rule["items"]) and is_whole(item, rule["items"]) for item in value)
    if type(value) is int:
        return bool(rule.get("minimum", value) <= value <= rule.get("maximum", value))
    return True


def is_whole(item: Any, rule: dict[str, Any]) -> bool:
    """Whether an entry of a list has the keys that it must have, no others, and values that are allowed."""
    if not isinstance(item, dict):
        return True
    known = rule["properties"]
    return set(rule["required"]) <= item.keys() <= known.keys() and all(
        is_allowed(value, known[name]) for name, value in item.items()
    )


def fits(text: str, rule: dict[str, Any]) -> bool:
    return "pattern" not in rule or bool(re.fullmatch(rule["pattern"], text, re.ASCII))


def resolve(rule: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][rule["$ref"].removeprefix("#/$defs/")] | rule if "$ref" in rule else rule


def names(rule: dict[str, Any]) -> list[str]:
    """All that a key may be called."""
    own: dict[str, Any] = rule.get("properties", {})
    inner = [each for each in [*own.values(), rule.get("additionalProperties")] if isinstance(each, dict)]
    return [*own, *(name for each in inner for name in names(each))]
