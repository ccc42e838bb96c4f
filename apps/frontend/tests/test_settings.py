"""Good and bad settings."""

import pytest
from users_frontend.settings import Settings, SettingsError

SECRET_KEY = "0123456789abcdef0123456789abcdef"


def test_what_is_not_set_has_its_default() -> None:
    settings = Settings.from_environment({"SECRET_KEY": SECRET_KEY, "PORT": "", "HOST": " "})
    assert settings == Settings(
        secret_key=SECRET_KEY,
        backend_url="http://backend:8080",
        backend_timeout=5,
        host="0.0.0.0",
        port=8000,
        allowed_hosts=frozenset({"localhost", "frontend"}),
        threads=16,
        log_level="INFO",
    )


def test_every_setting_is_read() -> None:
    environment = {
        "SECRET_KEY": SECRET_KEY,
        "BACKEND_URL": "https://users.example:8443/",
        "BACKEND_TIMEOUT": "7",
        "HOST": "::1",
        "PORT": "9000",
        "ALLOWED_HOSTS": "Localhost, users.test",
        "THREADS": "4",
        "LOG_LEVEL": "debug",
        "SOMETHING_ELSE": "is not ours",
    }
    assert Settings.from_environment(environment) == Settings(
        secret_key=SECRET_KEY,
        backend_url="https://users.example:8443",
        backend_timeout=7,
        host="::1",
        port=9000,
        allowed_hosts=frozenset({"localhost", "users.test"}),
        threads=4,
        log_level="DEBUG",
    )


@pytest.mark.parametrize("value", ["", "short", "x" * 31])
def test_a_secret_key_that_is_missing_or_short_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"SECRET_KEY": value})
    message = str(caught.value)
    assert 'python3 -c "import secrets; print(secrets.token_hex(32))"' in message
    assert "\n" not in message
    assert not value or value not in message


def test_the_secret_key_is_not_shown_with_the_other_settings() -> None:
    assert SECRET_KEY not in repr(Settings.from_environment({"SECRET_KEY": SECRET_KEY}))


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
    ("ALLOWED_HOSTS", "a b"),
    ("ALLOWED_HOSTS", "localhost,"),
    ("ALLOWED_HOSTS", "*"),
    ("THREADS", "0"),
    ("LOG_LEVEL", "LOUD"),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_value_is_refused_with_one_line_that_teaches(key: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"SECRET_KEY": SECRET_KEY, key: value})
    message = str(caught.value)
    assert message.startswith(f"{key}={value!r} is not allowed. Use ")
    assert "\n" not in message
