"""The platform on a cluster: the Helm chart, its rendering, and what `seatrial doctor --kubernetes` looks at."""
