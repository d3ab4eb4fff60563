"""Trainer variants: the method's ablations and baselines, each a change of the plans' settings."""
