"""Users to a file and back, through the program that people call, beside the running server."""

import contextlib
import csv
import io
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from users_backend import copies, exchange

PIPE = subprocess.PIPE
NAMES = {1: "Ana", 2: 'Zoé "Z", the\u00a0first', 3: "=1+1", 2**53 - 1: "😀" * 200}


@pytest.fixture
def admin(server, http):
    """A function that runs the program on the database of the shared server, which starts without users."""

    def run(*arguments, text=b"", output=PIPE):
        text = text.encode() if isinstance(text, str) else text
        command, options = call(server, *arguments)
        return subprocess.run(command, **options, input=text, stdout=output, timeout=60, check=False)

    return run


def call(server, *arguments):
    """How the program is called: the command, and the options for a process that runs it."""
    environment = {"PYTHONPATH": ":".join(sys.path), **server.settings, "LC_ALL": "C"}
    return [sys.executable, "-W", "error", "-m", "users_backend.admin", *arguments], {
        "env": environment,
        "stderr": PIPE,
    }


@contextlib.contextmanager
def running(server, *arguments):
    """The program at a person's hands."""
    command, options = call(server, *arguments)
    with subprocess.Popen(command, **options, stdin=PIPE, stdout=PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def type_in(process, text, answer):
    """Type something into the program, and wait until it answers."""
    process.stdin.write(text.encode() + b"\n")
    while (line := process.stdout.readline()) and answer not in line.decode():
        pass
    assert line, process.stderr.read()


def users(http):
    return {user["id"]: user["name"] for user in http.get("/users?limit=1000").json()}


@pytest.mark.parametrize("form", ["csv", "json"])
def test_what_is_exported_is_read_by_others_and_imported_again(admin, http, form):
    for user_id, name in NAMES.items():
        assert http.post("/users", json={"id": user_id, "name": name}).status_code == 201
    exported = admin("export", form).stdout
    text = exported.decode()
    read = csv.DictReader(io.StringIO(text)) if form == "csv" else json.loads(text)
    assert {int(user["id"]): user["name"] for user in read} == NAMES

    for user_id in NAMES:
        http.delete(f"/users/{user_id}")
    result = admin("import", form, text=exported)
    assert result.stdout == b"4 users saved, 0 there already, 0 refused.\n"
    assert users(http) == NAMES
    assert http.get("/users?name=zoe").json()[0]["id"] == 2  # found as those are that the server saved
    again = admin("import", form, text=exported)
    assert (again.returncode, again.stdout) == (0, b"0 users saved, 4 there already, 0 refused.\n")


@pytest.mark.parametrize(
    ("server", "words", "attempts"),
    [
        (
            "sqlite",
            "SQLite",
            {
                "DELETE FROM users;": "attempt to write a readonly database",
                "ATTACH 'x.db' AS x;": "too many attached databases - max 0",
                "SELEC;": 'near "SELEC": syntax error',
            },
        ),
        (
            "postgres",
            "PostgreSQL",
            {
                "DELETE FROM users;": "cannot execute DELETE in a read-only transaction",
                "SELECT 1; DELETE FROM users;": "cannot insert multiple commands into a prepared statement",
                "COMMIT;": "",
                "TRUNCATE users;": "cannot execute TRUNCATE TABLE in a read-only transaction",
                "SET TRANSACTION READ WRITE;": "",
                "DROP TABLE users;": "cannot execute DROP TABLE in a read-only transaction",
                "DO $$ BEGIN COMMIT; DELETE FROM users; END $$;": "invalid transaction termination",
                "SELEC;": 'syntax error at or near "SELEC"',
            },
        ),
    ],
    indirect=["server"],
    ids=["sqlite", "postgres"],
)
def test_the_shell_answers_and_changes_nothing(admin, http, words, attempts):
    for user_id, name in NAMES.items():
        http.post("/users", json={"id": user_id, "name": name})
    asked = ["SELECT id, name", "FROM users WHERE id < 3 ORDER BY id;", *attempts, "SELECT 'end';", ""]
    result = admin("db", text="\n".join(asked))
    title, *lines = re.sub(r"(sqlite|postgresql| +\.\.\.)> ", "", result.stdout.decode()).splitlines()
    assert title.startswith(words)
    errors = [line for line in lines[2:-1] if line.startswith("Error: ")]
    assert [*lines[:2], lines[-1]] == ["1|Ana", f"2|{NAMES[2]}", "end"]
    assert [error.removeprefix("Error: ") for error in errors] == [words for words in attempts.values() if words]
    assert users(http) == NAMES


def test_a_shell_that_somebody_leaves_open_holds_no_writer_up(start_server):
    server = start_server()
    with running(server, "db") as shell:
        type_in(shell, "BEGIN;\nSELECT 'begun', count(*) FROM users;", "begun|0")
        type_in(shell, "PRAGMA locking_mode = EXCLUSIVE;\nSELECT 'mine', count(*) FROM users;", "mine|0")
        assert server.http.post("/users", json={"id": 1, "name": "Ana"}).status_code == 201


def test_ctrl_c_ends_a_question_that_takes_too_long(start_server):
    with running(start_server(), "db") as shell:
        type_in(shell, "SELECT 'on';", "on")
        shell.stdin.write(b"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;\n")
        time.sleep(0.5)
        shell.send_signal(signal.SIGINT)
        type_in(shell, "", "Error: interrupted")
        type_in(shell, "SELECT 'and on';", "and on")


def test_letters_that_are_no_utf_8_end_no_shell(admin):
    output = admin("db", text=b"SELECT 'Jos\xe9';\nSELECT '\0';\nSELECT 'end';\n").stdout.decode()
    assert output.count("Error: ") == 2
    assert "end\n" in output


def test_an_export_whose_reader_takes_its_time_holds_no_copy_up(start_server):
    server = start_server()
    lines = "".join(f"{number},{'A' * 100}\n" for number in range(1, 3000))  # more than a pipe holds
    exchange.load(server.database, "csv", io.StringIO(f"id,name\n{lines}"), pytest.fail)
    with running(server, "export", "csv") as export:
        assert export.stdout.readline() == b"id,name\n"
        command, options = call(server, "backup")
        assert b"2,999 users copied" in subprocess.run(command, **options, stdout=PIPE, timeout=60, check=True).stdout
        assert export.poll() is None


def test_an_import_that_is_interrupted_says_what_to_do(start_server):
    server = start_server()
    with running(server, "import", "csv") as program:
        program.stdin.write("".join(["id,name\n", *(f"{number},Ana\n" for number in range(1, 2500))]).encode())
        while len(users(server.http)) < 1000:
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        assert program.wait(20) == 130
        assert program.stderr.read().decode().strip() == (
            "Interrupted. What an import has saved by now stays; the same import again does the rest."
        )


@pytest.mark.parametrize(("form", "empty"), [("csv", b"id,name\n"), ("json", b"[]\n")])
def test_no_users_are_a_file_too(admin, form, empty):
    assert admin("export", form).stdout == empty
    assert admin("import", form, text=empty).stdout == b"0 users saved, 0 there already, 0 refused.\n"


def test_each_refused_line_is_reported_and_the_others_are_saved(admin, http):
    http.post("/users", json={"id": 1, "name": "Ana"})
    text = (
        'name,id\nBia,1\nEva,2\n,3\nIvo,1.0\nIda,-1\nLia\nUma,7,8\n"Two\nlines",8\n Leo ,9\nAna,1\n'
        + f"Zoé,{'9' * 5_000}\n"
    )
    result = admin("import", "csv", text=text)
    assert result.returncode == 1
    assert result.stdout == b"2 users saved, 1 there already, 8 refused.\n"
    lines = result.stderr.decode().splitlines()
    assert lines[0] == "line 2: id 1 exists already, with the name Ana"
    assert [line.split(":")[0] for line in lines] == [f"line {number}" for number in (2, 4, 5, 6, 7, 8, 10, 13)]
    assert users(http) == {1: "Ana", 2: "Eva", 9: "Leo"}


def test_on_request_it_is_all_or_nothing(admin, http):
    bad = '[{"id": 1, "name": "Ana"}, {"id": 1, "name": "Bia"}, {"id": true, "name": "Eva"}]'
    result = admin("import", "json", "--all-or-nothing", text=bad)
    assert result.returncode == 1
    assert result.stdout == b"0 users saved, 0 there already, 2 refused.\n"
    assert result.stderr.startswith(b"entry 2: id 1 exists already, with the name Ana\nentry 3: id: ")
    assert users(http) == {}
    good = json.dumps([{"id": n, "name": "Ana"} for n in range(1, 2502)])
    assert admin("import", "json", "--all-or-nothing", text=good).stdout.startswith(b"2,501 users saved")
    assert len(users(http)) == 1000  # the first page
    assert admin("export", "csv").stdout.count(b"\n") == 2502
    for user_id in range(1001, 2502):
        http.delete(f"/users/{user_id}")


@pytest.mark.parametrize("broken", [b'"9" x,Ana\n', b"9,Jos\xe9\n"])
def test_what_stands_before_a_broken_line_is_saved_or_with_all_or_nothing_is_not(admin, http, broken):
    text = b"id,name\n" + b"".join(b"%d,Ana\n" % n for n in range(1, 9)) + broken + b"10,Ana\n"
    result = admin("import", "csv", "--all-or-nothing", text=text)
    assert b"and was not saved. Excel" in result.stderr and b"No user was saved: it is all or nothing." in result.stderr
    assert users(http) == {}
    result = admin("import", "csv", text=text)
    assert result.returncode == 1
    [line] = re.findall(rb"From line (\d+) on, this is no CSV", result.stderr)
    assert [*users(http)] == [*range(1, int(line) - 1)]


def test_the_line_that_is_no_utf_8_is_named_and_those_before_it_are_saved(admin, http):
    good = "".join(f"{number},Ana\n" for number in range(1, 301))
    result = admin("import", "csv", text=f"id,name\n{good}".encode() + b"301,Jos\xe9\n302,Eva\n")
    assert result.stderr.startswith(b"From line 302 on, this is no CSV in UTF-8 ('utf-8' codec can't decode byte 0xe9")
    assert users(http) == dict.fromkeys(range(1, 301), "Ana")


def test_an_import_that_another_program_ends_says_how_many_users_were_saved(start_server, monkeypatch):
    server = start_server()
    monkeypatch.setattr(exchange, "CHUNK", 2)
    monkeypatch.setattr(copies, "LOCK_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(server.database)) as other:

        def lines():
            yield "id,name\n"
            for user_id in range(1, 5):
                if user_id == 4:  # the second chunk is read, and not yet written
                    other.execute("BEGIN IMMEDIATE")
                yield f"{user_id},Ana\n"

        with pytest.raises(copies.StoreError, match=r"2 users were saved, and no others\. Close that program"):
            exchange.load(server.database, "csv", lines(), pytest.fail)
    assert users(server.http) == {1: "Ana", 2: "Ana"}


def test_a_file_of_excel_with_a_byte_order_mark_and_windows_line_ends(admin, http):
    assert admin("import", "csv", text=b"\xef\xbb\xbfid,name\r\n1,Jos\xc3\xa9\r\n").returncode == 0
    assert users(http) == {1: "José"}


def test_a_file_of_excel_in_brazil_where_semicolons_separate(admin, http):
    assert admin("import", "csv", text='\ufeffid;name\r\n1;Souza, Ana\r\n2;"Eva; Leo"\r\n').returncode == 0
    assert users(http) == {1: "Souza, Ana", 2: "Eva; Leo"}


def test_the_empty_cells_of_a_sheet_that_excel_writes_are_nothing(admin, http):
    result = admin("import", "csv", text="\ufeffid;name;;\r\n1;Ana;;\r\n;;;\r\n2;Eva;x;\r\n;Leo;;\r\n;;;\r\n")
    assert result.stdout == b"1 user saved, 0 there already, 2 refused.\n"
    told = result.stderr.decode().splitlines()
    assert told[0].startswith("line 4: a third column: ") and told[1].startswith("line 5: id: ")
    assert users(http) == {1: "Ana"}


def test_a_full_disk_where_the_output_goes_is_not_taken_for_the_databases(admin, http):
    http.post("/users", json={"id": 1, "name": "Ana"})
    with open("/dev/full", "wb") as full:
        result = admin("export", "csv", output=full)
    assert result.returncode == 1
    assert result.stderr == (
        b"The output could not be written (No space left on device), so that it is not whole. "
        b"Free some space there, or write it elsewhere, and try again.\n"
    )


@pytest.mark.parametrize(
    ("form", "text", "words"),
    [
        ("csv", "", "The first line is not id,name"),
        ("csv", "1,Ana\n", "The first line is not id,name"),
        ("csv", "id\tname\n1\tAna\n", "The first line is not id,name"),
        ("csv", b"id,name\n1,Jos\xe9\n", "this is no CSV in UTF-8"),
        ("csv", 'id,name\n1,"Ana\n', "From line 2 on, this is no CSV in UTF-8"),
        ("json", "", "is no JSON"),
        ("json", "id,name\n1,Ana\n", "is no JSON"),
        ("json", "[" * 100_000, "is no JSON"),
        ("json", '{"id": 1, "name": "Ana"}', "is no array"),
        ("json", '[{"id": 1, "id": 2, "name": "Ana"}]', 'has the key "id" twice'),
        ("json", b"\xff", "is no JSON in UTF-8"),
    ],
)
def test_what_is_no_list_of_users_is_refused_in_one_line(admin, http, form, text, words):
    result = admin("import", form, text=text)
    assert result.returncode == 1
    assert words in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1
    assert users(http) == {}


@pytest.mark.parametrize(
    "entry", ["1", "null", '{"id": 1}', '{"id": 1, "name": "A", "x": 1}', '{"id": "1", "name": "A"}']
)
def test_an_entry_that_is_no_user_is_refused(admin, entry):
    result = admin("import", "json", text=f"[{entry}]")
    assert result.stdout == b"0 users saved, 0 there already, 1 refused.\n"
    assert result.stderr.startswith(b"entry 1: ")
