"""The first account."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("INSERT INTO accounts (email) VALUES ('admin@example.com')")


def downgrade() -> None:
    op.execute("DELETE FROM accounts WHERE email = 'admin@example.com'")
