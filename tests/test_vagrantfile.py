"""The Vagrantfile with VirtualBox, as far as that goes without one: VBoxManage is a stand-in that records its calls."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from machine import free_port, run_ruby, run_with_vagrant, write_program

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]

# Plays VirtualBox 7 for `vagrant up` until the machine should boot, which it refuses.
STAND_IN = f"""#!{sys.executable}
import json, pathlib, sys

folder = pathlib.Path(__file__).parent
call = sys.argv[1:]
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps(call) + "\\n")
match call[0]:
    case "--version":
        print("7.0.20r163906")
    case "import":
        if "-n" in call:
            print('Suggested VM name "box"')
        else:
            (folder / "name").write_text(call[call.index("--vmname") + 1])
    case "list" if call[1] == "vms" and (folder / "name").exists():
        print('"' + (folder / "name").read_text() + '" {{11111111-2222-3333-4444-555555555555}}')
    case "list" if call[1] == "systemproperties":
        print("Default machine folder: " + str(folder))
    case "showvminfo":
        state = (folder / "state").read_text() if (folder / "state").exists() else "poweroff"
        print('name="box"\\nCfgFile="' + str(folder) + '/box.vbox"\\nVMState="' + state + '"\\nnic1="nat"')
    case "guestproperty":
        print("Value: 7.0.20")
    case "startvm":
        sys.exit("The stand-in for VirtualBox boots no machine.")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with the settings' defaults, and the stand-in on its PATH."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copytree(ROOT / "vagrant", folder / "vagrant")
    for name in ("Vagrantfile", "settings.yml"):
        shutil.copy(ROOT / name, folder)
    write_program(tmp_path / "bin/VBoxManage", STAND_IN)
    return folder


def vagrant(project: Path, *arguments: str, provider: str = "virtualbox") -> subprocess.CompletedProcess[str]:
    """Run Vagrant with the stand-in and a home of its own."""
    return run(project, ["vagrant", "--no-tty", *arguments], provider)


def run(project: Path, command: list[str], provider: str = "virtualbox") -> subprocess.CompletedProcess[str]:
    """Run what runs Vagrant, with the same."""
    home = project.parent
    asked = {"VAGRANT_DEFAULT_PROVIDER": provider, "WITHOUT_COPY": os.environ.get("WITHOUT_COPY", "")}
    return run_with_vagrant(command, project, home, home / "bin", **asked)


@pytest.fixture
def box(project: Path) -> str:
    """A box file that holds no more than a name; returned as settings."""
    source = project.parent / "box"
    source.mkdir()
    (source / "metadata.json").write_text('{"provider": "virtualbox"}')
    (source / "box.ovf").write_text("<Envelope><MacAddress>080027000001</MacAddress></Envelope>")
    (source / "Vagrantfile").write_text('Vagrant.configure("2") { |config| config.vm.base_mac = "080027000001" }')
    with tarfile.open(project / "box.tar", "w") as tar:
        for file in source.iterdir():
            tar.add(file, file.name)
    return "vm: {box: stand-in, box_url: box.tar}\n"


@pytest.fixture
def free_ports() -> tuple[int, int]:
    return free_port(), free_port()


def port_settings(backend: int, frontend: int) -> str:
    return f"services: {{backend: {{host_port: {backend}}}, frontend: {{host_port: {frontend}}}}}\n"


@pytest.mark.parametrize("command", ["provision", "reload"])
@pytest.mark.parametrize("provider", ["virtualbox", "libvirt"])
def test_where_there_is_no_vm_a_command_says_how_to_make_one(project: Path, command: str, provider: str) -> None:
    result = vagrant(project, command, provider=provider)
    assert result.stdout.splitlines()[-1] == "There is no VM yet. Run `vagrant up`, which makes it."
    assert "The stack is up" not in result.stdout
    assert result.returncode == 1


def test_a_folder_for_the_data_that_cannot_be_made_is_named(project: Path) -> None:
    (project / "settings.local.yml").write_text("data_dir: settings.yml\n")
    result = vagrant(project, "status")
    assert f"The folder {project}/settings.yml for the data cannot be made (File exists)." in result.stdout
    assert result.returncode != 0


def test_an_export_without_a_vm_leaves_no_file(project: Path) -> None:
    shutil.copy(ROOT / "Makefile", project)
    before = {*project.iterdir()}
    result = run(project, ["make", "export", "FILE=users.csv"])
    assert "VM must be created" in result.stdout
    assert result.returncode != 0
    assert {file.name for file in {*project.iterdir()} - before} <= {"data", ".vagrant"}


def test_without_virtualbox_and_a_box_it_is_make_up_that_helps(project: Path) -> None:
    result = vagrant(project, "up", provider="libvirt")
    assert "if not, `make up`, which builds a box." in result.stdout
    assert result.returncode == 1
    result = vagrant(project, "status", provider="libvirt")
    assert "not created (libvirt)" in result.stdout
    assert result.returncode == 0


def test_up_asks_virtualbox_for_what_the_settings_say(project: Path, box: str, free_ports: tuple[int, int]) -> None:
    # The database is reached inside the VM alone.
    services = port_settings(*free_ports).replace("backend: {", "database: {enabled: true}, backend: {")
    (project / "settings.local.yml").write_text(box + services)
    result = vagrant(project, "up", "--provider", "virtualbox")
    assert "The stand-in for VirtualBox boots no machine." in result.stdout
    calls = [json.loads(line) for line in (project.parent / "bin/calls").read_text().splitlines()]

    def arguments(command: str, option: str) -> list[str]:
        """What follows each `option` in the calls of `command`."""
        return [b for call in calls if call[0] == command for a, b in pairwise(call) if a == option]

    assert arguments("modifyvm", "--memory") == ["2048"]
    assert arguments("modifyvm", "--cpus") == ["2"]
    backend, frontend = free_ports
    forwards = {rule for rule in arguments("modifyvm", "--natpf1") if not rule.startswith("ssh")}
    assert forwards == {f"backend,tcp,127.0.0.1,{backend},,8080", f"frontend,tcp,127.0.0.1,{frontend},,8000"}
    assert set(arguments("sharedfolder", "--hostpath")) == {str(project), str(project / "data")}


def test_with_https_the_network_sees_that_alone(project: Path, box: str, free_ports: tuple[int, int]) -> None:
    https = free_port(), free_port()
    ports = [f"{{host_port: {a}, https_host_port: {b}}}" for a, b in zip(free_ports, https, strict=True)]
    settings = f"{box}host_ip: 0.0.0.0\nhttps: {{domain: localhost, users_file: settings.yml}}\n"
    services = f"services: {{backend: {ports[0]}, frontend: {ports[1]}}}\n"
    (project / "settings.local.yml").write_text(settings + services)
    vagrant(project, "up", "--provider", "virtualbox")
    calls = [json.loads(line) for line in (project.parent / "bin/calls").read_text().splitlines()]
    forwards = {b for call in calls if call[0] == "modifyvm" for a, b in pairwise(call) if a == "--natpf1"}
    assert {rule for rule in forwards if not rule.startswith("ssh")} == {
        f"backend,tcp,127.0.0.1,{free_ports[0]},,8080",
        f"frontend,tcp,127.0.0.1,{free_ports[1]},,8000",
        f"backend-https,tcp,0.0.0.0,{https[0]},,8444",
        f"frontend-https,tcp,0.0.0.0,{https[1]},,443",
    }


def test_up_takes_the_box_from_a_catalogue_and_remembers_it_for_updates(
    project: Path, box: str, free_ports: tuple[int, int]
) -> None:
    provider = {"name": "virtualbox", "url": (project / "box.tar").as_uri()}
    catalogue = {"name": "users/debian-13", "versions": [{"version": "1.0.0", "providers": [provider]}]}
    (project / "box.json").write_text(json.dumps(catalogue))
    settings = "vm: {box: users/debian-13, box_url: box.json}\n"
    (project / "settings.local.yml").write_text(settings + port_settings(*free_ports))
    output = vagrant(project, "up", "--provider", "virtualbox").stdout
    assert "Successfully added box 'users/debian-13' (v1.0.0) for 'virtualbox'" in output
    catalogue["versions"] = [{"version": "1.1.0", "providers": [provider]}]
    (project / "box.json").write_text(json.dumps(catalogue))
    assert "'users/debian-13' (v1.1.0)" in vagrant(project, "box", "update", "--provider", "virtualbox").stdout


def test_up_takes_the_version_of_the_box_that_the_settings_name(
    project: Path, box: str, free_ports: tuple[int, int]
) -> None:
    provider = {"name": "virtualbox", "url": (project / "box.tar").as_uri()}
    versions = [{"version": version, "providers": [provider]} for version in ("1.0.0", "2.0.0")]
    (project / "box.json").write_text(json.dumps({"name": "users/debian-13", "versions": versions}))
    settings = "vm: {box: users/debian-13, box_url: box.json, box_version: 1.0.0}\n"
    (project / "settings.local.yml").write_text(settings + port_settings(*free_ports))
    assert "(v1.0.0) for 'virtualbox'" in vagrant(project, "up", "--provider", "virtualbox").stdout


def test_a_busy_port_is_named_with_its_program_and_the_setting_before_anything_boots(project: Path, box: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        (project / "settings.local.yml").write_text(box + port_settings(free_port(), port))
        result = vagrant(project, "up", "--provider", "virtualbox")
    assert result.returncode != 0
    message = " ".join(result.stdout.split())
    assert f"Port {port} of this computer is already in use by" in message
    assert f"(process {os.getpid()})" in message
    assert "services.frontend.host_port" in message
    assert '"startvm"' not in (project.parent / "bin/calls").read_text()


def test_an_address_of_another_computer_is_told(project: Path, box: str) -> None:
    text = f"{box}host_ip: 192.0.2.1\nopen_to_the_network_without_password: true\n"  # RFC 5737: nobody's
    (project / "settings.local.yml").write_text(text)
    said = vagrant(project, "up", "--provider", "virtualbox").stdout
    assert said.splitlines()[-1] == "192.0.2.1 is no address of this computer. Change host_ip in settings.local.yml."


def test_a_paused_vm_holds_its_ports_itself(project: Path, box: str, free_ports: tuple[int, int]) -> None:
    (project / "settings.local.yml").write_text(box + port_settings(*free_ports))
    vagrant(project, "up", "--provider", "virtualbox")
    (project.parent / "bin/state").write_text("paused")
    with socket.create_server(("127.0.0.1", free_ports[0])):
        said = vagrant(project, "up").stdout
    assert "is already in use" not in said
    assert '"controlvm"' in (project.parent / "bin/calls").read_text()  # with "resume"


def test_a_provisioning_that_failed_is_begun_again(project: Path, box: str, free_ports: tuple[int, int]) -> None:
    (project / "settings.local.yml").write_text(box + port_settings(*free_ports))
    vagrant(project, "up", "--provider", "virtualbox")  # fails
    [folder] = project.glob(".vagrant/machines/default/virtualbox")
    mark = folder / "action_provision"
    begun = f"1.5:{(folder / 'id').read_text()}"  # as Vagrant writes it before the first step
    mark.write_text(begun)
    vagrant(project, "up")
    assert not mark.exists()
    mark.write_text(begun)
    assert vagrant(project, "provision").returncode == 0  # which, of a VM that is off, is no provisioning
    assert not (folder / "users_provisioned").exists()
    (folder / "users_provisioned").touch()
    vagrant(project, "up")
    assert mark.exists()


def test_a_bad_setting_is_one_readable_message(project: Path) -> None:
    (project / "settings.local.yml").write_text("vm: {memory: lots}")
    result = vagrant(project, "status")
    assert result.returncode != 0
    assert 'The setting vm.memory is "lots"; it must be a number of MiB, at least 1024.' in result.stdout
    assert "settings.rb" not in result.stdout  # no backtrace


def test_an_older_vagrant_is_told_so_plainly(project: Path) -> None:
    text = (project / "Vagrantfile").read_text()
    assert ">= 2.3.4" in text
    (project / "Vagrantfile").write_text(text.replace(">= 2.3.4", ">= 99"))  # then this Vagrant is an older one
    result = vagrant(project, "status")
    assert result.returncode != 0
    assert ">= 99" in result.stdout


SHARED = "backend: {volumes: [{source: /data, target: /data, shared: /data}], "
OWN_DISK = """backend: {volumes: [{source: /var/lib/users, target: /data},
    {source: /data/backups, target: /data/backups, shared: /data}], """
REFUSED = "The VM is not destroyed: its disk has the only database, and no copy could be made (the"


@pytest.mark.parametrize(
    ("backend", "without_copy", "destroyed", "said"),
    [
        (SHARED, "", True, "No copy was made (the VM is not running). The database itself stays in data/."),
        (OWN_DISK, "", False, REFUSED),
        (OWN_DISK, "1", True, ""),
        (f"database: {{enabled: true}}, {SHARED}", "", False, REFUSED),
    ],
)
def test_destroy_without_a_copy_goes_on_only_where_nothing_is_lost(
    project: Path,
    box: str,
    free_ports: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    without_copy: str,
    destroyed: bool,
    said: str,
) -> None:
    services = port_settings(*free_ports).replace("backend: {", backend)
    (project / "settings.local.yml").write_text(box + services)
    vagrant(project, "up", "--provider", "virtualbox")  # ends with a machine that is not running
    monkeypatch.setenv("WITHOUT_COPY", without_copy)
    result = vagrant(project, "destroy", "--force")
    assert said in " ".join(result.stdout.split())
    assert ('"unregistervm"' in (project.parent / "bin/calls").read_text()) == destroyed


# The machine's disk has the only database; what it says of a copy, and how that ends.
COPY = """
require "./vagrant/copies"
folder, said, status = ARGV
guest.define_singleton_method(:ready?) { true }
guest.define_singleton_method(:sudo) { |*_, **_, &output| output.call(:stdout, said + "\n"); status.to_i }
volumes = [{ "source" => "/var/lib/users", "target" => "/data" }]
begin
  Copies.make(machine, { "data_dir" => folder, "services" => { "backend" => { "volumes" => volumes } } })
rescue Settings::Error => e
  puts e.message
end
"""


def test_the_only_database_goes_with_its_vm_once_a_copy_is_here(tmp_path: Path) -> None:
    def copy(*said_and_status: str) -> str:
        return run_ruby(COPY, ROOT, tmp_path, *said_and_status)

    refused = REFUSED.removesuffix("the")
    assert f"{refused}The disk is full.)" in copy("The disk is full.", "1")
    made = "2 users copied to /data/backups/users-20261202T201500Z-2.db.gz (0 kB)."
    assert f"{refused}the copy lies on that disk, too: no volume of the settings brings it here)" in copy(made, "0")
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups/users-20261202T201500Z-2.db.gz").touch()
    assert f"success: {made}\nThe copy stays in {tmp_path}/backups." in copy(made, "0")
