"""The rules of training; knows no wire, clock or disk."""
