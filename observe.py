"""What the service tells its keeper: one JSON line on standard output a prediction.

The line holds a picture's SHA-256 and its size, never its pixels.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("fashion")
log.setLevel(logging.INFO)
log.propagate = False
_handler = logging.StreamHandler(sys.stdout)
_handler.setFormatter(logging.Formatter("%(message)s"))
log.addHandler(_handler)


def log_prediction(**fields: Any) -> None:
    """Write one line: the time, then `fields` in the order given."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    log.info(json.dumps({"time": time, **fields}))
