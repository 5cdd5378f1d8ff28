"""The routes: one module per resource, each with a router named `routes`."""
