"""Every template of the roles, rendered by the real Ansible and read as the program that gets it reads it."""

import configparser
import hashlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from machine import write_program

ROOT = Path(__file__).resolve().parents[1]


def written_file(render: Any, role: str, path: str, **variables: object) -> str:
    """The text of a file that a role writes."""
    files = f"{{{{ {role}_files | items2dict('path', 'text') | to_json }}}}"
    return json.loads(render(role, files, **variables))[path]


def test_dockerd_limits_what_logs_and_builds_keep_and_what_containers_may_do(render: Any) -> None:
    assert json.loads(written_file(render, "docker", "/etc/docker/daemon.json")) == {
        "builder": {"gc": {"enabled": True, "defaultKeepStorage": "2GB"}},
        "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 8192, "Hard": 8192}},
        "icc": False,
        "log-driver": "local",
        "log-opts": {"max-size": "10m", "max-file": "3"},
        "no-new-privileges": True,
    }


def test_dockerd_asks_the_mirror_when_there_is_one(render: Any) -> None:
    mirror = "https://mirror.example"
    daemon = written_file(render, "docker", "/etc/docker/daemon.json", docker_registry_mirror=mirror)
    assert json.loads(daemon)["registry-mirrors"] == [mirror]


def test_dockerd_gets_the_proxy_from_a_file_whose_text_systemd_shows_to_nobody(render: Any) -> None:
    proxy = {"docker_http_proxy": "http://a%40b:p@proxy.example:3128"}
    unit = written_file(render, "docker", "/etc/systemd/system/docker.service.d/proxy.conf", **proxy)
    assert unit == "[Service]\nEnvironmentFile=/etc/docker/proxy.env\n"
    assert (
        written_file(render, "docker", "/etc/docker/proxy.env", **proxy) == f"HTTP_PROXY={proxy['docker_http_proxy']}\n"
    )


def test_without_a_proxy_dockerd_has_no_file_about_one(render: Any) -> None:
    for path in ("/etc/docker/proxy.env", "/etc/systemd/system/docker.service.d/proxy.conf"):
        assert written_file(render, "docker", path) == ""


def test_the_files_of_dockerd_are_written_when_one_is_missing_differs_or_is_left_over(render: Any) -> None:
    proxy = {"docker_http_proxy": "http://ana:secret@proxy.example:3128"}
    paths = ["/etc/docker/daemon.json", "/etc/docker/proxy.env", "/etc/systemd/system/docker.service.d/proxy.conf"]
    daemon, *others = [
        f"{hashlib.sha256(written_file(render, 'docker', path, **proxy).encode()).hexdigest()}  {path}"
        for path in paths
    ]

    def wrong(lines: list[str], **variables: object) -> bool:
        machine = {"stdout_lines": ["Debian GNU/Linux 13", "debian-13", "installed docker.io", *lines]}
        return json.loads(render("docker", "{{ docker_files_wrong | to_json }}", docker_machine=machine, **variables))

    assert not wrong([daemon, *others], **proxy)
    assert wrong([daemon], **proxy)
    assert wrong([daemon, "0" + others[0][1:], others[1]], **proxy)
    assert not wrong([daemon])
    assert wrong([daemon, *others])
    assert "secret" not in (state := render("docker", "state.sh.j2", **proxy))
    assert not re.search("[0-9a-f]{64}", state)


@pytest.mark.parametrize(
    ("index", "trusted"),
    [
        ("https://index.example/simple", {}),
        ("http://ana:p%40s@index.example:3141/simple", {"trusted-host": "index.example"}),
    ],
)
def test_pip_asks_the_package_index_that_is_set_also_without_tls(
    render: Any, index: str, trusted: dict[str, str]
) -> None:
    config = configparser.RawConfigParser()
    config.read_string(written_file(render, "service", "/etc/users/pip.conf", service_pip_index_url=index))
    assert dict(config["global"]) == {"index-url": index} | trusted


def test_without_an_index_pip_gets_no_option(render: Any) -> None:
    config = configparser.ConfigParser()
    config.read_string(written_file(render, "service", "/etc/users/pip.conf"))
    assert dict(config["global"]) == {}


def service(**settings: object) -> dict[str, object]:
    """The variables that the role has set when it renders the unit."""
    return {
        "service": {"name": "backend", "settings": {"source": "apps/backend", "port": 8080, **settings}},
        "service_images": {"backend": "users-backend:0123456789ab"},
        "service_digest": "digest",
        "service_shared": True,
        "service_live_reload": False,
        "service_variant": "live",
    }


def docker_run(unit: str) -> list[str]:
    """The words of the unit's docker run."""
    match = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", unit, re.MULTILINE)
    assert match
    return shlex.split(match[1].replace("\\\n", ""))


def test_the_unit_runs_the_container_with_nothing_that_it_does_not_need(render: Any) -> None:
    command = docker_run(render("service", "unit.service.j2", **service()))
    options = " ".join(command)
    for option in (
        "--rm",
        "--read-only",
        "--cap-drop ALL",
        "--security-opt no-new-privileges",
        "--user 1000:1000",
        "--memory 256m",
        "--pids-limit 256",
        "--publish 127.0.0.1:8080:8080",
        "--network-alias backend",
    ):
        assert option in options
    assert command[-1] == "users-backend:0123456789ab"
    assert "--restart" not in command  # systemd does it
    assert "--mount" not in command


def mounts(unit: str) -> list[str]:
    """What the container sees of the machine."""
    command = docker_run(unit)
    assert not {"-v", "--volume"} & set(command)  # they make a missing source folder
    return [command[n + 1] for n, word in enumerate(command) if word == "--mount"]


SHARED = {"source": "/srv/my-data", "target": "/data", "shared": "/srv/my-data"}


def test_a_shared_folder_is_mounted_and_never_replaced_by_an_empty_one(render: Any) -> None:
    unit = render("service", "unit.service.j2", **service(volumes=[SHARED]))
    assert mounts(unit) == ["type=bind,source=/srv/my-data,target=/data"]
    assert "ExecStartPre=/usr/local/lib/users-shared.sh /srv/my-data backend\n" in unit
    assert "Wants=docker.service network-online.target srv-my\\x2ddata.mount\n" in unit  # systemd-escape(1) --path
    assert "After=docker.service network-online.target srv-my\\x2ddata.mount\n" in unit


def test_a_folder_below_the_shared_one_needs_the_shared_one(render: Any) -> None:
    volumes = [{"source": "/var/lib/users", "target": "/data"}, SHARED | {"source": "/srv/my-data/backups"}]
    unit = render("service", "unit.service.j2", **service(volumes=volumes))
    assert mounts(unit)[1] == "type=bind,source=/srv/my-data/backups,target=/data"
    assert "shared.sh /srv/my-data backend\n" in unit
    assert "shared.sh /var/lib/users" not in unit
    assert re.findall("^RequiresMountsFor=(.*)", unit, re.MULTILINE) == ["/var/lib/users"]


def test_a_folder_of_the_machine_alone_needs_no_share(render: Any) -> None:
    volumes = [{"source": "/srv/x", "target": "/x"}]
    assert "shared.sh" not in render("service", "unit.service.j2", **service(volumes=volumes))
    # On a machine that nobody shares folders with, every folder is its own.
    alone = service(volumes=[SHARED]) | {"service_shared": False}
    assert "shared.sh" not in render("service", "unit.service.j2", **alone)


def test_a_trial_touches_neither_the_port_nor_the_name_nor_the_data(render: Any) -> None:
    unit = render("service", "unit.service.j2", **service(volumes=[SHARED]) | {"service_variant": "trial"})
    command = docker_run(unit)
    assert mounts(unit) == ["type=tmpfs,target=/data,tmpfs-mode=1777"]
    assert not {"--publish", "--network-alias"} & set(command)
    assert command[command.index("--name") + 1] == "users-backend-trial"
    assert "Restart=no" in unit


def test_with_live_reload_the_source_is_mounted_read_only_and_needs_the_share(render: Any) -> None:
    live = service(live_command="python -m users_backend") | {"service_live_reload": True}
    unit = render("service", "unit.service.j2", **live)
    assert mounts(unit) == [
        "type=bind,source=/vagrant/apps/backend/src,target=/app/src,readonly",
        "type=bind,source=/usr/local/lib/users-live.py,target=/usr/local/lib/users-live.py,readonly",
    ]
    assert docker_run(unit)[-6:] == [
        "python3",
        "/usr/local/lib/users-live.py",
        "/app/src",
        "python",
        "-m",
        "users_backend",
    ]
    assert "shared.sh /vagrant backend\n" in unit
    for variant in ("image", "trial"):
        assert mounts(render("service", "unit.service.j2", **live | {"service_variant": variant})) == []


@pytest.mark.parametrize(("folder", "status"), [("/proc", 0), ("/etc", 1)])
def test_a_container_does_not_start_on_a_folder_that_is_not_shared(tmp_path: Path, folder: str, status: int) -> None:
    write_program(tmp_path / "systemd-notify", f'#!/bin/sh\necho "$2" > {tmp_path}/status\n')
    command = ["sh", str(ROOT / "roles/service/files/shared.sh"), folder, "backend"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run(command, check=False, env=environment, text=True, stderr=subprocess.PIPE)
    assert ended.returncode == status
    if status:
        assert ended.stderr.startswith("/etc is not shared with the laptop, so backend does not start.")
        assert (tmp_path / "status").read_text() == ended.stderr


def version(render: Any, **settings: object) -> dict[str, str]:
    """What the deployment's program is given."""
    script = render(
        "service",
        "live.sh.j2",
        service_list={"backend": {"source": "apps/backend", **settings}},
        service_state={"stdout_lines": ["wants backend users-backend:0123456789ab"]},
        service_digests={"backend": "digest"},
        service_live_reload=False,
    )
    return json.loads(re.findall("^{.*", script, re.MULTILINE)[0])


def test_a_version_is_its_units_its_environment_and_what_the_deployment_must_know(render: Any) -> None:
    files = version(render, port=8080, health_path="/healthz")
    assert [*files] == ["live", "image", "trial", "env", "about"]
    assert files["live"] == files["image"] != files["trial"]
    assert "--label settings=digest " in files["live"]
    assert files["about"].splitlines() == ["image=users-backend:0123456789ab", "health=8080/healthz"]


def test_who_types_the_playbooks_own_command_is_told_what_to_run(render: Any) -> None:
    script = render("service", "deploy.sh.j2")
    keyboard = os.openpty()[1]
    typed = subprocess.run(
        ["bash", "-c", script, "users-deploy", "backend", "next"],
        check=False,
        stdin=keyboard,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert typed.returncode == 1
    assert typed.stderr == "The next version of backend comes from the playbook: run it again, or say back.\n"


@pytest.mark.parametrize(
    ("there", "images", "base", "asked"),
    [
        (None, "one two", "python:3", "apt pip registry"),
        (None, "one two", "", "apt pip"),
        ("", "one two", "python:3", "pip registry"),
        ("one:0123 one", "one two", "python:3", "pip registry"),
        ("one:0123 one\npython:3 python", "one two", "python:3", "pip"),
        ("one:0123 one\npython:2 python", "one two", "python:3", "pip registry"),
        ("one:0123 one\ntwo:4567 two", "one two", "python:3", ""),
        ("one-more:0123 one-more", "one", "", "pip"),
    ],
)
def test_a_machine_asks_the_network_only_for_what_it_lacks(
    render: Any, tmp_path: Path, there: str | None, images: str, base: str, asked: str
) -> None:
    programs = {"python3": "cat > /dev/null; shift; echo $*"}  # both are stand-ins
    if there is not None:
        programs["docker"] = f"printf '{there}'"
    for name, does in programs.items():
        write_program(tmp_path / name, f"#!/bin/sh\n{does}\n")
    (tmp_path / "cat").symlink_to("/usr/bin/cat")
    variables = {"machine_images": images.split(), "machine_base_image": base}
    script = render("machine", "prepare.sh.j2", **variables)
    settings, _, rest = script.partition("sh -s -- ")  # which sets the network up, and would do so with this machine's
    asks = settings + rest.partition("\nCUT_OFF_BEFORE\n")[2]
    done = subprocess.run(
        ["/bin/sh"], check=True, input=asks, text=True, capture_output=True, env={"PATH": str(tmp_path)}
    )
    assert done.stdout == ""
    assert done.stderr.strip() == asked


@pytest.mark.parametrize("path", ["/healthz", ""])
@pytest.mark.parametrize(
    ("answer", "enough"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nok", True),
        (b"HTTP/1.0 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\n\r\n\x89PNG\0\0", True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n200 OK", False),
        (b"SSH-2.0-OpenSSH\r\n", False),
        (b"", False),
        (None, False),  # nobody listens
    ],
)
def test_a_new_version_counts_as_healthy_by_the_status_it_answers_with(
    render: Any, answer: bytes | None, enough: bool, path: str
) -> None:
    function = re.search(r"^answers\(\).*?^\).*?$", render("service", "deploy.sh.j2"), re.MULTILINE | re.DOTALL)
    assert function
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if answer is None:
            server.close()
        asking = subprocess.Popen(
            ["bash", "-euc", f"{function[0]}\nif answers 127.0.0.1 {port} '{path}'; then echo yes; fi; echo and on"],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if answer is not None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines:
                assert lines.readline() == f"GET {path or '/'} HTTP/1.0\r\n".encode()
                # To the end: what is unread when the connection is closed makes it a reset.
                assert b"Host: localhost\r\n" in [*iter(lines.readline, b"\r\n")]
                connection.sendall(answer)
        assert asking.communicate(timeout=30) == ("yes\nand on\n" if enough else "and on\n", "")


def test_the_environment_reaches_the_container_as_it_is(render: Any) -> None:
    text = render("service", "container.env.j2", **service(environment={"A": "x y=%z $HOME", "N": 1}))
    assert [line for line in text.splitlines() if not line.startswith("#")] == ["PORT=8080", "A=x y=%z $HOME", "N=1"]


def test_the_services_that_check_their_name_are_told_the_machines(render: Any) -> None:
    service_ = service(environment={"ALLOWED_HOSTS": "localhost,backend", "A": "b"})
    text = render("service", "container.env.j2", **service_, service_host_name="users.example.com")
    assert environment(text) == {"PORT": "8080", "ALLOWED_HOSTS": "localhost,backend,users.example.com", "A": "b"}


def env_files(unit: str) -> list[str]:
    """Where the container's variables come from."""
    command = docker_run(unit)
    return [command[n + 1] for n, word in enumerate(command) if word == "--env-file"]


def test_each_secret_is_a_file_of_its_own(render: Any) -> None:
    unit = render("service", "unit.service.j2", **service(secrets=["SECRET_KEY"]))
    assert env_files(unit) == ["/etc/users/backend/env", "/etc/users/backend/secret.SECRET_KEY"]


def test_a_secret_of_another_service_is_that_file_where_the_service_is_in_the_list(render: Any) -> None:
    variables = service(secrets=["database/PGPASSWORD", "OWN"])
    assert env_files(render("service", "unit.service.j2", **variables))[1:] == ["/etc/users/backend/secret.OWN"]
    variables |= {"service_list": {"database": {}, "backend": {}}}
    assert env_files(render("service", "unit.service.j2", **variables))[1:] == [
        "/etc/users/database/secret.PGPASSWORD",
        "/etc/users/backend/secret.OWN",
    ]


def test_a_service_without_a_port_publishes_none_and_docker_says_how_it_is(render: Any) -> None:
    files = version(render)
    assert "--publish" not in docker_run(files["live"])
    assert environment(files["env"]) == {}
    assert "health=\n" in files["about"]


def environment(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))


def test_with_a_proxy_the_services_reach_each_other_without_it(render: Any) -> None:
    variables = {"service_http_proxy": "http://proxy.example:3128", "service_no_proxy": ".example.com"}
    variables |= {"service_list": {"backend": {}, "frontend": {}}}
    direct = ".example.com,localhost,127.0.0.1,backend,frontend"
    assert json.loads(written_file(render, "service", "/etc/users/config.json", **variables)) == {
        "proxies": {"default": {"httpProxy": "http://proxy.example:3128", "httpsProxy": "", "noProxy": direct}}
    }


def test_without_a_proxy_there_is_no_trace_of_one(render: Any) -> None:
    variables = {"service_no_proxy": ".example.com", "service_list": {"backend": {}}}
    assert json.loads(written_file(render, "service", "/etc/users/config.json", **variables)) == {
        "proxies": {"default": {"httpProxy": "", "httpsProxy": "", "noProxy": ""}}
    }


def test_the_unit_takes_the_proxy_from_where_it_is_written(render: Any) -> None:
    assert "\nEnvironment=DOCKER_CONFIG=/etc/users\n" in render("service", "unit.service.j2", **service())


def test_the_containers_trust_what_the_machine_trusts(render: Any) -> None:
    company = {"service_ca_certificate": "/etc/ssl/certs/ca-certificates.crt"}
    text = render("service", "container.env.j2", **service(), **company)
    assert environment(text)["SSL_CERT_FILE"] == "/etc/ssl/certs/ca-certificates.crt"
    [mount] = mounts(render("service", "unit.service.j2", **service(), **company))
    assert mount.split(",")[1:] == [f"{end}=/etc/ssl/certs/ca-certificates.crt" for end in ("source", "target")] + [
        "readonly"
    ]


@pytest.mark.parametrize("role", ["docker", "machine", "proxy", "service", "swarm"])
def test_each_default_is_described_and_the_same_in_the_description(role: str) -> None:
    defaults = yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text())
    specs = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]
    described = {name: option["default"] for name, option in options.items()}
    assert described == defaults
    assert all(option["description"] for option in options.values())


def build(render: Any, folder: Path, docker: str, present: list[str]) -> subprocess.CompletedProcess[str]:
    """What happens where state.sh finds these images and Docker's client, a stand-in here, is this program."""
    services = {"one": {"source": "first app", "port": 1}, "two": {"source": "2", "port": 2}}
    program = folder / "bin/docker"
    for place in (folder / "first app", folder / "2"):
        place.mkdir(exist_ok=True)
    write_program(program, f"#!/bin/sh\n{docker}\n")
    variables: dict[str, object] = {
        "service_list": services,
        "service_source_dir": str(folder),
        "service_base_image": "b:1",
    }
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}

    def shell(template: str) -> subprocess.CompletedProcess[str]:
        script = render("service", template, **variables)
        return subprocess.run(["sh"], check=False, input=script, text=True, capture_output=True, env=environment)

    found = [line for line in shell("state.sh.j2").stdout.splitlines() if line.startswith("wants ")]
    images = [f"image {line.split()[2]}" for line in found if line.split()[1] in present]
    variables["service_state"] = {"stdout_lines": found + images}
    return shell("build.sh.j2")


def test_only_images_that_are_missing_are_built(render: Any, tmp_path: Path) -> None:
    result = build(render, tmp_path, f'echo "$PWD" "$@" >> {tmp_path}/calls', ["two"])
    assert result.stderr == ""
    [call] = [line for line in (tmp_path / "calls").read_text().splitlines() if " build " in line]
    assert re.fullmatch(
        rf"{tmp_path}/first app build --tag users-one:[0-9a-f]{{12}} --label packages=[0-9a-f]{{64}} --build-arg BASE_IMAGE=b:1"
        r" --secret id=pip.conf,src=/etc/users/pip.conf \.",
        call,
    )


def test_images_are_on_the_disk_before_a_power_cut_may_come(render: Any, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    write_program(tmp_path / "bin/sync", f"#!/bin/sh\necho sync >> {calls}\n")
    build(render, tmp_path, f'sleep 0.1; echo "$1" >> {calls}', [])
    assert calls.read_text().split()[-3:] == ["build", "build", "sync"]


def test_images_are_built_at_the_same_time(render: Any, tmp_path: Path) -> None:
    meet = f'[ "$1" = build ] || exit 0; touch {tmp_path}/$$; for _ in $(seq 100); do' + (
        f" [ $(ls {tmp_path} | grep -c '^[0-9][0-9]') = 2 ] && exit; sleep 0.1; done; exit 1"
    )
    assert build(render, tmp_path, meet, []).stderr == ""


def test_an_image_that_cannot_be_built_is_named_with_its_source_and_the_reason(render: Any, tmp_path: Path) -> None:
    result = build(render, tmp_path, 'case $PWD-$1 in */2-build) echo "no such line"; exit 1;; esac', [])
    assert result.returncode == 1
    assert result.stderr == (
        "The image of two could not be built from 2; what ran before still runs.\n"
        "The end of what docker build said:\nno such line\n"
    )


def test_a_base_image_that_cannot_be_fetched_is_named_and_nothing_is_built(render: Any, tmp_path: Path) -> None:
    behaviour = f'echo "$1" >> {tmp_path}/calls; [ "$1" = build ] || {{ echo "no such host"; exit 1; }}'
    result = build(render, tmp_path, behaviour, [])
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(
        "The base image b:1 could not be fetched; what ran before still runs.\n.*What docker pull said:\nno such host\n",
        result.stderr,
    )
    assert "build" not in (tmp_path / "calls").read_text()


def two_services(folder: Path, *state: str) -> dict[str, object]:
    """The variables that the role has when it has found this."""
    volumes = [{"source": f"{folder}/a b", "target": "/c"}]
    return {
        "service_list": {
            "one": {"source": "1", "port": 1, "secrets": ["two/PASSWORD"]},
            "two": {"source": "2", "port": 2, "secrets": ["PASSWORD"], "volumes": volumes},
        },
        "service_state": {"stdout_lines": ["wants one users-one:1", "wants two users-two:2", *state]},
        "service_digests": {"one": "1a", "two": "2a"},
        "service_etc": str(folder / "etc"),
        "service_user_id": os.getuid(),
        "service_live_reload": False,
    }


def bring_live(render: Any, folder: Path, deploy: str, *state: str) -> subprocess.CompletedProcess[str]:
    """What happens where the deployment's program, a stand-in here, is this one."""
    program = folder / "bin/users-deploy"
    write_program(program, f"#!/bin/sh\n{deploy}\n")
    script = render("service", "live.sh.j2", **two_services(folder, *state))
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    return subprocess.run(["sh"], check=False, input=script, text=True, capture_output=True, env=environment)


def test_services_are_brought_live_at_the_same_time_each_with_its_version(render: Any, tmp_path: Path) -> None:
    meet = f"for _ in $(seq 100); do [ $(ls {tmp_path} | grep -c next) = 2 ] && exit; sleep 0.1; done; exit 1"
    assert bring_live(render, tmp_path, f"cat > {tmp_path}/$1.$2; {meet}").stderr == ""
    for name, number in (("one", 1), ("two", 2)):
        files = json.loads((tmp_path / f"{name}.next").read_text())
        assert files["about"].splitlines() == [f"image=users-{name}:{number}", f"health={number}"]
        assert f" --label settings={number}a " in files["live"]


def test_a_secret_is_made_once_and_before_any_service_starts(render: Any, tmp_path: Path) -> None:
    (tmp_path / "etc/two").mkdir(parents=True)
    (tmp_path / "etc/two/secret.PASSWORD").touch(0o600)  # as a full disk leaves it
    write_program(tmp_path / "bin/sync", f'#!/bin/sh\necho "$@" >> {tmp_path}/synced\n')
    for _ in range(2):
        assert bring_live(render, tmp_path, f"cat {tmp_path}/etc/two/secret.PASSWORD >> {tmp_path}/read").stderr == ""
    read = (tmp_path / "read").read_text().splitlines()
    assert len(read) == 4
    assert (tmp_path / "synced").read_text().split() == [str(tmp_path / "etc/two/secret.PASSWORD")]
    assert re.fullmatch("PASSWORD=[0-9a-f]{64}", read[0])
    assert set(read) == {read[0]}
    assert (tmp_path / "etc/two/secret.PASSWORD").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "etc/one").exists()


def test_the_reason_of_each_deployment_that_fails_is_said_and_no_other_word(render: Any, tmp_path: Path) -> None:
    deploy = 'echo "$1 went wrong" >&2; [ "$1" = one ]'
    failed = bring_live(render, tmp_path, deploy)
    assert (failed.returncode, failed.stderr) == (1, "two went wrong\n")
    cut_off = bring_live(render, tmp_path, '[ "$1" = one ] || kill -9 $$')
    assert cut_off.stderr.splitlines()[-1] == "two: its deployment was cut off. Run the playbook again."


def test_what_runs_as_it_should_is_left_alone(render: Any, tmp_path: Path) -> None:
    up = "container users-one 1a Up 2 hours (healthy)"
    for state, stale in {
        ("container users-two 2a Up 2 hours (healthy)", up): [],
        ("container users-two 2a Up 3 seconds", up): [],
        ("container users-two 2a Up 2 hours (unhealthy)", up): ["two"],
        ("container users-two 2b Up 2 hours (healthy)", up): ["two"],
        ("container users-two  Up 2 hours", up): ["two"],
        ("container users-two 2a Restarting (1) 3 seconds ago", up): ["two"],
        ("container users-two 2a Up 2 hours", up, "altered one"): ["one"],
        ("container users-two 2b Up 2 hours", up, "altered two"): ["two"],
        (): ["one", "two"],
    }.items():
        assert json.loads(render("service", "{{ service_stale | to_json }}", **two_services(tmp_path, *state))) == stale


def test_a_service_has_another_version_when_its_image_its_entry_or_the_proxy_is_another(
    render: Any, tmp_path: Path
) -> None:
    def versions(**changes: object) -> dict[str, str]:
        text = render("service", "digests.j2", **two_services(tmp_path, "wants one users-one:1") | changes)
        return dict(line.split() for line in text.splitlines())

    before = versions()
    assert [*before] == ["one", "two"]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in before.values())
    services = two_services(tmp_path)["service_list"]
    assert isinstance(services, dict)

    def changed(**changes: object) -> list[str]:
        return [name for name, digest in versions(**changes).items() if digest != before[name]]

    assert changed() == []
    assert changed(service_images={"one": "users-one:2", "two": "users-two:2"}) == ["one"]
    for entry in ({"environment": {"A": "b"}}, {"memory": "1g"}):
        assert changed(service_list=services | {"two": services["two"] | entry}) == ["two"]
    assert changed(service_http_proxy="http://proxy.example:3128") == ["one", "two"]


def test_folders_are_made_for_their_services_and_touched_only_when_need_be(render: Any, tmp_path: Path) -> None:
    bring_live(render, tmp_path, "exit", f"owned {tmp_path}/a b")
    assert not (tmp_path / "a b").exists()
    bring_live(render, tmp_path, f"[ -d '{tmp_path}/a b' ]")
    assert (tmp_path / "a b").is_dir()


PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  roles: [service]
  post_tasks:
    - copy: {content: "{{ lookup('template', item ~ '.sh.j2') }}", dest: "{{ item }}.sh"}
      loop: [build, live, shared]
      check_mode: false
"""


ANSIBLES = [Path("/usr/bin/ansible-playbook"), Path(sys.executable).parent / "ansible-playbook"]  # 2.14, and ours


@pytest.mark.parametrize("program", ANSIBLES, ids=["the distribution's", "ours"])
def test_a_script_runs_by_standard_input_and_what_it_complains_of_is_the_message(program: Path, tmp_path: Path) -> None:
    script = "echo 'é' secret; tr '\\0' ' ' < /proc/$$/cmdline; cat /proc/$PPID/cmdline"
    (tmp_path / "latin-1").write_bytes("# João\n".encode("latin-1"))  # as some certificates are written
    file = f"{{{{ lookup('ansible.builtin.file', '{tmp_path}/latin-1') }}}}"
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            {"shell_script": {"text": script}, "register": "worked"},
            {
                "shell_script": {"text": "echo no; echo that is why >&2; exit 3"},
                "register": "why",
                "failed_when": False,
            },
            {"shell_script": {"text": "exit 4"}, "register": "silent", "failed_when": False},
            {
                "shell_script": {"text": f"touch {tmp_path}/ran", "changes": "{{ ['this', 'that'] }}"},
                "check_mode": True,
                "register": "checked",
            },
            {"shell_script": {"text": f"cat > {tmp_path}/copy <<END\n{file}\nEND\n"}},
            {"copy": {"content": "{{ [worked, why, silent, checked] | to_json }}", "dest": str(tmp_path / "results")}},
            {"shell_script": {"text": "echo the end >&2; exit 5"}},
        ],
    }
    (tmp_path / "playbook.yml").write_text(yaml.safe_dump([play]))
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    ended = subprocess.run(
        [program, "--diff", "playbook.yml"], check=False, cwd=tmp_path, env=environment, text=True, capture_output=True
    )
    worked, why, silent, checked = json.loads((tmp_path / "results").read_text())
    assert worked["changed"]
    assert worked["stdout_lines"][0] == "é secret"
    assert "sh" in worked["stdout_lines"][1]
    assert "secret" not in worked["stdout_lines"][1]
    assert (why["msg"], silent["msg"]) == ("that is why", "The script ended with status 4 and said nothing.")
    assert checked["changed"]
    assert not (tmp_path / "ran").exists()
    assert "\nthis\nthat\n" in ended.stdout
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "latin-1").read_bytes()
    assert ended.returncode == 2
    assert "msg: the end\n" in ended.stdout


def test_the_distributions_older_ansible_makes_the_same_of_it(tmp_path: Path) -> None:
    variables = {
        "service_list": yaml.safe_load((ROOT / "settings.yml").read_text())["services"],
        "service_source_dir": str(ROOT),
        "service_http_proxy": "http://proxy.example:3128",
        "service_base_image": "there:1",
        "service_etc": str(tmp_path / "etc"),
    }
    (tmp_path / "playbook.yml").write_text(PLAYBOOK)
    for folder in ("files", "templates"):
        (tmp_path / folder).symlink_to(ROOT / "roles/service" / folder)
    write_program(tmp_path / "docker", "#!/bin/sh\necho image there:1\n")  # a stand-in
    made = []
    for program in ANSIBLES:
        subprocess.run(
            [program, "--check", "playbook.yml", "--extra-vars", json.dumps(variables)],
            check=True,
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        )
        made.append([(tmp_path / f"{name}.sh").read_text() for name in ("build", "live", "shared")])
    assert made[0] == made[1]
    assert all("frontend" in text for text in made[0])


def test_images_that_were_saved_are_put_back_when_one_is_lacking(render: Any, tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    there = tmp_path / "images"
    docker = tmp_path / "bin/docker"  # a stand-in
    write_program(docker, f'#!/bin/sh\n[ "$1" != image ] || cat {there}\n')
    state = render(
        "service",
        "state.sh.j2",
        service_list={"backend": {"source": "backend"}},
        service_source_dir=str(tmp_path),
        service_restore_command=f"echo put back; echo image back:1 >> {there}",
    )

    def ask() -> tuple[str, str]:
        path = f"{tmp_path}/bin:/usr/bin:/bin"
        result = subprocess.run(["sh"], check=True, input=state, env={"PATH": path}, text=True, capture_output=True)
        return result.stdout, result.stderr

    there.write_text("image users-frontend:0123\n")
    output, complaints = ask()
    assert "put back" in complaints
    assert "image back:1" in output.splitlines()
    there.write_text(re.sub("(?s).*^wants backend (.+?)$.*", r"image \1\n", output, flags=re.MULTILINE))
    output, complaints = ask()
    assert "put back" not in complaints
    assert "back:1" not in output
