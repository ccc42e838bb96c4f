"""A bare Flask page that renders the rows of our list of users from memory, and does nothing else."""

from flask import Flask

ROWS = [(number, f"Ana Maria {number}") for number in range(1, 101)]
PAGE = """<!doctype html>
<title>Users</title>
<table>
{% for id, name in rows %}
<tr><td>{{ id }}</td><td><div class="user"><bdi>{{ name }}</bdi> <span>
<a href="/users/{{ id }}/edit">Edit<span class="hidden"> {{ id }}</span></a>
<a href="/users/{{ id }}/delete">Delete<span class="hidden"> {{ id }}</span></a>
</span></div></td></tr>
{% endfor %}
</table>
"""

app = Flask(__name__)
template = app.jinja_env.from_string(PAGE)  # compiled once, as a file of templates/ is


@app.get("/")
def list_users() -> str:
    return template.render(rows=ROWS)
