"""A store in two processes: the primary's stream of records, the replica that follows it, and who of them may serve."""
