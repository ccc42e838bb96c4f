"""settings.yml and what may be laid over it: read by the Ruby that the Vagrantfile uses, and where Ansible runs."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "begin; puts Settings.load.to_json; rescue Settings::Error => e; abort e.message; end"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what reading the settings needs, with nothing laid over settings.yml yet."""
    for name in ("vagrant", "ansible/action_plugins"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "settings.yml", tmp_path)
    (tmp_path / ".cache").mkdir()
    return tmp_path


def read(project: Path, local: str = "", encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    """Read the settings with this settings.local.yml."""
    (project / "settings.local.yml").write_text(local, encoding=encoding)
    command = ["ruby", "-W", "-rjson", "-r./vagrant/settings", "-e", SCRIPT]
    return subprocess.run(command, check=False, cwd=project, text=True, capture_output=True)


def refusal(project: Path, local: str, encoding: str = "utf-8") -> str:
    """The one sentence with which these are refused."""
    result = read(project, local, encoding)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def plugin_of(project: Path) -> Any:
    """What reads them where Ansible runs."""
    spec = importlib.util.spec_from_file_location("read_settings", project / "ansible/action_plugins/read_settings.py")
    assert spec and spec.loader
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    return plugin


def read_by_ansible(project: Path, local: str = "", encoding: str = "utf-8") -> Any:
    """The settings as the playbook has them. Raises the plugin's Wrong."""
    (project / "settings.local.yml").write_text(local, encoding=encoding)
    return plugin_of(project).load(["settings.yml", ".cache/machine.yml", "settings.local.yml"])


def settings(project: Path, local: str = "") -> Any:
    """The settings, which must be good ones, and the same where Ansible reads them."""
    result = read(project, local)
    assert result.stderr == ""
    found = json.loads(result.stdout)
    everything = read_by_ansible(project, local)
    enabled = {name: each for name, each in everything["services"].items() if each.get("enabled") is not False}
    assert json.dumps(everything | {"services": enabled}) == json.dumps(found)  # in the same order, too
    return found


def test_an_editor_can_check_them() -> None:
    schema = json.loads((ROOT / "vagrant/settings.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(yaml.safe_load((ROOT / "settings.yml").read_text()))
    validator.validate({"services": {"frontend": {"host_port": 8001}}})
    assert not validator.is_valid({"services": {"frontend": {"hostport": 8001}}})


def test_one_key_changes_and_its_neighbours_stay(project: Path) -> None:
    frontend = settings(project, "services: {frontend: {host_port: 8001}}")["services"]["frontend"]
    assert (frontend["host_port"], frontend["port"], frontend["source"]) == (8001, 8000, "apps/frontend")


def test_a_third_service_is_a_few_lines(project: Path) -> None:
    local = "services: {hello: {source: apps/hello, port: 9000, host_port: 9000, health_path: /}}"
    assert list(settings(project, local)["services"]) == ["backend", "frontend", "hello"]


def test_a_service_that_is_not_enabled_is_not_there(project: Path) -> None:
    assert list(settings(project)["services"]) == ["backend", "frontend"]
    enabled = settings(project, "services: {database: {enabled: true}}")["services"]
    assert list(enabled) == ["database", "backend", "frontend"]  # in the order in which they start
    assert list(settings(project, "services: {frontend: {enabled: false}}")["services"]) == ["backend"]
    instead = (
        "services: {frontend: {enabled: false}, mine: {source: apps/mine, port: 8000, host_port: 8000, health_path: /}}"
    )
    assert list(settings(project, instead)["services"]) == ["backend", "mine"]


def test_a_service_that_only_the_others_reach_needs_no_port(project: Path) -> None:
    assert settings(project, "services: {worker: {source: apps/worker}}")["services"]["worker"] == {
        "source": "apps/worker"
    }


def test_the_person_has_the_last_word_over_make_up(project: Path) -> None:
    (project / ".cache/machine.yml").write_text('{"libvirt": {"driver": "qemu", "box": "found"}}')
    libvirt = settings(project, "libvirt: {box: mine}")["libvirt"]
    assert (libvirt["driver"], libvirt["box"]) == ("qemu", "mine")


@pytest.mark.parametrize(
    "local",
    [
        "{host_ip: 0.0.0.0, open_to_the_network_without_password: true}",
        "{host_ip: 0.0.0.0, https: {domain: localhost, users_file: settings.yml}}",
        "host_ip: 127.0.0.2",
    ],
)
def test_what_is_open_has_a_password_or_somebody_wants_none(project: Path, local: str) -> None:
    assert settings(project, local)["host_ip"]


@pytest.mark.parametrize(
    ("local", "sentence"),
    [
        ("vm: {memroy: 4096}", "unknown key, vm.memroy. Did you mean memory?"),
        ("zzz: 1", "unknown key, zzz. The known ones are in settings.yml."),
        ("services: {frontend: {hostport: 1}}", "unknown key, services.frontend.hostport. Did you mean host_port?"),
        ("vm: {memory: 2 GB}", 'vm.memory is "2 GB"; it must be a number of MiB, at least 1024.'),
        ("vm: {memory: 512}", "vm.memory is 512; it must be a number of MiB"),
        ("vm: {cpus: 0}", "vm.cpus is 0; it must be a number from 1 to 64."),
        ("vm: 4", "The setting vm is 4; it must be a group of `key: value` lines"),
        ("vm:", "The setting vm is empty; it must be a group of `key: value` lines"),
        ("vm: {box: ''}", 'vm.box is ""; it must be a text that is not empty.'),
        ("vm: {box_checksum: abc}", 'vm.box_checksum is "abc"; it must be empty, or the 64 digits'),
        ("libvirt: {driver: xen}", 'libvirt.driver is "xen"; it must be kvm or qemu.'),
        ("host_ip: 127.0.0.256", 'host_ip is "127.0.0.256"; it must be an IPv4 address'),
        ("host_ip: everywhere", 'host_ip is "everywhere"; it must be an IPv4 address'),
        ("open_to_the_network_without_password: please", 'is "please"; it must be true or false.'),
        ("https: {domain: 'https://a.example'}", "it must be a name in small letters, such as users.example.com."),
        ("https: {domain: }", "https.domain is empty; it must be a name in small letters"),
        ("https: {users_file: people}", 'https.users_file in the settings names "people", and there is no such file'),
        ("https: {max_body: 1MB}", 'https.max_body is "1MB"; it must be a number above 0.'),
        ("user_id: 0", "user_id is 0; it must be a user id above 0 (0 is root)."),
        ("services: {frontend: {host_port: 80000}}", "host_port is 80000; it must be a port number from 1 to 65535."),
        ("services: {frontend: {host_port: '8001'}}", 'host_port is "8001"; it must be a port number'),
        ("services: {frontend: {port: 8080}}", "Two services have port 8080; give each a port of its own."),
        ("services: {frontend: {health_path: healthz}}", "it must be a path that starts with /, of letters"),
        ("services: {frontend: {health_path: /a&b}}", "it must be a path that starts with /, of letters"),
        ("services: {frontend: {source: meus apps}}", 'is "meus apps"; it must be a folder of this project'),
        ("services: {frontend: {environment: {A: [1]}}}", "it must be one line of text"),
        ('services: {frontend: {environment: {A: "1\\n2"}}}', "it must be one line of text"),
        ("services: {frontend: {environment: {PIN: 0123}}}", 'a number only between quotes, as in "8000".'),
        (
            "services: {frontend: {environment: {MY NAME: Ana}}}",
            'The name "MY NAME" in services.frontend.environment must be letters, digits and _.',
        ),
        ("services: {frontend: {secrets: SECRET_KEY}}", "it must be a list of variables"),
        ("services: {frontend: {volumes: [data]}}", "it must be a list of entries with source, target"),
        ("services: {frontend: {volumes: [{source: /x, target: /x y}]}}", "without spaces and accents"),
        ("services: {frontend: {volumes: [{source: /x, target: /x, shared: true}]}}", "the shared folder that source"),
        ("services: {frontend: {volumes: [{source: /x, target: /x, share: /x}]}}", "it must be a list of entries with"),
        ("services: {hello: {port: 1}}", "services.hello has no source."),
        ("services: {hello: {source: apps/hello, port: 1, host_port: 1}}", "services.hello has no health_path."),
        ("services: {hello: {source: apps/hello, https_port: 1}}", "services.hello has no port."),
        (
            "services: {database: {enabled: perhaps}}",
            'services.database.enabled is "perhaps"; it must be true or false.',
        ),
        ("services: {backend: {secrets: [datbase/PGPASSWORD]}}", "names the service datbase, and there is none."),
        ("services: {backend: {secrets: [PGPASSWORD/database]}}", "it must be a list of variables"),
        (
            "services: {Olá: {source: a, port: 1, host_port: 1, health_path: /}}",
            'The name "Olá" in services must be lower-case letters, digits and hyphens.',
        ),
        ("network: {http_proxy: 'proxy:3128'}", "it must be empty, or an address such as http://host:port."),
        (
            "network: {http_proxy: 'http://ana:my word@proxy'}",
            "it must be empty, or an address such as http://host:port.",
        ),
        ("network: {ca_certificate: ca.crt}", 'network.ca_certificate in the settings names "ca.crt", and there is no'),
        ("network: {ca_certificate: certs\\ca.crt}", "with / between its parts"),
        ("https: {acme_ca_certificate: settings.yml}", 'names "settings.yml", which holds no certificate in PEM form.'),
        ("vm: [", "settings.local.yml is not valid YAML at line"),
        (
            "vm:\n  cpus: 1\nhost_ip: 127.0.0.1\nvm:\n  memory: 4096\n",
            "settings.local.yml has vm twice in one group, at the lines 1 and 4. Write what stands below both under the",
        ),
        (
            "vm: {cpus: 1, memory: 4096, cpus: 2}",
            "settings.local.yml has cpus twice in one group, at the lines 1 and 1.",
        ),
        ("services: {1: {source: a}}", "YAML does not take the key 1 for a text. Put it between quotes."),
        ("services: {backend: {environment: {NO: 1}}}", "YAML does not take the key false for a text."),
        ("vm: {cpus: 1}\n---\nvm: {memory: 2048}\n", "settings.local.yml has a line `---` in the middle, below which"),
        ("vm: {cpus: *two}", "settings.local.yml is not valid YAML"),
        ("vm: {box: a\ab}", "settings.local.yml is not valid YAML"),
        ("- a", "settings.local.yml must hold `key: value` lines"),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_what_is_allowed(project: Path, local: str, sentence: str) -> None:
    assert sentence in refusal(project, local)
    with pytest.raises(Exception, match=re.escape(sentence)) as wrong:
        read_by_ansible(project, local)
    assert type(wrong.value).__name__ == "Wrong"


@pytest.mark.parametrize(
    ("local", "sentence"),
    [
        (
            "host_ip: 0.0.0.0",
            "could read, change and delete users: https.domain is not set. docs/https.md has the steps.",
        ),
        ("{host_ip: 0.0.0.0, https: {domain: a.example}}", "https.users_file is not set."),
        ("https: {acme_ca_certificate: /etc/ca.pem}", "it must be empty, or a path inside the project's folder"),
        ("https: {users_file: /etc/people}", "it must be empty, or a path inside the project's folder"),
        ("services: {hello: {source: apps/hello, host_port: 1}}", "services.hello has no port."),
        ("services: {hello: {source: apps/hello, port: 1}}", "services.hello has no host_port."),
        ("services: {frontend: {https_host_port: 8444}}", "Two services have https_host_port 8444; give each a port"),
        ("services: {frontend: {host_port: 8080}}", "Two services have host_port 8080; give each a port of its own."),
        (
            "services: {frontend: {volumes: [{source: /x, target: /x, shared: /y}]}}",
            "In services.frontend.volumes, /x does not lie on the shared folder /y.",
        ),
        (
            "services: {frontend: {volumes: [{source: /data2, target: /x, shared: /data}]}}",
            "In services.frontend.volumes, /data2 does not lie on the shared folder /data.",
        ),
        ("network: {ca_certificate: ../ca.crt}", "it must be empty, or a path inside the project's folder"),
        ("services: {backend: {environment: {DAY: 2026-12-31}}}", 'Put it between quotes, as in "2026-12-31".'),
    ],
)
def test_what_matters_on_the_laptop_alone(project: Path, local: str, sentence: str) -> None:
    assert sentence in refusal(project, local)


def test_a_service_that_nothing_can_be_built_from_is_named(project: Path) -> None:
    (project / "apps/hello").mkdir(parents=True)
    hello = {"hello": {"source": "apps/hello"}}
    with pytest.raises(
        Exception, match='services.hello.source in the settings names "apps/hello", and in .* no Docker'
    ):
        plugin_of(project).check_sources(hello)
    (project / "apps/hello/Dockerfile").touch()
    plugin_of(project).check_sources(hello)


def test_a_date_that_is_none_is_told_with_its_file(project: Path) -> None:
    with pytest.raises(Exception, match=r"^settings\.local\.yml is not valid YAML: month must be in 1\.\.12\.$"):
        read_by_ansible(project, "services: {backend: {environment: {DAY: 2026-13-45}}}")


def test_no_secret_comes_into_the_logs_of_ansible(project: Path) -> None:
    with pytest.raises(Exception, match="http_proxy is .*@proxy:1.*; it must be") as wrong:
        read_by_ansible(project, "network: {http_proxy: 'ana:secret@proxy:1'}")
    assert "secret" not in str(wrong.value)
    with pytest.raises(Exception, match="environment.KEY is wrong; it must be") as wrong:
        read_by_ansible(project, "services: {frontend: {environment: {KEY: [secret]}}}")
    assert "secret" not in str(wrong.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_in_another_encoding_is_named(project: Path, encoding: str) -> None:
    """As PowerShell and old editors write it."""
    said = refusal(project, "# João\nvm: {cpus: 1}\n", encoding)
    assert said.startswith("settings.local.yml is not written in UTF-8. Save it so:")
    with pytest.raises(Exception, match="is not written in UTF-8"):
        read_by_ansible(project, "# João\nvm: {cpus: 1}\n", encoding)


def test_the_mark_of_windows_editors_and_anchors_are_no_mistakes(project: Path) -> None:
    found = settings(project, "\ufeffvm: {cpus: 1}\nlibvirt: {box: &name mine, box_url: *name}\n")
    assert found["vm"]["cpus"] == 1
    assert found["libvirt"]["box_url"] == "mine"
