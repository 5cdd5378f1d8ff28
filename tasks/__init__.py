"""One Prefect task per step; each gets its port, calls one function and records the step."""
