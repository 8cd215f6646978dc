"""Alembic's way to the database: the app's own engine."""

from alembic import context
from app import engine

with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
