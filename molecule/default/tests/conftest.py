"""The way into the VM. Environment variable: SSH_CONFIG, what `vagrant ssh-config` printed."""

import os
from typing import Any

import pytest
import testinfra


@pytest.fixture(scope="session")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The VM over SSH, as root: one connection for all commands, since a new one takes longer than most of them."""
    socket = tmp_path_factory.mktemp("ssh") / "socket"
    return testinfra.get_host("ssh://default", ssh_config=os.environ["SSH_CONFIG"], sudo=True, controlpath=str(socket))
