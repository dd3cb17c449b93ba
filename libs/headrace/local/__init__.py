"""All of headrace on this machine: which processes there are, and a supervisor that keeps them running."""
