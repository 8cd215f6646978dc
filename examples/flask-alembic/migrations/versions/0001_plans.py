"""The plans."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    plans = op.create_table(
        "plans",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("cents", sa.Integer, nullable=False),
    )
    op.bulk_insert(plans, [{"name": "free", "cents": 0}, {"name": "team", "cents": 1900}])


def downgrade() -> None:
    op.drop_table("plans")
