"""What keeps pages of other web sites out, while curl and programs need nothing special."""

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from users_backend.problems import Problem


class Guard:
    """Refuses what a page of another web site asks a browser to do here, by headers that only browsers send."""

    def __init__(self, allowed_hosts: frozenset[str]) -> None:
        """Know the host names, in lower case, that lead to this server; IP addresses always do."""
        self._allowed_hosts = allowed_hosts
        self._is_ours = lru_cache(self._leads_here)

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise Problem, 421 or 403, unless the request may go on."""
        host = headers.get(b"host", b"localhost")
        # A page of evil.example may give that name our address ("DNS rebinding");
        # its requests then look as if they came from our own pages.
        if not self._is_ours(host):
            raise Problem(
                421,
                f"This server is not called {host.decode('latin-1')[:100]}. Use localhost or an IP address, "
                "or add the name to the setting ALLOWED_HOSTS.",
            )
        if method not in ("GET", "HEAD", "OPTIONS") and _from_other_site(headers, host):
            raise Problem(
                403,
                "Pages of other web sites may not change users. Use curl, the page at /docs "
                "or your own server-side program.",
            )

    def _leads_here(self, host: bytes) -> bool:
        name = re.sub(r":[0-9]*$", "", host.decode("latin-1").lower())
        return name in self._allowed_hosts or _is_ip_address(name)


def _is_ip_address(name: str) -> bool:
    try:
        ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True


def _from_other_site(headers: Mapping[bytes, bytes], host: bytes) -> bool:
    # Browsers send Sec-Fetch-Site to https and localhost only; Origin is the fallback.
    if site := headers.get(b"sec-fetch-site"):
        return site not in (b"same-origin", b"none")
    if origin := headers.get(b"origin"):
        return origin.partition(b"://")[2] != host
    return False
