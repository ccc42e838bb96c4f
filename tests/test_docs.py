"""The documents say what the code does."""

from pathlib import Path

import pytest
from role_readmes import ROLES, readme


@pytest.mark.parametrize("role", sorted(ROLES.iterdir()), ids=lambda role: role.name)
def test_the_readme_of_each_role_is_made_from_its_options(role: Path) -> None:
    assert (role / "README.md").read_text() == readme(role), "`make docs` renews it."


def test_an_option_with_a_key_that_has_no_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    option = "{type: str, description: A, aliases: [b]}"
    spec = f"argument_specs: {{main: {{short_description: A, description: A, options: {{a: {option}}}}}}}"
    (tmp_path / "meta/argument_specs.yml").write_text(spec)
    with pytest.raises(TypeError, match="aliases"):
        readme(tmp_path)
