"""The playbook in a container with a systemd and a Docker of its own (container.py): what takes many runs, each of seconds.

Each test goes on where the one before has ended.
"""

import contextlib
import itertools
import json
import re
import shlex
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import up
import yaml
from container import ADDRESS, PREFIX, Container, fresh
from machine import BROWSER, cut_off

ROOT = Path(__file__).resolve().parents[2]

# A service beside the two, whose image is its Dockerfile alone.
PROBE: dict[str, object] = {"source": "apps/probe", "port": 9000, "host_port": 9000, "health_path": "/"}
HEALTH = {"backend": "8080/readyz", "frontend": "8000/healthz", "probe": "9000/"}
WORKS = 'CMD ["python3", "-m", "http.server", "--directory", "/tmp", "9000"]'

BROKEN = {
    "which ends at once": ("CMD echo I end at once >&2; exit 3", "I end at once"),
    "which never answers": ("CMD echo I never answer; exec sleep 600", "I never answer"),
    "which has nothing for its health path": (WORKS.replace("/tmp", "/none"), '"GET / HTTP/1.0" 404'),
    "which cannot be built": ("RUN echo I cannot be built; exit 4", "I cannot be built"),
}

pytestmark = pytest.mark.timeout(1800)  # seconds; a fresh machine installs and builds all


@pytest.fixture(scope="module")
def machine() -> Iterator[Container]:
    with fresh(ROOT / ".cache/test-container") as new:
        list_services(new)
        yield new


def list_services(machine: Container, **probe: object) -> None:
    """Write settings with the project's services and, if this is given, the probe; what is saved is not live before."""
    machine.settings(live_reload=False, services={"probe": probe} if probe else {})


def tasks(machine: Container, *options: str) -> dict[str, int]:
    """How many tasks did what."""
    recap = machine.playbook(*options).partition("RECAP")[2]
    return {what: int(number) for what, number in re.findall(r"(\w+)=(\d+)", recap)}


def message(machine: Container) -> str:
    """What a playbook says that must fail, and soon."""
    return machine.playbook("--extra-vars", "service_health_timeout=5", fails=True)


def containers(machine: Container) -> dict[str, tuple[str, str]]:
    """When each of the services' containers started, and its image."""
    form = "'{{.Name}} {{.State.StartedAt}} {{.Config.Image}}'"
    listed = machine.says(f"sudo docker ps --quiet | xargs sudo docker inspect --format {form}")
    return {name.removeprefix("/users-"): (start, image) for name, start, image in map(str.split, listed.splitlines())}


def answers(service: str) -> bool:
    """Whether it does, over the network."""
    try:
        with BROWSER.open(f"http://{ADDRESS}:{HEALTH[service]}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until_they_answer(*services: str) -> None:
    """All of them, if none is named."""
    deadline = time.monotonic() + 60
    while not all(map(answers, services or HEALTH)):
        assert time.monotonic() < deadline, "after a minute they still do not"
        time.sleep(0.2)


def write_probe(machine: Container, instructions: str) -> None:
    folder = machine.project / "apps/probe"
    folder.mkdir(exist_ok=True)
    # As process 1 none of these programs would end for another signal, and each stop take 20 seconds.
    (folder / "Dockerfile").write_text(f"ARG BASE_IMAGE\nFROM ${{BASE_IMAGE}}\nSTOPSIGNAL SIGKILL\n{instructions}\n")


@contextlib.contextmanager
def watched(service: str) -> Iterator[list[bool]]:
    """Whether a service answers, asked again and again meanwhile."""
    seen: list[bool] = []
    end = threading.Event()

    def watch() -> None:
        while not end.wait(0.05):
            seen.append(answers(service))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()


def test_a_new_machine_is_only_looked_at_with_check(machine: Container) -> None:
    said = machine.playbook("--check", "--diff")
    for change in (
        "docker.io",
        "/etc/docker/daemon.json",
        "/usr/local/sbin/users-deploy",
        "image users-backend:",
        "frontend",
    ):
        assert f"\n{change}" in said
    assert machine.ssh("command -v dockerd").returncode != 0


# A package of Podman's, without Podman.
AS_PODMANS = """
cd $(mktemp --directory)
mkdir --parents new/DEBIAN
cat > new/DEBIAN/control <<'END'
Package: podman-docker
Version: 1
Architecture: all
Maintainer: the tests
Description: it stands in Docker's way
Conflicts: docker.io
END
dpkg-deb --build new podman-docker.deb
apt-get -qy install ./podman-docker.deb
"""
# What makes a machine one of another Docker's, what the playbook says of it, and what makes it new again.
OTHER_DOCKERS = {
    "settings": (
        'mkdir /etc/docker; echo \'{"icc": true, "data-root": "/srv/docker"}\' > /etc/docker/daemon.json',
        "would be lost: data-root in /etc/docker/daemon.json. Take another",
        "rm /etc/docker/daemon.json",
    ),
    "a snap": ("mkdir --parents /snap/docker", "sudo snap remove docker", "rmdir /snap/docker"),
    "a package": (AS_PODMANS, "will be REMOVED: podman-docker", "apt-get -qy purge podman-docker"),
}


@pytest.mark.parametrize("other", OTHER_DOCKERS)
def test_another_docker_is_not_taken_away(machine: Container, other: str) -> None:
    make, said, remove = OTHER_DOCKERS[other]
    machine.says(f"sudo sh -ec {shlex.quote(make)}")
    assert said in " ".join(message(machine).split())
    machine.says(f"sudo sh -ec {shlex.quote(remove)}")  # this fails where it is gone


def wait_until_it_runs(machine: Container, program: str, begun: Future[str]) -> None:
    while machine.ssh(f"pgrep -f '{program}'").returncode != 0:
        assert not begun.done(), begun.result()


def test_without_the_network_in_the_middle_it_says_so(machine: Container) -> None:
    with ThreadPoolExecutor() as beside:
        begun = beside.submit(machine.playbook, fails=True)
        wait_until_it_runs(machine, "[a]pt-get -qy", begun)  # no more the check before it, which asks apt for its hosts
        wait_until_it_runs(machine, "[/]apt/methods/http", begun)
        with cut_off(f"{PREFIX}.0/24"):
            assert re.search(
                r"docker\.io .*could not be installed from the distribution's packages\. apt says:\s+E: .*\s+"
                r"When that is mended \(mostly, the network must be back, or the disk needs room\), run the same command again\.",
                begun.result(),
                re.DOTALL,
            )


@pytest.mark.parametrize("lock", ["/var/lib/apt/lists/lock", "/var/lib/dpkg/lock-frontend"])
def test_packages_wait_for_who_else_installs_some(machine: Container, lock: str) -> None:
    hold = f"import fcntl, time; file = open('{lock}', 'w'); fcntl.lockf(file, fcntl.LOCK_EX); time.sleep(6)"
    with ThreadPoolExecutor() as beside:
        holder = beside.submit(machine.says, f'sudo python3 -c "{hold}" && sudo touch /run/ended')
        wait_until_it_runs(machine, "[f]cntl.lockf", holder)
        machine.says("sudo sh /vagrant/roles/machine/files/install-packages tree && sudo rm /run/ended")
    machine.says("tree --version && sudo apt-get purge -qy tree")


@pytest.mark.parametrize(
    "during", ["[d]pkg .*--unpack", "[d]pkg .*--configure", "[d]ocker import", "[d]ocker build", "[u]sers-deploy"]
)
def test_the_power_may_be_cut(machine: Container, during: str) -> None:
    with ThreadPoolExecutor() as beside:
        begun = beside.submit(machine.playbook, fails=True)
        wait_until_it_runs(machine, during, begun)
        machine.cut_power()
        begun.result()
    machine.boot()


def test_the_next_run_ends_what_was_cut_off_and_another_one_finds_nothing_to_do(machine: Container) -> None:
    machine.playbook()
    assert answers("frontend") and answers("backend")
    before = containers(machine)
    assert tasks(machine)["changed"] == 0
    assert tasks(machine, "--check", "--diff")["changed"] == 0
    assert containers(machine) == before


def test_what_builds_leave_behind_is_limited(machine: Container) -> None:
    assert "Keep Bytes:" in machine.says("sudo docker buildx inspect default")


def test_no_layer_of_an_image_holds_the_secrets_of_its_build(machine: Container) -> None:
    services = ["backend", "frontend"]
    expected = [f"app/src/users_{name}/__main__.py" for name in services]  # or nothing was looked at
    needles = ["etc/pip.conf", *expected]
    if certificates := up.company_network()["ca_certificate"]:
        needles.append((ROOT / certificates).read_text().splitlines()[5])
    patterns = " ".join(f"-e '{needle}'" for needle in needles)
    images = " ".join(containers(machine)[name][1] for name in services)
    found = f"sudo docker save {images} | grep --text --only-matching --fixed-strings {patterns} | sort --unique"
    assert machine.says(found).splitlines() == expected


# Of a container's settings, those that say what it may do and how much.
RIGHTS = ["CapAdd", "CapDrop", "DnsOptions", "DnsSearch", "Memory", "PidsLimit", "Privileged", "ReadonlyRootfs"]
RIGHTS += ["SecurityOpt", "Tmpfs"]


def rights(machine: Container, container: str) -> dict[str, Any]:
    """What Docker lets a container do."""
    found = json.loads(machine.says(f"sudo docker inspect {container}"))[0]
    # "Nothing" is null or an empty list, as the client likes.
    return {"User": found["Config"]["User"]} | {key: found["HostConfig"][key] or None for key in RIGHTS}


def test_docker_compose_has_the_same_urls_data_and_rights_as_the_units(machine: Container) -> None:
    services = {"backend": 8080, "frontend": 8000}
    under_systemd = {name: rights(machine, f"users-{name}") for name in services}
    machine.says("sudo sh /vagrant/roles/machine/files/install-packages docker-compose curl")
    variables = "DATA_DIR=/data BASE_IMAGE=users-base:test PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
    command = f"sudo env --chdir=/vagrant {variables} docker compose"
    machine.says("sudo systemctl stop users-frontend users-backend")
    try:
        machine.says(f"{command} --progress plain up --detach --wait")
        assert re.findall(r"(\S+):80[08]0 ", machine.says("ss -Hltn")) == ["127.0.0.1"] * 2
        assert machine.says("curl -fsS 127.0.0.1:8080/healthz") == "ok"
        assert machine.says("curl -fsS 127.0.0.1:8000/healthz") == '{"frontend_status":"ok","backend_status":"ok"}'
        for name in services:
            assert rights(machine, machine.says(f"{command} ps --quiet {name}")) == under_systemd[name]
        created = machine.says("curl -fsS --form id=7 --form name=Ana 127.0.0.1:8000/")
        assert created == "User 7, Ana, was created.\n"
        with sqlite3.connect(f"file:{machine.data}/users.db?mode=ro", uri=True) as database:
            assert database.execute("SELECT name FROM users WHERE id = 7").fetchone() == ("Ana",)
    finally:
        machine.says(f"{command} down --rmi local; sudo systemctl start users-backend users-frontend")
    wait_until_they_answer(*services)
    assert '"Ana"' in machine.says("curl -fsS 127.0.0.1:8080/users/7")


# A real registry with the base image, under the name that Docker gives the settings' one, and a real package index.
MIRRORS = """
sh /vagrant/roles/machine/files/install-packages docker-registry
sed -i '/^auth:/,/htpasswd$/d' /etc/docker/registry/config.yml
systemctl restart docker-registry
docker tag users-base:test 127.0.0.1:5000/library/{base}
timeout 60 sh -c 'until docker push 127.0.0.1:5000/library/{base}; do sleep 1; done'
docker rmi 127.0.0.1:5000/library/{base}
docker builder prune --all --force
systemd-run --unit index python3 -u -m http.server --directory /vagrant/.cache/index 3141
"""


def test_the_base_and_python_packages_come_from_the_mirrors_of_the_settings(machine: Container) -> None:
    index = machine.project / ".cache/index"
    for service in ("backend", "frontend"):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", index, "--no-deps", "--require-hashes"]
        command += ["--python-version=3.13", "--only-binary=:all:", "--requirement", f"apps/{service}/requirements.txt"]
        subprocess.run(command, check=True, cwd=ROOT)
    for wheel in index.glob("*.whl"):  # of a simple index, PEP 503
        project = index / re.sub("[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        project.mkdir(exist_ok=True)
        wheel.rename(project / wheel.name)
    base = yaml.safe_load((ROOT / "settings.yml").read_text())["image"]["base"]
    machine.says(f"sudo sh -ec {shlex.quote(MIRRORS.format(base=base))}")

    mirrors = {"registry_mirror": "http://127.0.0.1:5000", "pip_index_url": f"http://{ADDRESS}:3141/"}
    network = up.company_network()
    machine.settings(
        live_reload=False,
        image={},
        network=network | mirrors | {"no_proxy": f"{network['no_proxy']},{ADDRESS}".strip(",")},
    )
    machine.playbook()
    wait_until_they_answer("backend", "frontend")
    asked = machine.says("sudo journalctl --output cat --unit docker-registry --unit index")
    assert re.search(f'"(HEAD|GET) /v2/library/{base.replace(":", "/manifests/")}', asked)
    assert {"pydantic", "flask"} <= set(re.findall(r'"GET /(\w+)/\S+\.whl', asked))

    # From now on, a change of an app needs neither, and no layer that Docker would remember.
    machine.says("sudo systemctl disable --now docker-registry index; sudo docker builder prune --all --force")
    with open(machine.project / "apps/backend/src/users_backend/__init__.py", "a") as source:
        source.write("# changed\n")
    before = containers(machine)
    machine.playbook()
    assert containers(machine)["backend"][1] != before["backend"][1]

    list_services(machine)
    machine.playbook()
    assert "127.0.0.1:5000" not in machine.says("sudo docker info")


def test_a_changed_app_alone_starts_again_and_is_away_once_at_most(machine: Container) -> None:
    before = containers(machine)
    with open(machine.project / "apps/frontend/src/users_frontend/__init__.py", "a") as source:
        source.write("# changed\n")
    with watched("frontend") as seen:
        machine.playbook()
    after = containers(machine)
    assert before["backend"] == after["backend"]
    assert before["frontend"][1] != after["frontend"][1]
    print("the frontend answers:", [(up, len([*times])) for up, times in itertools.groupby(seen)])
    assert seen[0] and seen[-1]
    assert [up for up, _ in itertools.groupby(seen)].count(False) <= 1


def test_a_new_service_that_ends_again_and_again_is_not_waited_for(machine: Container) -> None:
    instructions, log = BROKEN["which ends at once"]
    write_probe(machine, instructions)
    list_services(machine, **PROBE)
    begun = time.monotonic()
    said = machine.playbook(fails=True)
    assert time.monotonic() - begun < 120, "half the time that a service has"
    assert "probe did not become healthy. There is no version before it, so it is stopped." in said
    assert log in said


def test_another_program_on_its_port_is_not_taken_for_the_service(machine: Container) -> None:
    write_probe(machine, WORKS)
    list_services(machine, **PROBE)
    machine.says("sudo systemd-run --quiet --unit other python3 -m http.server 9000")
    said = message(machine)
    assert "probe did not become healthy. There is no version before it, so it is stopped." in said
    assert "address already in use" in said
    machine.says("sudo systemctl stop other")


def test_a_service_without_a_port_is_as_its_image_says_or_is_refused(machine: Container) -> None:
    list_services(machine, source=PROBE["source"])
    for none in (WORKS, f"HEALTHCHECK NONE\n{WORKS}"):
        write_probe(machine, none)
        assert "probe has no port, and its image no HEALTHCHECK" in machine.playbook(fails=True)
    write_probe(machine, f"HEALTHCHECK --interval=1s CMD true\n{WORKS}")
    machine.playbook()
    assert "(healthy)" in machine.says("sudo docker ps --filter name=users-probe --format '{{.Status}}'")
    list_services(machine)
    machine.playbook()
    assert "probe" not in containers(machine)


def test_a_service_is_added(machine: Container) -> None:
    before = containers(machine)
    write_probe(machine, WORKS)
    list_services(machine, **PROBE)
    machine.playbook()
    after = containers(machine)
    assert answers("probe")
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("broken", BROKEN)
def test_the_version_before_serves_on_beside_one(machine: Container, broken: str) -> None:
    instructions, log = BROKEN[broken]
    before = containers(machine)
    write_probe(machine, instructions)
    with watched("probe") as seen:
        said = message(machine)
    assert log in said
    if "built" in broken:
        assert "The image of probe could not be built from apps/probe; what ran before still runs" in said
    else:
        assert "probe: the new version did not become healthy. The version before still serves." in said
    assert all(seen) and len(seen) > 1
    assert containers(machine) == before


def test_a_renamed_service_serves_until_the_one_of_the_new_name_is_built(machine: Container) -> None:
    write_probe(machine, BROKEN["which cannot be built"][0])
    machine.settings(live_reload=False, services={"renamed": PROBE})
    assert "The image of renamed could not be built" in message(machine)
    assert answers("probe")


def test_what_only_fails_in_its_place_makes_room_for_the_version_before(machine: Container) -> None:
    list_services(machine, **PROBE, volumes=[{"source": "/var/lib/probe", "target": "/data"}])
    write_probe(machine, WORKS)
    machine.playbook()
    before = containers(machine)["probe"]
    machine.says("sudo touch /var/lib/probe/old")
    write_probe(machine, WORKS.replace("[", '["sh", "-c", "[ ! -e /data/old ] || exit 5; exec \\"$@\\"", "sh", '))
    said = message(machine)
    assert "probe did not become healthy. The version before runs again." in said
    wait_until_they_answer()
    assert containers(machine)["probe"][1] == before[1]


def test_one_step_back_lasts_until_the_next_provisioning(machine: Container) -> None:
    write_probe(machine, f"{WORKS}\nLABEL version=1")
    machine.playbook()
    first = containers(machine)["probe"][1]
    write_probe(machine, f"{WORKS}\nLABEL version=2")
    machine.playbook()
    second = containers(machine)["probe"][1]
    for expected in (first, second):
        assert "probe is one version back" in machine.says("sudo users-deploy probe back")
        assert answers("probe")
        assert containers(machine)["probe"][1] == expected
    machine.says("sudo users-deploy probe back")
    machine.playbook()
    assert containers(machine)["probe"][1] == second


def test_two_provisionings_at_once_wait_for_each_other(machine: Container) -> None:
    write_probe(machine, f"{WORKS}\nLABEL version=3")
    with ThreadPoolExecutor() as two:
        assert [*two.map(lambda _: machine.playbook(), range(2))]
    assert answers("probe")
    assert tasks(machine)["changed"] == 0


def test_a_deployment_that_is_cut_off_is_made_good_by_the_next(machine: Container) -> None:
    write_probe(machine, "CMD exec sleep 600")
    with ThreadPoolExecutor() as beside:
        begun = beside.submit(machine.playbook, fails=True)
        deadline = time.monotonic() + 60
        while machine.ssh("systemctl is-active users-probe-trial").stdout != "active\n":
            assert time.monotonic() < deadline
        machine.says("sudo pkill -KILL users-deploy")
        assert "probe: its deployment was cut off. Run the playbook again." in begun.result()
    assert answers("probe")
    write_probe(machine, f"{WORKS}\nLABEL version=4")
    machine.playbook()
    assert answers("probe")
    assert machine.ssh("systemctl status users-probe-trial").returncode == 4, "no such unit"


# Debian's unit starts three times a minute at most, which a quick computer's tests would reach.
DOCKER_MAY_START = "sudo systemctl reset-failed docker"

# Its first start fails, which takes away the file.
DOCKERD_FAILS_ONCE = """
mkdir --parents /run/systemd/system/docker.service.d
printf '[Service]\nExecStartPre=/bin/sh -c "! rm /run/fails"\n' > /run/systemd/system/docker.service.d/fails.conf
systemctl daemon-reload
touch /run/fails
systemctl kill --signal KILL docker
while [ -e /run/fails ] || ! systemctl --quiet is-active docker; do sleep 0.1; done
rm /run/systemd/system/docker.service.d/fails.conf
systemctl daemon-reload
"""


@pytest.mark.parametrize(
    "command",
    [
        "docker kill users-probe",
        "systemctl restart docker",
        "systemctl stop docker; systemctl start docker",
        DOCKERD_FAILS_ONCE,
    ],
)
def test_what_is_killed_or_stopped_starts_again(machine: Container, command: str) -> None:
    machine.says(f"{DOCKER_MAY_START} && sudo sh -ec {shlex.quote(command)}")
    wait_until_they_answer()


def test_dockerd_starts_again_for_settings_that_it_has_not_read(machine: Container) -> None:
    machine.says(f"{DOCKER_MAY_START} && sudo systemctl --quiet disable docker && sudo touch /etc/docker/daemon.json")
    machine.playbook()
    machine.says("systemctl is-enabled docker && test /run/docker.pid -nt /etc/docker/daemon.json")
    wait_until_they_answer()
    assert tasks(machine)["changed"] == 0


@pytest.mark.parametrize(
    "change",
    [
        "sed -i 's/ --read-only//' /etc/systemd/system/users-probe.service; systemctl daemon-reload; $RESTART",
        "systemctl disable users-probe",
        "echo HAND=made >> /etc/users/probe/env; $RESTART",
        "rm -r /etc/users/probe",
    ],
)
def test_what_somebody_changed_by_hand_is_as_the_settings_say_again(machine: Container, change: str) -> None:
    change = change.replace("$RESTART", "systemctl restart users-probe")
    machine.says(f"sudo sh -ec {shlex.quote(change)}")
    wait_until_they_answer()
    before = containers(machine)
    machine.playbook()
    after = containers(machine)
    assert [name for name in after if after[name] != before[name]] == ["probe"]
    probe = machine.says("sudo docker inspect users-probe; systemctl is-enabled users-probe")
    assert '"ReadonlyRootfs": true' in probe and "HAND" not in probe and probe.endswith("\nenabled\n")
    assert tasks(machine)["changed"] == 0


def test_all_is_there_again_after_the_power_was_cut(machine: Container) -> None:
    before = containers(machine)
    machine.cut_power()
    machine.boot()
    wait_until_they_answer()
    assert {name: image for name, (_, image) in containers(machine).items()} == {
        name: image for name, (_, image) in before.items()
    }
    assert tasks(machine)["changed"] == 0


def test_a_service_does_not_start_without_the_disk_of_its_data(machine: Container) -> None:
    machine.says("echo 'none /var/lib/probe nofs nofail 0 0' | sudo tee -a /etc/fstab && sudo systemctl daemon-reload")
    assert "ependency" in machine.ssh("sudo systemctl restart users-probe").stderr
    assert not answers("probe")
    machine.says(
        "sudo sed -i '\\,/var/lib/probe,d' /etc/fstab && sudo systemctl daemon-reload && sudo systemctl start users-probe"
    )
    wait_until_they_answer()


def test_a_service_off_the_list_leaves_its_data_alone(machine: Container) -> None:
    list_services(machine)
    machine.playbook()
    assert "probe" not in containers(machine)
    left = "ls /etc/users; docker image ls --quiet users-probe; systemctl list-unit-files --no-legend 'users-probe*'; :"
    assert "probe" not in machine.says(f"sudo sh -c {left!r}")
    assert machine.says("ls /var/lib/probe") == "old\n"


# Debian's packages by the names of Docker's own, which would replace them, as they would be replaced.
AS_DOCKERS_OWN = """
cd $(mktemp --directory)
for package in docker.io:docker-ce docker-buildx:docker-buildx-plugin; do
    apt-get -qq download ${package%:*}
    dpkg-deb --raw-extract ${package%:*}_*.deb new
    sed -i "/^Conflicts: /d; s/^Package: .*/Package: ${package#*:}\\nConflicts: ${package%:*}/" new/DEBIAN/control
    dpkg-deb -Znone --build new ${package#*:}.deb
    rm -r new
done
apt-get -qy purge docker.io docker-buildx
apt-get -qy install ./docker-ce.deb ./docker-buildx-plugin.deb
"""


def test_dockers_own_packages_stay(machine: Container) -> None:
    machine.says(f"sudo sh -ec {shlex.quote(AS_DOCKERS_OWN)}")
    machine.playbook()
    assert answers("frontend") and answers("backend")
    packages = machine.says("dpkg-query --show --showformat '${db:Status-Status} ${Package}\\n' 'docker*'")
    assert "\ninstalled docker-ce\n" in packages
    assert "\ninstalled docker.io\n" not in packages
    assert tasks(machine)["changed"] == 0
