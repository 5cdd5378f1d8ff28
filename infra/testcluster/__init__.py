"""A real Kubernetes cluster on this machine, without Docker, for tests and for trying things out."""
