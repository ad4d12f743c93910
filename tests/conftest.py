"""Settings of all tests."""

from hypothesis import settings

# time limits per example fail by chance on a busy machine
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
