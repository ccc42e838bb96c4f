"""The way into the VM. Environment variable: SSH_CONFIG, what `vagrant ssh-config` printed."""

import os
from typing import Any

import pytest
import testinfra


@pytest.fixture(scope="module")
def vm() -> Any:
    """The VM over SSH, as root."""
    return testinfra.get_host("ssh://default", ssh_config=os.environ["SSH_CONFIG"], sudo=True)
