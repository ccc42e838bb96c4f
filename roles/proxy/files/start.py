"""Starts Caddy anew and waits until it answers with a certificate.

Usage: start.py DOMAIN ADDRESS PORT [SECONDS]    where Caddy listens, and how long to wait (default: 120)
If there is no certificate, the exit status is 1, and a text on stderr says why and what to do.
"""

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator


def log(since: str) -> list[str]:
    """What Caddy has logged since then."""
    command = ["journalctl", "--unit", "caddy", "--since", since, "--output", "cat", "--no-pager"]
    return subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE).stdout.splitlines()


def answers(domain: str, address: str, port: int) -> bool:
    """Whether Caddy has a certificate for this name that has not expired, whoever issued it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address, port), timeout=5) as connection,
            context.wrap_socket(connection, server_hostname=domain) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
    except OSError:
        return False
    check = ["openssl", "x509", "-inform", "DER", "-noout", "-checkend", "0"]
    return subprocess.run(check, check=False, input=certificate, stdout=subprocess.DEVNULL).returncode == 0


def entries(lines: list[str]) -> Iterator[dict[str, str]]:
    for line in lines:
        with contextlib.suppress(ValueError):  # systemd's lines are no JSON
            entry = json.loads(line)
            if isinstance(entry, dict) and "msg" in entry:
                yield entry


def refusal(lines: list[str]) -> str:
    """What the authority said, once Caddy has given up for a while."""
    found = [*entries(lines)]
    # Of the two ways in which an authority looks for the machine, the second one's answer mostly tells more.
    tries = [entry for entry in found if entry["msg"] == "challenge failed"]
    ends = [entry for entry in found if entry["msg"].startswith("could not get certificate")]
    return f"{ends[-1]['issuer']} says: {(tries or ends)[-1]['error']}." if ends else ""


def leads_to(domain: str, address: str) -> str:
    """Where this name leads, as a sentence."""
    if address.startswith("127."):
        return f"Caddy listens on {address} alone, as host_ip says: set host_ip: 0.0.0.0."
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(domain, 443)}
    except OSError:
        return f"This machine finds no address for {domain}."
    return f"Seen from this machine, {domain} leads to {', '.join(sorted(found))}."


def main(domain: str, address: str, port: int, seconds: int) -> str:
    """Returns what went wrong, or nothing."""
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    deadline = time.monotonic() + seconds
    for command in (["daemon-reload"], ["--quiet", "enable", "caddy"], ["restart", "caddy"]):
        done = subprocess.run(["systemctl", *command], check=False, text=True, stderr=subprocess.PIPE)
        if done.returncode:
            last = "\n".join(log(began)[-10:])
            return f"Caddy, which answers https, does not start. {done.stderr.strip()}\nThe end of its log:\n{last}"
    said = ""
    while time.monotonic() < deadline and not said:
        if answers(domain, "127.0.0.1" if address == "0.0.0.0" else address, port):
            return ""
        time.sleep(1)
        said = refusal(log(began))
    return (
        f"There is no certificate for {domain}. {said or f'The authority has not answered within {seconds} s.'}\n"
        f"{leads_to(domain, address)} The authority must find this machine by that name, and reach its "
        "ports 80 and 443: mend the domain's A and AAAA records, or open the ports in the firewall (in a cloud, the "
        "security group). Then run the playbook again. An authority may refuse you for hours after a few failures."
    )


if __name__ == "__main__":
    name, listens, number, *limit = sys.argv[1:]
    sys.exit(main(name, listens, int(number), int(limit[0]) if limit else 120) or None)
