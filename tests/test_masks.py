"""The mask algebra: what holds for every mask, and what the decoder says of every kind of bad picture."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFile
from scipy import ndimage

from omg_ext.comprehension.masks import (
    blend_weights,
    box_mask,
    decode_mask,
    encode_mask,
    is_vanished,
    left_over,
    refine,
    resize,
    shrink_mask_text,
    spread,
    to_latent_grid,
)
from omg_ext.errors import OMGError

FIELD = "concepts[0].where.mask"
sizes = st.integers(1, 24)
shapes = st.tuples(sizes, sizes)
unit = st.floats(0, 1, width=32)
masks = hnp.arrays(np.float32, shapes, elements=unit)
binary_masks = hnp.arrays(np.float32, shapes, elements=st.sampled_from([0.0, 1.0]))
masks_of_few_levels = hnp.arrays(np.float32, shapes, elements=st.sampled_from([0.0, 0.25, 0.7, 1.0]))
# drawing a picture the first time is slow on a busy machine
relaxed = settings(deadline=None)


def saved(picture: Image.Image, kind: str, **options) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def png(picture: Image.Image, **options) -> str:
    return saved(picture, "PNG", **options)


def png_of_header(width: int, height: int) -> str:
    """A PNG of a signature and a header alone: a few bytes that claim any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return base64.b64encode(data).decode()


def half_white(mode: str = "L") -> Image.Image:
    """The left half white, 6 x 4."""
    return Image.fromarray(np.repeat([[255] * 3 + [0] * 3], 4, axis=0).astype(np.uint8)).convert(mode)


def dilated(mask: np.ndarray, radius: float) -> np.ndarray:
    """Grey dilation, one offset of the disc after the other."""
    height, width = mask.shape
    result = mask.copy()
    for dy in range(1 - height, height):
        for dx in range(1 - width, width):
            if dx * dx + dy * dy <= radius * radius:
                to = result[max(dy, 0):height + min(dy, 0), max(dx, 0):width + min(dx, 0)]
                np.maximum(to, mask[max(-dy, 0):height + min(-dy, 0), max(-dx, 0):width + min(-dx, 0)], out=to)
    return result


def refusal(text: str) -> str:
    with pytest.raises(OMGError) as caught:
        decode_mask(text, FIELD)
    assert caught.value.field == FIELD
    return caught.value.message


class TestDecode:
    @pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "LA", "RGBA"])
    def test_modes(self, mode):
        mask = decode_mask(png(half_white(mode)), FIELD)
        assert mask.dtype == np.float32
        np.testing.assert_array_equal(mask, np.repeat([[1, 1, 1, 0, 0, 0]], 4, axis=0))

    def test_sixteen_bit_grey(self):
        grey = np.array([[0, 32768, 65535]], dtype=np.uint16)
        np.testing.assert_allclose(decode_mask(png(Image.fromarray(grey)), FIELD), [[0, 0.5, 1]], atol=1e-4)

    def test_alpha_multiplies_brightness(self):
        picture = Image.fromarray(np.array([[[255, 255], [255, 204], [153, 255], [255, 0]]], dtype=np.uint8), "LA")
        np.testing.assert_allclose(decode_mask(png(picture), FIELD), [[1, 0.8, 0.6, 0]], atol=1e-6)

    @pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (128, 128, 128), (0, 90, 40), (20, 20, 20)])
    def test_every_colour_is_paint(self, colour):
        picture = Image.new("RGB", (6, 4))
        picture.paste(colour, (0, 0, 3, 4))
        np.testing.assert_array_equal(decode_mask(png(picture), FIELD), np.repeat([[1, 1, 1, 0, 0, 0]], 4, axis=0))

    @pytest.mark.parametrize("level", [128, 255])
    def test_paint_with_smooth_edges(self, level):
        """As paint programs draw: grey counts fully, its edges in proportion."""
        drawn = Image.new("L", (400, 400))
        ImageDraw.Draw(drawn).ellipse((80, 80, 320, 320), fill=level)
        small = drawn.resize((40, 40), Image.Resampling.BOX)
        assert len(small.getcolors() or ()) > 2
        np.testing.assert_allclose(decode_mask(png(small), FIELD), np.asarray(small) / level, atol=1e-6)

    @pytest.mark.parametrize("mask", [
        np.linspace(0, 0.5, 50)[None], 0.5 * np.exp(-np.linspace(-3, 3, 60) ** 2)[None],
        np.repeat([[0, 0.3, 0.6]], 4, axis=0)], ids=["ramp", "bell", "two levels"])
    def test_soft_masks_keep_their_weights(self, mask):
        np.testing.assert_allclose(decode_mask(encode_mask(mask), FIELD), mask, atol=0.5 / 255 + 1e-6)

    @pytest.mark.parametrize("mode", ["LA", "RGBA"])
    def test_black_strokes_on_a_transparent_ground(self, mode):
        picture = Image.new(mode, (6, 4), (0,) * len(mode))
        picture.paste((0,) * (len(mode) - 1) + (255,), (0, 0, 3, 4))
        np.testing.assert_array_equal(decode_mask(png(picture), FIELD), np.repeat([[1, 1, 1, 0, 0, 0]], 4, axis=0))

    @pytest.mark.parametrize("strength", [1.0, 0.5])
    def test_white_strokes_beat_transparency(self, strength):
        """Only where all is black does alpha alone decide."""
        picture = Image.new("LA", (6, 4), (0, 255))
        picture.paste((255, 0), (3, 0, 6, 4))
        picture.paste((round(255 * strength), 255), (0, 0, 2, 4))
        np.testing.assert_array_equal(decode_mask(png(picture), FIELD), np.repeat([[1, 1, 0, 0, 0, 0]], 4, axis=0))

    @pytest.mark.parametrize(("kind", "options"), [
        ("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True})])
    @pytest.mark.parametrize("colour", [(255, 255, 255), (128, 128, 128), (255, 0, 0)])
    def test_jpeg_and_webp(self, kind, options, colour):
        picture = Image.new("RGB", (64, 48))
        picture.paste(colour, (0, 0, 32, 48))
        mask = decode_mask("data:image/x;base64," + saved(picture, kind, **options), FIELD)
        assert mask.shape == (48, 64)
        np.testing.assert_allclose(mask[:, :28], 1, atol=0.1)
        np.testing.assert_allclose(mask[:, 36:], 0, atol=0.1)

    def test_transparent_webp(self):
        picture = half_white("RGBA").resize((64, 48))
        picture.putalpha(128)
        mask = decode_mask(saved(picture, "WEBP", lossless=True), FIELD)
        assert mask[:, :20].min() == 1
        assert mask[:, 44:].max() == 0

    def test_a_photo_of_a_turned_camera_is_upright(self):
        exif = Image.Exif()
        exif[274] = 6  # to be turned right by a quarter
        mask = decode_mask(saved(half_white("RGB").resize((64, 48)), "JPEG", exif=exif), FIELD)
        assert mask.shape == (64, 48)
        assert mask[:20].mean() > 0.9
        assert mask[44:].mean() < 0.1

    def test_transparent_palette_colour(self):
        picture = half_white("P")
        assert decode_mask(png(picture, transparency=picture.getpixel((5, 0))), FIELD).mean() == 0.5

    def test_data_prefix_and_line_breaks(self):
        text = png(half_white())
        broken = "data:image/png;base64," + "\n".join(text[i:i + 20] for i in range(0, len(text), 20)) + "\n"
        np.testing.assert_array_equal(decode_mask(broken, FIELD), decode_mask(text, FIELD))

    @pytest.mark.parametrize("text", ["this is no base64!", "iVBORw0KGgo", "é"])
    def test_not_base64(self, text):
        assert "this is not base64" in refusal(text)

    @pytest.mark.parametrize("text", ["", "AAAA", base64.b64encode(b"GIF89a" * 20).decode()])
    def test_no_picture(self, text):
        assert "no PNG, JPEG or WebP" in refusal(text)

    @pytest.mark.parametrize("cut", [8, 20, 33, 45, -12, -20])
    @pytest.mark.parametrize("lenient", [False, True])
    @pytest.mark.usefixtures("reader")
    def test_truncated(self, cut, lenient, monkeypatch):
        # other extensions set this for the whole process
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
        data = base64.b64decode(png(half_white().resize((60, 40))))
        assert "the PNG is damaged" in refusal(base64.b64encode(data[:cut]).decode())

    @pytest.mark.parametrize("kind", ["JPEG", "WebP"])
    @pytest.mark.parametrize("cut", [13, 20, 40, -1, -12, -30])
    @pytest.mark.parametrize("lenient", [False, True])
    @pytest.mark.usefixtures("reader")
    def test_truncated_jpeg_and_webp(self, kind, cut, lenient, monkeypatch):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
        data = base64.b64decode(saved(half_white("RGB").resize((60, 40)), kind))
        assert f"the {kind} is damaged" in refusal(base64.b64encode(data[:cut]).decode())

    @pytest.mark.parametrize("options", [{"lossless": False}, {"lossless": True}, {"lossless": False, "alpha": True}])
    def test_webp_bomb_is_refused_by_its_header(self, options, monkeypatch):
        picture = Image.new("RGB", (4097, 4096), (255, 255, 255))
        if options.pop("alpha", False):
            picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        text = saved(picture, "WEBP", method=0, **options)
        monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("the bomb was opened"))
        assert "the WebP is 4097 x 4096 pixels" in refusal(text)

    @pytest.mark.parametrize("size", [(5000, 4000), (65535, 65535)])
    def test_jpeg_bomb_is_refused_by_its_header(self, size, monkeypatch):
        data = bytearray(base64.b64decode(saved(half_white(), "JPEG")))
        frame = data.index(b"\xff\xc0")
        data[frame + 5:frame + 9] = struct.pack(">HH", *reversed(size))
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *args: pytest.fail("the bomb was decoded"))
        assert "more than 16777216; make it smaller" in refusal(base64.b64encode(data).decode())

    @pytest.mark.parametrize("size", [(4097, 4096), (100_000, 100_000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1)])
    def test_bomb_is_refused_by_its_header(self, size, monkeypatch):
        monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("the bomb was opened"))
        message = refusal(png_of_header(*size))
        assert f"{size[0]} x {size[1]} pixels" in message
        assert "make it smaller" in message

    def test_largest_size_is_allowed(self):
        picture = Image.new("1", (4096, 4096), 1)
        assert decode_mask(png(picture), FIELD).shape == (4096, 4096)

    @pytest.mark.parametrize("size", [(4096, 4096), (0, 5)])
    @pytest.mark.usefixtures("reader")
    def test_header_without_picture(self, size):
        assert "the PNG is damaged" in refusal(png_of_header(*size))

    @pytest.mark.parametrize("picture", [
        Image.new("L", (8, 8)), Image.new("LA", (8, 8), (255, 0)), Image.new("RGBA", (8, 8), (0, 0, 0, 255)),
        Image.new("RGBA", (8, 8), (0, 0, 0, 128)), Image.new("L", (8, 8), 9)])
    def test_all_black(self, picture):
        assert "all black or fully transparent" in refusal(png(picture))

    # Pillow warns of what is odd in a file
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP"])
    @relaxed
    @given(st.data())
    def test_damage_anywhere_gives_a_mask_or_a_message(self, kind, data):
        exif = Image.Exif()
        exif[274] = 6
        file = bytearray(base64.b64decode(saved(half_white("RGB"), kind, exif=exif)))
        for _ in range(data.draw(st.integers(1, 4))):
            file[data.draw(st.integers(8, len(file) - 1))] = data.draw(st.integers(0, 255))
        try:
            assert decode_mask(base64.b64encode(bytes(file)).decode(), FIELD).ndim == 2
        except OMGError as error:
            assert error.field == FIELD


class TestEncode:
    @relaxed
    @given(masks)
    def test_round_trip(self, mask):
        assume(mask.max() > 0.07)
        decoded = decode_mask(encode_mask(mask), FIELD)
        # paint of one brightness counts fully
        scale = np.rint(255 * mask.max()) / 255 if decoded.max() == 1 else 1
        np.testing.assert_allclose(decoded * scale, mask, atol=0.5 / 255 + 1e-6)

    @relaxed
    @given(binary_masks)
    def test_binary_is_exact_and_one_bit(self, mask):
        assume(mask.any())
        text = encode_mask(mask)
        np.testing.assert_array_equal(decode_mask(text, FIELD), mask)
        assert base64.b64decode(text)[24] == 1

    def test_shrink_leaves_what_fits(self):
        text = png(half_white())
        assert shrink_mask_text(text) == text

    @relaxed
    @given(st.integers(0, 99), st.booleans(), st.sampled_from([150, 400, 1000]))
    def test_shrink_fits_and_keeps_the_area(self, seed, binary, limit):
        rng = np.random.default_rng(seed)
        mask = np.zeros((97, 130), dtype=np.float32)
        mask[20:70, 30:100] = 1 if binary else rng.random((50, 70))
        mask[:20, :20] = rng.random((20, 20)) > 0.5
        small = shrink_mask_text(encode_mask(mask), limit)
        assert len(small) <= limit
        assert abs(decode_mask(small, FIELD).mean() - mask.mean()) < 0.1

    def test_shrink_keeps_thin_drawings(self):
        mask = np.zeros((300, 300), dtype=np.float32)
        mask[np.random.default_rng(0).random(mask.shape) < 0.02] = 1
        small = decode_mask(shrink_mask_text(encode_mask(mask), 200), FIELD)
        assert set(np.unique(small)) <= {0, 1}
        assert small.any()


class TestBox:
    def test_whole_pixels(self):
        expected = np.zeros((4, 8))
        expected[1:3, 2:6] = 1
        np.testing.assert_array_equal(box_mask([0.25, 0.25, 0.75, 0.75], 4, 8), expected)

    def test_fractional_edges(self):
        np.testing.assert_allclose(box_mask([0.125, 0, 0.5, 0.75], 2, 4), [[0.5, 1, 0, 0], [0.25, 0.5, 0, 0]])

    @given(st.lists(unit, min_size=2, max_size=2, unique=True), st.lists(unit, min_size=2, max_size=2, unique=True),
           shapes)
    def test_mean_is_the_area(self, xs, ys, shape):
        (x0, x1), (y0, y1) = sorted(xs), sorted(ys)
        mask = box_mask([x0, y0, x1, y1], *shape)
        assert mask.dtype == np.float32
        assert mask.mean(dtype=np.float64) == pytest.approx((x1 - x0) * (y1 - y0), abs=1e-6)


class TestResize:
    @given(masks, shapes)
    def test_stays_in_range(self, mask, shape):
        small = resize(mask, *shape)
        assert small.dtype == np.float32
        assert small.shape == shape
        assert mask.min() - 1e-6 <= small.min()
        assert small.max() <= mask.max() + 1e-6

    @given(masks, st.data())
    def test_shrinking_keeps_the_mean_area(self, mask, data):
        shape = [data.draw(st.integers(1, old)) for old in mask.shape]
        assert resize(mask, *shape).mean(dtype=np.float64) == pytest.approx(mask.mean(dtype=np.float64), abs=1e-6)

    @given(masks, st.integers(1, 4), st.integers(1, 4))
    def test_growing_by_whole_factors_keeps_the_mean_area(self, mask, down, right):
        large = resize(mask, mask.shape[0] * down, mask.shape[1] * right)
        assert large.mean(dtype=np.float64) == pytest.approx(mask.mean(dtype=np.float64), abs=1e-6)

    @given(shapes, shapes)
    def test_all_ones_stay_all_ones(self, old, new):
        assert (resize(np.ones(old, dtype=np.float32), *new) == 1).all()

    @given(masks)
    def test_same_size_changes_nothing(self, mask):
        np.testing.assert_array_equal(resize(mask, *mask.shape), mask)

    def test_growing_is_linear(self):
        np.testing.assert_allclose(resize(np.array([[0.0, 1.0]]), 1, 4), [[0, 0.25, 0.75, 1]])


class TestLatentGrid:
    @given(masks, shapes)
    def test_keeps_the_mean_area(self, mask, shape):
        grid = to_latent_grid(mask, *shape)
        assert grid.shape == shape
        assert grid.dtype == torch.float32
        assert grid.double().mean().item() == pytest.approx(mask.mean(dtype=np.float64), abs=1e-6)

    @given(shapes, shapes)
    def test_all_ones_stay_all_ones(self, old, new):
        assert (to_latent_grid(np.ones(old, dtype=np.float32), *new) == 1).all()

    def test_fractional_cells(self):
        grid = to_latent_grid(np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]), 2, 2)
        torch.testing.assert_close(grid, torch.tensor([[1 / 2.25, 0], [0, 0]]))

    @given(hnp.arrays(np.float32, (24, 16), elements=unit))
    def test_equals_average_pooling_at_whole_factors(self, mask):
        pooled = torch.nn.functional.avg_pool2d(torch.from_numpy(mask)[None], 8)[0]
        torch.testing.assert_close(to_latent_grid(mask, 3, 2), pooled)


class TestRefine:
    @relaxed
    @given(shapes, st.floats(0, 0.5), st.floats(0, 0.5))
    def test_all_ones_stay_all_ones(self, shape, grow, feather):
        assert (refine(np.ones(shape, dtype=np.float32), grow, feather) == 1).all()

    @relaxed
    @given(masks)
    def test_nothing_asked_changes_nothing(self, mask):
        np.testing.assert_array_equal(refine(mask, 0, 0), mask)

    @relaxed
    @given(masks | binary_masks | masks_of_few_levels, st.floats(0, 3))
    def test_grow_is_dilation_by_a_disc(self, mask, grow):
        np.testing.assert_array_equal(refine(mask, grow, 0), dilated(mask, grow * mask.shape[1]))

    @pytest.mark.parametrize("radius", [0, 0.99, 1, 1.41, 1.42, 2**0.5, 5**0.5, 5, 5 - 1e-15, 7.1, 12, 40, 1000])
    @pytest.mark.parametrize("shape", [(13, 17), (17, 13), (1, 9), (9, 1), (1, 1)])
    @pytest.mark.parametrize("levels", [1, 3, 255])
    def test_radii(self, radius, shape, levels):
        """On the border of a pixel's reach, below one pixel, beyond the picture."""
        mask = np.rint(np.random.default_rng(0).random(shape) ** 6 * levels).astype(np.float32) / np.float32(levels)
        np.testing.assert_array_equal(refine(mask, radius / shape[1], 0), dilated(mask, radius / shape[1] * shape[1]))

    def test_work_depends_on_the_radius_alone(self, monkeypatch):
        """Three passes over the picture per row of the disc, and some to prepare, for any number of levels."""
        work: list[int] = []
        maximum = np.maximum

        def counted(*args, **kwargs):
            result = maximum(*args, **kwargs)
            work.append(result.size)
            return result

        soft = np.random.default_rng(0).random((256, 256))
        passes = []
        for levels in (10**6, 255, 3, 1):
            mask = (np.rint(soft * levels) / levels).astype(np.float32)
            with monkeypatch.context() as patch:
                patch.setattr("omg_ext.comprehension.masks.np.maximum", counted)
                refine(mask, 0.25, 0)
            passes.append(sum(work) / mask.size)
            work.clear()
        assert passes == passes[:1] * 4
        assert passes[0] < 3 * 65 + 2 * 7

    @relaxed
    @given(masks, st.floats(0, 0.5), st.floats(0, 0.5))
    def test_stays_in_range(self, mask, grow, feather):
        soft = refine(mask, grow, feather)
        assert soft.dtype == np.float32
        assert mask.min() - 1e-6 <= soft.min()
        assert soft.max() <= mask.max() + 1e-6

    @pytest.mark.parametrize("shape", [(60, 90), (33, 200), (1, 7)])
    @pytest.mark.parametrize("sigma", [23.9, 24, 40.3, 300])
    def test_wide_feather_is_the_gaussian_of_scipy(self, shape, sigma):
        mask = np.random.default_rng(0).random(shape, dtype=np.float32)
        expected = ndimage.gaussian_filter(mask, sigma, mode="nearest")
        np.testing.assert_allclose(refine(mask, 0, sigma / shape[1]), expected, atol=1e-6)

    def test_feather_is_a_fraction_of_the_width(self):
        step = np.zeros((100, 200), dtype=np.float32)
        step[:, 100:] = 1
        soft = refine(step, 0, 0.05)
        # one standard deviation, 10 pixels, beyond the edge
        assert soft[50, 109:111].mean() == pytest.approx(0.8413, abs=0.01)


class TestBlendWeights:
    @given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), sizes, sizes), elements=unit), st.data())
    def test_partition_of_unity(self, stack, data):
        strengths = [data.draw(unit) for _ in stack]
        weights = blend_weights(torch.from_numpy(stack), strengths)
        background = 1 - weights.sum(0)
        assert weights.shape == stack.shape
        assert (weights >= 0).all()
        assert (background >= -1e-6).all()
        torch.testing.assert_close(background + weights.sum(0), torch.ones(stack.shape[1:]))

    @given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), sizes, sizes), elements=unit))
    def test_without_overlap_a_weight_is_mask_times_strength(self, stack):
        stack = stack / len(stack)
        weights = blend_weights(torch.from_numpy(stack), [0.5] * len(stack))
        torch.testing.assert_close(weights, torch.from_numpy(stack) * 0.5)

    def test_overlap_is_shared_in_proportion(self):
        weights = blend_weights(torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 0.5, 0.25]]]), [1, 0.5])
        torch.testing.assert_close(weights, torch.tensor([[[1.0, 2 / 3, 0.0]], [[0.0, 1 / 6, 0.125]]]))

    @given(shapes)
    def test_one_mask_of_all_ones_takes_everything(self, shape):
        assert (blend_weights(torch.ones(1, *shape), [1.0]) == 1).all()


class TestLeftOver:
    @given(hnp.arrays(np.float32, st.tuples(st.integers(0, 4), sizes, sizes), elements=unit), st.data())
    def test_with_it_all_space_is_somebodys_on_every_grid(self, stack, data):
        """*partition of unity*: their own weights are as without it where they did not add up to more than 1."""
        height, width = stack.shape[1:]
        rest = left_over(stack, height, width)
        assert rest.dtype == np.float32
        np.testing.assert_allclose(rest, np.clip(1 - stack.sum(0), 0, 1), atol=1e-6)
        grid = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
        grids = torch.stack([to_latent_grid(mask, *grid) for mask in [*stack, rest]])
        weights = blend_weights(grids, [1.0] * len(grids))
        torch.testing.assert_close(weights.sum(0), torch.ones(grid))
        if stack.sum(0).max(initial=0) <= 1:
            torch.testing.assert_close(weights, grids)

    @pytest.mark.parametrize(("grow", "feather"), [(0, 0), (0.1, 0), (0, 0.05), (0.05, 0.1)])
    def test_its_edge_is_as_soft_as_theirs(self, grow, feather):
        mask = refine(box_mask((0.2, 0, 0.7, 1), 48, 64), grow, feather)
        rest = left_over([mask], 48, 64)
        np.testing.assert_allclose(mask + rest, 1, atol=1e-6)

    def test_where_they_overlap_nothing_is_left(self):
        left, right = box_mask((0, 0, 0.75, 1), 2, 8), box_mask((0.25, 0, 0.875, 1), 2, 8)
        np.testing.assert_array_equal(left_over([left, right], 2, 8), box_mask((0.875, 0, 1, 1), 2, 8))
        assert (left_over([], 3, 4) == np.ones((3, 4))).all()


@pytest.mark.parametrize(("weight", "vanished"), [(0, True), (0.49, True), (0.5, False), (3, False)])
def test_vanished(weight, vanished):
    mask = torch.zeros(4, 4)
    mask[1, :3] = weight / 3
    assert is_vanished(mask) is vanished


# --- all space is somebody's ---

def test_what_no_mask_has_goes_to_the_nearest():
    shares = torch.zeros(3, 6, 8)
    shares[0, 1:3, 1] = 1
    shares[1, 2, 6] = 0.2  # faint, and a concept all the same; the third is not in the picture
    whole = spread(shares)
    torch.testing.assert_close(whole.sum(0), torch.ones(6, 8))
    assert bool((whole >= shares).all())
    assert not whole[2].any()
    expected = torch.zeros(3, 6, 8)
    expected[0, :, :4], expected[1, :, 4:] = 1, 1
    expected[:, 2, 6] = torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(whole[:, 2], expected[:, 2])
    assert torch.equal(spread(torch.zeros(2, 3, 3)), torch.zeros(2, 3, 3))


@relaxed
@given(seed=st.integers(0, 1000), count=st.integers(1, 4))
def test_spread_shares_stay_a_partition_of_unity(seed, count):
    masks = torch.rand(count, 7, 9, generator=torch.Generator().manual_seed(seed))
    shares = blend_weights(masks * (masks > 0.6), [1.0] * count)
    whole = spread(shares)
    torch.testing.assert_close(whole.sum(0), torch.ones(7, 9))
    assert bool((whole >= shares - 1e-6).all())
    torch.testing.assert_close(spread(shares.flip(0)).flip(0), whole)
    settled = shares.sum(0) > 1 - 1e-6
    torch.testing.assert_close(whole[:, settled], shares[:, settled])
