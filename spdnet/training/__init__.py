"""The two-stage training: stages, their data and losses, the trainer that runs them, and its variants."""
