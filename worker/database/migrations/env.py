"""Alembic's way in: it works on the connection it is handed, inside its caller's transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
