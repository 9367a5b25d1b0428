# An environment to run experiments in: hadolint reads this file in `make lint`, and no check builds it.
#
#   docker build -t heed .                           for CPUs
#   docker build -t heed --build-arg EXTRA=cuda .    for NVIDIA GPUs, whose CUDA 13 comes with JAX's wheels
#
# docs/clusters.md says how it is run.
FROM python:3.12-slim

# Runs note the commit of the code, for which Git is needed.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv==0.13.9

ARG EXTRA=""
WORKDIR /heed
COPY pyproject.toml uv.lock .python-version README.md LICENSE ./
RUN uv sync --frozen --no-dev --no-install-project ${EXTRA:+--extra "$EXTRA"}
COPY . .
RUN uv sync --frozen --no-dev --compile-bytecode ${EXTRA:+--extra "$EXTRA"}

ENV PATH="/heed/.venv/bin:$PATH"
ENTRYPOINT ["heed"]
