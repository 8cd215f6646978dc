-- Plain SQL that PostgreSQL 13 and SQLite 3.37 both take: the demo runs on either.
CREATE TABLE users (
    email text NOT NULL PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);
