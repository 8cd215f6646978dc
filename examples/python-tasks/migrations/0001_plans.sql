CREATE TABLE plans (name text PRIMARY KEY, cents integer);
CREATE TABLE journal (task text NOT NULL, node text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
