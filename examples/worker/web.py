"""Takes orders: each request adds one."""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer

import psycopg


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            connection.execute("INSERT INTO orders DEFAULT VALUES")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ordered\n")


HTTPServer(("", 8000), Handler).serve_forever()
