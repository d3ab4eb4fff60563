"""The evidence: methods times data sets times noise times seeds, run, stored and turned into tables and figures."""
