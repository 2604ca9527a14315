"""For all tests: how hypothesis looks for counter-examples. Not in the package: servers under test import that."""

from hypothesis import settings

# Machines that run tests are slow and shared: a slow example is no fault.
settings.register_profile("house", settings.default, deadline=None)
settings.load_profile("house")
