"""Asks each host that something will be fetched from, and prints for each that does not answer why, and what to do.

Usage: network_check.py [apt] [pip] [registry]    what is going to be fetched
Environment: http_proxy, https_proxy, no_proxy, pip_index_url and registry_mirror, as settings.yml explains them;
images, those that are to be built, with spaces between; base_image, which Docker pulls for that, or nothing; and
cached, a file that lists what need not be fetched, as a cache has it: the word apt, and images.
The exit status is 1 when a host does not answer.

tools/doctor.py asks the same way, from the laptop and its Python: 3.8 or newer.
"""

from __future__ import annotations  # for Python 3.8

import http.client
import os
import re
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

SETTINGS = dict(os.environ)  # by their names in settings.yml
TIMEOUT = 15  # seconds


def apt() -> Iterator[str]:
    """The first files that `apt-get update` would fetch."""
    command = ["apt-get", "update", "--print-uris", "-o", "Debug::NoLocking=true"]
    output = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    for uri in re.findall(r"^'(\S+/InRelease)'", output, re.MULTILINE):
        if uri.startswith("mirror+file:"):  # Debian's cloud images: a file with one mirror in each line
            file, release = uri.removeprefix("mirror+file:").split("/dists/")
            yield from (f"{line.split()[0]}/dists/{release}" for line in Path(file).read_text().splitlines() if line)
        else:
            yield uri


def pip() -> Iterator[str]:
    page = index_page(SETTINGS.get("pip_index_url", ""))
    if page:
        yield page


def index_page(index: str) -> str:
    """What pip would fetch from an index; without one, from what pip itself has as its default. "" if there is no pip."""
    if not index:
        sys.path += map(str, Path("/usr/share/python-wheels").glob("pip-*.whl"))
        try:
            from pip._internal.models.index import PyPI
        except ImportError:
            return ""
        index = PyPI.simple_url
    return index.rstrip("/") + "/pip/"


def registry() -> Iterator[str]:
    """The image registry: the one in the image's name, or the mirror, or what dockerd, if it runs, takes otherwise."""
    image, mirror = SETTINGS.get("base_image", ""), SETTINGS.get("registry_mirror")
    host, slash, _ = image.partition("/")
    if slash and re.search("[.:]", host):
        yield f"https://{host}/v2/"
    elif mirror:
        yield mirror.rstrip("/") + "/v2/"
    else:
        try:
            command = ["docker", "info", "--format", "{{.IndexServerAddress}}"]
            yield subprocess.run(command, check=True, text=True, capture_output=True).stdout.strip()
        except (FileNotFoundError, subprocess.CalledProcessError):
            return


WHAT = {
    "apt": (apt, "the distribution's packages"),
    "pip": (pip, "Python's packages"),
    "registry": (registry, "the base image"),
}


def cached() -> Iterator[str]:
    """What need not be fetched, since a cache has it."""
    file = Path(SETTINGS.get("cached") or os.devnull)
    things = set(file.read_text().split()) if file.exists() else set()
    if "apt" in things:
        yield "apt"
    if SETTINGS.get("base_image") in things:
        yield "registry"
    if things and {thing.rpartition(":")[0] for thing in things}.issuperset(SETTINGS["images"].split()):
        yield from ("pip", "registry")


def trust() -> ssl.SSLContext:
    """The certificates that apt and dockerd trust, read no more strictly than they do."""
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        context.load_verify_locations(bundle)
    return context


def trouble(url: str, proxies: dict[str, str], context: ssl.SSLContext, timeout: float) -> str:
    """Why a URL's host does not answer, and what to do; "" when it does.

    The proxies are those of urllib.request.getproxies(): for each scheme, and as "no" the hosts that need none.
    No password is in the text.
    """
    url = re.sub("//[^/@]*@", "//", url)  # whether there is somebody: no login is needed for that
    parts = urlsplit(url)
    if urllib.request.proxy_bypass_environment(parts.netloc, proxies):  # type: ignore[attr-defined]  # typeshed lacks it
        proxies = {}
    proxy = proxies.get(parts.scheme, "").rpartition("@")[2].rpartition("//")[2].rstrip("/")
    setting = f"network.{parts.scheme}_proxy"
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({scheme: value for scheme, value in proxies.items() if value}),
        urllib.request.HTTPSHandler(context=context),
    )
    try:
        opener.open(url, timeout=timeout).close()
        return ""
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        tunnel = re.match(r"Tunnel connection failed: (\d+)", str(reason))  # the proxy's answer, for https
        status = error.code if isinstance(error, urllib.error.HTTPError) else int(tunnel[1]) if tunnel else 0
    # Some proxies answer 401 when the password is wrong.
    if status == 407 or (status == 401 and proxy and (tunnel or parts.scheme == "http")):
        return (
            f"The proxy {proxy} wants a user and a password, or others than it was given. Write them into {setting}, "
            "as http://USER:PASSWORD@HOST:PORT, with %XX for each special character."
        )
    if status in (401, 404, 405) or (0 < status < 500 and not proxy):
        return ""  # it is there: it asks for a login, or has no such page
    if status and proxy:
        return (
            f"The proxy {proxy} answers {status} for it: it does not reach this host, or does not allow it. Ask those "
            "who run the proxy; a host inside the company belongs into network.no_proxy."
        )
    if status:
        return f"It answers {status}. Check its address in the settings; if that is right, try again later."
    if isinstance(reason, ssl.SSLCertVerificationError):
        if reason.verify_code in (9, 10):  # not yet valid, no longer valid (verify(1) of OpenSSL)
            return (
                f"Its certificate is not valid today ({reason.verify_message}), and here it is "
                f"{time.strftime('%Y-%m-%d %H:%M')}. If that is wrong, set the clock."
            )
        return (
            f"Its certificate is not trusted ({reason.verify_message}). Behind a proxy that inspects TLS, "
            "save the company's certificate in this folder and name the file in network.ca_certificate."
        )
    if not isinstance(reason, OSError):
        what, where = (f"The proxy {proxy}", setting) if proxy else ("It", "its address in the settings")
        return f"{what} does not speak HTTP, or its address is not valid. Check {where}."
    if proxy:
        return f"The proxy {proxy} cannot be reached ({reason}). Check {setting}."
    if isinstance(reason, socket.gaierror):
        return (
            "Its name is not known here: there is no network or no DNS, or only a proxy leads out. "
            f"Check the network; in a company, set {setting}."
        )
    return f"There is no connection to it ({reason}). Check the network and its firewall; in a company, set {setting}."


def main(wanted: list[str]) -> int:
    proxies, context = urllib.request.getproxies(), trust()
    urls: dict[str | None, tuple[str, str]] = {}  # one for each host
    for name in wanted:
        source, what = WHAT[name]
        for url in source():
            urls.setdefault(urlsplit(url).hostname, (url, what))
    with ThreadPoolExecutor() as threads:
        answers = threads.map(lambda one: trouble(one[0], proxies, context, TIMEOUT), urls.values())
        lines = [
            f"{host} ({what}) does not answer. {answer}"
            for (host, (_, what)), answer in zip(urls.items(), answers, strict=True)
            if answer
        ]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    at_hand = set(cached())
    sys.exit(main([name for name in sys.argv[1:] if name not in at_hand]))
