"""Writes users-bundle.tar: all that `make up` needs on a computer without a network, as one file to carry there.

In it are the files that git tracks, as they are in this folder; the box; the packages and images that a VM has kept
(the setting cache_dir); .cache/machine.yml, the settings that name these; and bundle.cdx.json, which lists all of it
with checksums and versions. Nothing else is taken: no settings.local.yml, no users, no secrets.
"""

import hashlib
import json
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import doctor
import sbom
from doctor import CACHED, ROOT, Situation, Stop

BUNDLE = ROOT / "users-bundle.tar"
PATIENCE = 600  # seconds for Vagrant to say how the VM is, and for the VM to write its images


def sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sources() -> list[str]:
    """The files that git tracks and that are there."""
    status, output = doctor.ask(["git", "ls-files", "-z"])
    if status != 0 or not output:
        raise Stop(f"git does not know the files of this folder ({doctor.last_line(output)}). Clone it with git.")
    return [name for name in output.split("\0") if (ROOT / name).is_file()]


def renew_cache(situation: Situation) -> None:
    """Lets a VM that runs write its packages and images, as `vagrant destroy` would."""
    folder = situation.settings["cache_dir"]
    if not folder:
        raise Stop("cache_dir is empty in the settings, so no packages and images are kept. Take that line out.")
    if situation.vm != "running":
        return
    print("Keeping the VM's packages and images ...", flush=True)
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    base = situation.settings["image"]["base"]
    keep = shlex.join(["sudo", "bash", "/vagrant/vagrant/cache.sh", "keep", f"/vagrant/{folder}", base])
    status, output = doctor.ask(["vagrant", "--no-tty", "ssh", "--command", keep, "--", "-T"], PATIENCE)
    if status != 0:
        raise Stop(
            f"the VM could not keep them: {doctor.last_line(output).rstrip('.')}. `make doctor` says how the VM is."
        )


def cached(settings: Any) -> dict[str, Path]:
    """The cache's archives and their checksums, by their names. Raises Stop where one is missing or damaged."""
    if not doctor.cache_is_full(settings):
        raise Stop("no packages and images were kept yet. Run `make up`, then `make bundle` while the VM runs.")
    archives = [ROOT / settings["cache_dir"] / name for name in CACHED]
    for archive in archives:
        if sbom.said(archive)[-1:] != [f"{sha256(archive)}  -"]:
            raise Stop(f"{archive.name} of the cache is damaged. Run `make clean-cache`, `make up` and `make bundle`.")
    return {file.name: file for archive in archives for file in (archive, archive.with_name(f"{archive.name}.sha256"))}


def image(service: str, folder: str, base: str, names: list[str]) -> str:
    """The name of a service's image, as the role's state.sh.j2 makes it, if these files alone are in its folder."""
    paths = sorted(f".{name.removeprefix(folder)}" for name in names if name.startswith(f"{folder}/"))
    built_from = [path for path in paths if not re.search(r"/(\..+|tests|__pycache__)(/|$)", path)]
    sums = "".join(f"{sha256(ROOT / folder / path)}  {path}\n" for path in built_from)
    tag = hashlib.sha256((hashlib.sha256(sums.encode()).hexdigest() + base).encode()).hexdigest()[:12]
    return f"users-{service}:{tag}"


def check_images(archive: Path, base: str, names: list[str]) -> None:
    """Raises Stop where the other computer would have to build an image, which needs a network."""
    kept = {line.split()[0] for line in sbom.said(archive)}
    services = doctor.default_settings()["services"]  # those of your settings.local.yml stay here
    missing = [name for name, each in services.items() if image(name, each["source"], base, names) not in kept]
    if missing:
        raise Stop(
            f"what was kept has no image of {' and '.join(missing)} as the files are now. Run `make up` and "
            "`vagrant provision`, then `make bundle`. Files that git does not track are not taken: git add helps."
        )


def find_box(situation: Situation, work: Path) -> Path:
    """The file of the box that VMs are made from here. Raises Stop where there is none."""
    name, url = doctor.box(situation)
    if url and "://" not in url and not url.endswith(".json"):
        if not (ROOT / url).is_file():
            raise Stop(
                f"the box file {url} is not there. Correct box_url in the settings; `make up` builds its own anew."
            )
        return ROOT / url
    provider = "virtualbox" if situation.virtualbox else "libvirt"
    wanted = situation.virtualbox and situation.settings["vm"]["box_version"] or "[0-9]*"
    found = [each for each in doctor.box_folder(name).glob(wanted) if any(each.glob(f"**/{provider}"))]
    if not name or not found:
        raise Stop(f"Vagrant has no box {name} for {provider} yet. Run `make up`, then `make bundle`.")
    newest = max(found, key=lambda each: [int(number) for number in re.findall(r"\d+", each.name)]).name
    print(f"Packing Vagrant's box {name} {newest} ...", flush=True)
    command = ["vagrant", "box", "repackage", name, provider, newest]
    result = subprocess.run(command, check=False, cwd=work, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode != 0:
        raise Stop(f"`{' '.join(command)}` failed: {doctor.last_line(result.stdout)}")
    return work / "package.box"


def pack(files: dict[str, Path]) -> None:
    """Writes the bundle. Raises Stop, and leaves the one of before, where that fails."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        """Nothing of who works here."""
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.mode & 0o100 else 0o644
        return entry

    part = BUNDLE.with_suffix(".tar.part")
    try:
        with tarfile.open(part, "w") as tar:
            for name, file in files.items():
                tar.add(file, f"{BUNDLE.stem}/{name}", filter=plain)
        part.replace(BUNDLE)
    except OSError as error:
        size = sum(file.stat().st_size for file in files.values()) / 1e6
        raise Stop(
            f"{BUNDLE.name} could not be written ({error.strerror}). It takes {size:.0f} MB in this folder: "
            "make room, then run `make bundle` again."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def make() -> None:
    """Writes the bundle, and says what is in it."""
    situation = doctor.look(PATIENCE)
    if situation.settings_finding.level == doctor.WRONG:
        raise Stop(situation.settings_finding.text)
    names, settings = sources(), situation.settings
    renew_cache(situation)
    kept, base = cached(settings), settings["image"]
    check_images(kept["images.tar"], base["base"], names)
    doctor.CACHE.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=doctor.CACHE) as folder:
        work = Path(folder)
        large = {doctor.BUNDLED_BOX: find_box(situation, work)}
        large |= {f"{doctor.default_settings()['cache_dir']}/{name}": file for name, file in kept.items()}
        large |= {base["base_archive"]: ROOT / base["base_archive"]} if base["base_archive"] else {}
        digests = {name: sha256(file) for name, file in large.items()}
        box = digests[doctor.BUNDLED_BOX]
        # Named by its content, so that no other box takes its place, and Vagrant compares the checksum.
        group = {"box": f"users/bundle-{box[:12]}", "box_url": doctor.BUNDLED_BOX, "box_checksum": box}
        if situation.virtualbox:
            group["box_version"] = ""
        (work / "machine.yml").write_text(
            "# From the bundle that this folder was unpacked from. settings.local.yml has the last word.\n"
            + json.dumps({"vm" if situation.virtualbox else "libvirt": group, "image": base}, indent=2)
        )
        files = {name: ROOT / name for name in names} | {".cache/machine.yml": work / "machine.yml"} | large
        digests |= {name: sha256(file) for name, file in files.items() if name not in digests}
        release = doctor.ask(["git", "describe", "--always", "--dirty"])[1].strip()
        print("Listing what is in it ...", flush=True)
        packages = sbom.write(work / "bundle.cdx.json", files, digests, release)
        pack({"bundle.cdx.json": work / "bundle.cdx.json"} | files)
        for name, file in large.items():
            count = f", {packages[name]} packages" if name in packages else ""
            print(f"{name}: {file.stat().st_size / 1e6:.1f} MB{count}, SHA-256 {digests[name]}")
    print(
        f"and {len(names)} files of the project, {release}.\n\nWritten: {BUNDLE.name}, {BUNDLE.stat().st_size / 1e6:.0f} MB."
    )
    print("bundle.cdx.json in it has the whole list. docs/how-to.md says how to use it on another computer.")


if __name__ == "__main__":
    sys.exit(doctor.told("make bundle", make))
