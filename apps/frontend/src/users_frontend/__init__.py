"""The web pages of the users product: a form and a list in front of the users API."""

from flask import Flask

from . import hooks, pages
from .backend import Backend
from .language import Sentence, bdi, of_backend
from .metrics import Metrics
from .settings import Settings


def create_app(settings: Settings) -> Flask:
    """Return the WSGI app that talks to the backend named in `settings`."""
    app = Flask(__name__)
    app.config.update(
        ALLOWED_HOSTS=settings.allowed_hosts,
        MAX_CONTENT_LENGTH=16 * 1024,  # many times the longest good form; 413 above it
        # It signs the cookie that carries "User 1, Ana, was created" over the redirect.
        SECRET_KEY=settings.secret_key,
        SESSION_COOKIE_NAME="users_session",
        SESSION_COOKIE_SAMESITE="Lax",
    )
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    app.jinja_env.globals.update(_=Sentence, bdi=bdi, of_backend=of_backend)
    app.extensions["backend"] = Backend(settings.backend_url, settings.backend_timeout, settings.threads)
    app.extensions["metrics"] = metrics = Metrics()
    hooks.install(app, metrics)
    app.register_blueprint(pages.blueprint)
    return app
