DROP INDEX users_plan;
ALTER TABLE users DROP COLUMN plan;
DROP TABLE plans;
