"""What happens in which order. No SDK, no I/O: a flow reads as a checklist."""
