"""Container images, built by docker, podman or buildah."""
