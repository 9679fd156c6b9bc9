"""Reading of Inception's weights, and its features of known images."""

import builtins

import numpy as np
import pytest

from ncgn_jax.faults import DataError
from ncgn_jax.images.inception import InceptionFeatures, to_rgb


class Malicious:
    """Runs code when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def refuse_import(monkeypatch):
    """Makes importing a package fail."""

    def refuse(package, error):
        real = builtins.__import__

        def load(name, *args, **kwargs):
            if name.split(".")[0] == package:
                raise error
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", load)

    return refuse


def test_pixels_of_images():
    values = np.array([-1.0, -3.0, 0.0, 0.5, 1.0, 7.0]).reshape(6, 1, 1, 1)
    found = to_rgb(values)
    assert found.shape == (6, 1, 1, 3)
    assert found.dtype == np.uint8
    for channel in range(3):
        assert found[:, 0, 0, channel].tolist() == [0, 0, 128, 191, 255, 255]
    every = np.arange(256).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(
        to_rgb((every / np.float32(127.5) - 1).astype(np.float32)), every.repeat(3, -1)
    )
    colours = np.array([-1.0, 0.2, 1.0]).reshape(1, 1, 1, 3)
    assert to_rgb(colours).ravel().tolist() == [0, 153, 255]
    with pytest.raises(DataError, match="4 channels"):
        to_rgb(np.zeros((1, 2, 2, 4)))


@pytest.mark.parametrize("package", ["torch", "torch_fidelity"])
def test_absent_packages_are_named_with_the_cure(
    torch, refuse_import, tmp_path, package
):
    path = tmp_path / "weights.pth"
    torch.save({"fc.bias": torch.zeros(2)}, path)
    refuse_import(package, ImportError(f"No module named {package!r}"))
    with pytest.raises(DataError, match="pip install torch-fidelity torch"):
        InceptionFeatures(path)


def test_a_torchvision_that_does_not_fit_is_named(torch, refuse_import, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"fc.bias": torch.zeros(2)}, path)
    refuse_import("torch_fidelity", RuntimeError("operator torchvision::nms absent"))
    with pytest.raises(DataError, match="matching torchvision.*torchvision::nms"):
        InceptionFeatures(path)


def test_unusable_files_are_named(torch, tmp_path):
    with pytest.raises(DataError, match=r"none\.pth: no such file"):
        InceptionFeatures(tmp_path / "none.pth")
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    with pytest.raises(DataError, match=r"text\.pth: not a file of PyTorch weights"):
        InceptionFeatures(text)
    for content in ([torch.zeros(2)], {"epoch": 3}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(DataError, match=r"other\.pth: not a state dict"):
            InceptionFeatures(tmp_path / "other.pth")


def test_code_in_a_file_is_not_run(torch, tmp_path):
    trace = tmp_path / "was_here"
    torch.save({"fc.bias": Malicious(str(trace))}, tmp_path / "bad.pth")
    with pytest.raises(DataError, match=r"bad\.pth: not a file of PyTorch weights"):
        InceptionFeatures(tmp_path / "bad.pth")
    assert not trace.exists()
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert trace.exists(), "the file would have run code"


@pytest.fixture(scope="module")
def network():
    """torch-fidelity's Inception with random weights."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision", exc_type=ImportError)
    fidelity = pytest.importorskip("torch_fidelity", exc_type=ImportError)
    kind = fidelity.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        patch.setattr(kind, "load_state_dict", lambda *args: None)
        torch.manual_seed(0)
        return kind("random", ["2048", "logits_unbiased"], "no file")


def test_features_of_random_weights(torch, network, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    images = np.full((3, 12, 16, 1), -1.2, np.float32)
    images[0, :6], images[1, :, :8], images[2, :6, :8] = 0.9, 0.9, 0.9
    views = InceptionFeatures(path)(images)
    assert views.features.shape == (3, 2048)
    assert views.probabilities.shape == (3, 1008)
    pixels = torch.from_numpy(to_rgb(images)[..., 0].copy())
    rgb = torch.stack([pixels, pixels, pixels], dim=1)
    features, logits = (found.numpy() for found in network(rgb))
    # Random weights tell images apart by little.
    difference = np.ptp(features, axis=0).max()
    assert difference > 0
    np.testing.assert_allclose(views.features, features, atol=1e-3 * difference)
    odds = np.exp(logits.astype(float))
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(views.probabilities, expected, rtol=1e-5)


def test_weights_of_another_network_are_named(torch, network, tmp_path):
    path = tmp_path / "other_network.pth"
    torch.save({"fc.bias": torch.zeros(1008)}, path)
    with pytest.raises(DataError, match=r"other_network\.pth: does not fit"):
        InceptionFeatures(path)
