"""The rules of optimization; knows no wire, clock or disk."""
