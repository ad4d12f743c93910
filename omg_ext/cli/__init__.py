"""The command ``omg``."""
