"""From encoded images to pixels: kinds of image, sizes, threads, damage."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from afa_dist.cli import console
from afa_dist.data import decode
from afa_dist.data.decode import Encoded, decode_images, progress_to, read_pixels, to_square
from afa_dist.errors import UserError

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (6, 5), dtype=np.uint8)


def png(image, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def decoded(images, *arguments, **options):
    return decode_images(len(images), lambda i: Encoded(images[i], "file", f"row {i}"), *arguments, **options)


def test_grey_with_alpha_with_16_bits_and_black_and_white_have_one_channel():
    alpha = np.full_like(GREY, 7)
    assert (read_pixels(png(GREY)) == GREY).all()
    assert (read_pixels(png(np.stack([GREY, alpha], -1))) == GREY[None]).all()
    assert len(read_pixels(png(np.stack([GREY, alpha], -1)))) == 1
    low_bits = RANDOM.integers(0, 256, GREY.shape).astype(np.uint16)
    assert (read_pixels(png((GREY.astype(np.uint16) << 8) | low_bits)) == GREY).all()
    assert set(np.unique(read_pixels(png(Image.fromarray(GREY).convert("1"))))) == {0, 255}
    assert read_pixels(png(GREY)).shape == (1, 6, 5)


def test_everything_else_becomes_rgb():
    channels_first = COLOUR.transpose(2, 0, 1)
    assert (read_pixels(png(COLOUR)) == channels_first).all()
    alpha = np.concatenate([COLOUR, np.zeros((6, 5, 1), np.uint8)], -1)
    assert (read_pixels(png(alpha)) == channels_first).all()  # dropped: blending would make it black
    few = Image.fromarray((COLOUR // 128) * 200)
    assert (read_pixels(png(few.quantize(8))) == np.asarray(few.quantize(8).convert("RGB")).transpose(2, 0, 1)).all()
    assert read_pixels(png(GREY), colour=True).shape == (3, 6, 5)


def test_floating_point_pixels_are_refused_with_the_remedy():
    buffer = io.BytesIO()
    Image.fromarray(GREY.astype(np.float32)).save(buffer, "TIFF")
    with pytest.raises(UserError, match="file: row 0 holds floating-point pixels; save it with 8 bits"):
        decoded([buffer.getvalue()])


@pytest.mark.parametrize("colour_at", [0, 1, 299])
def test_one_coloured_image_makes_all_of_them_coloured(colour_at):
    greys = [RANDOM.integers(0, 256, (6, 5), dtype=np.uint8) for _ in range(300)]
    data = [png(grey) for grey in greys]
    data[colour_at] = png(COLOUR)
    out = decoded(data)
    want = np.stack([np.stack([grey] * 3) for grey in greys])
    want[colour_at] = COLOUR.transpose(2, 0, 1)
    assert torch.equal(out, torch.from_numpy(want))
    assert out.is_contiguous()


def test_threads_change_nothing():
    data = [png(RANDOM.integers(0, 256, (9, 9, 3), dtype=np.uint8)) for _ in range(300)]
    alone = decoded(data)
    torch.set_num_threads(4)
    assert torch.equal(decoded(data), alone)


@pytest.mark.parametrize("shape", [(8, 13), (13, 8), (8, 8)])
def test_a_shorter_side_of_the_right_length_is_cut_and_not_blurred(shape):
    pixels = RANDOM.integers(0, 256, (*shape, 3), dtype=np.uint8)
    top, left = (shape[0] - 8) // 2, (shape[1] - 8) // 2
    assert (np.asarray(to_square(Image.fromarray(pixels), 8)) == pixels[top : top + 8, left : left + 8]).all()


@pytest.mark.parametrize("side", [5, 10, 40])
def test_one_pass_equals_resizing_and_then_cutting_the_centre(side):
    wide = RANDOM.integers(0, 256, (20, 60, 3), dtype=np.uint8)
    whole = Image.fromarray(wide).resize((3 * side, side), Image.Resampling.BILINEAR)
    want = torch.from_numpy(np.asarray(whole)[:, side : 2 * side].copy()).permute(2, 0, 1)
    across, upright = decoded([png(wide), png(wide.transpose(1, 0, 2))], side)
    assert torch.equal(across, want)
    # The two passes of a resize round in between, so the order of axes may cost one step.
    assert (upright.transpose(1, 2).int() - want.int()).abs().max() <= 1


def test_shrinking_averages_instead_of_picking():
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = decoded([png(board)], 8).float()
    assert small.mean().item() == pytest.approx(127.5, abs=2)
    assert small.std() < 5


def test_other_sizes_ask_for_image_size():
    with pytest.raises(UserError, match=r"row 1 is 7x4 pixels, the first image 5x6; set data\.image_size"):
        decoded([png(GREY), png(np.zeros((4, 7), np.uint8))])


def test_all_unreadable_images_are_named_and_counted():
    data = [png(GREY)] * 200
    data[3], data[150] = b"", data[0][:60]
    files = {3: "a.png", 150: "b.png"}
    with pytest.raises(UserError) as caught:
        decode_images(200, lambda i: Encoded(data[i], files.get(i, "fine.png")))
    (first, second) = map(str, caught.value.problems)
    assert first == "a.png: holds no readable image (0 bytes); replace or remove it"
    assert second.startswith("b.png: holds no readable image")
    with pytest.raises(UserError, match=r"^file: row 3 holds .* \(1 more in this file\)$"):
        decoded(data)


def test_a_set_full_of_damage_is_not_read_to_its_end():
    seen = []

    def encoded(i):
        seen.append(i)
        return Encoded(b"", f"{i}.png")

    with pytest.raises(UserError, match="there may be more"):
        decode_images(10 * decode.CHUNK, encoded)
    assert len(seen) == decode.CHUNK


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: cannot be read \(No such file or directory\)"):
        decode_images(1, lambda i: Encoded(tmp_path / "gone.png", str(tmp_path / "gone.png")))


def test_more_pixels_than_memory_holds_is_a_mistake(monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(decode.np, "empty", no_memory)
    with pytest.raises(UserError, match=r"data\.image_size: 1 images of 5x6 pixels need 0 GiB of memory; set a smaller"):
        decoded([png(GREY)])


def test_progress_reaches_whoever_asks_and_no_one_else():
    seen = []
    with progress_to(lambda done, total: seen.append((done, total))):
        decoded([png(GREY)] * 300)
    decoded([png(GREY)])
    assert seen == [(128, 300), (256, 300), (300, 300)]


def test_jobs_say_how_far_a_long_read_is(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.reading_shown():
        decoded([png(GREY)] * 1000)
    assert capsys.readouterr().out.splitlines() == ["reading images: 384/1000", "reading images: 768/1000"]
