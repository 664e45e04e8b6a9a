"""Make `keras.onnx`: pictures [N, 24, 24, 3] of -1 to 1 in, softmax out.

    pip install tensorflow-cpu tf2onnx pillow
    PYTHONPATH=tests python tests/graphs/make_keras.py

in an environment of its own; made with Keras 3.15.1 and tf2onnx 1.17.0.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers
from shapes import SHAPES, draw_set

SIZE = 24


def main() -> None:
    """Train a small CNN and write the graph beside this script."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), name="image"),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(len(SHAPES), activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    pixels, labels = draw_set(6000, SIZE, "RGB", seed=1)
    model.fit(scale(pixels), labels, epochs=12, verbose=2)
    test, expected = draw_set(1000, SIZE, "RGB", seed=2)
    print(model.evaluate(scale(test), expected, verbose=0))
    model.export(Path(__file__).with_name("keras.onnx"), format="onnx")


def scale(pixels: np.ndarray) -> np.ndarray:
    """Return levels of 0 to 255 as -1 to 1."""
    return pixels.astype(np.float32) / np.float32(127.5) - 1


if __name__ == "__main__":
    main()
