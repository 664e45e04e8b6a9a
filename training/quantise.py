"""Static quantisation of an exported graph, by ONNX Runtime's own tool.

    >>> smaller = quantise(onnx, pixels[:200])

Convolutions compute with 8-bit integers; the ranges of activations are means of the
extremes of small batches (Jacob et al., arXiv 1712.05877). The first convolution, the
head and all after it stay float.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

OPERATIONS = ["Conv", "Add", "Clip", "Relu"]  # clipping becomes part of quantisation
BATCH_SIZE = 8  # pictures


class Reader(CalibrationDataReader):  # type: ignore[misc] # it is not typed
    """Hands pixels to the calibration in batches."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        size = min(BATCH_SIZE, len(pixels))
        count = len(pixels) // size  # histograms need batches of one size
        self.batches = iter(np.split(pixels[: count * size], count))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the inputs of the next run, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"pixels": batch}


def quantise(graph: bytes, pixels: NDArray[np.uint8]) -> bytes:
    """Return an ONNX file with quantised convolutions, calibrated by `pixels`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, prepared, result = (folder / f"{n}.onnx" for n in "abc")
        source.write_bytes(graph)
        # constants stay small integers, such as the bank of known features
        quant_pre_process(
            source, prepared, skip_optimization=True, skip_symbolic_shape=True
        )
        quantize_static(
            prepared,
            result,
            Reader(pixels),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=OPERATIONS,
            nodes_to_exclude=unquantised(prepared),
            extra_options={"CalibMovingAverage": True},
        )
        return result.read_bytes()


def unquantised(path: Path) -> list[str]:
    """Return the names of the first convolution, and of the last with all after it.

    The first has few weights and the input, the last is the head.
    """
    nodes = onnx.load(path).graph.node
    convolutions = [i for i, node in enumerate(nodes) if node.op_type == "Conv"]
    first, *_rest, head = convolutions
    return [nodes[first].name, *(node.name for node in nodes[head:])]
