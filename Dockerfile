# Three images in one file:
#   docker build --target base -t startup-tasks .            the product, to build on: FROM startup-tasks
#   docker build --target bundle -t startup-tasks:bundle .   the same for any image: COPY --from=startup-tasks:bundle
#   docker build -t startup-demo .                           the demo that compose.yaml runs

# `make lock` writes the files of hashes.
FROM python:3.13-slim-trixie AS wheel
WORKDIR /src
COPY release/build.txt release/
RUN python -m venv --without-pip /build \
 && pip --python /build/bin/python install --no-cache-dir --require-hashes --requirement release/build.txt
COPY pyproject.toml README.md LICENSE entrypoint.sh ./
COPY bin bin
COPY startup startup
RUN pip --python /build/bin/python wheel --no-deps --no-build-isolation --wheel-dir /wheel .

# A virtual environment of its own, so that what an app installs never changes what the tasks run on, or the
# other way round; it sees the image's packages too, so that a task may import the app.
FROM python:3.13-slim-trixie AS build
COPY release/packages.txt .
RUN python -m venv --without-pip --system-site-packages /opt/startup \
 && pip --python /opt/startup/bin/python install --no-cache-dir --no-compile --require-hashes --requirement packages.txt
COPY --from=wheel /wheel /wheel
RUN pip --python /opt/startup/bin/python install --no-cache-dir --no-compile --no-deps /wheel/*.whl \
 && /opt/startup/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/startup/lib

FROM python:3.13-slim-trixie AS bundle-build
RUN apt-get update && apt-get install --yes --no-install-recommends busybox-static patchelf
COPY release/packages.txt .
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --no-compile --require-hashes --requirement packages.txt \
    --target /opt/startup/lib/packages
COPY --from=wheel /wheel /wheel
RUN pip --python /venv/bin/python install --no-cache-dir --no-compile --no-deps --upgrade \
    --target /opt/startup/lib/packages /wheel/*.whl
COPY release/bundle.py release/bundle.sh ./
RUN python bundle.py /opt/startup

FROM scratch AS bundle
COPY --from=bundle-build /opt/startup /opt/startup

FROM python:3.13-slim-trixie AS base
COPY --from=build /opt/startup /opt/startup
# /app and /run/startup are writable for the group root, which a random user id (--user 12345) belongs to
RUN ln -s /opt/startup/bin/startup /opt/startup/bin/startup-entrypoint /usr/local/bin/ \
 && useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin app \
 && install -d -o app -g root -m 0775 /app /run/startup
WORKDIR /app
USER 10001
ENTRYPOINT ["startup-entrypoint"]
# migrations may take hours: until the start period is over a failed check only means "starting"
HEALTHCHECK --start-period=24h --start-interval=1s --interval=10s --timeout=5s --retries=3 \
    CMD ["startup-entrypoint", "startup", "health"]

FROM base AS demo
USER root
RUN pip install --no-cache-dir 'psycopg[binary]>=3.2.2' 'starlette>=0.40' 'uvicorn>=0.30'
USER 10001
COPY migrations migrations
COPY seeds seeds
COPY examples/demo ./
EXPOSE 8000
CMD ["uvicorn", "--host", "0.0.0.0", "--port", "8000", "app:app"]
