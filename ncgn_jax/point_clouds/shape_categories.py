"""Builds sixteen kinds of things from simple parts, with random proportions.

Every builder fills a `Solids` with parts; `draw(low, high)` returns a random number
per shape and `draw.toss(p)` a random truth. x is width (or length), y depth, z up.
Parts that meet overlap a little, so that no hidden face is sampled.
"""

from collections.abc import Callable

import numpy as np

from ncgn_jax.point_clouds.solids import Flag, Number, Solids, Vector

_SIDES = (-1, 1)
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


class Draws:
    """Draws random proportions, one value per shape."""

    def __init__(self, num_shapes: int, rng: np.random.Generator) -> None:
        """Takes the number of shapes and the source of randomness."""
        self.num_shapes, self.rng = num_shapes, rng

    def __call__(self, low: float, high: float) -> np.ndarray:
        """Returns uniform numbers in [low, high]."""
        return self.rng.uniform(low, high, self.num_shapes)

    def toss(self, probability: float) -> np.ndarray:
        """Returns truths with the given probability."""
        return self.rng.random(self.num_shapes) < probability

    def count(self, low: int, high: int) -> np.ndarray:
        """Returns whole numbers from low to high."""
        return self.rng.integers(low, high + 1, self.num_shapes)


def _slab(solids: Solids, low: Vector, high: Vector, present: Flag = True) -> None:
    """Adds a box between two opposite corners."""
    pairs = list(zip(low, high, strict=True))
    solids.box([(a + b) / 2 for a, b in pairs], [b - a for a, b in pairs], present)


def _legs(
    solids: Solids,
    width: Number,
    depth: Number,
    height: Number,
    thick: Number,
    present: Flag = True,
) -> None:
    """Adds four square legs from the floor to `height`, flush with the corners."""
    for a, b in _CORNERS:
        x, y = a * (width - thick) / 2, b * (depth - thick) / 2
        solids.box((x, y, height / 2), (thick, thick, height), present)


def airplane(solids: Solids, draw: Draws) -> None:
    """Adds fuselage (nose to +x), swept wings, tail, and two engines on most."""
    radius, span, sweep = draw(0.09, 0.15), draw(0.7, 1.1), draw(0.1, 0.6)
    chord, root, engines = draw(0.22, 0.36), draw(-0.05, 0.2), draw.toss(0.7)
    solids.ellipsoid((0, 0, 0), (1, radius, radius))
    for side in _SIDES:
        for start, length, width, z in (
            (root, span, chord, -radius * 0.3),
            (-0.83, span * 0.35, chord * 0.55, radius * 0.4),
        ):
            back, out = np.sin(sweep) * length / 2, np.cos(sweep) * length / 2
            centre = (start - back, side * out, z)
            solids.box(centre, (width, length, 0.03), turn=side * sweep)
        x, y = root - np.sin(sweep) * span * 0.35, side * span * 0.35 * np.cos(sweep)
        back, front = ((x + shift, y, -radius * 0.3 - 0.05) for shift in (-0.1, 0.25))
        solids.rod(back, front, radius * 0.45, radius * 0.55, present=engines)
    end = -0.97 + chord * 0.7
    _slab(solids, (-0.97, -0.015, 0), (end, 0.015, draw(0.28, 0.42)))


def bed(solids: Solids, draw: Draws) -> None:
    """Adds a mattress on a frame with legs, head board, pillows, some a foot board."""
    width, length, leg = draw(0.5, 1.0), draw(0.9, 1.1), draw(0.06, 0.18)
    frame, soft, board = draw(0.06, 0.12), draw(0.1, 0.18), draw(0.2, 0.5)
    x, y, top = width / 2, length, leg + frame
    _legs(solids, width, 2 * length, leg + 0.02, 0.08)
    _slab(solids, (-x, -y, leg), (x, y, top))
    _slab(solids, (-x + 0.03, -y + 0.03, top - 0.02), (x - 0.03, y - 0.03, top + soft))
    _slab(solids, (-x, y - 0.01, 0), (x, y + 0.05, top + soft + board))
    foot = top + soft + board * draw(0.1, 0.4)
    _slab(solids, (-x, -y - 0.05, 0), (x, -y + 0.01, foot), draw.toss(0.5))
    for side in _SIDES:
        centre = (side * width * 0.23, y - 0.22, top + soft)
        solids.ellipsoid(centre, (width * 0.19, 0.15, 0.07))


def bookshelf(solids: Solids, draw: Draws) -> None:
    """Adds two sides, three to six boards, a back on most, and blocks of books."""
    x, y, height = draw(0.3, 0.6), draw(0.12, 0.22), draw(1.4, 2.0)
    number, thick = draw.count(3, 6), 0.04
    for side in _SIDES:
        centre = (side * x, 0, height / 2)
        solids.box(centre, (thick, 2 * y, height))
    for index in range(6):
        z = np.minimum(index / (number - 1), 1) * (height - thick) + thick / 2
        present = index < number
        _slab(solids, (-x, -y, z - thick / 2), (x, y, z + thick / 2), present)
        tall = height / (number - 1) * draw(0.4, 0.8)
        start, stop = -x + draw(0, 0.1), -x + x * draw(0.5, 1.6)
        books = (index < number - 1) & draw.toss(0.4)
        _slab(solids, (start, -y * 0.7, z), (stop, y * 0.8, z + tall), books)
    _slab(solids, (-x, y - 0.03, 0), (x, y, height), draw.toss(0.7))


def bottle(solids: Solids, draw: Draws) -> None:
    """Adds a round body, a curved shoulder, and a neck with a lip."""
    radius, body, neck = draw(0.2, 0.4), draw(0.7, 1.3), draw(0.06, 0.12)
    shoulder, tall = draw(0.15, 0.4), draw(0.2, 0.5)
    profile: list[tuple[Number, Number]] = [
        (0.0, 0.0), (radius * 0.9, 0.0), (radius, 0.04), (radius, body)
    ]  # fmt: skip
    for angle in np.linspace(0.25, 1.0, 4) * np.pi / 2:
        out = neck + (radius - neck) * np.cos(angle)
        profile.append((out, body + shoulder * np.sin(angle)))
    top = body + shoulder + tall
    lip = neck * 1.25
    profile += [(neck, top - 0.08), (lip, top - 0.08), (lip, top), (0.0, top)]
    solids.revolve(profile)


def car(solids: Solids, draw: Draws) -> None:
    """Adds a body (front to +x), a round or boxy cabin, a bonnet and four wheels."""
    y, wheel, tall = draw(0.36, 0.46), draw(0.15, 0.2), draw(0.22, 0.32)
    low, cabin, boxy = wheel * 0.7, draw(0.22, 0.36), draw.toss(0.5)
    top, middle, half = low + tall, draw(-0.25, 0.0), draw(0.45, 0.65)
    _slab(solids, (-1, -y, low), (1, y, top * 0.95))
    front = middle + half * 0.8
    _slab(solids, (-1, -y * 0.9, top * 0.9), (front + 0.25, y * 0.9, top))
    _slab(
        solids,
        (middle - half, -y * 0.88, top - 0.02),
        (front, y * 0.88, top + cabin),
        boxy,
    )
    solids.ellipsoid((middle, 0, top - 0.05), (half, y * 0.9, cabin + 0.05), ~boxy)
    for a, b in _CORNERS:
        inner, outer = ((a * 0.62, b * end, wheel) for end in (y - 0.14, y + 0.03))
        solids.rod(inner, outer, wheel)


def chair(solids: Solids, draw: Draws) -> None:
    """Adds seat, panel or slatted back, legs or a pedestal, and arms on some."""
    width, depth, seat = draw(0.8, 1.1), draw(0.8, 1.1), draw(0.7, 1.0)
    thick, back, leg = draw(0.05, 0.14), draw(0.7, 1.3), draw(0.06, 0.12)
    x, y, top = width / 2, depth / 2, seat + back
    slats, pedestal, arms = draw.toss(0.4), draw.toss(0.25), draw.toss(0.35)
    _slab(solids, (-x, -y, seat - thick), (x, y, seat))
    _slab(solids, (-x, y - 0.08, seat - 0.02), (x, y, top), ~slats)
    for side in _SIDES:
        post = (side * (x - 0.04), y - 0.04, (seat + top) / 2 - 0.01)
        solids.box(post, (0.08, 0.08, back + 0.02), slats)
        middle, out = seat + back * 0.3, side * x
        foot, head = ((out, -y * 0.7, z) for z in (seat - 0.03, middle))
        solids.rod(foot, head, 0.035, present=arms)
        rest = (out - side * 0.01, -0.1 * y, middle)
        solids.box(rest, (0.1, y * 1.6, 0.06), arms)
    for height in (0.3, 0.6, 0.92):
        slat = (0, y - 0.04, seat + back * height)
        solids.box(slat, (width - 0.04, 0.06, 0.12), slats)
    _legs(solids, width, depth, seat - thick / 2, leg, ~pedestal)
    solids.rod((0, 0, 0.05), (0, 0, seat - thick / 2), 0.06, present=pedestal)
    solids.rod((0, 0, 0), (0, 0, 0.06), width * 0.4, width * 0.35, present=pedestal)


def desk(solids: Solids, draw: Draws) -> None:
    """Adds a board, legs, a panel, and blocks of drawers on one side or both."""
    x, y, height = draw(0.85, 1.1), draw(0.4, 0.6), draw(0.75, 1.0)
    block, both = x * draw(0.3, 0.6), draw.toss(0.4)
    top = height - 0.06
    _slab(solids, (-x, -y, top), (x, y, height))
    low = draw(0.0, 0.5) * height
    _slab(solids, (x - block, -y + 0.04, low), (x - 0.03, y - 0.02, top + 0.02))
    _slab(solids, (-x + 0.03, -y + 0.04, low), (-x + block, y - 0.02, top + 0.02), both)
    _legs(solids, 2 * x - 0.06, 2 * y - 0.06, top + 0.02, 0.07)
    _slab(solids, (-x + 0.04, y - 0.08, height * 0.4), (x - 0.04, y - 0.05, top + 0.02))


def guitar(solids: Solids, draw: Draws) -> None:
    """Adds a flat body of two rounds, neck and head, upright and facing -y."""
    low, high, depth = draw(0.34, 0.42), draw(0.25, 0.32), draw(0.07, 0.11)
    waist, neck = draw(0.42, 0.52), draw(0.85, 1.1)
    for radius, z in ((low, low), (high, low + waist)):
        solids.rod((0, -depth, z), (0, depth, z), radius)
    end = low + waist + high + neck
    _slab(solids, (-0.05, -depth - 0.02, low + waist), (0.05, -depth + 0.05, end))
    wide, tall = draw(0.08, 0.11), draw(0.2, 0.3)
    _slab(solids, (-wide, -depth - 0.01, end - 0.01), (wide, -depth + 0.05, end + tall))
    _slab(solids, (-0.14, -depth - 0.04, low - 0.08), (0.14, 0, low - 0.02))


def ladder(solids: Solids, draw: Draws) -> None:
    """Adds two leaning rails and four to nine rungs; half are step ladders."""
    height, low, high = 2.0, draw(0.22, 0.4), draw(0.16, 0.3)
    lean, thick, number = draw(0.1, 0.5), draw(0.03, 0.05), draw.count(4, 9)
    step = draw.toss(0.5)
    for side in _SIDES:
        top = (side * high, 0, height)
        solids.rod((side * low, -lean, 0), top, thick)
        solids.rod((side * low, lean, 0), top, thick, present=step)
    for index in range(9):
        part = (index + 1) / (number + 1)
        x = low + (high - low) * part
        left, right = ((side * x, -lean * (1 - part), height * part) for side in _SIDES)
        solids.rod(left, right, thick * 0.8, present=index < number)


def lamp(solids: Solids, draw: Draws) -> None:
    """Adds foot, pole and an open shade, for floor lamps and table lamps."""
    height, pole, foot = draw(0.7, 2.0), draw(0.02, 0.05), draw(0.2, 0.35)
    wide, narrow, tall = draw(0.3, 0.5), draw(0.4, 1.0), draw(0.3, 0.55)
    solids.rod((0, 0, 0), (0, 0, 0.06), foot, foot * draw(0.7, 1.0))
    solids.rod((0, 0, 0.05), (0, 0, height), pole)
    solids.frustum((0, 0, height - tall * 0.7), (0, 0, tall), (wide, wide * narrow))
    bulb = height - tall * 0.1
    solids.ellipsoid((0, 0, bulb), (0.1, 0.1, 0.12))
    belly = height * draw(0.15, 0.25)
    solids.ellipsoid((0, 0, belly), (foot * 0.6, foot * 0.6, belly), draw.toss(0.35))


def monitor(solids: Solids, draw: Draws) -> None:
    """Adds a flat screen, some deep at the back, on a round or square foot."""
    x, tall, thick = draw(0.75, 1.0), draw(0.8, 1.2), draw(0.05, 0.12)
    low, square, deep = draw(0.2, 0.4), draw.toss(0.5), draw.toss(0.3)
    _slab(solids, (-x, -thick / 2, low), (x, thick / 2, low + tall))
    back, rear = x * 0.6, draw(0.2, 0.5)
    bottom, top = low + tall * 0.15, low + tall * 0.85
    _slab(solids, (-back, 0, bottom), (back, rear, top), deep)
    neck = draw(0.06, 0.14)
    _slab(solids, (-neck, 0, 0.03), (neck, 0.1, low + tall * 0.4))
    foot, depth = draw(0.3, 0.5), draw(0.2, 0.3)
    _slab(solids, (-foot, 0.05 - depth, 0), (foot, 0.05 + depth, 0.05), square)
    solids.rod((0, 0.05, 0), (0, 0.05, 0.05), depth * 1.2, present=~square)


def mug(solids: Solids, draw: Draws) -> None:
    """Adds an open cup with a thick wall and a ring for a handle."""
    radius, height, wall = draw(0.38, 0.55), draw(0.8, 1.3), draw(0.04, 0.07)
    high = radius * draw(1.0, 1.25)
    ring, tube = height * draw(0.22, 0.32), draw(0.04, 0.07)
    profile: list[tuple[Number, Number]] = [
        (0, 0), (radius, 0), (high, height), (high - wall, height)
    ]  # fmt: skip
    profile += [(radius - wall, wall * 1.5), (0, wall * 1.5)]
    solids.revolve(profile)
    middle, mean = height * draw(0.45, 0.55), (radius + high) / 2
    solids.torus((mean, 0, middle), (0, 1, 0), (ring, tube))
    # A body without points hides the part of the handle inside the cup.
    solids.hide_cone((0, 0, 0), (0, 0, height), (radius - wall, high - wall))


def sofa(solids: Solids, draw: Draws) -> None:
    """Adds base, back, arms, one to three seat cushions and short legs."""
    x, y, leg = draw(0.7, 1.2), draw(0.38, 0.5), draw(0.04, 0.12)
    seat, back, arm = draw(0.25, 0.4), draw(0.3, 0.5), draw(0.12, 0.22)
    number, round_arms = draw.count(1, 3), draw.toss(0.4)
    top = leg + seat
    _legs(solids, 2 * x, 2 * y, leg + 0.02, 0.07)
    _slab(solids, (-x, -y, leg), (x, y, top))
    _slab(solids, (-x, y * 0.45, leg + 0.01), (x, y, top + back))
    rise = top + back * draw(0.3, 0.7)
    for side in _SIDES:
        inner, outer = side * (x - arm), side * x
        low, high = np.minimum(inner, outer), np.maximum(inner, outer)
        _slab(solids, (low, -y, leg), (high, y * 0.9, rise))
        front, rear = (((low + high) / 2, end, rise) for end in (-y, y * 0.9))
        solids.rod(front, rear, arm * 0.65, present=round_arms)
    room = 2 * (x - arm)
    for index in range(3):
        start = -x + arm + room * np.minimum(index / number, 1) + 0.02
        stop = start + room / number - 0.04
        corners = (start, -y - 0.02, top - 0.02), (stop, y * 0.46, top + 0.1)
        _slab(solids, *corners, index < number)


def stool(solids: Solids, draw: Draws) -> None:
    """Adds a round seat, three or four splayed legs, and a foot ring on most."""
    radius, height, splay = draw(0.3, 0.45), draw(0.9, 1.8), draw(1.0, 1.5)
    thick, number, leg = draw(0.06, 0.16), draw.count(3, 4), draw(0.03, 0.05)
    solids.rod((0, 0, height - thick), (0, 0, height), radius)
    for index in range(4):
        angle = 2 * np.pi * index / number
        x, y = np.cos(angle) * radius * 0.8, np.sin(angle) * radius * 0.8
        foot, head = (x * splay, y * splay, 0), (x, y, height - thick / 2)
        solids.rod(foot, head, leg, present=index < number)
    part = draw(0.25, 0.5)
    ring = radius * 0.8 * (splay + (1 - splay) * part)
    solids.torus(
        (0, 0, height * part), (0, 0, 1), (ring, leg * 0.8), present=draw.toss(0.7)
    )


def table(solids: Solids, draw: Draws) -> None:
    """Adds a square, oblong or round board on four legs or on a pillar."""
    x, y, height = draw(0.7, 1.1), draw(0.45, 0.8), draw(0.5, 1.1)
    thick, leg = draw(0.05, 0.12), draw(0.07, 0.14)
    disc, pillar = draw.toss(0.35), draw.toss(0.3)
    low, under = height - thick, height - thick / 2
    _slab(solids, (-x, -y, low), (x, y, height), ~disc)
    solids.rod((0, 0, low), (0, 0, height), x, present=disc)
    spread = np.where(disc, 1.3 * x, 2 * x), np.where(disc, 1.3 * x, 2 * y)
    _legs(solids, *spread, under, leg, ~pillar)
    solids.rod((0, 0, 0.05), (0, 0, under), leg, present=pillar)
    solids.rod((0, 0, 0), (0, 0, 0.06), y * 0.7, y * 0.6, present=pillar)


def vase(solids: Solids, draw: Draws) -> None:
    """Adds an open body of revolution with a smooth random outline."""
    height, foot, lip = draw(1.0, 2.0), draw(0.15, 0.35), draw(0.15, 0.45)
    belly, place, curl = draw(0.1, 0.5), draw(0.7, 1.6), draw(-0.1, 0.1)
    profile: list[tuple[Number, Number]] = [(0.0, 0.0)]
    for part in np.linspace(0, 1, 13):
        straight = foot + (lip - foot) * part
        bulge = belly * np.sin(np.pi * part**place) ** 2
        radius = straight + bulge + curl * np.sin(2 * np.pi * part)
        profile.append((np.maximum(radius, 0.06), height * part))
    solids.revolve(profile)


BUILDERS: dict[str, Callable[[Solids, Draws], None]] = {
    builder.__name__: builder
    for builder in (
        airplane,
        bed,
        bookshelf,
        bottle,
        car,
        chair,
        desk,
        guitar,
        ladder,
        lamp,
        monitor,
        mug,
        sofa,
        stool,
        table,
        vase,
    )
}
