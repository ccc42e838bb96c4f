"""A users API: FastAPI over one SQLite file."""
