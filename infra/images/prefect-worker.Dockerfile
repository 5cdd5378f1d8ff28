# Prefect's worker for the Kubernetes work pool: an environment of its own, since its client library is not the platform's.
ARG BASE
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
USER 0
ARG UV_VERSION=0.13.8
RUN PATH="/uv:$PATH"; command -v uv >/dev/null || { python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==${UV_VERSION} && mkdir -p /uv && ln -s /opt/uv/bin/uv /uv/uv; }
ARG UV_NO_CACHE=true
ENV UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true UV_LINK_MODE=copy PYC_INVALIDATION_MODE=UNCHECKED_HASH
COPY infra/images/prefect-worker/requirements.txt /tmp/requirements.txt
RUN PATH="/uv:$PATH" uv venv --python "$(command -v python3)" /opt/prefect \
 && PATH="/uv:$PATH" uv pip install --python /opt/prefect/bin/python --require-hashes --compile-bytecode --requirements /tmp/requirements.txt

FROM ${BASE}
USER 0
RUN grep -q '^seatrial:' /etc/passwd || echo 'seatrial:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd
COPY --from=build /opt/prefect /opt/prefect
ENV PATH=/opt/prefect/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT []
CMD ["prefect", "version"]
