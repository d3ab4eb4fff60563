"""Public data sets as they are published to nnU-Net's raw format: `python -m evidence.converters.NAME`."""
