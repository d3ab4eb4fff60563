"""spdnet: Segment Anything with unreliable point prompts, as an nnU-Net-style pipeline."""

__version__ = "0.1.0"
