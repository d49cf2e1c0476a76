"""No thread of Arrow's in processes that tests copy; imported before pandas, which loads Arrow.

A copy (`forking`) has the locks of all threads, but of the threads only the one that made it: a
lock that another thread held at that moment is never released in it, and the copy waits forever.
Arrow's allocator has a thread from the first import of pandas on, and its reader of Parquet several
more; a test that reads Parquet does so in a copy of its own.
"""

from __future__ import annotations

import os

os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
