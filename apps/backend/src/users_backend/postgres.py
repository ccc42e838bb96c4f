"""The users on a PostgreSQL server: connecting, schema, store, copies.

Each connection takes SQL with SQLite's `?`, so that both databases share their statements.
Only who has DATABASE_URL lead to PostgreSQL imports this module: its library needs memory.
"""

import asyncio
import logging
import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg.conninfo import make_conninfo

from users_backend import copies, database
from users_backend.database import DiskFull, StoreError, Unknown
from users_backend.settings import Server
from users_backend.store import LOCK_SECONDS, Lane, Statement, Users

# The steps of database.MIGRATIONS for PostgreSQL: as many, with the same tables, columns and rules.
# COLLATE "C" compares bytes, whatever the server's language is.
MIGRATIONS = (
    """
    CREATE TABLE users (
        id bigint PRIMARY KEY CHECK (id BETWEEN 1 AND 9007199254740991),
        name text COLLATE "C" NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
        name_folded text COLLATE "C" NOT NULL
    )
    """,
)

# The advisory lock of schema changes: any number, the same for all backends.
SCHEMA_LOCK = 8_374_665

# A server that does not answer is given up after so long.
CONNECT_SECONDS = 3
STATEMENT_SECONDS = 4

logger = logging.getLogger(__name__)
logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # it tells of errors that it also raises, with users' names

Row = tuple[Any, ...]
Error = psycopg.Error


class Lost(Exception):
    """The connection broke before COMMIT was sent, so nothing was saved; `args[0]` is the library's error."""


class Connection(psycopg.Connection[Row]):
    """A connection that takes SQLite's `?` for a parameter."""

    server: Server

    def execute(self, query: Any, params: Any = None, **options: Any) -> psycopg.Cursor[Row]:
        """Run a statement. Without parameters, it is sent as it is."""
        return super().execute(query.replace("?", "%s") if params else query, params, **options)

    def commit(self) -> None:
        """End a transaction. Raise Unknown when nobody can say whether it was saved."""
        try:
            super().commit()
        except psycopg.Error as error:
            if self.is_lost(error):
                raise Unknown(
                    f"The connection to the database {self.server} broke while the change was being saved, so it is "
                    "not known whether it was saved. Read the user, or send the change again."
                ) from error
            raise

    def is_lost(self, error: Exception) -> bool:
        """Whether the connection is of no more use. After its last message, the library may still take it for open.

        That message can be hidden by a second error: that the pipeline, whose answers are missing, cannot be left.
        """
        last = isinstance(error, psycopg.Error) and error.diag.severity_nonlocalized in ("FATAL", "PANIC")
        return self.closed or last or self.pgconn.pipeline_status != pq.PipelineStatus.OFF


def open_users(server: Server, **seconds: float) -> Connection:
    """Connect to the users in the present schema. Raise StoreError or psycopg.Error."""
    connection = connect(server, **seconds)
    try:
        prepare(connection, server)
    except BaseException:
        connection.close()
        raise
    return connection


def connect(server: Server, *, lock_seconds: float = LOCK_SECONDS, statement_seconds: float = 0) -> Connection:
    """Connect, each statement a transaction of its own until BEGIN. Raise psycopg.Error."""
    settings = {
        "synchronous_commit": "on",  # COMMIT waits for the disk, whatever the server's default is
        "lock_timeout": f"{lock_seconds * 1000:.0f}",
        "statement_timeout": f"{statement_seconds * 1000:.0f}",
    }
    connection = Connection.connect(
        make_conninfo(**server.parameters),
        autocommit=True,
        options=" ".join(f"-c {key}={value}" for key, value in settings.items()),
        client_encoding="utf8",
        application_name="users-backend",
        connect_timeout=CONNECT_SECONDS,
        # A server that vanishes without a word, as one without power does, is noticed after as long.
        tcp_user_timeout=CONNECT_SECONDS * 1000,
        keepalives_idle=CONNECT_SECONDS,
        keepalives_interval=1,
        keepalives_count=CONNECT_SECONDS,
    )
    connection.server = server
    connection.prepare_threshold = 1
    return connection


def prepare(connection: Connection, server: Server) -> None:
    """Check the server, and bring the database to the present schema. Raise StoreError or psycopg.Error."""
    settings = ("server_version_num", "server_encoding", "fsync", "transaction_read_only")
    [[number, encoding, fsync, read_only]] = connection.execute(
        f"SELECT {', '.join(f'current_setting({name!r})' for name in settings)}"
    )
    if int(number) < 150_000:
        raise StoreError(
            f"The server of the database {server} is PostgreSQL {int(number) // 10_000}; "
            "15 or a newer one is needed. Set DATABASE_URL to such a server."
        )
    if encoding != "UTF8":
        raise StoreError(
            f"The database {server} is encoded in {encoding}, which has not every letter. "
            "Make one with `createdb --encoding=UTF8 --template=template0`."
        )
    if fsync != "on":
        raise StoreError(
            f"The server of the database {server} runs with fsync = {fsync}, so that a power cut could take users "
            "with it. Set fsync = on in its postgresql.conf and reload it."
        )
    if read_only == "on":
        raise _read_only(server)
    if _version(connection, server) == len(MIGRATIONS):
        return
    connection.execute("BEGIN")
    for limit in ("lock_timeout", "statement_timeout"):  # made for requests; a large table takes longer
        connection.execute(f"SET LOCAL {limit} = 0")
    # Of several backends that start together one changes the schema, and the others then find it changed.
    connection.execute("SELECT pg_advisory_xact_lock(?)", [SCHEMA_LOCK])
    version = _version(connection, server)
    if version and MIGRATIONS[version:]:
        connection.execute("LOCK TABLE users")
        copies.keep(connection, server, copies.BEFORE_UPGRADE)
    if not version:
        connection.execute("CREATE TABLE users_schema (version integer NOT NULL)")
        connection.execute("INSERT INTO users_schema VALUES (0)")
    for migration in MIGRATIONS[version:]:
        connection.execute(migration)
    connection.execute("UPDATE users_schema SET version = ?", [len(MIGRATIONS)])
    connection.commit()


def _version(connection: Connection, server: Server) -> int:
    """The schema version, 0 for an empty database. Raise StoreError for one that is not ours, or newer."""
    tables = _tables_there(connection)
    if "users" in tables and "users_schema" not in tables:
        raise StoreError(f"The database {server} belongs to another program. Set DATABASE_URL to another one.")
    version = 0
    if "users_schema" in tables:
        [[version]] = connection.execute("SELECT version FROM users_schema")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"The database {server} has schema version {version}; this backend knows "
            f"up to {len(MIGRATIONS)}. Run a newer backend, or set DATABASE_URL to another database."
        )
    return int(version)


def _tables_there(connection: Connection) -> set[str]:
    """The tables of the database, from one snapshot: to_regclass() may see half of what another backend commits."""
    return {
        name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    }


# --- The store -----------------------------------------------------------------------


class PostgresLane(Lane):
    """A thread with one connection, which is opened, and opened again, when needed."""

    def __init__(self, server: Server, on_commit: Callable[[int], None] = lambda writes: None) -> None:
        self._server = server
        self._on_commit = on_commit
        self._connection: Connection | None = None
        super().__init__()

    def _transact(self, group: Sequence[Statement]) -> list[Any]:
        """Run the statements in one transaction; a result or an exception for each."""
        connection = self._connection or self._open()
        writes = group[0].writes
        # By id: two backends that changed the same users in other orders would wait for each other.
        order = sorted(range(len(group)), key=lambda index: _id(group[index])) if writes else range(len(group))
        try:
            # All statements in one message: waiting for the server is what costs.
            with connection.pipeline():
                if writes:
                    connection.execute("BEGIN")
                cursors = {index: connection.execute(group[index].sql, group[index].parameters) for index in order}
            if writes:
                connection.commit()
        except Unknown:
            self._close()
            raise
        except Exception as error:
            if connection.is_lost(error):
                self._close()
                raise Lost(error) from error
            connection.rollback()
            if isinstance(error, (psycopg.IntegrityError, psycopg.DataError, ValueError)):
                # A value that PostgreSQL refuses; the other statements go on.
                return [error] if len(group) == 1 else [self._alone(statement) for statement in group]
            raise
        if writes:
            self._on_commit(len(group))
            return [cursors[index].rowcount for index in range(len(group))]
        return [cursors[index].fetchall() for index in order]

    def _alone(self, statement: Statement) -> Any:
        try:
            return self._transact([statement])[0]
        except Exception as error:  # noqa: BLE001 - others of the group have their answer
            return self._failure(error)

    def _open(self) -> Connection:
        self._connection = open_users(self._server, statement_seconds=STATEMENT_SECONDS)
        logger.info("Database %s is open", self._server)
        return self._connection

    def _may_try_again(self, error: Exception) -> bool:
        return isinstance(error, (Lost, errors.DeadlockDetected))

    def _explain(self, error: Exception) -> StoreError:
        return explain(error, self._server)

    def _close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


class PostgresStore(Users):
    """The users on a PostgreSQL server. Reads have a connection of their own, and wait for no disk.

    Every method raises StoreError when the data cannot be used.
    """

    JSON = """'{"id":' || id || ',"name":' || to_json(name) || '}'"""
    LINES = f"string_agg({JSON}, chr(10) ORDER BY id)"
    CONTAINS = "strpos(name_folded, ?) > 0"

    def __init__(self, server: Server, on_commit: Callable[[int], None] = lambda writes: None) -> None:
        """Start the threads. `on_commit` gets the number of writes in each commit."""
        self._reads = PostgresLane(server)
        self._writes = PostgresLane(server, on_commit)

    @property
    def waiting(self) -> int:  # type: ignore[override]
        """Requests without an answer yet."""
        return self._reads.waiting + self._writes.waiting

    async def find(self, *, limit: int, after: int = 0, name: str = "") -> list[str]:
        """As for SQLite."""
        # PostgreSQL has no place for this character, and no name has it.
        return [] if "\0" in name else await super().find(limit=limit, after=after, name=name)

    async def check(self) -> None:
        """Raise StoreError unless both connections can be used; so the first write finds its own already made."""
        await asyncio.gather(super().check(), self._writes._read("SELECT 1"))

    async def close(self) -> None:
        """Answer what waits, then disconnect."""
        await self._writes.close()
        await self._reads.close()

    async def _write(self, sql: str, *parameters: Any) -> int:
        return await self._writes._write(sql, *parameters)

    async def _read(self, sql: str, *parameters: Any) -> list[Any]:
        return await self._reads._read(sql, *parameters)


def _id(statement: Statement) -> int:
    """The id of the user that a write changes: its only number."""
    return next((value for value in statement.parameters if isinstance(value, int)), 0)


# --- Copies and files ----------------------------------------------------------------


def write_all(connection: Connection, path: Path) -> None:
    """Write all that a transaction sees into a SQLite file of the same schema version."""
    [[version]] = connection.execute("SELECT version FROM users_schema")
    with closing(sqlite3.connect(path, isolation_level=None)) as target:
        target.execute("PRAGMA synchronous = FULL")
        target.execute("BEGIN")
        for migration in database.MIGRATIONS[:version]:
            target.execute(migration)
        target.execute(f"PRAGMA user_version = {version}")
        for table, columns in _tables(target):
            with connection.cursor("rows") as rows:  # on the server: they may not all find room here
                rows.itersize = 10_000
                rows.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1")
                target.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows)
        target.execute("COMMIT")


def read_all(source: sqlite3.Connection, connection: Connection) -> None:
    """Put the rows of a SQLite file of the present schema in the place of all there are, in an open transaction."""
    ours = _tables_there(connection)
    for table, columns in _tables(source):
        if table not in ours:  # made by hand in the file
            continue
        connection.execute(f"DELETE FROM {table}")
        with connection.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as target:
            for row in source.execute(f"SELECT {', '.join(columns)} FROM {table}"):
                target.write_row(row)


def _tables(connection: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    """The tables of a SQLite file, each with its columns."""
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    columns = "SELECT name FROM pragma_table_info(?)"
    return [(name, [column for (column,) in connection.execute(columns, [name])]) for name in names]


def ask(connection: Connection, sql: str) -> list[Row]:
    """The rows of one statement, in a transaction that can change nothing. Raise psycopg.Error."""
    connection.execute("BEGIN READ ONLY")
    try:
        cursor = connection.execute(sql, prepare=True)  # a prepared one can be no two statements
        return cursor.fetchall() if cursor.description else []
    finally:
        connection.rollback()


# --- Errors --------------------------------------------------------------------------

# What the client library says of a connection that it did not get: it has no codes for that.
WRONG_PASSWORD = re.compile("password authentication failed|no password supplied|pg_hba.conf")
NO_DATABASE = re.compile('database ".*" does not exist')
TOO_MANY = re.compile("too many|remaining connection slots")


def explain(error: Exception, server: Server) -> StoreError:
    """The StoreError, new for each caller, that stands for this error."""
    match error:
        case StoreError():
            return type(error)(str(error))
        case errors.DiskFull():
            return DiskFull(
                f"The disk of the server of the database {server} is full. Nothing was saved. "
                "Free some space there and try again."
            )
        case errors.ReadOnlySqlTransaction():
            return _read_only(server)
        case errors.QueryCanceled():
            return StoreError(
                f"The server of the database {server} did not finish within {STATEMENT_SECONDS} seconds. "
                "Nothing was saved. Try again; if that does not help, see what the server is busy with."
            )
        case errors.LockNotAvailable() | errors.DeadlockDetected():
            return StoreError(
                f"Another program holds users in the database {server}. Nothing was saved. "
                "Let it end its transaction and try again."
            )
        case errors.InsufficientPrivilege():
            return StoreError(
                f"The user of the database {server} lacks a permission ({_reason(error)}). Nothing was saved. "
                "Make this user the owner: ALTER DATABASE … OWNER TO …"
            )
    reason = _reason(error)
    if WRONG_PASSWORD.search(reason):
        return StoreError(
            f"The server of the database {server} does not let this user in ({reason}). "
            "Correct the user in DATABASE_URL, and the password there or in PGPASSWORD."
        )
    if NO_DATABASE.search(reason):
        return StoreError(
            f"The database {server} does not exist on its server. Create it with createdb, "
            "or correct the name at the end of DATABASE_URL."
        )
    if TOO_MANY.search(reason):
        return StoreError(
            f"The server of the database {server} has too many connections. Nothing was saved. "
            "Close some, or raise max_connections in its postgresql.conf."
        )
    if isinstance(error, Lost) or (isinstance(error, psycopg.OperationalError) and not error.sqlstate):
        return StoreError(
            f"The server of the database {server} cannot be reached ({reason}). Nothing was saved. "
            "Start it, or correct host and port in DATABASE_URL."
        )
    return StoreError(
        f"The database {server} cannot be used ({reason}). Nothing was saved. "
        "Look into the log of the PostgreSQL server, then try again."
    )


def _read_only(server: Server) -> StoreError:
    return StoreError(
        f"The database {server} is read-only. Nothing was saved. "
        "Set DATABASE_URL to the primary server, or default_transaction_read_only to off."
    )


def _reason(error: BaseException) -> str:
    """What the server or the client library says, in one line without its introduction."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^.* failed: |^FATAL: +", "", re.sub(r"^.*FATAL: +", "", first))
