"""The OFF reader against hand-written files, and against anything at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.off_files import read_off, sample_surface

SQUARE = "OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n"


def test_polygon_becomes_a_fan():
    vertices, faces = read_off(SQUARE, "square.off")
    np.testing.assert_array_equal(vertices[2], [1, 1, 0])
    np.testing.assert_array_equal(faces, [[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize(
    "text",
    [
        SQUARE.replace("OFF\n4", "OFF4"),
        SQUARE.replace("OFF\n4", "OFF 4"),
        SQUARE.replace("\n", "\r\n"),
        "# made by hand\n\n" + SQUARE.replace("1 1 0\n", "1 1 0 # corner\n\n"),
        SQUARE.replace("4 0 1 2 3", "4 0 1 2 3 255 0 0"),
        SQUARE.replace("OFF", "COFF").replace("0 1 0\n", "0 1 0 9 9 9 1\n"),
        SQUARE.replace("4 1 0", "4 1"),
    ],
    ids=["joined", "spaced", "crlf", "comments", "face-colour", "coff", "no-edges"],
)
def test_variants_read_alike(text):
    expected = read_off(SQUARE, "square.off")
    for got, wanted in zip(read_off(text.encode(), "x.off"), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not an OFF file"),
        ("PLY\n", "not an OFF file: starts with 'PLY'"),
        (b"OFF\n\xff\xfe", "not a text file"),
        ("OFF BINARY\n", "binary OFF"),
        ("OFF\n", "bad counts ''"),
        (SQUARE.replace("4 1 0", "-4 1 0"), "bad counts '-4 1 0'"),
        (SQUARE.replace("4 1 0", "4.5 1 0"), "bad counts '4.5 1 0'"),
        (SQUARE.replace("4 1 0", "0 1 0"), "bad counts '0 1 0'"),
        (SQUARE.replace("4 1 0", "9" * 40 + " 1 0"), "bad counts"),
        (SQUARE.replace("4 1 0", "99999999999 1 0"), "truncated: 99999999999 vertices"),
        (SQUARE.replace("4 0 1 2 3\n", ""), "truncated: 4 vertices and 1 faces"),
        (SQUARE.replace("1 1 0\n", "1 1\n"), "vertex 2: 2 numbers, 3 expected"),
        (SQUARE.replace("1 1 0\n", "1 x 0\n"), "vertex 2: not a number: '1 x 0'"),
        (SQUARE.replace("1 1 0\n", "1 nan 0\n"), "vertex 2: not finite"),
        (SQUARE.replace("1 1 0\n", "1 1e999 0\n"), "vertex 2: not finite"),
        (SQUARE.replace("2 3\n", "2 4\n"), r"vertex 4; allowed: 0\.\.3"),
        (SQUARE.replace("2 3\n", "2 -1\n"), r"vertex -1; allowed: 0\.\.3"),
        (SQUARE.replace("4 0 1 2 3", "4 0 1 2"), "face 0: 4 corners announced"),
        (SQUARE.replace("4 0 1 2 3", "3 0 1 a"), "face 0: not a vertex index"),
        (SQUARE.replace("4 0 1 2 3", f"3 0 1 {2**70}"), "face 0: not a vertex index"),
        (SQUARE.replace("4 0 1 2 3", "0 0 1 2"), "face 0: bad number of corners"),
    ],
)
def test_broken_files_are_named(text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_off(text, "chair_0001.off")
    assert "chair_0001.off" in str(caught.value)


ODD = ["OFF", "#", "-1", "1.5", "nan", "1e999", "99999999999", "x", "1_0", "\u0663"]
TOKENS = st.sampled_from(["0", "1", "2", "3", "4", *ODD])
LINES = st.lists(st.lists(TOKENS, max_size=5).map(" ".join), max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200),
        LINES.map("\n".join),
        LINES.map(lambda lines: "OFF\n2 1 0\n0 0 0\n1 1 1\n" + "\n".join(lines)),
        LINES.map(lambda lines: "OFF3 1 0\n" + "\n".join(lines)),
    )
)
def test_anything_at_all_is_a_mesh_or_a_data_error(content):
    try:
        vertices, faces = read_off(content, "any.off")
    except DataError:
        return
    assert np.isfinite(vertices).all()
    assert vertices.shape[1:] == (3,)
    assert ((faces >= 0) & (faces < len(vertices))).all()


def test_surface_points_are_uniform_by_area():
    # Triangles of area 1/2 and 3/2 with one side in common.
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -3, 0]], float)
    faces = np.array([[0, 1, 2], [0, 3, 1]])
    points = sample_surface(vertices, faces, 20000, np.random.default_rng(0), "two")
    upper = points[:, 1] > 0
    assert abs(upper.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 20000)
    np.testing.assert_allclose(points[upper].mean(0), [1 / 3, 1 / 3, 0], atol=0.012)
    assert points[upper][:, :2].sum(axis=1).max() <= 1


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_surface_of_extreme_size(scale):
    vertices, faces = read_off(SQUARE, "square.off")
    points = sample_surface(
        vertices * scale, faces, 50, np.random.default_rng(0), "square"
    )
    assert 0.5 < points.max() / scale <= 1


def test_no_surface_is_an_error():
    vertices, rng = np.zeros((4, 3)), np.random.default_rng(0)
    with pytest.raises(DataError, match=r"line\.off: all 1 triangles have zero area"):
        sample_surface(vertices, np.array([[0, 1, 2]]), 5, rng, "line.off")
    with pytest.raises(DataError, match=r"cloud\.off: no triangles"):
        sample_surface(vertices, np.zeros((0, 3), int), 5, rng, "cloud.off")
