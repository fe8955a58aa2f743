"""Pixels on their way to the model: scaling, crops, degradation, masks, rejects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.errors import UserError
from data.pairs.listing import Listing, Report, open_sis, open_sr
from data.pairs.palettes import PALETTES
from dit.training.order import Stream, plan_batch
from dit.vae.autoencoder import load_vae
from downstream.tasks.dataset import choose_palette, fixed_crops, random_crops, scaled
from downstream.tasks.sis import SisPairs
from downstream.tasks.source import DownstreamSource
from downstream.tasks.sr import SrPairs, degrade, restore
from tests.dit.tiny_vae import save_tiny_vae

DUBAI = PALETTES["dubai"]
LIMITS = {"cache": 1 << 30, "workers": 2, "quiet": True}


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def bicubic(image: np.ndarray, scale: float) -> np.ndarray:
    """Keys' cubic convolution (a = -1/2) of float HxWx3, widened to antialias where scale < 1."""

    def weights(size: int) -> np.ndarray:
        centres = (np.arange(round(size * scale)) + 0.5) / scale
        x = np.abs(np.arange(size) + 0.5 - centres[:, None]) * min(scale, 1.0)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        kernel = np.where(x < 1, near, np.where(x < 2, far, 0.0))
        return kernel / kernel.sum(axis=1, keepdims=True)

    rows, columns = (weights(size) for size in image.shape[:2])
    wide = np.einsum("xw,hwc->hxc", columns, image).round().clip(0, 255)  # Pillow's is uint8
    return np.einsum("yh,hxc->yxc", rows, wide).clip(0, 255)


@pytest.fixture
def sr_root(tmp_path: Path) -> Path:
    for n in range(10):
        save(tmp_path / f"{n}.png", smooth(70, 64 + 3 * n, seed=n))
    return tmp_path


@pytest.fixture
def sis_root(tmp_path: Path) -> Path:
    """Images that are their own masks' colours, so that alignment shows in every pixel."""
    rng = np.random.default_rng(0)
    for tile in (1, 2):
        for n in range(4):
            ids = rng.integers(0, DUBAI.classes, (9, 11)).repeat(12, 0).repeat(12, 1)
            colours = DUBAI.paint(ids.astype(np.uint8))
            save(tmp_path / f"t{tile}/images/{n}.png", colours)
            mask = Image.fromarray(colours)
            path = tmp_path / f"t{tile}/masks/{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            (mask.quantize(8) if tile == 1 else mask).save(path)
    return tmp_path


def sr_pairs(root: Path, split: str = "train", **changes) -> tuple[SrPairs, Listing]:
    listing = open_sr(root)
    options = {"hr_size": 64, "factor": 8, "image_size": 32, **LIMITS, **changes}
    return SrPairs(listing.items(split), listing.report, **options), listing


def sis_pairs(root: Path, split: str = "train", **changes) -> tuple[SisPairs, Listing]:
    listing = open_sis(root)
    options = {"palette": DUBAI, "tile_size": 54, "image_size": 32, **LIMITS, **changes}
    return SisPairs(listing.items(split), listing.report, **options), listing


class TestCrops:
    @given(st.integers(32, 40), st.integers(32, 99), st.floats(0, 1, exclude_max=True))
    def test_random_crops_stay_inside(self, height: int, width: int, u: float) -> None:
        (crop,) = random_crops([(height, width)], np.array([0]), np.array([[u, 1 - 2**-53]]), 32)
        assert 0 <= crop.top <= height - 32
        assert crop.left == width - 32

    def test_fixed_crops(self) -> None:
        (centre,) = fixed_crops([(64, 101)], 32, grid=False)
        assert (centre.top, centre.left) == (16, 34)
        grid = fixed_crops([(64, 101), (40, 32)], 32, grid=True)
        assert [(c.index, c.top, c.left) for c in grid] == [
            *((0, top, left) for top in (0, 32) for left in (0, 32, 64, 69)),
            (1, 0, 0),
            (1, 8, 0),
        ]

    @given(st.integers(32, 101), st.integers(32, 101))
    def test_a_grid_covers_every_pixel(self, height: int, width: int) -> None:
        seen = np.zeros((height, width), int)
        crops = fixed_crops([(height, width)], 32, grid=True)
        for crop in crops:
            part = seen[crop.top : crop.top + 32, crop.left : crop.left + 32]
            assert part.shape == (32, 32)  # none reaches beyond the border
            part += 1
        assert seen.min() == 1 and len(crops) == -(-height // 32) * -(-width // 32)

    def test_scaling_keeps_the_whole_image(self) -> None:
        assert scaled(smooth(200, 300), 50).shape == (50, 75, 3)
        assert scaled(smooth(40, 60), 50).shape == (50, 75, 3)
        image = smooth(50, 60)
        assert scaled(image, 50) is image


class TestSr:
    @pytest.mark.parametrize("factor", [4, 8, 16])
    def test_a_square_of_the_enlarged_image(self, factor: int) -> None:
        """Only the square is enlarged, with the pixels that enlarging everything would give."""
        image = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
        low = degrade(image, factor)
        assert low.shape == (128 // factor, 160 // factor, 3)
        whole = Image.fromarray(low).resize((160, 128), Image.Resampling.BICUBIC)
        for top, left in ((0, 0), (37, 21), (64, 96), (5, 90)):
            square = restore(low, factor, top, left, 64)
            expected = np.asarray(whole)[top : top + 64, left : left + 64]
            assert np.abs(square.astype(int) - expected).max() <= 1  # Pillow's fixed point

    @pytest.mark.parametrize("factor", [2, 4, 8])
    def test_the_kernel_is_antialiased_bicubic(self, factor: int) -> None:
        """By its formula: down with a kernel as wide as the factor, up with one as wide as 1."""
        image = np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8)
        low = degrade(image, factor)
        apart = low - bicubic(image.astype(float), 1 / factor)
        assert np.abs(apart).max() < 1.5 and np.abs(apart).mean() < 0.3
        up = bicubic(low.astype(float), factor)
        apart = restore(low, factor, 8, 16, 32) - up[8:40, 16:48]
        assert np.abs(apart).max() < 1.5 and np.abs(apart).mean() < 0.3

    def test_degradation_is_antialiased(self) -> None:
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[:, ::2] = 255
        assert np.abs(degrade(stripes, 8)[1:-1, 1:-1].astype(int) - 127).max() <= 2

    def test_crops_are_aligned(self, sr_root: Path) -> None:
        pairs, _ = sr_pairs(sr_root)
        high, low = pairs.crops(fixed_crops(pairs.sizes, 32, grid=True))
        assert high.shape == low.shape and high.shape[1:] == (32, 32, 3)
        apart = np.abs(high.astype(float) - low).mean()
        shifted = np.abs(high[:, :, 4:].astype(float) - low[:, :, :-4]).mean()
        assert apart < 0.7 * shifted

    def test_sides_become_multiples_of_the_factor(self, sr_root: Path) -> None:
        pairs, _ = sr_pairs(sr_root)
        assert all(h % 8 == 0 and w % 8 == 0 and min(h, w) == 64 for h, w in pairs.sizes)

    def test_small_and_broken_images_are_counted(self, sr_root: Path) -> None:
        keys = open_sr(sr_root).items("train")
        keys[0].image.write_bytes(b"not an image")
        save(keys[1].image, smooth(60, 80))
        keys[2].image.write_bytes(keys[2].image.read_bytes()[:200])
        pairs, listing = sr_pairs(sr_root)
        assert len(pairs) == len(keys) - 3
        assert sum(listing.report.counts.values()) == 3
        assert listing.report.counts["too-small"] == 1
        assert keys[0].key not in pairs.keys

    def test_nothing_left(self, sr_root: Path) -> None:
        with pytest.raises(UserError, match=r"(?s)no image of the split.*too-small: 8"):
            sr_pairs(sr_root, hr_size=512)

    @pytest.mark.parametrize("wrong", [{"factor": 7}, {"factor": 1}, {"hr_size": 24}])
    def test_sizes_that_do_not_fit(self, sr_root: Path, wrong: dict) -> None:
        with pytest.raises(UserError, match=r"--factor|--hr-size"):
            sr_pairs(sr_root, **wrong)


class TestSis:
    def test_image_and_mask_stay_together(self, sis_root: Path) -> None:
        for split, side in (("train", 108), ("val", 108), ("train", 54)):
            pairs, _ = sis_pairs(sis_root, split, tile_size=side)
            images, ids = pairs.crops(fixed_crops(pairs.sizes, 32, grid=True))
            assert ids.dtype == np.uint8 and ids.max() < DUBAI.classes
            same = (pairs.picture(ids) == images).all(axis=-1).mean()
            assert same == 1.0 if side == 108 else same > 0.6  # box-halved edges blend

    def test_masks_are_never_interpolated(self, sis_root: Path) -> None:
        for path in sis_root.glob("t1/masks/*.png"):
            ids = np.full((108, 132), 1, np.uint8)
            ids[:, 66:] = 5
            save(path, DUBAI.paint(ids))
        pairs, _ = sis_pairs(sis_root, tile_size=50)
        assert set(np.unique(pairs.get([0])[0][1])) == {1, 5}

    def test_other_sizes_are_counted(self, sis_root: Path) -> None:
        save(sis_root / "t1/images/2.png", smooth(108, 131))
        (sis_root / "t1/masks/3.png").write_bytes(b"")
        pairs, listing = sis_pairs(sis_root)
        assert len(pairs) == 2
        assert listing.report.counts == {"mask of another size": 1, "mask empty": 1}

    def test_small_tiles_are_counted_and_not_enlarged(self, sis_root: Path) -> None:
        assert sis_pairs(sis_root, tile_size=108)[0].sizes[0] == (108, 132)
        for kind in ("images", "masks"):
            path = sis_root / f"t1/{kind}/2.png"
            save(path, np.asarray(Image.open(path).convert("RGB"))[:107])
        pairs, listing = sis_pairs(sis_root, tile_size=108)
        assert len(pairs) == 3 and listing.report.counts == {"too-small": 1}
        assert any("below --tile-size 108" in line for line in listing.report.lines())
        with pytest.raises(UserError, match=r"(?s)no image of the split.*too-small: 4"):
            sis_pairs(sis_root, tile_size=133)

    def test_unknown_colours_end_it_with_a_list(self, sis_root: Path) -> None:
        mask = np.zeros((108, 132, 3), np.uint8)
        mask[0, :3] = (1, 200, 3)
        save(sis_root / "t1/masks/3.png", mask)
        with pytest.raises(UserError, match=r"t1/masks/3.png.*01C803 \(3 px\)"):
            sis_pairs(sis_root)

    def test_noisy_colours_are_reported(self, sis_root: Path) -> None:
        mask = np.full((108, 132, 3), (132, 41, 246), np.uint8)
        mask[0, :3] = (135, 40, 240)
        save(sis_root / "t1/masks/3.png", mask)
        _, listing = sis_pairs(sis_root)
        assert any(note.startswith("3 pixels of 1 masks") for note in listing.report.notes)

    @pytest.mark.parametrize("form", ["channels", "grey palette", "grey"])
    def test_masks_of_ids_in_any_form_are_read_as_ids(self, tmp_path: Path, form: str) -> None:
        rng = np.random.default_rng(1)
        for n in range(4):
            ids = rng.integers(0, 9, (9, 11), np.uint8).repeat(12, 0).repeat(12, 1)
            image = rng.integers(0, 255, (*ids.shape, 3), np.uint8)
            save(tmp_path / f"t{n % 2}/images/{n}.png", image)
            path = tmp_path / f"t{n % 2}/masks/{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if form == "channels":
                Image.fromarray(np.stack([ids] * 3, axis=-1)).save(path)
            elif form == "grey":
                Image.fromarray(ids).save(path)
            else:
                picture = Image.fromarray(ids).convert("P")
                picture.putpalette([value for i in range(256) for value in (i, i, i)])
                picture.save(path)
        items = open_sis(tmp_path).items("train")
        palette = choose_palette(items, "openearthmap", Report(), 1, quiet=True)
        pairs, _ = sis_pairs(tmp_path, palette=palette, tile_size=108)
        expected = {item.key: np.asarray(Image.open(item.mask)) for item in items}
        for key, (_, ids) in zip(pairs.keys, pairs.get(range(len(pairs))), strict=True):
            stored = expected[key][..., 0] if expected[key].ndim == 3 else expected[key]
            assert (ids == stored).all() and ids.max() == 8
        with pytest.raises(UserError, match="hold class ids without colours"):
            choose_palette(items, "groups", Report(), 1, quiet=True)

    def test_one_class_in_nearly_all_of_every_mask_is_an_error(self, sis_root: Path) -> None:
        for path in sis_root.glob("t*/masks/*.png"):
            mask = np.full((108, 132, 3), (132, 41, 246), np.uint8)
            mask[0, :50] = (226, 169, 41)
            save(path, mask)
        shown = r"masks/0.png: nearly .* all 4 masks.*'land' .*\(132, 41, 246\)"
        with pytest.raises(UserError, match=shown):
            sis_pairs(sis_root)

    def test_palette_is_found_or_asked_for(self, sis_root: Path) -> None:
        items = open_sis(sis_root).items("train")
        report = Report()
        assert choose_palette(items, "groups", report, 2, quiet=True) is DUBAI
        assert "dubai" in report.notes[0]
        for item in items:
            save(item.mask, np.ones((108, 132), np.uint8))
        with pytest.raises(UserError, match="state --palette"):
            choose_palette(items, "groups", report, 2, quiet=True)
        assert choose_palette(items, "openearthmap", report, 2, quiet=True).classes == 9


class FakeVae:
    """Only the shape of a VAE: `pixels` encodes nothing."""

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        return 4, size // 8, size // 8


def test_latents_carry_the_scale_of_the_vae(sr_root: Path, tmp_path: Path) -> None:
    """Of image and condition alike, against diffusers' own encoder."""
    folder = save_tiny_vae(tmp_path / "vae", scaling_factor=0.25)
    source = DownstreamSource(sr_pairs(sr_root)[0], load_vae(folder))
    plan = plan_batch(seed=1, step=2, batch=3, n=len(source.keys))
    images, low = source.pixels(plan)
    theirs = AutoencoderKL.from_pretrained(folder).eval()

    def posterior(pixels: np.ndarray):
        unit = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 127.5 - 1).float()
        with torch.no_grad():
            return theirs.encode(unit).latent_dist

    given = source.load(plan)
    assert torch.allclose(given["condition"], 0.25 * posterior(low).mean, atol=1e-5)
    noise = plan.noise(source.latent_shape, Stream.POSTERIOR)
    x0 = posterior(images)
    assert torch.allclose(given["x0"], 0.25 * (x0.mean + x0.std * noise), atol=1e-5)
    assert given["condition"].abs().mean() > 1e-3  # not all zero, which has any scale


@pytest.mark.parametrize("kind", ["sr", "sis"])
def test_source_is_a_function_of_the_plan(kind: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(f"{kind}_root")
    pairs = (sr_pairs if kind == "sr" else sis_pairs)(root)[0]
    spilled = (sr_pairs if kind == "sr" else sis_pairs)(root, cache=0)[0]
    assert pairs.resident and not spilled.resident
    n = len(pairs)
    whole = plan_batch(seed=3, step=5, batch=8, n=n)
    first = DownstreamSource(pairs, FakeVae()).pixels(whole)  # type: ignore[arg-type]
    parts = [
        DownstreamSource(spilled, FakeVae()).pixels(part)  # type: ignore[arg-type]
        for part in whole.split(3)
    ]
    for place in (0, 1):
        assert (first[place] == np.concatenate([part[place] for part in parts])).all()
    # Mirrored where, and only where, the plan says so.
    plain = plan_batch(seed=3, step=5, batch=8, n=n, flip=False)
    straight = DownstreamSource(pairs, FakeVae()).pixels(plain)  # type: ignore[arg-type]
    assert whole.flips.any() and not whole.flips.all()
    for place in (0, 1):
        for slot, flip in enumerate(whole.flips):
            expected = straight[place][slot][:, ::-1] if flip else straight[place][slot]
            assert (first[place][slot] == expected).all()
