"""What the service tells its keeper: one JSON line on standard output a prediction.

The line holds a picture's SHA-256 and its size, never its pixels.
"""

import json
import sys
from datetime import UTC, datetime
from typing import Any


def log_prediction(**fields: Any) -> None:
    """Write one line: the time, then `fields` in the order given."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    sys.stdout.write(f"{json.dumps({'time': time, **fields})}\n")
    sys.stdout.flush()
