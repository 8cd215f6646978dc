"""An app that boots, listens, and tells when: NOTE gets "BEGAN LISTENING PID" on the monotonic clock.

python app.py NOTE PORT BOOT      BOOT: seconds to sleep; "imports": what a small web app imports; "busy": that much
                                  on two cores
"""

import os
import socket
import sys
import time

began = time.monotonic()
note, port, boot = sys.argv[1:]
if boot == "imports":
    import psycopg  # noqa: F401
    import uvicorn.main  # noqa: F401
elif boot == "busy":
    child = os.fork()
    for _ in range(2_500_000):
        pass
    total = sum(number * number for number in range(8_000_000))
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
else:
    time.sleep(float(boot))
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(port)))
server.listen(64)
listening = time.monotonic()
with open(note + ".new", "w") as file:
    file.write(f"{began} {listening} {os.getpid()}")
os.rename(note + ".new", note)
while True:
    connection, _ = server.accept()
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    connection.close()
