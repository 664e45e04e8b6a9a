"""Make `sklearn.onnx`: flat float input, outputs `label` and a map for each picture.

    pip install scikit-learn skl2onnx pillow
    PYTHONPATH=tests python tests/graphs/make_sklearn.py

in an environment of its own; made with scikit-learn 1.9.1 and skl2onnx 1.20.0.
"""

from pathlib import Path

import numpy as np
from shapes import SHAPES, draw_set
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

SIZE = 16


def main() -> None:
    """Train on pixels of 0 to 255, flat, and write the graph beside this script."""
    pixels, labels = draw_set(6000, SIZE, "L", seed=1)
    inputs = pixels.reshape(len(pixels), -1).astype(np.float32)
    names = np.array(SHAPES)[labels]
    network = MLPClassifier([24], alpha=0.01, random_state=1, early_stopping=True)
    model = make_pipeline(MinMaxScaler(), network).fit(inputs, names)
    test, expected = draw_set(1000, SIZE, "L", seed=2)
    found = model.predict(test.reshape(len(test), -1).astype(np.float32))
    accuracy = np.mean(found == np.array(SHAPES)[expected])
    graph = to_onnx(model, inputs[:1])
    Path(__file__).with_name("sklearn.onnx").write_bytes(graph.SerializeToString())
    print(f"accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
