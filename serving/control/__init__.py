"""The API that the client talks to."""
