"""Life as a systemd service: what the manager is told, and how the service is installed."""
