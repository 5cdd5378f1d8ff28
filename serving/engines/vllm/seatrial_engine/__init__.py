"""What runs inside the vLLM environment."""
