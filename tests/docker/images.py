"""Images of all kinds, to which one COPY line brings the bundle: the fixture ``build`` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: A static web server: the shell's own, in images that have none.
SERVER = "COPY --from={bundle} /opt/startup/bin/sh /busybox\n"
HTTPD = '["/busybox", "httpd", "-f", "-p", "8080"]'
NODE = """
require("http").createServer((_, answer) => answer.end("node")).listen(8080)
process.on("SIGTERM", () => process.exit(5))
"""
NGINX = """
error_log stderr; daemon off; pid /tmp/nginx.pid; events {}
http { access_log off; server { listen 8080; location / {
    fastcgi_pass 127.0.0.1:9000; fastcgi_param SCRIPT_FILENAME /app/index.php; fastcgi_param REQUEST_METHOD GET; } } }
"""
SHOP = """
import sys
import startup

@startup.task
def warm(context: startup.Context) -> None:
    import psycopg, shop.prices, tabulate
    print("tabulate of owner", tabulate.OWNER)
    print("warmed by Python", *sys.version_info[:2], "at", shop.prices.PRICE)
"""
INSTALL = "RUN apt-get update && apt-get install --yes --no-install-recommends "
JEMALLOC = (
    INSTALL
    + "libjemalloc2 && ln -s /usr/lib/*-linux-gnu/libjemalloc.so.2 /jemalloc.so && ln -s /usr/lib/*-linux-gnu /libs"
    "\nENV LD_PRELOAD=/jemalloc.so LD_LIBRARY_PATH=/libs\n" + SERVER
)


@dataclass(frozen=True)
class Image:
    """The lines before the bundle's, the command, what ``docker run`` gets, and the app's own exit code for TERM."""

    lines: str
    command: str = HTTPD
    options: tuple[str, ...] = ()
    code: int = 143
    bundle: str = """
COPY --from={bundle} /opt/startup /opt/startup
ENTRYPOINT ["/opt/startup/bin/startup-entrypoint"]
"""

    @property
    def dockerfile(self) -> str:
        """With ``{bundle}`` and ``{base}`` in it for the names of those images."""
        return f"{self.lines}{self.bundle}{TAIL}CMD {self.command}\n"


BASH_IS_SH = "FROM debian:trixie-slim\nRUN ln -sf bash /bin/sh\n" + SERVER
OF_BASH = '["sh", "-c", "echo shell: $BASH_VERSION; exec /busybox httpd -f -p 8080"]'
#: For the bundle.
IMAGES = {
    "scratch": Image("FROM scratch\n" + SERVER),
    "node": Image(
        f"FROM debian:trixie-slim\n{INSTALL} nodejs && ! command -v python3\nCOPY node.js /\n",
        '["node", "/node.js"]',
        code=5,
    ),
    "nginx and php-fpm on an older libc": Image(
        f"FROM debian:bookworm-slim\n{INSTALL} nginx-light php-fpm && ln -s /usr/sbin/php-fpm* /php-fpm\n"
        "RUN sed -i 's/^listen = .*/listen = 127.0.0.1:9000/' /etc/php/*/fpm/pool.d/www.conf\n"
        "COPY nginx.conf /\nRUN mkdir -p /app && echo '<?php echo \"php\";' >/app/index.php\n",
        '["sh", "-c", "/php-fpm && exec nginx -c /nginx.conf"]',
        code=0,
    ),
    "bash is /bin/sh": Image(BASH_IS_SH, OF_BASH),
    "a Python of its own": Image(
        f"FROM debian:bookworm-slim\n{INSTALL} python3-venv && python3 -m venv /venv\n"
        "RUN /venv/bin/pip install --quiet 'psycopg[binary]>=3.2.2'\n"
        "COPY shop.py /venv/lib/python3.11/site-packages/shop/tasks.py\n"
        "RUN echo PRICE = 42 >/venv/lib/python3.11/site-packages/shop/prices.py\n"
        "RUN echo OWNER = 7 >/venv/lib/python3.11/site-packages/tabulate.py\n"
        "ENV STARTUP_PYTHON=/venv/bin/python STARTUP_MODULE=shop.tasks\n",
        '["/venv/bin/python", "-m", "http.server", "8080"]',
        ("--env=STARTUP_TASKS=migrate say@local warm@local",),
    ),
    "unprivileged": Image(
        BASH_IS_SH, OF_BASH, ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=54321:54321")
    ),
    "LD_ variables": Image("FROM debian:trixie-slim\n" + JEMALLOC),
    "LD_ variables on an older libc": Image("FROM debian:bookworm-slim\n" + JEMALLOC),
}
TAIL = """
COPY hooks /etc/startup/hooks
COPY 0001-shop.sql /app/migrations/
WORKDIR /app
"""
#: The other way: FROM our own image, which has the same code. SSL_CERT_FILE is empty as unset.
BASE = Image("FROM {base}\nENV SSL_CERT_FILE=\n", '["python3", "-m", "http.server", "8080"]', bundle="")
HOOK = "#!/bin/sh -e\necho a hook of $LD_PRELOAD $LD_LIBRARY_PATH: $0\n"
MIGRATION = "CREATE TABLE shop (price int);\nINSERT INTO shop VALUES (42);\n"


@dataclass(frozen=True)
class Built:
    image: Image
    name: str

    def words(self, *options: str) -> tuple[str, ...]:
        """What follows ``docker run``; the image's own options last, so that they win."""
        defaults = (
            "--env=STARTUP_PING=http://127.0.0.1:8080/",
            "--env=STARTUP_TASKS=migrate say@local",
            '--env=STARTUP_TASK_SAY=echo said "of $LD_PRELOAD $LD_LIBRARY_PATH"; ls / | tr a-z A-Z | grep ETC',
        )
        return (*defaults, *self.image.options, *options, self.name)


#: The files in an image's build context.
CONTEXT: Mapping[str, str] = {
    "hooks/post_start.d/10-greet.local.sh": HOOK,
    "0001-shop.sql": MIGRATION,
    "node.js": NODE,
    "nginx.conf": NGINX,
    "shop.py": SHOP,
}
ALL = {**IMAGES, "base": BASE}
