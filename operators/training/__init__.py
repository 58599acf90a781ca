"""Training on rows about one's own videos, and what every run has: stages, losses, state that is saved and resumed."""
