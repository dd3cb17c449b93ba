"""Three programs that show how a user brings a model: digits, tabular, text."""
