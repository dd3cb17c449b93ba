"""The rules of inference; knows no wire, clock or disk."""
