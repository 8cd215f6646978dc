-- Admin@example.com and admin@example.com are one mailbox, and must not be two users.
CREATE UNIQUE INDEX users_email_lower ON users (lower(email));
