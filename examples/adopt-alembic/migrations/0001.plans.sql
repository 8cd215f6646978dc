CREATE TABLE plans (name text PRIMARY KEY, cents integer NOT NULL);
