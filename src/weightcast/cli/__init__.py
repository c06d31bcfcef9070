"""The command ``weightcast``."""

from weightcast.cli.main import main

__all__ = ["main"]
