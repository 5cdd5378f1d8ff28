"""One Prefect task per step: get the ports, call the function, record the step; retries by error type."""
