"""What answers: gateway, engines, rollout, control."""
