"""Schemathesis, with every check it has, against what /openapi.json promises."""

import os
import subprocess
import sys
import unicodedata
from typing import Any

import pytest
import schemathesis

pytestmark = pytest.mark.slow

# The usual ones, and 412: whether an ETag is that of the user, no schema can say.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "429", "5xx"]
"""


# Schemathesis loads this file, too, and asks this function about each body that it has made.
@schemathesis.hook
def filter_body(context: schemathesis.HookContext, body: Any) -> bool:
    """Leave out the two things that JSON Schema has no words for.

    It takes 1.0 for an integer, and the API does not. It counts white space around a
    name, and a decomposed accent, and the API first takes them away.
    """
    if not isinstance(body, dict):
        return True
    user_id, name = body.get("id"), body.get("name", "")
    spelled_as_float = isinstance(user_id, float) and user_id.is_integer()
    return not spelled_as_float and (not isinstance(name, str) or name == unicodedata.normalize("NFC", name).strip())


def test_the_api_is_what_its_description_says(http, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    result = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", str(http.base_url.join("/openapi.json"))]
        + ["--checks=all", "--phases=examples,coverage,fuzzing,stateful", "--max-examples=300"]
        + ["--continue-on-failure", "--generation-database=none", "--no-color"],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": __file__, "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
