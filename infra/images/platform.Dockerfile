# The platform: control API, gateway, flow runner, Prefect server, MLflow. BASE: any Debian or Ubuntu with Python 3.11 to 3.13, by digest.
# With BASE and BUILD_BASE set to the engine's image this builds the worker: the same, with tensorizer's interpreter beside it.
ARG BASE
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
USER 0
# uv: a mounted /uv (infra.images does that), the image's own, or from the index.
ARG UV_VERSION=0.13.8
RUN PATH="/uv:$PATH"; command -v uv >/dev/null || { python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==${UV_VERSION} && mkdir -p /uv && ln -s /opt/uv/bin/uv /uv/uv; }
ARG UV_NO_CACHE=true
ENV UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/opt/seatrial/.venv PYC_INVALIDATION_MODE=UNCHECKED_HASH
WORKDIR /opt/seatrial
# Dependencies first: this layer changes with the lock only.
COPY pyproject.toml uv.lock ./
COPY client/pyproject.toml client/
RUN PATH="/uv:$PATH" uv sync --locked --no-dev --no-install-workspace --compile-bytecode --python "$(command -v python3)" \
 && find .venv -depth -type d \( -name tests -o -name test \) -path '*site-packages/*' \( -path '*/pandas/*' -o -path '*/sklearn/*' -o -path '*/scipy/*' -o -path '*/numpy/*' -o -path '*/pyarrow/*' -o -path '*/sqlalchemy/*' -o -path '*/matplotlib/*' \) -exec rm -rf {} +
COPY . .
# The same bytes from another checkout of the same commit: neither its umask nor its files' times (uv notes them) get in.
RUN chmod -R u=rwX,go=rX client core evals flows infra lifecycle registry serving tasks LICENSE pyproject.toml uv.lock wiring \
 && PATH="/uv:$PATH" uv sync --locked --no-dev --python "$(command -v python3)" \
 && find .venv -name uv_cache.json -delete && sed -i '/uv_cache.json,/d' .venv/lib/python3*/site-packages/seatrial*.dist-info/RECORD && rm -f .venv/.lock \
 && .venv/bin/python -m compileall -q --invalidation-mode unchecked-hash core lifecycle registry evals serving tasks flows infra wiring client/src

FROM ${BASE}
USER 0
# The same user everywhere: the chart's pods run as 10001, and images need no entry for it, but people like a name.
RUN grep -q '^seatrial:' /etc/passwd || echo 'seatrial:x:10001:10001::/var/lib/seatrial:/usr/sbin/nologin' >> /etc/passwd \
 && mkdir -p /var/lib/seatrial && chown 10001:10001 /var/lib/seatrial
COPY --from=build /opt/seatrial /opt/seatrial
ENV PATH=/opt/seatrial/.venv/bin:$PATH PYTHONPATH=/opt/seatrial PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/var/lib/seatrial
LABEL org.opencontainers.image.title=seatrial org.opencontainers.image.licenses=Apache-2.0
WORKDIR /opt/seatrial
USER 10001:10001
ENTRYPOINT []
CMD ["python", "-m", "infra.entrypoints.control"]
