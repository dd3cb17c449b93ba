"""What can run a model, behind one seam: `runner.Runner`; `opening` chooses by the role of the file in the registry."""
