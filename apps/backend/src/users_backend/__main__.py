"""`python -m users_backend`: run the server until SIGTERM or Ctrl+C."""

import argparse
import gc
import logging
import os
import re
import signal
import socket
import sys
from typing import NoReturn

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from users_backend import logs, settings
from users_backend.api import create_app
from users_backend.application import new_request_id
from users_backend.problems import Problem

# Less than the 10 seconds after which `docker stop` kills.
SHUTDOWN_SECONDS = 5

UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)

logger = logging.getLogger(__name__)


class Protocol(HttpToolsProtocol):
    """uvicorn's reading of HTTP, which answers with a problem even what is no HTTP."""

    def data_received(self, data: bytes) -> None:
        """Read on past an offer of HTTP/2, as Java makes it: the parser would leave out the body (RFC 9110, section 7.8)."""
        if self.cycle is None or not self.cycle.more_body:  # a head, or the begin of one
            head, end, rest = data.partition(b"\r\n\r\n")
            data = UPGRADE.sub(b"\nx-grade:", head) + end + rest
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Answer and close. `msg` is uvicorn's own sentence."""
        problem = Problem(
            400,
            f"{msg} Send HTTP/1.1, to an address that starts with http:// and not https://, and write letters such as é "
            "in it percent-encoded (curl --get --data-urlencode name=José ADDRESS does so).",
        )
        request_id = new_request_id()
        logger.info("%s", msg, extra={"fields": {"status": 400, "request_id": request_id}})
        response = problem.response(request_id)
        head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\n%sx-request-id: %s\r\nconnection: close\r\n\r\n%s"
            % (head, request_id.encode(), response.body)
        )
        self.transport.close()


def main() -> None:
    """Read the settings, listen, serve."""
    _parse_arguments()
    try:
        config = settings.load(os.environ)
    except settings.SettingsError as error:
        _refuse(str(error))
    try:
        # Listening here, and not in uvicorn, leaves us the words for a busy port.
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listener = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        _refuse(
            f"Cannot listen on HOST={config.host} PORT={config.port}: {error.strerror}. "
            "Set HOST to an address of this machine, and PORT to a free port."
        )

    logs.configure(config.log_level)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(config),
            loop="uvloop",
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,  # ours has the request id and the duration
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=150,  # people pause: a request just then would meet the connection's end
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )
    # uvicorn raises the signal again when it has finished: that is a success.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    logger.info("Listening on http://%s:%d", config.host, config.port)
    # What is here now stays for ever. Looking through it again and again for garbage
    # would hold every request up for 30 ms at a time.
    gc.freeze()
    server.run(sockets=[listener])


def _parse_arguments() -> None:
    keys = "\n".join(
        f"  {key}\n      {settings.ALLOWED[key]}; without it {default}" for key, default in settings.DEFAULTS.items()
    )
    argparse.ArgumentParser(
        prog="python -m users_backend",
        description="Serve the users API. Settings are environment variables:\n\n" + keys,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()


def _refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
