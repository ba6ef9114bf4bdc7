"""The command line: one file a sub-command, `main.py` finds it, `terminal.py` shows its work."""
