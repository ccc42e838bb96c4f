"""What the container runs, with the real PostgreSQL of this machine and no container."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

START = Path(__file__).resolve().parents[1] / "start"
INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[4]))
USER_ID = 54321  # one that no user of the machine has, as in a container


class Database:
    """A folder for the data, and what runs on it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.log = folder / "log"
        self.processes: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._as_user = []
        if os.getuid() == 0:
            shutil.chown(folder, USER_ID, USER_ID)
            self._as_user = ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups"]

    def start(self, password: str = "first") -> subprocess.Popen[bytes]:
        """Start it in a process group of its own."""
        environment = {"PGDATA": str(self.data), "PGPORT": str(self.port), "PGPASSWORD": password}
        if INSTALLED:
            environment["PATH"] = f"{INSTALLED[-1]}:{os.environ['PATH']}"
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [*self._as_user, "sh", START],
                cwd=self.data.parent,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def ask(self, sql: str, password: str = "first", user: str = "users") -> list[tuple[object, ...]]:
        """The rows of one statement, when it takes connections."""
        url = f"postgresql://{user}@127.0.0.1:{self.port}/users"
        deadline = time.monotonic() + 30
        while True:
            try:
                with psycopg.connect(url, password=password, autocommit=True) as connection:
                    cursor = connection.execute(sql)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError as error:
                if "refused" not in str(error) and "starting up" not in str(error):
                    raise
                assert self.processes[-1].poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send the signal of the image's STOPSIGNAL to the first process, or SIGKILL to all; the exit status."""
        process = self.processes[-1]
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        return process.wait(20)


@pytest.fixture
def database() -> Iterator[Database]:
    # Not in tmp_path, which only its own user may enter.
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder))
        yield database
        for process in database.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def test_the_first_start_makes_a_database_that_only_its_owner_enters_who_is_no_superuser(database: Database) -> None:
    database.start()
    [row] = database.ask(
        "SELECT pg_get_userbyid(datdba), rolsuper, pg_encoding_to_char(encoding), current_setting('data_checksums')"
        " FROM pg_database, pg_roles WHERE datname = current_database() AND rolname = current_user"
    )
    assert row == ("users", False, "UTF8", "on")
    for user, password in (("users", "wrong"), ("users", ""), ("postgres", "first"), ("postgres", "")):
        with pytest.raises(psycopg.OperationalError, match="password"):
            database.ask("SELECT 1", password, user)


def test_what_was_saved_is_there_after_an_orderly_end_and_after_a_kill(database: Database) -> None:
    database.start()
    database.ask("CREATE TABLE kept (number integer)")
    for number, end in enumerate((signal.SIGINT, signal.SIGKILL)):
        database.ask(f"INSERT INTO kept VALUES ({number})")
        database.end(end)
        database.start()
    assert database.ask("SELECT * FROM kept") == [(0,), (1,)]


def test_a_killed_one_is_not_taken_for_the_process_that_has_its_number_now(database: Database) -> None:
    """In a container, that is the first one: number 1, as before."""
    database.start()
    database.ask("SELECT 1")
    database.end(signal.SIGKILL)
    another = subprocess.Popen([*database._as_user, "sleep", "60"], start_new_session=True)
    database.processes.append(another)  # which ends it
    left = database.data / "postmaster.pid"
    left.write_text("\n".join([str(another.pid), *left.read_text().splitlines()[1:]]) + "\n")
    database.start()
    assert database.ask("SELECT 1") == [(1,)]


def test_a_replaced_password_holds_from_the_next_start_and_is_not_in_the_log(database: Database) -> None:
    database.start()
    database.ask("SELECT 1")
    database.end()
    other = "it's \\c a second one"
    database.start(other)
    assert database.ask("SELECT 1", other) == [(1,)]
    with pytest.raises(psycopg.OperationalError, match="password"):
        database.ask("SELECT 1")
    assert "second one" not in database.log.read_text()


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "before all": lambda new: new.exists(),
    "in initdb": lambda new: (new / "base/1/PG_VERSION").exists(),
    "before its user is made": lambda new: (
        (new / "pg_hba.conf").exists() and (new / "pg_hba.conf").read_text().startswith("host all all all")
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_first_start_that_is_killed_leaves_nothing_half_made(database: Database, moment: str) -> None:
    process = database.start()
    new = database.data.with_name("data.new")
    deadline = time.monotonic() + 30
    while not MOMENTS[moment](new):
        assert process.poll() is None, database.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    database.end(signal.SIGKILL)
    assert new.exists()
    assert not database.data.exists()

    database.start()
    assert database.ask("SELECT current_user") == [("users",)]
    assert not new.exists()


def test_data_of_another_major_version_are_left_alone_and_it_says_what_to_do(database: Database) -> None:
    database.start()
    database.ask("SELECT 1")
    database.end()
    version = (database.data / "PG_VERSION").read_text()
    (database.data / "PG_VERSION").write_text("9\n")
    assert database.start().wait(20) == 1
    assert "The database is PostgreSQL 9's, and this image has PostgreSQL 1" in database.log.read_text()
    assert "make a copy (make backup); then" in database.log.read_text()
    (database.data / "PG_VERSION").write_text(version)
    database.start()
    assert database.ask("SELECT 1") == [(1,)]


def test_without_a_password_nothing_is_made(database: Database) -> None:
    assert database.start("").wait(20) == 1
    assert "PGPASSWORD is empty. Set it" in database.log.read_text()
    assert [*database.data.parent.iterdir()] == [database.log]


def test_a_second_one_on_the_same_data_is_refused(database: Database) -> None:
    first = database.start()
    database.ask("SELECT 1")
    assert database.start().wait(20) == 1
    assert "Another PostgreSQL uses" in database.log.read_text()
    assert first.poll() is None
    assert database.ask("SELECT 1") == [(1,)]
