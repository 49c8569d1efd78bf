"""In tests the lessons that train do so for seconds instead of minutes."""

import os

os.environ.setdefault("WAN_TUTORIAL_MINUTES", "0.15")
