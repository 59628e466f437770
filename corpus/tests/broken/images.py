"""Writes images/: whole and broken images, each named with what must happen to it.

A file is called WHAT.VERDICT.ENDING. The verdict is the size to which it decodes (`24x16`, turned by EXIF), or the reason for which it is
quarantined. Whatever a broken file is made of is cut and patched here, so this script says what is wrong with it.
Run in this folder with the project's .venv: python images.py
"""

import io
import pathlib
import struct
import zlib

from PIL import Image

WIDTH, HEIGHT = 24, 16
SIZE = f"{WIDTH}x{HEIGHT}"
CORRUPT, TOO_LARGE, UNSUPPORTED = "image_corrupt", "image_size_limit", "image_unsupported"
TOO_MANY = "image_frames_limit"


def scene(shift=0, width=WIDTH, height=HEIGHT):
    pixels = [((x * 10 + shift) % 256, y * 15 % 256, (x * y * 7 + shift) % 256) for y in range(height) for x in range(width)]
    image = Image.new("RGB", (width, height))
    image.putdata(pixels)
    return image


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def patched(data, at, new):
    assert at >= 0, "what is to be patched is there"
    return data[:at] + new + data[at + len(new):]


def cuts(name, ending, data, verdict=CORRUPT, at=()):
    """A file cut at several places; the first keeps the magic number."""
    places = {"header": 16, "quarter": len(data) // 4, "half": len(data) // 2, "last-byte": len(data) - 1, **dict(at)}
    for place, keep in places.items():
        yield f"{name}-cut-at-{place}", verdict, ending, data[:keep]


def jpegs():
    rgb = scene()
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = {
        "jpeg": encoded(rgb, "JPEG", quality=80),
        "jpeg-progressive": encoded(rgb, "JPEG", quality=80, progressive=True),
        "jpeg-grey": encoded(rgb.convert("L"), "JPEG"),
        "jpeg-restart-markers": encoded(rgb, "JPEG", restart_marker_blocks=1),
        # Pillow writes CMYK with Adobe's marker, inverted; transform 2 says YCCK.
        "jpeg-cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "jpeg-exif-turned": encoded(rgb, "JPEG", exif=exif),
    }
    cmyk = whole["jpeg-cmyk"]
    adobe = cmyk.index(b"Adobe")
    whole["jpeg-ycck"] = patched(cmyk, adobe + 11, b"\2")
    whole["jpeg-cmyk-without-adobe"] = cmyk[:adobe - 4] + cmyk[adobe + 12:]
    turned = whole["jpeg-exif-turned"]
    tiff = turned.index(b"Exif\0\0") + 6
    # Wrong EXIF is no reason to lose an image: it states no orientation.
    whole["jpeg-exif-orientation-99"] = patched(turned, turned.index(b"\x01\x12", tiff) + 8, b"\0\x63")
    whole["jpeg-exif-offset-outside"] = patched(turned, tiff + 4, b"\xff\xff\xff\xf0")
    whole["jpeg-exif-offset-loops"] = patched(turned, tiff + 4, b"\0\0\0\0")
    whole["jpeg-exif-neither-byte-order"] = patched(turned, tiff, b"XX")
    for name, data in whole.items():
        yield name, "16x24" if name == "jpeg-exif-turned" else SIZE, "jpg", data
    baseline = whole["jpeg"]
    scan = baseline.index(b"\xff\xda")
    frame = baseline.index(b"\xff\xc0")
    for name in ("jpeg", "jpeg-progressive", "jpeg-cmyk"):
        scans = [("scan", whole[name].index(b"\xff\xda") + 16)]
        yield from cuts(name, "jpg", whole[name], at=scans)
    yield "jpeg-without-end", CORRUPT, "jpg", baseline[:-2]
    yield "jpeg-without-scan", CORRUPT, "jpg", baseline[:scan] + b"\xff\xd9"
    yield "jpeg-without-tables", CORRUPT, "jpg", baseline[:2] + baseline[frame:]
    # Codes that no table has, and a marker in the middle of the scan.
    yield "jpeg-entropy-all-ones", CORRUPT, "jpg", patched(baseline, scan + 20, b"\xff\x00" * 20)
    yield "jpeg-entropy-marker-inside", CORRUPT, "jpg", patched(baseline, scan + 24, b"\xff\xd9")
    middle = whole["jpeg-restart-markers"]
    yield "jpeg-restart-marker-wrong", CORRUPT, "jpg", patched(middle, middle.index(b"\xff\xd0"), b"\xff\xd5")
    yield "jpeg-claims-65500x65500", TOO_LARGE, "jpg", patched(baseline, frame + 5, struct.pack(">HH", 65500, 65500))
    yield "jpeg-claims-0x0", CORRUPT, "jpg", patched(baseline, frame + 5, bytes(4))
    yield "jpeg-claims-more-lines-than-it-has", CORRUPT, "jpg", patched(baseline, frame + 5, struct.pack(">H", 4000))
    yield "jpeg-segment-longer-than-file", CORRUPT, "jpg", patched(baseline, 4, b"\xff\xff")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def png_header(width, height, depth=8, color=2, interlace=0):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)


def png_rows(width, height):
    return b"".join(b"\0" + bytes((x + y * 3) % 256 for x in range(width * 3)) for y in range(height))


def adam7(width, height):
    """The scan lines of an interlaced image, pass by pass."""
    lines = b""
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
        columns = len(range(x0, width, dx))
        if columns:
            lines += b"".join(b"\0" + bytes(columns * 3) for _ in range(y0, height, dy))
    return lines


def frame_control(sequence, width=WIDTH, height=HEIGHT):
    return b"fcTL", struct.pack(">IIIIIHHBB", sequence, width, height, 0, 0, 1, 10, 0, 0)


def pngs():
    rgb = scene()
    alpha = rgb.copy()
    alpha.putalpha(Image.linear_gradient("L").resize((WIDTH, HEIGHT)))
    header, end = png_header(WIDTH, HEIGHT), (b"IEND", b"")
    data = b"IDAT", zlib.compress(png_rows(WIDTH, HEIGHT))
    interlaced = b"IDAT", zlib.compress(adam7(WIDTH, HEIGHT))
    deep = b"".join(b"\0" + bytes(WIDTH * 6) for _ in range(HEIGHT))
    animated = png([header, (b"acTL", struct.pack(">II", 2, 0)), frame_control(0), data, frame_control(1),
                    (b"fdAT", struct.pack(">I", 2) + data[1]), end])
    whole = {
        "png": encoded(rgb, "PNG"),
        "png-palette": encoded(rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=16), "PNG"),
        "png-alpha": encoded(alpha, "PNG"),
        "png-1-bit": encoded(rgb.convert("1"), "PNG"),
        "png-16-bit": png([png_header(WIDTH, HEIGHT, depth=16), (b"IDAT", zlib.compress(deep)), end]),
        "png-16-bit-grey": encoded(Image.new("I;16", (WIDTH, HEIGHT), 40000), "PNG"),
        "png-interlaced": png([png_header(WIDTH, HEIGHT, interlace=1), interlaced, end]),
        "png-animated": animated,
    }
    for name, content in whole.items():
        yield name, SIZE, "png", content
        if name in ("png", "png-palette", "png-interlaced", "png-16-bit"):
            yield from cuts(name, "png", content)
    plain = whole["png"]
    at = plain.index(b"IDAT")
    yield "png-animated-cut-in-second-frame", CORRUPT, "png", animated[:-30]
    yield "png-without-end", CORRUPT, "png", plain[:-12]
    yield "png-without-data", CORRUPT, "png", png([header, end])
    yield "png-data-before-header", CORRUPT, "png", png([data, header, end])
    yield "png-header-crc-wrong", CORRUPT, "png", patched(plain, 29, b"\0\0\0\0")
    yield "png-data-crc-wrong", CORRUPT, "png", patched(plain, at + 10, bytes([plain[at + 10] ^ 1]))
    yield "png-data-not-zlib", CORRUPT, "png", png([header, (b"IDAT", b"no zlib stream at all"), end])
    yield "png-fewer-rows-than-claimed", CORRUPT, "png", png([header, (b"IDAT", zlib.compress(png_rows(WIDTH, 7))), end])
    yield "png-interlaced-fewer-passes", CORRUPT, "png", png(
        [png_header(WIDTH, HEIGHT, interlace=1), (b"IDAT", zlib.compress(adam7(WIDTH, HEIGHT)[:200])), end])
    yield "png-palette-missing", CORRUPT, "png", png(
        [png_header(8, 8, color=3), (b"IDAT", zlib.compress(bytes(9 * 8))), end])
    yield "png-filter-unknown", CORRUPT, "png", png(
        [header, (b"IDAT", zlib.compress(b"\x09" + png_rows(WIDTH, HEIGHT)[1:])), end])
    yield "png-bit-depth-3", CORRUPT, "png", png([png_header(WIDTH, HEIGHT, depth=3), data, end])
    yield "png-claims-100000x100000", TOO_LARGE, "png", png([png_header(100_000, 100_000), data, end])
    yield "png-claims-16000x16000", TOO_LARGE, "png", png([png_header(16_000, 16_000), data, end])
    yield "png-claims-0x0", CORRUPT, "png", png([png_header(0, 0), data, end])
    yield "png-chunk-longer-than-file", CORRUPT, "png", patched(plain, at - 4, b"\x7f\xff\xff\xff")
    yield "png-announces-4000000000-frames", TOO_MANY, "png", png(
        [header, (b"acTL", struct.pack(">II", 4_000_000_000, 0)), frame_control(0), data, end])
    yield "png-1001-frames", TOO_MANY, "png", png(
        [header, (b"acTL", struct.pack(">II", 2, 0)), *[frame_control(n, 1, 1) for n in range(1001)], data, end])


def riff(*chunks):
    """WebP chunks in their container; `chunks` are (kind, content)."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def canvas(width, height, animated=False):
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([2 if animated else 0, 0, 0, 0]) + sizes


def webp_frame(width, height, kind, data):
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    inner = kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"ANMF", bytes(6) + sizes + b"\x0a\0\0\0" + inner


def webps():
    rgb = scene()
    alpha = rgb.copy()
    alpha.putalpha(200)
    lossy = encoded(rgb, "WEBP", quality=80)
    whole = {
        "webp-lossy": lossy,
        "webp-lossless": encoded(rgb, "WEBP", lossless=True),
        "webp-alpha": encoded(alpha, "WEBP", quality=80),
        "webp-animated": encoded(rgb, "WEBP", save_all=True, append_images=[scene(90)], quality=80),
    }
    for name, data in whole.items():
        yield name, SIZE, "webp", data
        yield from cuts(name, "webp", data)
    vp8 = lossy[20:20 + struct.unpack("<I", lossy[16:20])[0]]
    huge = patched(vp8, 6, struct.pack("<HH", 16383, 16383))
    half = vp8[:len(vp8) // 2]
    yield "webp-frame-cut-in-whole-container", CORRUPT, "webp", riff((b"VP8 ", half))
    yield "webp-frame-larger-than-canvas", TOO_LARGE, "webp", riff(canvas(24, 16), (b"VP8 ", huge))
    yield "webp-animation-frame-larger-than-canvas", TOO_LARGE, "webp", riff(
        canvas(24, 16, True), (b"ANIM", bytes(6)), webp_frame(24, 16, b"VP8 ", huge))
    yield "webp-animation-frame-outside-canvas", CORRUPT, "webp", riff(
        canvas(8, 8, True), (b"ANIM", bytes(6)), webp_frame(24, 16, b"VP8 ", vp8))
    yield "webp-claims-16383x16383", TOO_LARGE, "webp", riff((b"VP8 ", huge))
    yield "webp-canvas-of-16777216x256", CORRUPT, "webp", riff(canvas(1 << 24, 1 << 8), (b"VP8 ", vp8))
    yield "webp-canvas-of-65535x65535", TOO_LARGE, "webp", riff(canvas(65_535, 65_535), (b"VP8 ", vp8))
    yield "webp-lossless-claims-16384x16384", TOO_LARGE, "webp", riff((b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(40)))
    yield "webp-lossless-without-data", CORRUPT, "webp", riff((b"VP8L", b"\x2f\x07\xc0\x01\x00"))
    yield "webp-unknown-first-chunk", CORRUPT, "webp", riff((b"JUNK", bytes(30)))
    yield "webp-animation-without-frames", CORRUPT, "webp", riff(canvas(24, 16, True), (b"ANIM", bytes(6)))
    yield "webp-chunk-longer-than-file", CORRUPT, "webp", patched(lossy, 16, b"\xff\xff\xff\x7f")
    yield "webp-container-longer-than-file", CORRUPT, "webp", patched(lossy, 4, b"\xff\xff\xff\x7f")
    yield "webp-1001-frames", TOO_MANY, "webp", riff(
        canvas(24, 16, True), (b"ANIM", bytes(6)), *[webp_frame(1, 1, b"VP8L", b"\x2f\0\0\0\0\0\0\0")] * 1001)


def gifs():
    rgb = scene()
    still = encoded(rgb, "GIF")
    moving = encoded(rgb, "GIF", save_all=True, append_images=[scene(90)], loop=0)
    # Two colours, and frames of one pixel: a code to clear, the colour, the end.
    pixel = b",\0\0\0\0\x01\0\x01\0\0" + b"\x02\x02\x44\x01\0"
    screen = b"GIF89a\x01\0\x01\0\x80\0\0" + b"\0\0\0\xff\xff\xff"
    frame = still.index(b",\0\0\0\0")
    second = moving.rindex(b"!\xf9")
    yield "gif", SIZE, "gif", still
    yield "gif-animated", SIZE, "gif", moving
    yield "gif-transparent", SIZE, "gif", encoded(rgb.convert("P"), "GIF", transparency=3)
    yield "gif-interlaced", SIZE, "gif", encoded(rgb, "GIF", interlace=1)
    yield "gif-one-pixel", "1x1", "gif", screen + pixel + b";"
    yield "gif-blocks-end-twice", "1x1", "gif", screen + pixel + b"\0" + pixel + b"\0;"
    yield from cuts("gif", "gif", still)
    yield "gif-animated-cut-in-first-frame", CORRUPT, "gif", moving[:second // 2]
    yield "gif-animated-cut-after-first-frame", CORRUPT, "gif", moving[:second]
    yield "gif-animated-cut-in-second-frame", CORRUPT, "gif", moving[:second + 40]
    yield "gif-without-end", CORRUPT, "gif", still[:-1]
    yield "gif-without-frames", CORRUPT, "gif", screen + b";"
    yield "gif-unknown-block", CORRUPT, "gif", screen + b"X" + pixel + b";"
    yield "gif-fewer-pixels-than-claimed", CORRUPT, "gif", (
        b"GIF89a\x08\0\x08\0\x80\0\0" + screen[13:] + pixel.replace(b"\x01\0\x01\0", b"\x08\0\x08\0", 1) + b";")
    yield "gif-code-not-in-table", CORRUPT, "gif", screen + pixel.replace(b"\x02\x44\x01", b"\x02\xfc\xff") + b";"
    yield "gif-code-size-of-13", CORRUPT, "gif", screen + pixel.replace(b"\x02\x02\x44", b"\x0d\x02\x44") + b";"
    yield "gif-claims-65535x65535", TOO_LARGE, "gif", patched(still, 6, b"\xff\xff\xff\xff")
    yield "gif-frame-of-65535x65535", TOO_LARGE, "gif", patched(still, frame + 5, b"\xff\xff\xff\xff")
    yield "gif-claims-0x0", TOO_LARGE, "gif", patched(still, 6, bytes(4))
    yield "gif-1001-frames", TOO_MANY, "gif", screen + pixel * 1001 + b";"


def bmps():
    rgb = scene()
    plain = encoded(rgb, "BMP")
    yield "bmp", SIZE, "bmp", plain
    yield "bmp-palette", SIZE, "bmp", encoded(rgb.convert("P"), "BMP")
    yield "bmp-1-bit", SIZE, "bmp", encoded(rgb.convert("1"), "BMP")
    yield "bmp-top-down", SIZE, "bmp", patched(plain, 22, struct.pack("<i", -HEIGHT))
    yield from cuts("bmp", "bmp", plain)
    yield "bmp-claims-60000x60000", TOO_LARGE, "bmp", patched(plain, 18, struct.pack("<ii", 60_000, 60_000))
    billions = struct.pack("<ii", 2_000_000_000, 2_000_000_000)
    yield "bmp-claims-2000000000x2000000000", CORRUPT, "bmp", patched(plain, 18, billions)
    yield "bmp-claims-0x0", CORRUPT, "bmp", patched(plain, 18, bytes(8))
    yield "bmp-width-negative", CORRUPT, "bmp", patched(plain, 18, struct.pack("<i", -WIDTH))
    yield "bmp-height-most-negative", CORRUPT, "bmp", patched(plain, 22, struct.pack("<i", -(1 << 31)))
    yield "bmp-data-outside", CORRUPT, "bmp", patched(plain, 10, b"\xff\xff\xff\x7f")
    yield "bmp-13-bits-per-pixel", CORRUPT, "bmp", patched(plain, 28, b"\x0d\0")
    yield "bmp-header-of-7-bytes", CORRUPT, "bmp", patched(plain, 14, b"\x07\0\0\0")
    yield "bmp-compression-unknown", CORRUPT, "bmp", patched(plain, 30, b"\x63\0\0\0")


def tiffs():
    rgb = scene()
    plain = encoded(rgb, "TIFF")

    def field(data, tag):
        """Where the value of a tag of the first directory stands."""
        ifd = struct.unpack("<I", data[4:8])[0]
        for entry in range(struct.unpack("<H", data[ifd:ifd + 2])[0]):
            at = ifd + 2 + entry * 12
            if struct.unpack("<H", data[at:at + 2])[0] == tag:
                return at + 8
        raise AssertionError(f"no tag {tag}")

    ifd = struct.unpack("<I", plain[4:8])[0]
    following = ifd + 2 + 12 * struct.unpack("<H", plain[ifd:ifd + 2])[0]
    yield "tiff", SIZE, "tif", plain
    yield "tiff-lzw", SIZE, "tif", encoded(rgb, "TIFF", compression="tiff_lzw")
    yield "tiff-deflate", SIZE, "tif", encoded(rgb, "TIFF", compression="tiff_adobe_deflate")
    yield "tiff-grey", SIZE, "tif", encoded(rgb.convert("L"), "TIFF")
    yield "tiff-two-pages", SIZE, "tif", encoded(rgb, "TIFF", save_all=True, append_images=[scene(90)])
    yield "tiff-directory-loops", CORRUPT, "tif", patched(plain, following, struct.pack("<I", ifd))
    for name, options in (("tiff", {}), ("tiff-lzw", {"compression": "tiff_lzw"})):
        yield from cuts(name, "tif", encoded(rgb, "TIFF", **options))
    yield "tiff-directory-outside", CORRUPT, "tif", patched(plain, 4, b"\xff\xff\xff\x7f")
    yield "tiff-directory-in-header", CORRUPT, "tif", patched(plain, 4, bytes(4))
    yield "tiff-strip-outside", CORRUPT, "tif", patched(plain, field(plain, 273), b"\xff\xff\xff\x7f")
    yield "tiff-entries-65535", CORRUPT, "tif", patched(plain, ifd, b"\xff\xff")
    yield "tiff-bits-outside", CORRUPT, "tif", patched(plain, field(plain, 258), b"\xff\xff\xff\x7f")
    yield "tiff-compression-unknown", CORRUPT, "tif", patched(plain, field(plain, 259), b"\x99\x99")
    huge = patched(plain, field(plain, 256), struct.pack("<I", 65535))
    yield "tiff-claims-more-strips-than-it-has", CORRUPT, "tif", patched(huge, field(plain, 257), struct.pack("<I", 65535))
    # Width and height are shorts; made longs, they reach 32 bits.
    long = patched(patched(plain, field(plain, 256) - 6, b"\4\0"), field(plain, 256), b"\xff\xff\xff\xff")
    yield "tiff-claims-4294967295-wide", TOO_LARGE, "tif", long
    yield "tiff-claims-0x0", CORRUPT, "tif", patched(patched(plain, field(plain, 256), bytes(4)), field(plain, 257), bytes(4))


def no_images():
    yield "empty", UNSUPPORTED, "jpg", b""
    yield "html-page", UNSUPPORTED, "jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    yield "svg", UNSUPPORTED, "svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'
    yield "zero-bytes", UNSUPPORTED, "jpg", bytes(4096)
    yield "text", UNSUPPORTED, "png", b"not an image"
    yield "avif-header", UNSUPPORTED, "avif", b"\0\0\0\x1cftypavif" + bytes(40)
    yield "pdf", UNSUPPORTED, "jpg", b"%PDF-1.7\n"
    yield "jpeg-magic-alone", CORRUPT, "jpg", b"\xff\xd8\xff"
    yield "jpeg-magic-then-html", CORRUPT, "jpg", b"\xff\xd8\xff<html>not found</html>"
    yield "png-magic-alone", CORRUPT, "png", b"\x89PNG\r\n\x1a\n"
    yield "png-magic-then-html", CORRUPT, "png", b"\x89PNG\r\n\x1a\n<html>not found</html>"
    yield "gif-magic-alone", CORRUPT, "gif", b"GIF89a"
    yield "bmp-magic-alone", CORRUPT, "bmp", b"BM"
    yield "tiff-magic-alone", CORRUPT, "tif", b"II*\0"
    yield "webp-magic-alone", CORRUPT, "webp", b"RIFF\x04\0\0\0WEBP"


def main():
    folder = pathlib.Path("images")
    for old in folder.iterdir():
        old.unlink()
    names = set()
    for makers in (jpegs, pngs, webps, gifs, bmps, tiffs, no_images):
        for name, verdict, ending, data in makers():
            assert name not in names, f"{name} twice"
            names.add(name)
            (folder / f"{name}.{verdict}.{ending}").write_bytes(data)
    print(f"{len(names)} files")


if __name__ == "__main__":
    main()
