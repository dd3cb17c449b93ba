"""The scheduler: matches jobs and deployments with nodes."""
