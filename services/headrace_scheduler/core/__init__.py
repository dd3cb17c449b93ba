"""The rules of the scheduler; knows no wire, clock or disk."""
