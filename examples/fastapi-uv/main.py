"""A shop's plans, by FastAPI."""

import os

import psycopg
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def plans() -> dict[str, int]:
    """Each plan's price."""
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        return dict(connection.execute("SELECT name, cents FROM plans ORDER BY name").fetchall())
