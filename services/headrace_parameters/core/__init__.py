"""The rules of the parameter store; knows no wire, clock or disk."""
