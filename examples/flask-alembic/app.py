"""A shop's plans, by Flask and SQLAlchemy."""

import os

from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool
)
app = Flask(__name__)


@app.get("/")
def plans() -> dict[str, int]:
    """Each plan's price."""
    with engine.connect() as connection:
        return {row.name: row.cents for row in connection.execute(text("SELECT name, cents FROM plans ORDER BY name"))}
