"""Entry points. Each module parses one command line and calls the library; nothing imports from here."""

import os

# Idle threads of OpenMP sleep instead of spinning: with other work on the machine, data loaders included, that is up to
# 1.6 times faster, and it has to be said before torch is imported. Who sets the variable is heard.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
