# The engine on GPUs: vLLM's own CUDA image by digest, the loader plugin on top. Version of vLLM: the one of serving/engines/vllm/uv.lock.
ARG BASE
FROM ${BASE}
USER 0
WORKDIR /opt/seatrial-engine
COPY serving/engines/vllm/pyproject.toml serving/engines/vllm/uv.lock serving/engines/vllm/README.md ./
COPY serving/engines/vllm/seatrial_engine seatrial_engine
# tensorizer at the locked version and nothing that would move vLLM's own pins; hatchling builds the plugin.
RUN TENSORIZER=$(python3 -c "import tomllib; print(next(p['version'] for p in tomllib.load(open('uv.lock','rb'))['package'] if p['name']=='tensorizer'))") \
 && pip=$(command -v uv >/dev/null && echo "uv pip install --system --no-cache" || echo "python3 -m pip install --no-cache-dir") \
 && $pip --no-deps "tensorizer==${TENSORIZER}" && $pip boto3 libnacl redis hiredis && $pip --no-deps . \
 && python3 -c "import seatrial_engine.pod, tensorizer" \
 && mkdir -p /opt/engine/bin && ln -s "$(command -v python3)" /opt/engine/bin/python
ENV VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
RUN grep -q '^seatrial:' /etc/passwd || echo 'seatrial:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd
WORKDIR /
USER 10001:10001
ENTRYPOINT []
CMD ["python3", "-m", "seatrial_engine.pod", "--help"]
