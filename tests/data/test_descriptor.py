from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data.images import descriptor
from data.images.decode import decode_rgb
from data.images.descriptor import DIM, blocks, describe


def texture(kind: str, seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A seeded picture: 'noise', 'stripes' at a random angle, 'blobs' or 'ramp'."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 6)
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind == "noise":
        grey = rng.normal(128, 40, (height, width))
    elif kind == "stripes":
        grey = 128 + 90 * np.sign(np.sin(along / 2 + phase))
    elif kind == "blobs":
        grey = 128 + 60 * np.sin(x / 5 + phase) * np.sin(y / 5 + 2 * phase)
    else:
        grey = 60 + along / 2
    tint = np.array([1.0, 0.9, 0.8])
    noisy = grey[..., None] * tint + rng.normal(0, 2, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(describe([a])[0] @ describe([b])[0])


@pytest.mark.parametrize(
    "shape", [(16, 16), (64, 64), (63, 65), (150, 150), (17, 400), (600, 700), (5, 9), (1, 1)]
)
def test_any_size_gives_one_unit_row(shape):
    row = describe([texture("noise", 0, *shape)])
    assert row.shape == (1, DIM) and row.dtype == np.float32
    assert np.isfinite(row).all()
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_constant_images_have_a_descriptor(value):
    row = describe(np.full((1, 32, 32, 3), value, np.uint8))[0]
    assert np.isfinite(row).all() and np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


def test_blocks_are_histograms_of_the_documented_widths():
    found = dict(blocks(texture("blobs", 1, 90, 70)))
    assert {name: len(block) for name, block in found.items()} == {
        "colour": 150, "structure": 128, "pattern": 200, "orientation": 24,
    }  # fmt: skip
    assert sum(map(len, found.values())) == DIM == 502
    for name in ("colour", "structure", "pattern"):
        assert (found[name] >= 0).all()
        assert np.square(found[name]).sum() == pytest.approx(1, abs=1e-4)
    assert ((found["orientation"] >= 0) & (found["orientation"] <= 1)).all()


@pytest.mark.parametrize("shape", [(64, 64), (75, 75), (49, 98)])
@pytest.mark.parametrize("kind", ["noise", "stripes", "blobs"])
def test_no_up_and_no_mirror(kind, shape):
    image = texture(kind, 3, *shape)
    for turned in (image[:, ::-1], image[::-1], np.rot90(image), np.rot90(image, 2)):
        assert cosine(image, np.ascontiguousarray(turned)) > 0.9999


def test_a_row_depends_on_its_image_alone():
    images = [texture(kind, 4) for kind in ("noise", "ramp", "stripes")]
    together = describe(images)
    assert np.array_equal(together, describe(np.stack(images)))
    for image, row in zip(images, together, strict=True):
        assert np.array_equal(describe([image])[0], row)


def test_textures_are_told_apart_whatever_their_angle_and_seed():
    kinds = ("noise", "stripes", "blobs", "ramp")
    rows = describe([texture(kind, seed) for kind in kinds for seed in range(6)])
    similar = rows @ rows.T
    label = np.repeat(np.arange(len(kinds)), 6)
    same = label[:, None] == label
    assert similar[same].min() > similar[~same].max()


def test_colour_and_orientation_matter():
    grey = texture("noise", 5)
    green = (grey * np.array([0.4, 1.0, 0.4])).astype(np.uint8)
    assert cosine(grey, green) < cosine(grey, texture("noise", 6)) - 0.1
    one_way = dict(blocks(texture("stripes", 7)))["orientation"]
    every_way = dict(blocks(texture("noise", 7)))["orientation"]
    assert one_way[0] > 0.5 > 0.1 > every_way[0]


def test_large_images_are_brought_to_one_scale():
    small = texture("stripes", 8, 256, 256)
    large = np.asarray(Image.fromarray(small).resize((1024, 1024), Image.Resampling.NEAREST))
    assert cosine(small, large) > 0.9999


def test_values_are_those_of_this_version():
    """A change of any value must come with a new DESCRIPTOR_VERSION and new numbers here."""
    y, x = np.mgrid[:40, :52]
    image = np.stack([x * 4, y * 5, (x * y) % 251], -1).astype(np.uint8)
    row = describe([image])[0]
    assert descriptor.DESCRIPTOR_VERSION == "colour-texture-1"
    weights = np.cos(np.arange(DIM))
    assert float(row @ weights) == pytest.approx(GOLDEN_DOT, abs=1e-4)
    assert float(row.sum()) == pytest.approx(GOLDEN_SUM, abs=1e-3)


GOLDEN_DOT, GOLDEN_SUM = 1.050821, 10.259958


@pytest.mark.parametrize(
    "bad",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)),
     np.zeros((0, 8, 3), np.uint8)],
)  # fmt: skip
def test_refuses_what_is_no_rgb_image(bad):
    with pytest.raises(ValueError, match="expected uint8"):
        describe([bad])


def test_tells_real_scenes_apart(shared_data):
    """At least 50 % of AID's scenes have the majority of their five neighbours in their class.

    Every fifth image only, for speed; all 4,000 give 69.8 %
    (python -m prune.descriptor_accuracy).
    """
    root = shared_data / "corpus" / "aid"
    if not root.is_dir():
        pytest.skip(f"no AID images at {root}")
    files = sorted(root.glob("*/*.jpg"))[::5]
    names, labels = np.unique([file.parent.name for file in files], return_inverse=True)
    assert len(names) == 30
    rows = describe([decode_rgb(file.read_bytes()) for file in files])
    similar = rows @ rows.T
    np.fill_diagonal(similar, -1)
    nearest = np.argsort(-similar, axis=1)[:, :5]
    votes = np.stack([np.bincount(labels[five], minlength=30) for five in nearest])
    assert (votes.argmax(1) == labels).mean() >= 0.5
