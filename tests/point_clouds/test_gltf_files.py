"""glTF: scenes as they are placed, and all that would be misread is refused."""

import base64
import json

import numpy as np
import pytest
import trimesh

from ncgn_jax.data import host_memory
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds import gltf_files
from ncgn_jax.point_clouds.gltf_files import read_gltf

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], "<f4")
CORNERS = np.array([0, 1, 2, 0, 2, 3], "<u2")


def model():
    """A square of two triangles as the header of a .gltf with its numbers in it."""
    data = SQUARE.tobytes() + CORNERS.tobytes()
    uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "scale": [2, 2, 2]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 6, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 48},
            {"buffer": 0, "byteOffset": 48, "byteLength": 12},
        ],
        "buffers": [{"byteLength": 60, "uri": uri}],
    }


def read(header, ending=".gltf"):
    def beside(name):
        raise DataError(f"a.gltf: no {name}")

    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return read_gltf(content, ending, f"a{ending}", beside)


def test_a_scene_is_read_as_it_is_placed():
    points, faces, note = read(model())
    np.testing.assert_array_equal(points, 2 * SQUARE)
    np.testing.assert_array_equal(faces, CORNERS.reshape(2, 3))
    assert note == ""


def test_strips_points_and_lines():
    header = model()
    part = header["meshes"][0]["primitives"][0]
    header["meshes"][0]["primitives"].append({**part, "mode": 1})
    _, faces, note = read(header)
    assert (len(faces), note) == (2, "lines are not read")
    header["meshes"][0]["primitives"] = [{**part, "mode": 1}]
    with pytest.raises(DataError, match="no vertices; lines are not read"):
        read(header)
    header["meshes"][0]["primitives"] = [{"attributes": {"POSITION": 0}, "mode": 0}]
    points, faces, _ = read(header)
    assert (len(points), len(faces)) == (4, 0)
    header["meshes"][0]["primitives"] = [{"attributes": {"POSITION": 0}, "mode": 5}]
    assert len(read(header)[1]) == 2


def change(header, key, value):
    *place, last = key
    for step in place:
        header = header[step]
    header[last] = value


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (("asset", "version"), "1.0", "glTF 1.0; allowed: 2"),
        (("extensionsRequired",), ["KHR_draco_mesh_compression"], "compressed by K"),
        (("extensionsRequired",), ["EXT_meshopt_compression"], "compressed by E"),
        (("extensionsUsed",), ["EXT_mesh_gpu_instancing"], "copies by EXT_mesh_gpu"),
        (("meshes", 0, "primitives", 0, "mode"), 6, "a fan of triangles .mode 6."),
        (("accessors", 0, "sparse"), {"count": 1}, "vertices or faces are sparse"),
        (("accessors", 0, "normalized"), True, "are whole numbers for fractions"),
        (("accessors", 0), {"componentType": 5126, "count": 4, "type": "VEC3"},
         "are without numbers; allowed: plain arrays"),
        (("accessors", 0, "count"), 10**12, "its vertices and faces take .* GiB"),
        (("accessors", 0, "count"), -1, "a damaged header"),
        (("accessors",), "text", "a damaged header"),
        (("nodes",), 1, "a damaged header"),
        (("nodes", 0, "mesh"), 7, "a damaged header"),
    ],
)  # fmt: skip
def test_what_would_be_misread_is_refused(key, value, said, monkeypatch):
    monkeypatch.setattr(gltf_files.importlib.util, "find_spec", lambda name: None)
    header = model()
    change(header, key, value)
    with pytest.raises(DataError, match=rf"a\.gltf: .*{said}"):
        read(header)


def test_copies_of_a_mesh_that_would_not_fit_are_refused(monkeypatch):
    header = model()
    header["nodes"] *= 10_000
    header["scenes"] = [{"nodes": list(range(10_000))}]
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 2**21)
    monkeypatch.setattr(gltf_files, "_read", lambda *a: pytest.fail("was read"))
    with pytest.raises(DataError, match="its vertices and faces take 0.0 GiB"):
        read(header)


def test_binary_headers_are_looked_at_too():
    content = trimesh.Scene(trimesh.creation.box()).export(file_type="glb")
    assert len(read(content, ".glb")[1]) == 12
    size = int.from_bytes(content[12:16], "little")
    header = json.loads(content[20 : 20 + size])
    header["meshes"][0]["primitives"][0]["mode"] = 6
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    parts = len(text).to_bytes(4, "little") + b"JSON" + text + content[20 + size :]
    whole = content[:8] + (12 + len(parts)).to_bytes(4, "little") + parts
    with pytest.raises(DataError, match="a fan of triangles"):
        read(whole, ".glb")
    with pytest.raises(DataError, match="glTF 1; allowed: 2"):
        read(b"glTF\1\0\0\0" + bytes(20), ".glb")
    with pytest.raises(DataError, match="not readable"):
        read(b"rubbish", ".glb")
