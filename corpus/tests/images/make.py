"""Writes cases.safetensors: small images in every layout that is decoded, and what Pillow makes of them.

For a case NAME there is `NAME` (the encoded bytes), `NAME.rgb` ([height, width, 3], Image.open(...).convert("RGB"))
and, where the image says how it is turned, `NAME.upright` (after ImageOps.exif_transpose). `png_rgb.to_WxH` are its
bicubic resizes.
Run in this folder with the project's .venv: python make.py
"""

import io
import struct
import zlib

import numpy as np
import PIL
from PIL import Image, ImageOps
from safetensors.numpy import save_file

WIDTH, HEIGHT = 37, 23


def scene(width=WIDTH, height=HEIGHT):
    """A smooth picture with an edge and some noise, so that chroma, ringing and prediction all matter."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(5).integers(0, 24, (height, width, 3))
    image = np.stack([x * 6, y * 10, 128 + 90 * np.sin(x / 5 + y / 3)], axis=-1) + noise
    image[(x - 18) ** 2 + (y - 11) ** 2 < 40] = [200, 30, 60]
    return np.clip(image, 0, 255).astype(np.uint8)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def png(width, height, depth, color_type, rows, chunks=()):
    """A PNG that Pillow can't write: any bit depth, rows given as packed bytes."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    extra = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def packed(values, depth):
    """Grey values or palette indices of fewer than 8 bits, packed into rows of bytes."""
    bits = ((values[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(values.shape[0], -1)
    return [row.tobytes() for row in np.packbits(bits.astype(np.uint8), axis=1)]


def cases():
    rgb = Image.fromarray(scene())
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        yield f"jpeg_{subsampling.replace(':', '')}", encoded(rgb, format="JPEG", quality=80, subsampling=subsampling)
    yield "jpeg_progressive", encoded(rgb, format="JPEG", quality=75, progressive=True)
    yield "jpeg_gray", encoded(rgb.convert("L"), format="JPEG", quality=85)
    yield "jpeg_cmyk", encoded(rgb.convert("CMYK"), format="JPEG", quality=85)
    yield "jpeg_keep_rgb", encoded(rgb, format="JPEG", quality=85, keep_rgb=True)
    yield "jpeg_restarts", encoded(rgb, format="JPEG", quality=85, restart_marker_rows=1)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"jpeg_exif{orientation}", encoded(rgb, format="JPEG", quality=80, exif=exif)
    exif = Image.Exif()
    exif[0x0112] = 8
    yield "png_exif8", encoded(rgb, format="PNG", exif=exif)
    yield "webp_exif8", encoded(rgb, format="WEBP", lossless=True, exif=exif)

    alpha = Image.fromarray((np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) % 256).astype(np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    yield "png_rgb", encoded(rgb, format="PNG")
    yield "png_rgba", encoded(rgba, format="PNG")
    yield "png_gray", encoded(rgb.convert("L"), format="PNG")
    yield "png_gray_alpha", encoded(Image.merge("LA", (rgb.convert("L"), alpha)), format="PNG")
    yield "png_1bit", encoded(rgb.convert("1"), format="PNG")
    palette = rgb.quantize(40)
    yield "png_palette", encoded(palette, format="PNG")
    yield "png_palette_transparent", encoded(palette, format="PNG", transparency=bytes(range(0, 240, 6)))
    yield "png_palette4", encoded(rgb.quantize(12), format="PNG", bits=4)

    grey = scene()[..., 0]
    for depth in (2, 4):
        yield f"png_gray{depth}", png(WIDTH, HEIGHT, depth, 0, packed(grey >> (8 - depth), depth))
    wide = scene().astype(np.uint16) * 253 + np.arange(WIDTH, dtype=np.uint16)[None, :, None] * 7
    big = wide.astype(">u2")
    wide_alpha = np.asarray(alpha).astype(">u2")[..., None] * 200
    rows = lambda array: [row.tobytes() for row in array]
    yield "png_rgb16", png(WIDTH, HEIGHT, 16, 2, rows(big))
    yield "png_rgba16", png(WIDTH, HEIGHT, 16, 6, rows(np.concatenate([big, wide_alpha], axis=-1).astype(">u2")))
    yield "png_gray16", png(WIDTH, HEIGHT, 16, 0, rows((wide[..., 0] >> 7).astype(">u2")))
    yield "png_gray_alpha16", png(
        WIDTH, HEIGHT, 16, 4, rows(np.concatenate([big[..., :1], wide_alpha], axis=-1).astype(">u2"))
    )

    yield "webp_lossy", encoded(rgb, format="WEBP", quality=70)
    yield "webp_lossy_alpha", encoded(rgba, format="WEBP", quality=70)
    yield "webp_lossless", encoded(rgb, format="WEBP", lossless=True)
    yield "webp_lossless_alpha", encoded(rgba, format="WEBP", lossless=True, exact=True)
    yield "gif", encoded(rgb.quantize(64), format="GIF")
    yield "bmp", encoded(rgb, format="BMP")
    yield "tiff", encoded(rgb, format="TIFF")


def main():
    tensors = {}
    for name, data in cases():
        tensors[name] = np.frombuffer(data, dtype=np.uint8)
        tensors[f"{name}.rgb"] = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        if "_exif" in name:
            upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
            tensors[f"{name}.upright"] = np.array(upright.convert("RGB"))
    for width, height in [(5, 7), (100, 60), (37, 9), (11, 23), (1, 1), (300, 24), (38, 22), (2, 200)]:
        # One direction at a time: Pillow 11 is always horizontal first, Pillow 13 where that is cheaper.
        across = Image.fromarray(scene()).resize((width, HEIGHT), Image.Resampling.BICUBIC)
        resized = across.resize((width, height), Image.Resampling.BICUBIC)
        tensors[f"png_rgb.to_{width}x{height}"] = np.array(resized)
    save_file(tensors, "cases.safetensors", metadata={"pillow": PIL.__version__})


if __name__ == "__main__":
    main()
