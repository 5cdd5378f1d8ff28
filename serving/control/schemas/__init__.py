"""The request and response bodies: one module per resource, named like its routes."""
