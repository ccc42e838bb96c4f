"""All users of a SQLite file to PostgreSQL, and the proof that none is missing."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from users_backend import copies, postgres
from users_backend.database import StoreError
from users_backend.settings import Server

ALL = "SELECT * FROM users ORDER BY id"


@dataclass(frozen=True)
class Sum:
    """How many users there are, and the SHA-256 of all their columns by id."""

    users: int
    digest: str

    def __str__(self) -> str:
        return f"{self.users:,} user{'' if self.users == 1 else 's'}  SHA-256 {self.digest}"


@contextmanager
def moved(file: Path, server: Server) -> Iterator[tuple[Sum, Sum]]:
    """Copy all users, and give what both sides hold. Raise StoreError; then the server is as it was.

    Until the end of the context nobody else can write into the file: the backend on it answers writes with
    503, and so acknowledges none that the server would lack. The file itself is only read.
    """
    with (
        copies.explained(file),
        closing(copies.connect(file)) as source,
        copies.explained(server),
        closing(postgres.open_users(server, lock_seconds=copies.LOCK_SECONDS)) as target,
    ):
        copies.require_present_schema(source, file)
        copies.begin(source)
        before = _sum(source.execute(ALL))
        copies.begin(target)
        there = _sum(_rows(target))
        if there.users and there != before:
            raise StoreError(
                f"The database {server} has {there.users:,} users already, and others than the file {file}. Nothing "
                "was changed. Create an empty database; or take these away, with: TRUNCATE users"
            )
        if not there.users:
            postgres.read_all(source, target)
        target.commit()
        target.execute("BEGIN")
        after = _sum(_rows(target))
        target.rollback()
        if after != before:
            raise StoreError(f"The database {server} holds {after}, and the file {file} {before}. Use the file.")
        yield before, after


def _rows(connection: postgres.Connection) -> Iterator[Any]:
    with connection.cursor("sum") as rows:
        rows.itersize = 10_000
        yield from rows.execute(ALL)


def _sum(rows: Iterable[Any]) -> Sum:
    users, digest = 0, hashlib.sha256()
    for users, row in enumerate(rows, start=1):  # noqa: B007 - the last number counts
        digest.update(repr(tuple(row)).encode())
    return Sum(users, digest.hexdigest())
