"""The network computes what its exported graph computes, and calibrates."""

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import Samples
from torch import Tensor

from model.network import CNN, Calibrated, Calibration, calibration_offset, export_onnx
from training.calibration import fit_calibration


def quantised(network: CNN, pixels: Tensor) -> CNN:
    network(pixels)  # the running means of batch norm
    network.observe_ranges(pixels)
    network.quantise()
    return network.eval()


def run_graph(onnx: bytes, pixels: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(onnx)
    return list(session.run(None, {"pixels": pixels.numpy()}))


def test_a_quantised_network_is_nearly_what_it_was(samples: Samples) -> None:
    torch.manual_seed(1)
    pixels, network = torch.from_numpy(samples.pixels), CNN(28)
    network(pixels)
    exact = network.eval()(pixels)
    assert not network.has_ranges()
    network.observe_ranges(pixels)
    assert network.has_ranges()
    assert torch.equal(network(pixels), exact)
    network.quantise()
    rounded = network(pixels)
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.1 * exact.abs().max()
    network.dequantise()
    assert not network.has_ranges()
    assert torch.equal(network(pixels), exact)


def test_a_checkpoint_rebuilds_the_network(samples: Samples) -> None:
    torch.manual_seed(1)
    pixels = torch.from_numpy(samples.pixels)
    network = quantised(CNN(28, widths=(4, 8)), pixels)
    again = CNN(**network.arguments)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(pixels), network(pixels))


@pytest.mark.filterwarnings("default")  # the exporter's own
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_the_graph_computes_what_the_network_does(channels: int) -> None:
    random = torch.Generator().manual_seed(1)
    network = CNN(20, channels, classes=4, widths=(16, 32, 64))
    shape = 40, *network.input_shape
    pixels = torch.randint(256, shape, generator=random).to(torch.uint8)
    model = Calibrated(quantised(network, pixels), Calibration(1.5, 0.7, 0.1)).eval()
    onnx = export_onnx(model)
    with torch.no_grad():
        expected = model(pixels)
    for ours, theirs in zip(run_graph(onnx, pixels), expected, strict=True):
        assert ours.shape == theirs.shape
        assert abs(ours - theirs.numpy()).mean() < 0.01 * theirs.abs().mean()
    weights = sum(p.numel() for p in network.parameters())
    assert len(onnx) < 1.2 * weights + 20_000  # a byte each


def test_calibration_makes_probabilities_come_true() -> None:
    """Labels drawn by probabilities that a calibration gives: it is found again."""
    random = torch.Generator().manual_seed(1)
    logits = 6 * torch.randn(50_000, 10, generator=random)
    meant = Calibration(scale=0.33, slope=0.2, curve=0.02)
    true = (logits * meant.scale + calibration_offset(logits, *meant)).softmax(1)
    labels = torch.multinomial(true, 1, generator=random)[:, 0]
    assert fit_calibration(logits, labels) == pytest.approx(meant, rel=0.1)


def test_calibration_curves_the_margin_and_keeps_the_order() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [0.0, 0.0, -4.0]])
    calibrated = logits * 3 + calibration_offset(logits, 3.0, slope=0.5, curve=0.1)
    margin = 0.5 * 2 + 0.1 * 2**3
    assert calibrated[0].tolist() == pytest.approx([3, 6 + margin, 6])
    assert calibrated[1].tolist() == [0, 0, -12]  # no margin
