"""The training service: runs one rank of a training program as a task."""
