CREATE TABLE plans (
    name text NOT NULL PRIMARY KEY,
    monthly_cents integer NOT NULL CHECK (monthly_cents >= 0)
);

INSERT INTO plans (name, monthly_cents) VALUES ('free', 0), ('team', 1900);

-- Nullable: SQLite adds a column with REFERENCES only so, and users from before had no plan.
ALTER TABLE users ADD COLUMN plan text REFERENCES plans (name);

-- Neither database indexes the referencing side by itself.
CREATE INDEX users_plan ON users (plan);
