"""compose.yaml runs the services of settings.yml, with what the units of the role service allow them and no more."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "compose.yaml").read_text()
SETTINGS = yaml.safe_load((ROOT / "settings.yml").read_text())
SERVICES = SETTINGS["services"]
WITH_PORT = [name for name, service in SERVICES.items() if "port" in service]
# What the unit's docker run is told and Compose does by itself or says elsewhere: names, networks, variables, ports.
NOT_COMPARED = {"--rm", "--name", "--label", "--network", "--network-alias", "--env-file", "--publish"}


def compose(**environment: str) -> Any:
    """The file as Compose reads it with these environment variables."""
    return yaml.safe_load(
        re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: environment.get(match[1], match[2]), TEXT).replace("$$", "$")
    )


def unit(render: Any, name: str) -> str:
    """The service's unit."""
    variables = {"service": {"name": name, "settings": SERVICES[name]}, "service_variant": "image"}
    return render("service", "unit.service.j2", **variables, service_images={name: "image"}, service_digest="digest")


def options_of_unit(text: str) -> list[str]:
    """What decides what the container may do and how much, each option with its value."""
    match = re.search(r"^ExecStart=/usr/bin/docker run ((?:.*\\\n)*)", text, re.MULTILINE)
    assert match
    options = re.split(r" (?=--)", " ".join(shlex.split(match[1].replace("\\\n", " "))))
    return sorted(option for option in options if option.split()[0] not in NOT_COMPARED)


def options_of_compose(service: dict[str, Any]) -> list[str]:
    """The same in the words of docker run."""
    return sorted(
        [f"--user {service['user']}", f"--memory {service['mem_limit']}", f"--pids-limit {service['pids_limit']}"]
        + ["--read-only"] * service["read_only"]
        + [f"--tmpfs {folder}" for folder in service["tmpfs"]]
        + [f"--cap-drop {capability}" for capability in service["cap_drop"]]
        + [f"--security-opt {option}" for option in service["security_opt"]]
        + [f"--dns-search {domain}" for domain in service["dns_search"]]
        + [f"--dns-opt {option}" for option in service["dns_opt"]]
        + [
            f"--mount type={volume['type']},source={volume['source']},target={volume['target']}"
            for volume in service.get("volumes", [])
        ]
    )


def test_it_has_the_services_of_the_settings_and_those_that_are_off_only_on_demand() -> None:
    assert compose()["services"].keys() == SERVICES.keys()
    for name, service in compose()["services"].items():
        assert service.get("profiles", []) == ([] if SERVICES[name].get("enabled", True) else [name])


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_what_it_may_under_systemd(render: Any, name: str) -> None:
    text = unit(render, name)
    service = compose(DATA_DIR="/data")["services"][name]
    if name == "database":  # Docker's own volume, in place of a folder of the VM
        assert service["volumes"] == ["database:/data"]
        [volume] = SERVICES[name]["volumes"]
        service["volumes"] = [volume | {"type": "bind"}]
    assert options_of_compose(service) == options_of_unit(text)
    assert f"docker stop -t {service['stop_grace_period'].removesuffix('s')} " in text
    # Nothing that would take it back.
    assert not service.keys() & {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "userns_mode"}


@pytest.mark.parametrize("name", WITH_PORT)
def test_a_port_listens_on_this_machine_alone(name: str) -> None:
    port, host_port = SERVICES[name]["port"], SERVICES[name]["host_port"]
    assert compose()["services"][name]["ports"] == [f"127.0.0.1:{host_port}:{port}"]
    other = compose(**{f"{name.upper()}_PORT": "1"})["services"][name]
    assert other["ports"] == [f"127.0.0.1:1:{port}"]


def test_the_others_have_no_port() -> None:
    assert [name for name, service in compose()["services"].items() if "ports" in service] == WITH_PORT


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_the_variables_of_the_settings(name: str) -> None:
    variables = {"PORT": SERVICES[name]["port"]} if name in WITH_PORT else {}
    if name != "frontend":  # its key is made when it starts
        variables |= {secret.rpartition("/")[2]: "chosen" for secret in SERVICES[name]["secrets"]}
    variables |= SERVICES[name].get("environment", {})
    assert compose(PGPASSWORD="chosen")["services"][name]["environment"] == variables


def test_the_data_is_the_folder_of_the_settings_and_is_never_made_by_docker() -> None:
    for service in compose()["services"].values():
        for volume in service.get("volumes", []) if "profiles" not in service else []:
            assert volume["source"] == SETTINGS["data_dir"]
            assert volume["bind"] == {"create_host_path": False}
    assert (ROOT / SETTINGS["data_dir"] / "README.txt").exists()  # a fresh clone has the folder


def test_the_frontend_waits_for_a_healthy_backend() -> None:
    assert compose()["services"]["frontend"]["depends_on"] == {"backend": {"condition": "service_healthy"}}


@pytest.mark.parametrize("name", SERVICES)
def test_health_is_asked_for_as_the_image_says(name: str) -> None:
    dockerfile = (ROOT / SERVICES[name]["source"] / "Dockerfile").read_text()
    check = re.search(r"^HEALTHCHECK (?:.*\\\n)*.*", dockerfile, re.MULTILINE)
    assert check
    assert SERVICES[name].get("health_path", "pg_isready") in check[0]
    assert compose()["services"][name]["healthcheck"].keys() == {"interval"}


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_built_from_the_same_folder_base_and_secrets(name: str) -> None:
    build = compose()["services"][name]["build"]
    assert build["context"] == SERVICES[name]["source"]
    assert f"BASE_IMAGE={SETTINGS['image']['base']}" in build["args"]
    dockerfile = (ROOT / build["context"] / "Dockerfile").read_text()
    assert set(build["secrets"]) >= set(re.findall(r"type=secret,id=([\w.]+)", dockerfile))


def test_a_secret_of_the_build_that_is_not_set_is_an_empty_file() -> None:
    for secret in compose()["secrets"].values():
        assert (ROOT / secret["file"]).read_bytes() == b""


def test_the_frontend_gets_a_new_key_at_each_start(tmp_path: Path) -> None:
    (tmp_path / "users_frontend.py").write_text("import os; print(os.environ['SECRET_KEY'])")
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}
    command = compose()["services"]["frontend"]["command"]
    keys = {subprocess.check_output(command, env=environment, text=True).strip() for _ in range(2)}
    assert len(keys) == 2
    assert all(re.fullmatch(r"[0-9a-f]{64}", key) for key in keys)


def test_each_variable_is_explained_with_its_default() -> None:
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT):
        assert re.search(rf"^#   {name} +\w.*\({re.escape(default) or 'none'}[:)]", TEXT, re.MULTILINE)
    for name in compose()["x-build"]["args"][1:]:
        assert re.search(rf"^#   .*\b{name}\b", TEXT, re.MULTILINE)
