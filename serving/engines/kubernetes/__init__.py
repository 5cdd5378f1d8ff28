"""Where engines run: a Kubernetes cluster."""
