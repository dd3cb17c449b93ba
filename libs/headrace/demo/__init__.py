"""`headrace demo`: the whole road on this machine, from data to a served int8 model, measured at the served endpoint."""
