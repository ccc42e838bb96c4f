"""The web page of the users product: a form and a list in front of the users API."""

from flask import Flask

from . import hooks, pages
from .backend import Backend
from .settings import Settings


def create_app(settings: Settings) -> Flask:
    """Return the WSGI app that talks to the backend named in `settings`."""
    app = Flask(__name__)
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    # Many times the longest good form; 413 above it.
    app.config["MAX_CONTENT_LENGTH"] = 16 * 1024
    app.extensions["backend"] = Backend(settings.backend_url, settings.backend_timeout)
    hooks.install(app)
    app.register_blueprint(pages.blueprint)
    return app
