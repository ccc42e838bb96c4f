"""Users to CSV or JSON, and from there into the database, while the server runs."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from users_backend import copies
from users_backend.database import StoreError
from users_backend.settings import Server
from users_backend.users import RepeatedKey, User, fold, without_repeated

# Users that are saved in one transaction. The server's own writes wait while it lasts.
CHUNK = 1000

Entry = tuple[str, dict[str, Any]]  # where it stands, such as "line 7", and what stands there


@dataclass
class Report:
    """What became of the entries."""

    saved: int = 0
    there: int = 0  # with the same name, before
    refused: int = 0
    committed: int = 0  # of those saved, when an error ends it


def export(database: Path | Server, form: str, output: TextIO) -> None:
    """Write all users of this moment, by id; `form` is one of FORMATS. Raise StoreError."""
    write, _ = FORMATS[form]
    copies.require(database)
    # However slow the output is, no writer waits for it, and in a workplace of its own no copy.
    with copies.workplace(database, ".export") as work:
        copies.snapshot(database, work / "export.db")
        with closing(copies.connect(work / "export.db")) as connection:
            users = connection.execute("SELECT id, name FROM users ORDER BY id")
            try:
                write(users, output)
                output.flush()
            except OSError as error:
                # Else what is left in it would fail once more when it is closed.
                os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
                raise StoreError(
                    f"The output could not be written ({error.strerror}), so that it is not whole. "
                    "Free some space there, or write it elsewhere, and try again."
                ) from error


def load(
    database: Path | Server, form: str, source: TextIO, refuse: Callable[[str], None], *, all_or_nothing: bool = False
) -> Report:
    """Save the users that `source` holds; `refuse` is told where each one stands that is not, and why.

    A user that is there already is refused, unless the name is the same. With `all_or_nothing`,
    one refused entry is enough for none to be saved. Raise StoreError.
    """
    copies.require(database)
    _, read = FORMATS[form]
    report = Report()
    entries = read(source)
    with _counted(report), copies.explained(database), closing(copies.writer(database)) as connection:
        for chunk in [_all(entries)] if all_or_nothing else _chunks(entries):
            copies.begin(connection)
            for place, values in chunk:
                try:
                    added = _save(connection, values)
                except ValueError as reason:
                    refuse(f"{place}: {reason}")
                    report.refused += 1
                else:
                    report.saved += added
                    report.there += not added
            if all_or_nothing and report.refused:
                connection.rollback()
                report.saved = 0
            else:
                connection.commit()
                report.committed = report.saved
    return report


@contextmanager
def _counted(report: Report) -> Iterator[None]:
    """Say of an error what was saved before it."""
    try:
        yield
    except StoreError as error:
        if not report.committed:
            raise
        saved = f"{report.committed:,} users were saved, and no others."
        raise StoreError(str(error).replace("Nothing was saved.", saved)) from error


def _chunks(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """So many entries at a time; where the file goes wrong, those before that first."""
    chunk: list[Entry] = []
    try:
        for entry in entries:
            chunk.append(entry)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    except StoreError:
        yield chunk
        raise
    yield chunk


def _all(entries: Iterator[Entry]) -> list[Entry]:
    try:
        return list(entries)
    except StoreError as error:
        raise StoreError(f"{error} No user was saved: it is all or nothing.") from error


def _save(connection: "copies.Connection", values: dict[str, Any]) -> bool:
    """Add a user. False: it is there already. Raise ValueError."""
    try:
        user = User.model_validate(values)
    except ValidationError as error:
        raise ValueError(
            "; ".join(f"{'.'.join(map(str, e['loc'])) or 'user'}: {e['msg']}" for e in error.errors())
        ) from None
    sql = "INSERT INTO users (id, name, name_folded) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    if connection.execute(sql, (user.id, user.name, fold(user.name))).rowcount:
        return True
    [[name]] = connection.execute("SELECT name FROM users WHERE id = ?", (user.id,))
    if name != user.name:
        raise ValueError(f"id {user.id} exists already, with the name {name}")
    return False


def _write_csv(users: Iterable[tuple[int, str]], output: TextIO) -> None:
    """A heading, and a line for each user, as in RFC 4180 but with line feeds."""
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(["id", "name"])
    writer.writerows(users)


def _used(cells: list[str]) -> list[str]:
    """The cells of a line, without empty ones at its end: Excel writes as many as were ever used in the sheet."""
    return cells[: max((number for number, cell in enumerate(cells, start=1) if cell.strip()), default=0)]


def _utf8(text: str) -> str:
    """A text that was read with the error handler surrogateescape, checked. Raise UnicodeError."""
    return text.encode(errors="surrogateescape").decode()


def _read_csv(source: Iterable[str]) -> Iterator[Entry]:
    line = 0  # up to which it was good
    try:
        lines = map(_utf8, source)  # one by one, so that a letter that is wrong does not take others along
        heading = next(lines, "")
        # Excel writes semicolons wherever the comma stands in numbers, as in Brazil.
        delimiter = ";" if ";" in heading else ","
        reader = csv.reader(chain([heading], lines), delimiter=delimiter, strict=True)
        names = _used(next(reader, []))
        if sorted(names) != ["id", "name"]:
            raise StoreError("The first line is not id,name, so no user was saved. Write it above the users.")
        line = reader.line_num
        for cells in map(_used, reader):
            line = reader.line_num
            if not cells:
                continue
            values: dict[str, Any] = dict(zip_longest(names, cells[:2], fillvalue=""))
            if len(cells) > 2:
                values["a third column"] = cells[2]
            number = values["id"]
            # Plain digits alone: int() would also take " 1" and "1_0".
            whole = number.isascii() and number.isdigit() and len(number) < 20
            yield f"line {line}", values | {"id": int(number) if whole else number}
    except (csv.Error, UnicodeError) as error:
        raise StoreError(
            f"From line {line + 1} on, this is no CSV in UTF-8 ({error}), and was not saved. "
            "Excel writes one where its file type is CSV UTF-8."
        ) from error


def _write_json(users: Iterable[tuple[int, str]], output: TextIO) -> None:
    """One array, with a line for each user."""
    between = "[\n"
    for user_id, name in users:
        output.write(between + json.dumps({"id": user_id, "name": name}, ensure_ascii=False))
        between = ",\n"
    output.write("[]\n" if between == "[\n" else "\n]\n")


def _read_json(source: TextIO) -> Iterator[Entry]:
    try:
        users = json.loads(_utf8(source.read()), object_pairs_hook=without_repeated)
    except RepeatedKey as error:
        raise StoreError(f'A user has the key "{error}" twice in this JSON, so no user was saved.') from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"This is no JSON in UTF-8 ({error}), so no user was saved.") from error
    if not isinstance(users, list):
        raise StoreError('This JSON is no array, such as [{"id": 1, "name": "Ana"}], so no user was saved.')
    return ((f"entry {number}", user) for number, user in enumerate(users, start=1))


FORMATS = {"csv": (_write_csv, _read_csv), "json": (_write_json, _read_json)}
