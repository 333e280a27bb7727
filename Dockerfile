# The image that the chart runs: the `headwater` command and the six packages, nothing to build with, no root.
# The base is named by tag; pass --build-arg BASE=…@sha256:… to pin it.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
RUN pip install --no-cache-dir uv==${UV_VERSION}
WORKDIR /src
COPY requirements.lock ./
COPY schemas schemas
COPY producers producers
COPY cache cache
COPY streams streams
COPY tasks tasks
COPY ops ops
# Versions come from the lock: it constrains what the six packages ask for, and its hashes are checked.
RUN python -m venv /opt/headwater \
    && uv pip install --python /opt/headwater/bin/python --no-cache --compile-bytecode \
        --constraint requirements.lock ./schemas ./producers ./cache ./streams ./tasks ./ops

FROM ${BASE}
RUN groupadd --gid 10001 headwater \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/headwater headwater \
    && install --directory --owner 10001 --group 10001 /var/lib/headwater
COPY --from=build /opt/headwater /opt/headwater
ENV PATH=/opt/headwater/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/headwater
CMD ["headwater", "--help"]
