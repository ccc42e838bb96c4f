"""Good and bad settings."""

import pytest
from users_frontend.settings import Settings, SettingsError


def test_nothing_set_means_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"PORT": "", "HOST": " "}) == Settings()


def test_every_setting_is_read() -> None:
    settings = Settings.from_environment(
        {
            "BACKEND_URL": "https://users.example:8443/",
            "BACKEND_TIMEOUT": "7",
            "HOST": "::1",
            "PORT": "9000",
            "THREADS": "4",
            "LOG_LEVEL": "debug",
            "SOMETHING_ELSE": "is not ours",
        }
    )
    assert settings == Settings("https://users.example:8443", 7, "::1", 9000, 4, "DEBUG")


BAD = [
    ("BACKEND_URL", "backend:8080"),
    ("BACKEND_URL", "ftp://backend"),
    ("BACKEND_URL", "http://"),
    ("BACKEND_URL", "http://backend:0"),
    ("BACKEND_URL", "http://backend:99999"),
    ("BACKEND_URL", "http://back end"),
    ("BACKEND_URL", "http://a..b"),
    ("BACKEND_URL", "http://me:secret@backend"),
    ("BACKEND_URL", "http://backend/path"),
    ("BACKEND_URL", "http://backend?x=1"),
    ("BACKEND_TIMEOUT", "0"),
    ("BACKEND_TIMEOUT", "1.5"),
    ("BACKEND_TIMEOUT", "61"),
    ("HOST", "everywhere"),
    ("HOST", "999.1.1.1"),
    ("PORT", "0"),
    ("PORT", "65536"),
    ("PORT", "-1"),
    ("PORT", "http"),
    ("PORT", "٣"),
    ("THREADS", "0"),
    ("LOG_LEVEL", "LOUD"),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_value_is_refused_with_one_line_that_teaches(key: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({key: value})
    message = str(caught.value)
    assert message.startswith(f"{key}={value!r} is not allowed. Use ")
    assert "\n" not in message
