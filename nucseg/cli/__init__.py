"""The command line; its names, flags, keys and exit statuses are a contract that others script against."""

from nucseg.cli.main import main

__all__ = ["main"]
