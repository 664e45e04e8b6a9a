"""The upper bound: decode and classify in a loop, without HTTP.

    PYTHONPATH=. python bench/rivals/bare_loop.py FOLDER BEGIN SECONDS

Prints pictures a second. Several begin together, at BEGIN of the monotonic clock.
"""

import itertools
import json
import sys
import time
from pathlib import Path

from model import artifact
from model.classifier import Classifier

if __name__ == "__main__":
    folder, begin, seconds = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    classifier = Classifier(artifact.load(str(artifact.MODEL)))
    names = (folder / "list").read_text().splitlines()
    pictures = [Path(name).read_bytes() for name in names]
    time.sleep(max(0.0, begin - time.monotonic()))
    done, started = 0, time.perf_counter()
    for picture in itertools.cycle(pictures):
        found = classifier.classify(classifier.to_pixels(picture)[None])[0]
        json.dumps(found._asdict())
        done += 1
        if time.perf_counter() > started + seconds:
            break
    print(done / (time.perf_counter() - started))
