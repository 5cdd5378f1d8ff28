"""The use cases: what happens to a submission, a rollout, a benchmark and their engines. Written against the ports of `core`."""
