"""The embedded default: a synthetic data set in which only points and image together find the target."""
