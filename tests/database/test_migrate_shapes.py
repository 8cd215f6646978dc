"""What public applications' migrations look like, in our own words: the schema is the one that psql makes of them.

1,886 files of seven applications were run by hand against psql and stock yoyo; these are the shapes found in them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Query = Callable[[str, str], list[Any]]

SHAPES = {
    "20240101000000_only a comment, and spaces in the name": "-- nothing to do for this kind of database\n",
    "20240102000000_empty": "",
    "20240103000000_no_semicolon": "CREATE TABLE shop (id serial PRIMARY KEY, name text NOT NULL)",
    "20240104000000_kinds": "CREATE TYPE kind AS ENUM ('a', 'z');\nALTER TABLE shop ADD kind kind DEFAULT 'a';\n",
    "20240105000000_new_kind": "ALTER TYPE kind ADD VALUE IF NOT EXISTS 'gone' BEFORE 'z';\n",
    "20240106000000_wrapped": "/* generated */\nBEGIN;\nCREATE TABLE sale (shop int REFERENCES shop);\n\nCOMMIT;\n",
    "20240107000000_function": """
CREATE FUNCTION shout(word text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
    -- transactional: not a directive here; nor is this \\ psql's
    EXECUTE $inner$SELECT 1; SELECT 2$inner$;
    RETURN upper(word) || E'it\\'s;' || '50 %';
END;
$function$;
CREATE FUNCTION two() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END;
CREATE TRIGGER quiet BEFORE UPDATE ON sale FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
""",
    "20240108000000_do": """
DO $$ DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['a', 'b'] LOOP EXECUTE format('CREATE TABLE %I (x int)', 'part_' || name); END LOOP;
END $$;
INSERT INTO shop (name) VALUES ('semi;colon'), ('quo''te'), ('tab\t'), ('é');
""",
    "20240109000000_windows": "CREATE VIEW open_shop AS\r\n  SELECT id -- the key\r\n  FROM shop;\r\n",
    "20240110000000_index": "-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON shop (name);\n",
    "20240111000000_blocks": """-- transactional: false
SET lock_timeout = '2s';
BEGIN;
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
UPDATE shop SET name = shout(name);
COMMIT;
BEGIN; ALTER TABLE sale ADD CONSTRAINT known CHECK (shop > 0) NOT VALID; COMMIT;
ALTER TABLE sale VALIDATE CONSTRAINT known;
""",
    "20240112000000_dump": """SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
CREATE TABLE public.dumped (id integer NOT NULL);
ALTER TABLE ONLY public.dumped ADD CONSTRAINT dumped_pkey PRIMARY KEY (id);
""",
    "20240113000000_after_it": "COMMENT ON TABLE dumped IS 'found without its schema''s name';\n",
}


def dump(server: Any, url: str) -> str:
    """Schema and data, without the tables that only one of the two has."""
    text = server.run("pg_dump", "--no-owner", "--exclude-table=*yoyo*", "--exclude-table=startup_*", url)
    return re.sub(r"(?m)^\\(un)?restrict .*$", "", str(text))


def test_files_as_public_applications_have_them_make_what_psql_makes_of_them(
    bench: Any, server: Any, query: Query
) -> None:
    for name, content in SHAPES.items():
        (bench.directory / f"{name}.sql").write_bytes(content.encode())
    assert bench.apply() == len(SHAPES)
    assert bench.yoyo("list").count("\nA ") == len(SHAPES)
    other = server.new_database()
    try:
        for name, content in SHAPES.items():
            apply_with_psql(server, bench.directory / f"{name}.sql", other, "transactional: false" not in content)
        assert query(server.url(other), "SELECT count(*) FROM shop") == [(4,)]
        assert dump(server, bench.url) == dump(server, server.url(other))
    finally:
        server.drop_database(other)


def apply_with_psql(server: Any, file: Path, database: str, transactional: bool) -> None:
    once = ["--single-transaction"] if transactional else []
    done = subprocess.run(
        [
            *(str(server.programs / "psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", *once),
            *(f"--file={file}", server.url(database)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
