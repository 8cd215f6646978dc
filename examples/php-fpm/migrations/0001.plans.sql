CREATE TABLE plans (name text PRIMARY KEY, cents integer NOT NULL);
INSERT INTO plans VALUES ('free', 0), ('team', 1900);
