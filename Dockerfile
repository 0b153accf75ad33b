# The service without what is for development (ingress/dev): DATABASE_URL, REDIS_URL and INGRESS_ENCRYPTION_KEYS come from outside.
FROM python:3.11-slim-bookworm AS build
WORKDIR /app
RUN python -m venv /opt/ingress
COPY requirements-serve.lock ./
RUN /opt/ingress/bin/python -m pip install --no-cache-dir --require-hashes --requirement requirements-serve.lock
COPY pyproject.toml README.md LICENSE schema.sql ./
COPY migrations ./migrations
COPY providers ./providers
COPY ingress ./ingress
RUN /opt/ingress/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation --no-index .

FROM python:3.11-slim-bookworm
COPY --from=build /opt/ingress /opt/ingress
# Unprivileged, and nothing on the file system is written: run it read-only, without capabilities.
USER 10001:10001
WORKDIR /tmp
ENV PATH=/opt/ingress/bin:$PATH INGRESS_HOST=0.0.0.0
# The second one is for metrics and probes: the public has no business there.
EXPOSE 8000 9464
# One process uses one core; more of them are more containers, which the cluster watches (docs/operating.md).
ENTRYPOINT ["ingress"]
CMD ["serve"]
