"""The plans."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "plans", sa.Column("name", sa.Text, primary_key=True), sa.Column("cents", sa.Integer, nullable=False)
    )
