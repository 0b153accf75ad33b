# The service without what is for development (ingress/dev): DATABASE_URL, REDIS_URL and INGRESS_ENCRYPTION_KEYS come from outside.
# tests/deploy/test_image.py takes these steps by hand, and docs/deploying.md says how the image is run.

# An index of all architectures. A newer digest is what `docker buildx imagetools inspect python:3.14-slim-trixie` prints first;
# another base (`--build-arg BASE=...`) needs Python 3.11 or newer with pip, and glibc 2.34 or newer.
ARG BASE=python:3.14.8-slim-trixie@sha256:89fb7d3da20043c370643435258bdd7ab755d326d359001d02988ed15ae5219e

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PYTHON=/opt/ingress/bin/python PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/ingress
COPY requirements-serve.lock ./
RUN python -m pip install --only-binary :all: --require-hashes --requirement requirements-serve.lock
COPY pyproject.toml README.md LICENSE schema.sql ./
COPY migrations ./migrations
COPY providers ./providers
COPY ingress ./ingress
# setuptools is in the lock to build this package, and has no part in serving.
RUN python -m pip install --no-deps --no-build-isolation --no-index . \
    && python -m pip uninstall --yes setuptools

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="WhatsApp Ingress" \
    org.opencontainers.image.description="One gateway between a CRM and any WhatsApp provider" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.source="${SOURCE}"
RUN python -m pip uninstall --yes --root-user-action ignore pip
COPY --from=build /opt/ingress /opt/ingress
# Nothing on the file system is written (pip has compiled what is there): run it read-only, without capabilities.
USER 10001:10001
WORKDIR /tmp
ENV PATH=/opt/ingress/bin:$PATH PYTHONDONTWRITEBYTECODE=1 INGRESS_HOST=0.0.0.0 INGRESS_METRICS_PORT=9464
# The second one is for metrics and probes: the public has no business there.
EXPOSE 8000 9464
# Alive, as `GET /healthz` says. The start may wait INGRESS_DATABASE_WAIT_S for the database. (The address 0.0.0.0 leads here.)
HEALTHCHECK --interval=15s --timeout=5s --start-period=70s --start-interval=1s CMD ["python", "-c", "import http.client, os, sys; health = http.client.HTTPConnection(os.environ['INGRESS_HOST'], int(os.environ['INGRESS_METRICS_PORT']), timeout=4); health.request('GET', '/healthz'); sys.exit(health.getresponse().status != 200)"]
# One process uses one core; more of them are more containers, which the cluster watches (docs/operating.md).
ENTRYPOINT ["ingress"]
CMD ["serve"]
