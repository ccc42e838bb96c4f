"""`python -m users_backend.admin`: copies of the database, and its users as a file, while the server runs."""

import argparse
import logging
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from users_backend import copies, exchange, settings
from users_backend.database import StoreError
from users_backend.settings import Server


def main() -> int:
    """Do what the arguments say. The exit status: 1 when that failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m users_backend.admin",
        description="Works on the database that DATABASE_URL names; the server may run meanwhile.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("backup", help="make a copy, and check it")
    actions.add_parser("list", help="show the copies, the newest first")
    restore = actions.add_parser("restore", help="put a copy in the place of the database; the present one is kept")
    restore.add_argument("copy", metavar="COPY", help="a name that `list` shows, or: newest")
    actions.add_parser("db", help="answer questions in SQL; nothing can be changed")
    for name, text in (
        ("export", "write all users to the standard output"),
        ("import", "save those of the standard input"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("format", choices=exchange.FORMATS)
    action.add_argument("--all-or-nothing", action="store_true", help="save none when one cannot be saved")
    move = actions.add_parser("migrate", help="copy the users of a SQLite file into an empty PostgreSQL database")
    move.add_argument("target", metavar="TARGET_URL", help="as DATABASE_URL, postgresql://user@host:port/database")
    arguments = parser.parse_args()
    try:
        database = settings.load(os.environ).database
        if isinstance(database, Path):
            database = database.absolute()
        if arguments.action == "backup":
            print(backup(database))
        elif arguments.action == "list":
            print(listing(database))
        elif arguments.action == "restore":
            print(put_back(database, arguments.copy))
        elif arguments.action == "db":
            shell(database)
        elif arguments.action == "export":
            with open(1, "w", encoding="utf-8", newline="", closefd=False) as output:
                exchange.export(database, arguments.format, output)
        elif arguments.action == "migrate":
            move_to_postgres(database, arguments.target)
        else:
            return take_in(database, arguments.format, arguments.all_or_nothing)
    except (settings.SettingsError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"It failed: {error}. Check that place and its permissions, then try again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nInterrupted. What an import has saved by now stays; the same import again does the rest.",
            file=sys.stderr,
        )
        return 130
    return 0


def backup(database: Path | Server) -> str:
    """Make a copy; what to tell of it."""
    copy = copies.make(database)
    return f"{_users(copy.users)} copied to {copy.path} ({_size(copy.path)})."


def listing(database: Path | Server) -> str:
    """A line for each copy, and what can be done with them."""
    found = copies.find(database)
    if not found:
        return f"There are no copies in {copies.folder(database)} yet. `make backup` makes one."
    lines = [
        f"{copy.made:%Y-%m-%d %H:%M:%S} UTC  {_users(copy.users):>14}  {_size(copy.path):>9}  {copy.path.name}"
        for copy in found
    ]
    return "\n".join(
        [*lines, "", "To put one back: make restore COPY=newest, or its name. The present users are kept."]
    )


def put_back(database: Path | Server, name: str) -> str:
    """Restore the newest copy, or that of this name; what to tell of it."""
    found = {copy.path.name: copy for copy in copies.find(database)}
    # The newest of the present users: what a restore kept is not meant. One of a clock that was ahead comes last.
    made = [copy for copy in found.values() if copy.why != copies.BEFORE_RESTORE]
    made.sort(key=lambda copy: copy.made > datetime.now(UTC))
    copy = next(iter(made), None) if name == "newest" else found.get(name)
    if copy is None:
        raise StoreError(f"There is no copy {name} in {copies.folder(database)}. `make restore` lists those there are.")
    kept = copies.restore(database, copy.path)
    text = f"{_users(copy.users)} of {copy.made:%Y-%m-%d %H:%M:%S} UTC put back."
    if not kept:
        return text
    if kept.name.endswith(".gz"):
        return f"{text} To undo that: make restore COPY={kept.name}"
    return f"{text} The damaged file is {kept}; what can be read of it: sqlite3 {kept.name} .recover"


def shell(database: Path | Server) -> None:
    """Read SQL and print the rows, separated by bars, until the input ends. The file is open for reading only."""
    copies.require(database)
    with copies.explained(database), ExitStack() as stack:
        failure: type[Exception]
        if isinstance(database, Server):
            from users_backend import postgres

            server = stack.enter_context(closing(postgres.connect(database)))
            [[version]] = postgres.ask(server, "SHOW server_version")
            title, failure = f"PostgreSQL {version}", postgres.Error
            ask: Callable[[str], list[Any]] = partial(postgres.ask, server)
        else:
            title, failure = f"SQLite {sqlite3.sqlite_version}", sqlite3.Error
            ask = partial(_ask_file, database)
        print(f"{title}, for reading only. Try: SELECT * FROM users LIMIT 5;   Ctrl-D ends it.")
        prompt = title.split()[0].lower()
        statement = ""
        with suppress(EOFError, KeyboardInterrupt):
            while True:
                statement += input("...> ".rjust(len(prompt) + 2) if statement else f"{prompt}> ") + "\n"
                try:
                    if not sqlite3.complete_statement(statement):
                        continue
                    rows = ask(statement)
                except (failure, ValueError) as error:  # ValueError: a letter that is not UTF-8, or none
                    rows = [(f"Error: {error}",)]
                for row in rows:
                    print(*row, sep="|")
                statement = ""


def _ask_file(database: Path, sql: str) -> list[Any]:
    """The rows that answer a statement. Raise sqlite3.Error. The file is open no longer than that: writers would wait."""
    with closing(copies.connect(database, "ro")) as file:
        file.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # ATTACH could open the same file for writing
        file.set_progress_handler(lambda: 0, 100_000)  # in which Python meets Ctrl-C
        return file.execute(sql).fetchall()


def move_to_postgres(database: Path | Server, url: str) -> None:
    """Copy all users, prove it, and let nobody write into the file until the standard input has a line, or ends."""
    target = settings.load({**os.environ, "DATABASE_URL": url}).database
    if isinstance(database, Server) or not isinstance(target, Server):
        raise StoreError("migrate goes from a SQLite file, which DATABASE_URL names, to a PostgreSQL server.")
    copies.require(database)
    from users_backend import migrate

    with migrate.moved(database, target) as (before, after):
        print(f"{before}  {database}\n{after}  {target}")
        print(
            "All users are on the server. The file is as it was; nobody can write into it while this waits, and reading "
            "goes on.\nNow write this into settings.local.yml:\n\n"
            f"services:\n  backend:\n    environment:\n      DATABASE_URL: {target}\n\n"
            "and provision in another terminal; the backend's restart ends this, and no user is lost.\nTo give up: press Enter. Writes then go on in the file, and the server "
            "does not get them.",
            flush=True,
        )
        with suppress(KeyboardInterrupt):
            sys.stdin.readline()
    print(f"Writes go on in {database}. Empty {target} before you copy again.")


def take_in(database: Path | Server, form: str, all_or_nothing: bool) -> int:
    """Save the users of the standard input and say what became of them; the exit status, 1 where one was refused."""

    def refuse(reason: str) -> None:
        print(reason, file=sys.stderr)

    # Excel begins a file with a byte order mark.
    with open(0, encoding="utf-8-sig", errors="surrogateescape", newline="", closefd=False) as source:
        report = exchange.load(database, form, source, refuse, all_or_nothing=all_or_nothing)
    print(f"{_users(report.saved)} saved, {report.there:,} there already, {report.refused:,} refused.")
    return 1 if report.refused else 0


def _users(count: int) -> str:
    return f"{count:,} user{'' if count == 1 else 's'}"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1000:,.0f} kB"


if __name__ == "__main__":
    logging.disable()
    sys.exit(main())
