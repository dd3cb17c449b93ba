# One image for every service; compose.yaml says which one a container runs.
#
# torch's default build for Linux brings CUDA. For a machine without a GPU, build with a source of CPU wheels:
#   docker compose build --build-arg PIP_FIND_LINKS=... (or PIP_EXTRA_INDEX_URL=...)

FROM python:3.11-slim-bookworm AS build
ARG PIP_FIND_LINKS=
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/headrace
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY libs libs
COPY services services
COPY examples examples
RUN /opt/headrace/bin/pip install -c constraints.txt ".[data,postgresql]"

FROM python:3.11-slim-bookworm
# onnxruntime and torch compute with OpenMP threads, which need libgomp.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home headrace \
    && install --directory --owner headrace --group headrace /data
COPY --from=build /opt/headrace /opt/headrace
ENV PATH=/opt/headrace/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER headrace
WORKDIR /data
CMD ["headrace", "--help"]
