"""Lists what a bundle holds as CycloneDX 1.6 (https://cyclonedx.org): each file with its SHA-256, and in it the packages
with their versions. debsbom reads dpkg's lists."""

import hashlib
import io
import logging
import re
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from debsbom.generate.generate import Debsbom  # type: ignore[import-untyped]
from debsbom.sbom import SBOMType  # type: ignore[import-untyped]
from packageurl import PackageURL

STATUS = "var/lib/dpkg/status"
OS_RELEASE = "usr/lib/os-release"


def sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def members(tar: tarfile.TarFile, end: str | tuple[str, ...] = "") -> Iterator[tuple[str, bytes]]:
    """The files of an archive whose names end so, with their content."""
    for member in tar:
        file = tar.extractfile(member) if member.name.endswith(end) else None
        if file:
            yield member.name, file.read()


def said(archive: Path) -> list[str]:
    """What vagrant/cache.sh wrote of an archive: the system it is for, then its contents, and last its checksum."""
    file = archive.with_name(f"{archive.name}.sha256")
    return [line.removeprefix("# ") for line in file.read_text().splitlines()] if file.exists() else []


def packages(status: bytes, system: str) -> Iterator[Component]:
    """The distribution's packages in one of dpkg's status files, and the sources that they were built from."""
    vendor, *_, architecture = system.split()
    with TemporaryDirectory() as root:
        file = Path(root, STATUS)
        file.parent.mkdir(parents=True)
        file.write_bytes(status)
        tool = Debsbom(vendor, root=root, distro_arch=architecture, base_distro_vendor=vendor)
        tool.scan()
        yield from tool.generate(SBOMType.CycloneDX).components


def in_system(archive: Path, system: str) -> Iterator[Component]:
    """What is installed in a box that was made by box/build-box (others do not say), or in a root file system."""
    with tarfile.open(archive) as tar:
        for _, status in members(tar, ("dpkg-status", STATUS)):
            return packages(status, system)
    return iter(())


def in_cache(archive: Path, system: str) -> Iterator[Component]:
    """The packages in packages.tar, each with the checksum of its file."""
    stanza = "Package: {}\nVersion: {}\nArchitecture: {}\nStatus: install ok installed\n"
    with tarfile.open(archive) as tar:
        digests = {
            stanza.format(*unquote(Path(name).stem).split("_")): hashlib.sha256(content).hexdigest()
            for name, content in members(tar, ".deb")
        }
    for component in packages("\n".join(digests).encode(), system):
        assert component.purl
        digest = digests.get(stanza.format(component.name, component.version, component.purl.qualifiers["arch"]))
        if digest:  # else it is the source of some
            component.hashes.add(sha256(digest))
        yield component


def in_images(archive: Path, system: str) -> Iterator[Component]:
    """The images in images.tar with their IDs, and the packages in their layers, whose system need not be the VM's."""
    for line in said(archive)[1:-1]:
        image, identity = line.split(" sha256:")
        name, _, tag = image.rpartition(":")
        yield Component(type=ComponentType.CONTAINER, name=name, version=tag, hashes=[sha256(identity)])
    found = set()  # most layers have no list, and images share theirs
    vendor, *_, architecture = system.split()
    with tarfile.open(archive) as outer:
        for _, content in members(outer):
            try:
                with tarfile.open(fileobj=io.BytesIO(content)) as layer:
                    for name, content in members(layer, (STATUS, OS_RELEASE)):
                        if name.endswith(STATUS):
                            found.add(content)
                        else:
                            [vendor] = re.findall(r'^ID="?(\w+)', content.decode(), re.MULTILINE)
            except tarfile.ReadError:
                continue  # no layer, but what describes them
    yield from packages(b"\n".join(found), f"{vendor} {architecture}")


def in_requirements(file: Path, _: str) -> Iterator[Component]:
    """The Python packages that a file of requirements pins."""
    for name, number in re.findall(r"^([\w.-]+)==([^\s;]+)", file.read_text(), re.MULTILINE):
        yield Component(name=name, version=number, purl=PackageURL("pypi", name=name, version=number))


# Who looks into which file, the first that fits.
INSIDE = {
    r"/packages\.tar$": in_cache,
    r"/images\.tar$": in_images,
    r"\.(box|tar\.gz)$": in_system,
    r"^apps/\w+/requirements\.txt$": in_requirements,
}


def write(to: Path, files: dict[str, Path], digests: dict[str, str], release: str) -> dict[str, int]:
    """Writes the list of these files, by their names in the bundle. Returns how many packages are in each that has any."""
    logging.getLogger("debsbom").setLevel(logging.ERROR)  # else it tells which sources have no maintainer
    system = next(said(file)[0] for name, file in files.items() if name.endswith("/packages.tar"))
    bom, counts = Bom(), {}
    bom.metadata.component = Component(type=ComponentType.APPLICATION, name=to.name, version=release)
    bom.metadata.tools.components.add(Component(name="debsbom", version=version("debsbom")))
    for name, file in files.items():
        look = next((look for pattern, look in INSIDE.items() if re.search(pattern, name)), None)
        held = list(look(file, system)) if look else []
        bom.components.add(
            Component(type=ComponentType.FILE, name=name, hashes=[sha256(digests[name])], components=held)
        )
        counts[name] = sum(each.purl is not None and each.purl.qualifiers.get("arch") != "source" for each in held)
    bom.register_dependency(bom.metadata.component, bom.components)
    to.write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n")
    return {name: count for name, count in counts.items() if count}
