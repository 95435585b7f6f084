"""Where the tests find a Chromium for playwright."""

from __future__ import annotations

import shutil


def find_chromium() -> str | None:
    """The program, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
