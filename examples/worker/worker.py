"""Ships the orders, one after another. It cannot begin without its table."""

import os
import time

import psycopg

NEXT = "DELETE FROM orders WHERE id = (SELECT id FROM orders ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id"

with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
    connection.execute("SELECT count(*) FROM orders")
    print("the worker begins", flush=True)
    while True:
        for (order,) in connection.execute(NEXT):
            print(f"order {order} is shipped", flush=True)
        time.sleep(0.2)
