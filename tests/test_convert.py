"""Converting published checkpoints: round trips, and clear errors for bad files."""

import os
import sys
import types

import jax
import numpy as np
import pytest

from ncgn_jax import convert
from ncgn_jax.convert import (
    convert_checkpoint,
    convert_state_dict,
    load_converted,
    parity_graph,
)
from ncgn_jax.faults import DataError

PARITY_FILES = ("ncgn_gat_points.npz", "ncgn_gcn_transcriptomics.npz")
# Published, but without effect: the same norm under other names, an unused layer.
UNUSED = (r"norms.1", r"norms.2", "num_batches_tracked", "og_lin.3")


def weights_of(file):
    with np.load(file) as arrays:
        return {
            key.removeprefix("param/"): arrays[key]
            for key in arrays
            if key.startswith("param/")
        }


@pytest.fixture
def weights(fixtures):
    return weights_of(fixtures / PARITY_FILES[0])


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(*map(jax.tree.leaves, (left, right)), strict=True):
        np.testing.assert_array_equal(one, np.asarray(other, one.dtype))


class FakeTensor:
    """As much of a torch tensor as the conversion touches."""

    def __init__(self, array):
        self.array = array

    def double(self):
        return FakeTensor(self.array.astype(np.float64))

    def numpy(self):
        return self.array


@pytest.fixture
def fake_torch(monkeypatch):
    """Stands in for PyTorch, so that the rest is tested without it."""
    torch = types.ModuleType("torch")
    torch.Tensor, torch.files, torch.calls = FakeTensor, {}, []

    def load(path, **options):
        torch.calls.append(options)
        content = torch.files[os.fspath(path)]
        if isinstance(content, Exception):
            raise content
        return content

    torch.load = load
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


def tensors(weights):
    return {name: FakeTensor(value) for name, value in weights.items()}


@pytest.mark.parametrize("file", PARITY_FILES)
def test_settings_are_read_off_the_weights(fixtures, file):
    settings, variables = convert_state_dict(weights_of(fixtures / file))
    assert settings == {
        "out_dim": 3,
        "width": 16,
        "num_layers": 3,
        "convolution": "gat" if "gat" in file else "gcn",
        "norm": "batch",
    }
    assert set(variables) == {"params", "batch_stats"}


def test_converted_weights_are_all_that_the_network_wants(fixtures):
    with np.load(fixtures / PARITY_FILES[0]) as arrays:
        inputs = parity_graph(dict(arrays))
    settings, variables = convert_state_dict(weights_of(fixtures / PARITY_FILES[0]))
    network = convert.NCGN(**settings)
    wanted = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    shapes = jax.tree.map(lambda leaf: leaf.shape, (wanted, variables))
    assert shapes[0] == shapes[1]


def test_file_round_trip(fake_torch, weights, tmp_path):
    fake_torch.files["published.pt"] = tensors(weights)
    out = tmp_path / "ours.npz"
    total = convert_checkpoint("published.pt", out)
    assert fake_torch.calls == [{"map_location": "cpu", "weights_only": True}]
    network, loaded = load_converted(out)
    settings, direct = convert_state_dict(
        {name: value.astype(np.float64) for name, value in weights.items()}
    )
    assert network == convert.NCGN(**settings)
    assert_same(loaded, direct)
    assert total == sum(leaf.size for leaf in jax.tree.leaves(direct["params"]))
    assert os.listdir(tmp_path) == ["ours.npz"]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "ema"])
@pytest.mark.parametrize("prefix", ["module.", "ema_model.module."])
def test_wrapped_checkpoints(fake_torch, weights, tmp_path, key, prefix):
    inner = tensors({prefix + name: value for name, value in weights.items()})
    fake_torch.files["wrapped.pt"] = {"epoch": 3, key: inner}
    convert_checkpoint("wrapped.pt", tmp_path / "ours.npz")
    _, loaded = load_converted(tmp_path / "ours.npz")
    doubles = {name: value.astype(np.float64) for name, value in weights.items()}
    assert_same(loaded, convert_state_dict(doubles)[1])


@pytest.mark.parametrize("file", PARITY_FILES)
def test_every_missing_weight_is_noticed(fixtures, file):
    weights = weights_of(fixtures / file)
    _, full = convert_state_dict(weights)
    for name in weights:
        less = {key: value for key, value in weights.items() if key != name}
        unused = any(part in name for part in UNUSED) and not (
            name.startswith("model.norms.1") or "lin_combine.norms.1" in name
        )
        if unused or "num_batches_tracked" in name:
            assert_same(convert_state_dict(less)[1], full)
            continue
        with pytest.raises(DataError, match="not an NCGN"):
            convert_state_dict(less)


def test_a_missing_layer_is_noticed(weights):
    for layer in ("out.lins.2", "og_proj.lins.2", "og_lin.1.lins.1", "model.convs.2"):
        less = {key: v for key, v in weights.items() if not key.startswith(layer)}
        with pytest.raises(DataError, match="not an NCGN"):
            convert_state_dict(less)


def test_unknown_and_missing_weights_are_named(weights):
    with pytest.raises(DataError, match="1 unknown weights, first extra.weight"):
        convert_state_dict(weights | {"extra.weight": np.zeros(3)})
    del weights["gate_proj.weight"]
    with pytest.raises(DataError, match="lacks 'gate_proj.weight'"):
        convert_state_dict(weights)
    with pytest.raises(DataError, match="lacks"):
        convert_state_dict({})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FileNotFoundError("gone"), "file.pt: no such file"),
        (RuntimeError("bad magic"), "not a PyTorch weights file .RuntimeError: bad"),
        ([1, 2], "holds list, expected a state dict"),
        ({"epoch": 3}, "not an NCGN: it lacks"),
    ],
)
def test_bad_checkpoints_are_explained(fake_torch, tmp_path, content, message):
    fake_torch.files["file.pt"] = content
    with pytest.raises(DataError, match=message):
        convert_checkpoint("file.pt", tmp_path / "ours.npz")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(fake_torch, weights, tmp_path, monkeypatch):
    out = tmp_path / "ours.npz"
    out.write_bytes(b"old")
    fake_torch.files["published.pt"] = tensors(weights)

    def full_disk(stream, **arrays):
        stream.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(DataError, match="cannot be written .*no space left"):
        convert_checkpoint("published.pt", out)
    assert out.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["ours.npz"]


def test_without_pytorch_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DataError, match=r"pip install 'ncgn_jax\[torch\]'"):
        convert_checkpoint(tmp_path / "published.pt", tmp_path / "ours.npz")


def test_pytorch_round_trip(weights, tmp_path):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    torch.save({"model": state, "epoch": 3}, tmp_path / "published.pt")
    convert_checkpoint(tmp_path / "published.pt", tmp_path / "ours.npz")
    _, loaded = load_converted(tmp_path / "ours.npz")
    doubles = {name: value.astype(np.float64) for name, value in weights.items()}
    assert_same(loaded, convert_state_dict(doubles)[1])


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch was_here",)


def test_a_checkpoint_with_code_is_refused(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.save({"gate_proj.bias": Malicious()}, "bad.pt")
    with pytest.raises(DataError, match="not a PyTorch weights file"):
        convert_checkpoint("bad.pt", "ours.npz")
    assert os.listdir(tmp_path) == ["bad.pt"]


def test_bad_npz_files_are_explained(tmp_path):
    for read in (load_converted, convert.check_parity):
        with pytest.raises(DataError, match="no such file"):
            read(tmp_path / "absent.npz")
        (tmp_path / "text.npz").write_text("hello")
        with pytest.raises(DataError, match="not a readable .npz file"):
            read(tmp_path / "text.npz")
        np.savez(tmp_path / "pickled.npz", thing=np.asarray(Malicious(), object))
        with pytest.raises(DataError, match="pickled files are refused"):
            read(tmp_path / "pickled.npz")
        np.save(tmp_path / "array.npy", np.zeros(3))
        with pytest.raises(DataError, match="not a readable .npz file"):
            read(tmp_path / "array.npy")
    np.savez(tmp_path / "other.npz", points=np.zeros(3))
    with pytest.raises(DataError, match="lacks settings/"):
        load_converted(tmp_path / "other.npz")
    with pytest.raises(DataError, match="lacks output, graph/x_og, graph/t"):
        convert.check_parity(tmp_path / "other.npz")


@pytest.fixture
def keep_precision():
    yield
    jax.config.update("jax_enable_x64", False)


def test_command_line_check(fixtures, capsys, keep_precision, monkeypatch):
    file = str(fixtures / PARITY_FILES[1])
    differences = {True: 1e-12, False: 1e-7}
    monkeypatch.setattr(
        convert, "check_parity", lambda _: differences[jax.config.jax_enable_x64]
    )
    assert convert.main(["--check", file]) == 0
    assert "1.000e-07 in float32 (within 1e-05)" in capsys.readouterr().out
    assert convert.main(["--check", file, "--x64"]) == 0
    assert "1.000e-12 in float64 (within 1e-09)" in capsys.readouterr().out
    assert convert.main(["--check", file, "--tolerance", "1e-8"]) == 1
    assert "ABOVE 1e-08" in capsys.readouterr().out


def test_command_line_conversion(fake_torch, weights, tmp_path, capsys):
    fake_torch.files["published.pt"] = tensors(weights)
    out = str(tmp_path / "ours.npz")
    assert convert.main(["published.pt", out]) == 0
    assert "parameters" in capsys.readouterr().out
    fake_torch.files["published.pt"] = {}
    with pytest.raises(SystemExit, match="error: the checkpoint is not an NCGN"):
        convert.main(["published.pt", out])


def test_command_line_reports_a_folder_that_cannot_be_written(
    fake_torch, weights, tmp_path
):
    fake_torch.files["published.pt"] = tensors(weights)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit, match=r"ours.npz: cannot be written"):
        convert.main(["published.pt", str(tmp_path / "file" / "ours.npz")])


@pytest.mark.parametrize("arguments", [[], ["one.pt"], ["a", "b", "--check", "c"]])
def test_command_line_needs_one_of_its_two_uses(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        convert.main(arguments)
    assert "give either" in capsys.readouterr().err
