"""`python -m users_frontend`: serve the app with gunicorn until SIGTERM."""

import argparse
import os
from typing import Any

from gunicorn.app.base import BaseApplication

from . import create_app, logs
from .settings import Settings, SettingsError


class Server(BaseApplication):
    """gunicorn, set up from our settings alone: it reads no file or variable."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        options = {
            "bind": f"{host}:{self.settings.port}",
            "worker_class": "gthread",
            "threads": self.settings.threads,
            "loglevel": self.settings.log_level.lower(),
            # On stopping, a request may finish its one call of the backend: up to three
            # connects of a second, a pause and the answer.
            "graceful_timeout": self.settings.backend_timeout + 4,
            # The heartbeat file is touched all the time: keep it in memory where there is
            # a folder for that, else in /tmp. A container can write only to these two.
            "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,
            "control_socket_disable": True,  # it would need a home folder to write to
        }
        for key, value in options.items():
            self.cfg.set(key, value)

    def load(self) -> Any:
        """Return the app; called once, in the worker process."""
        return create_app(self.settings)


def main() -> None:
    """Read the settings and serve; end with exit code 2 if one is not allowed."""
    parser = argparse.ArgumentParser(
        prog="python -m users_frontend",
        description="The web page of users. Its settings are environment variables.",
        epilog=Settings.help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        parser.exit(2, f"{error}\n")
    logs.configure(settings.log_level)
    Server(settings).run()


if __name__ == "__main__":
    main()
