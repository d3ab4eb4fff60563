"""Entry points. Each module parses one command line and calls the library; nothing imports from here."""
