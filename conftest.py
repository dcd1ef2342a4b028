"""No test reads or writes the cache of whoever runs it; those of the cache name a folder of their own."""

import os

os.environ["BOOTDIFF_CACHE"] = ""
