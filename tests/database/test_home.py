"""Home: where the ledger and yoyo's tables live, whatever the search_path is, and who may own them (SPEC section 6)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Server

TASK = """
from startup import task

@task(policy="once")
def once(context):
    context.connection.execute("INSERT INTO public.trace VALUES ('once')")
"""


class Place:
    """One database, roles of its own, and boots of an image there."""

    def __init__(self, server: Server, image: Any, database: str) -> None:
        self.server, self.image, self.database = server, image, database
        self.admin_url = server.admin_url(database)
        self.roles: list[str] = []
        self.admin("CREATE TABLE public.trace (what text); GRANT ALL ON public.trace TO PUBLIC")
        self.admin("GRANT ALL ON SCHEMA public TO PUBLIC")

    def admin(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            cursor = connection.execute(sql)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def role(self, name: str, attributes: str = "LOGIN") -> str:
        """A role of this test's own; its whole name."""
        whole = f"{name}_{self.database[-8:]}"
        self.admin(f"CREATE ROLE {whole} {attributes}")
        self.admin(f"GRANT CREATE ON DATABASE {self.database} TO {whole}")
        self.roles.append(whole)
        return whole

    def url(self, role: str, query: str = "") -> str:
        where = self.admin_url.replace("postgres@", f"{role}@")
        return where + query.replace("?", "&", 1)

    def boot(self, role: str, query: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = self.image(
            "init",
            **{
                "STARTUP_DATABASE_TIMEOUT": "5",
                "DATABASE_URL": self.url(role, query),
                "STARTUP_TASKS": "migrate tasks:once",
                **environ,
            },
        )
        return done

    def trace(self) -> list[str]:
        return sorted(what for (what,) in self.admin("SELECT what FROM public.trace"))

    def schemas(self, table: str = "_yoyo_migration") -> list[str]:
        return [s for (s,) in self.admin(f"SELECT schemaname FROM pg_tables WHERE tablename = '{table}' ORDER BY 1")]


@pytest.fixture
def place(server: Server, startup: Any) -> Iterator[Place]:
    database = server.new_database()
    startup.write("tasks.py", TASK)
    startup.write("migrations/0001_a.sql", "INSERT INTO public.trace VALUES ('0001');")
    there = Place(server, startup, database)
    yield there
    server.drop_database(database)
    for role in reversed(there.roles):
        with psycopg.connect(server.admin_url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP ROLE {role}")


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stderr


def refused(done: subprocess.CompletedProcess[str], *words: str) -> str:
    assert done.returncode == 78, done.stderr
    for word in words:
        assert word in done.stderr
    return done.stderr


ONCE = ["0001", "once"]


def test_a_schema_of_the_roles_name_that_a_migration_makes_re_runs_nothing(place: Place) -> None:
    shop = place.role("shop")
    place.image.write("migrations/0001_a.sql", f"CREATE SCHEMA {shop};\nINSERT INTO public.trace VALUES ('0001');")
    place.image.write("migrations/0002_b.sql", "INSERT INTO public.trace VALUES ('0002');")
    for _ in range(2):
        ok(place.boot(shop))
    assert place.trace() == ["0001", "0002", "once"]
    assert place.schemas() == place.schemas("startup_run") == ["public"]


def test_a_path_that_a_migration_changes_for_the_database_re_runs_nothing(place: Place) -> None:
    app = place.role("app")
    place.admin(f"ALTER DATABASE {place.database} OWNER TO {app}")
    place.image.write(
        "migrations/0001_a.sql",
        f"CREATE SCHEMA later;\nALTER DATABASE {place.database} SET search_path = later, public;\n"
        "INSERT INTO public.trace VALUES ('0001');",
    )
    for _ in range(2):
        ok(place.boot(app))
    assert place.trace() == ONCE
    assert place.schemas() == ["public"]


def test_tables_that_the_path_does_not_lead_to_any_more_are_named_with_the_way_out(place: Place) -> None:
    app = place.role("app")
    ok(place.boot(app))
    place.admin(f"CREATE SCHEMA elsewhere AUTHORIZATION {app}; ALTER ROLE {app} SET search_path = elsewhere")
    refused(place.boot(app), "in the schema public", "?schema=public")
    ok(place.boot(app, "?schema=public"))
    assert place.trace() == ONCE
    ok(place.boot(app, "?schema=elsewhere"))  # a decision: nothing elsewhere counts
    assert place.trace() == sorted(ONCE * 2)


def test_a_yoyo_list_by_hand_after_the_path_has_changed_makes_no_home(place: Place) -> None:
    app = place.role("app")
    ok(place.boot(app))
    place.admin(f"CREATE SCHEMA first AUTHORIZATION {app}; ALTER ROLE {app} SET search_path = first, public")
    subprocess.run(
        [
            *(str(Path(sys.executable).parent / "yoyo"), "list", "--batch", "--no-config-file", "--database"),
            *(place.url(app).replace("postgresql:", "postgresql+psycopg:"), str(place.image.directory / "migrations")),
        ],
        check=True,
    )
    assert place.schemas() == ["first", "public"]
    ok(place.boot(app))
    assert place.trace() == ONCE
    place.admin(f"ALTER ROLE {app} SET search_path = first")
    refused(place.boot(app), "in the schema public")


def test_a_renamed_schema_re_runs_nothing(place: Place) -> None:
    app = place.role("app")
    place.admin(f"CREATE SCHEMA {app} AUTHORIZATION {app}")
    ok(place.boot(app))
    assert place.schemas() == [app]
    place.admin(f"ALTER SCHEMA {app} RENAME TO renamed")
    refused(place.boot(app), "?schema=renamed")
    ok(place.boot(app, "?schema=renamed"))
    assert place.trace() == ONCE


def test_two_in_use_on_the_path_are_both_named(place: Place) -> None:
    app = place.role("app")
    place.admin(f"CREATE SCHEMA one AUTHORIZATION {app}; CREATE SCHEMA two AUTHORIZATION {app}")
    ok(place.boot(app, "?schema=one"))
    ok(place.boot(app, "?schema=two"))
    place.admin(f"ALTER ROLE {app} SET search_path = two, one")
    refused(place.boot(app), "in two schemas", "one and two")


def test_four_tenants_of_one_role_keep_apart(place: Place) -> None:
    app = place.role("app")
    place.admin("".join(f"CREATE SCHEMA {name} AUTHORIZATION {app};" for name in ("c", "d")))
    queries = ["?schema=a", "?schema=b", "?options=-c%20search_path%3Dc", "?options=-csearch_path%3Dd,public"]
    for _ in range(2):
        for query in queries:
            ok(place.boot(app, query))
    assert place.trace() == sorted(ONCE * 4)
    assert place.schemas() == place.schemas("startup_ledger") == ["a", "b", "c", "d"]


def test_pgoptions_is_a_decision_too(place: Place) -> None:
    app = place.role("app")
    place.admin(f"CREATE SCHEMA mine AUTHORIZATION {app}")
    ok(place.boot(app))
    ok(place.boot(app, PGOPTIONS="-c search_path=mine,public"))
    assert place.trace() == sorted(ONCE * 2)
    refused_or_failed = place.boot(app, PGOPTIONS="-c search_path=nowhere,public")
    assert refused_or_failed.returncode == 70
    assert "the schema nowhere of the search_path" in refused_or_failed.stderr


def test_another_namespace_and_its_schema_are_no_reason_to_refuse(place: Place) -> None:
    app = place.role("app")
    ok(place.boot(app, "?schema=other", STARTUP_NAMESPACE="other"))
    ok(place.boot(app))
    assert place.schemas() == ["other", "public"]


def test_the_ledger_and_yoyos_tables_are_found_each_for_itself(place: Place) -> None:
    app = place.role("app")
    ok(place.boot(app))
    place.admin(f"CREATE SCHEMA ledgers AUTHORIZATION {app}")
    for table in ("startup_run", "startup_ledger", "startup_node"):
        place.admin(f"ALTER TABLE public.{table} SET SCHEMA ledgers")
    place.admin(f"ALTER ROLE {app} SET search_path = public, ledgers")
    ok(place.boot(app))
    assert place.trace() == ONCE
    assert place.schemas("startup_run") == ["ledgers"]


# ------------------------------------------------------------------------------------------------ owners


def test_a_table_of_a_stranger_is_refused_before_its_trigger_runs(place: Place) -> None:
    low, boss = place.role("low"), place.role("boss", "LOGIN SUPERUSER")
    with psycopg.connect(place.url(low), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE startup_run (namespace text PRIMARY KEY, epoch bigint);"
            "CREATE FUNCTION become() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN EXECUTE 'ALTER ROLE {low} SUPERUSER'; RETURN NEW; END $$;"
            "CREATE TRIGGER t BEFORE INSERT ON startup_run FOR EACH ROW EXECUTE FUNCTION become()"
        )
    said = refused(place.boot(boss), f"public.startup_run to '{low}'")
    assert f'ALTER TABLE "public"."startup_run" OWNER TO "{boss}";' in said
    assert place.admin(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{low}'") == [(False,)]
    assert place.trace() == []


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW", "PARTITIONED"])
def test_what_is_no_plain_table_is_refused(place: Place, kind: str) -> None:
    app = place.role("app")
    make = f"CREATE {kind} startup_ledger AS SELECT 1 AS namespace"
    if kind == "PARTITIONED":
        make = "CREATE TABLE startup_ledger (namespace text) PARTITION BY LIST (namespace)"
    with psycopg.connect(place.url(app), autocommit=True) as connection:
        connection.execute(make)
    for role in ("auto", "follower"):
        refused(place.boot(app, STARTUP_ROLE=role), "public.startup_ledger is not a plain table")


Setup = Callable[[Place, str], str]


def by_a_superuser(place: Place, app: str) -> str:
    return "postgres"


def by_the_databases_owner(place: Place, app: str) -> str:
    owner = place.role("owner")
    place.admin(f"ALTER DATABASE {place.database} OWNER TO {owner}")
    return owner


def by_the_schemas_owner(place: Place, app: str) -> str:
    owner = place.role("keeper")
    place.admin(f"ALTER SCHEMA public OWNER TO {owner}")
    return owner


def by_a_group_that_it_inherits_from(place: Place, app: str) -> str:
    group = place.role("devs", "NOLOGIN")
    place.admin(f"GRANT {group} TO {app}")
    return group


def by_a_group_of_a_group(place: Place, app: str) -> str:
    group, outer = place.role("devs", "NOLOGIN"), place.role("all", "NOLOGIN")
    place.admin(f"GRANT {group} TO {app}; GRANT {outer} TO {group}")
    return outer


def by_a_member_of_it(place: Place, app: str) -> str:
    member = place.role("member")
    place.admin(f"GRANT {app} TO {member}")
    return member


TRUSTED = [value for name, value in sorted(globals().items()) if name.startswith("by_")]


def give_away(place: Place, owner: str) -> None:
    """A dump, restored under another owner."""
    for (table,) in place.admin("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        if table != "trace":
            place.admin(f'ALTER TABLE public."{table}" OWNER TO {owner}; GRANT ALL ON public."{table}" TO PUBLIC')


@pytest.mark.parametrize("owned", TRUSTED, ids=[function.__name__ for function in TRUSTED])
def test_tables_may_be_owned(place: Place, owned: Setup) -> None:
    app = place.role("app")
    ok(place.boot(app))
    give_away(place, owned(place, app))
    place.image.write("migrations/0002_b.sql", "INSERT INTO public.trace VALUES ('0002');")
    ok(place.boot(app))
    assert place.trace() == ["0001", "0002", "once"]


def from_a_role_that_it_has_not_heard_of(place: Place, app: str) -> str:
    return place.role("somebody")


def from_a_role_that_it_administers_alone(place: Place, app: str) -> str:
    """As a CREATEROLE role does with each that it makes, since PostgreSQL 16."""
    made = place.role("made")
    place.admin(f"GRANT {made} TO {app} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
    return made


def from_another_member_of_its_group(place: Place, app: str) -> str:
    group, peer = place.role("devs", "NOLOGIN"), place.role("peer")
    place.admin(f"GRANT {group} TO {app}; GRANT {group} TO {peer}")
    return peer


STRANGERS = [value for name, value in sorted(globals().items()) if name.startswith("from_")]


@pytest.mark.parametrize("owned", STRANGERS, ids=[function.__name__ for function in STRANGERS])
@pytest.mark.parametrize("attributes", ["LOGIN", "LOGIN CREATEROLE", "LOGIN SUPERUSER"])
def test_tables_are_not_taken(place: Place, owned: Setup, attributes: str) -> None:
    app = place.role("app", attributes)
    ok(place.boot(app))
    stranger = owned(place, app)
    give_away(place, stranger)
    said = refused(place.boot(app), f"to '{stranger}'")
    lines = [line for line in said.splitlines() if "ALTER TABLE" in line]
    assert len(lines) >= 2
    for line in lines:
        place.admin(line[line.index("ALTER TABLE") :])
    for table in place.schemas("_yoyo_migration"):
        assert table == "public"
    refused_again = place.boot(app)
    if refused_again.returncode:  # the other family's lines
        for line in refused_again.stderr.splitlines():
            if "ALTER TABLE" in line:
                place.admin(line[line.index("ALTER TABLE") :])
        ok(place.boot(app))
    assert place.trace() == ONCE


def test_a_ledger_of_the_apps_role_is_refused_to_the_databases_owner_and_not_the_other_way_round(place: Place) -> None:
    app, owner = place.role("app"), place.role("owner")
    place.admin(f"ALTER DATABASE {place.database} OWNER TO {owner}")
    ok(place.boot(app))
    refused(place.boot(owner), f"to '{app}'")
    give_away(place, owner)
    ok(place.boot(app))
    ok(place.boot(owner))
    assert place.trace() == ONCE


def test_a_follower_with_select_alone_asks_nobody_who_owns_the_tables(place: Place) -> None:
    app, reader = place.role("app"), place.role("reader")
    ok(place.boot(app))
    place.admin(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    place.admin(f"REVOKE ALL ON public.yoyo_lock FROM {reader}")  # which older images did not read
    ok(place.boot(reader, STARTUP_ROLE="follower"))
    assert place.trace() == ONCE


def test_a_search_path_with_functions_of_a_strangers_hijacks_nothing(place: Place) -> None:
    """A path that puts another schema before pg_catalog."""
    app, low = place.role("app"), place.role("low")
    place.admin(f"CREATE SCHEMA evil AUTHORIZATION {low}; GRANT USAGE ON SCHEMA evil TO PUBLIC")
    with psycopg.connect(place.url(low), autocommit=True) as connection:
        for name, kind in (("current_schema", "name"), ("clock_timestamp", "timestamptz"), ("pg_backend_pid", "int")):
            connection.execute(
                f"CREATE FUNCTION evil.{name}() RETURNS {kind} LANGUAGE plpgsql AS $$ BEGIN"
                " INSERT INTO public.trace VALUES ('hijacked'); RETURN NULL; END $$"
            )
    place.admin(f"ALTER ROLE {app} SET search_path = evil, pg_catalog, public; GRANT CREATE ON SCHEMA evil TO {app}")
    ok(place.boot(app))
    ok(place.boot(app))
    assert place.trace() == ONCE


def test_a_date_style_of_the_databases_or_the_environments_is_no_failure(place: Place) -> None:
    app = place.role("app")
    place.admin(f"ALTER DATABASE {place.database} SET datestyle = 'German'")
    for style in ("", "SQL, DMY", "Postgres, MDY"):
        for _ in range(2):
            ok(place.boot(app, **({"PGDATESTYLE": style} if style else {})))
    assert place.trace() == ONCE
    place.image.write("migrations/0002_b.sql", "INSERT INTO public.trace SELECT '31.12.2020'::date::text;")
    ok(place.boot(app))
    assert "2020-12-31" in place.trace()
