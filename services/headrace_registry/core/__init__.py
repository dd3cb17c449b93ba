"""The rules of the registry; knows no wire, clock or disk."""
