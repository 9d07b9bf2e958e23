"""Writes large_images/: images whose decoding takes megabytes, in files of a few kilobytes, for tests of running out of
memory. They are squares of one color, which every format compresses well."""

import pathlib
import zlib

import numpy as np
from PIL import Image

OUT = pathlib.Path(__file__).parent / "large_images"
OUT.mkdir(exist_ok=True)
for old in OUT.iterdir():
    old.unlink()

H, W = 640, 800
squares = np.random.default_rng(3).integers(0, 256, (H // 160, W // 160, 3), dtype=np.uint8)
RGB = Image.fromarray(np.kron(squares, np.ones((160, 160, 1), np.uint8)))
L, BW, CMYK, P = RGB.convert("L"), RGB.convert("1", dither=Image.Dither.NONE), RGB.convert("CMYK"), RGB.quantize(16)
RGBA, LA = RGB.copy(), L.convert("LA")
RGBA.putalpha(L)


def save(name, image, **options):
    image.save(OUT / name, **options)


save("baseline444.jpeg", RGB, quality=40, subsampling=0, optimize=True)
save("baseline420.jpeg", RGB, quality=40, optimize=True)
save("gray.jpeg", L, quality=40, optimize=True)
save("progressive444.jpeg", RGB, quality=40, subsampling=0, progressive=True)
save("progressive420.jpeg", RGB, quality=40, progressive=True)
save("cmyk.jpeg", CMYK, quality=40, optimize=True)
save("progressive_cmyk.jpeg", CMYK, quality=40, progressive=True)
save("rgb.png", RGB, optimize=True)
save("rgba.png", RGBA, optimize=True)
save("palette.png", P, optimize=True, bits=4)
save("gray.png", L, optimize=True)
save("palette.gif", P, interlace=1)
save("lossy.webp", RGB, quality=10)
save("lossy_alpha.webp", RGBA, quality=10)
save("lossless.webp", RGB, lossless=True)
save("lossless_alpha.webp", RGBA, lossless=True, exact=True)
save("animation.webp", RGB, save_all=True, append_images=[RGB.rotate(180)], quality=10)
for name, image in [("rgb", RGB), ("rgba", RGBA), ("gray", L), ("gray_alpha", LA), ("cmyk", CMYK), ("palette", P)]:
    save(f"{name}.tiff", image, compression="tiff_adobe_deflate")
save("float.tiff", L.convert("F"), compression="tiff_adobe_deflate")
save("lzw.tiff", RGB, compression="tiff_lzw")
save("packbits.tiff", L, compression="packbits")
save("group4.tiff", BW, compression="group4")
save("jpeg.tiff", RGB, compression="jpeg", quality=40)
save("jpeg_strip.tiff", RGB, compression="jpeg", quality=40, strip_size=1 << 24)


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


# Interlaced, and 16 bits a sample: Pillow writes neither.
passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
rgba16 = np.array(RGBA).astype(">u2") * 257
for name, rows, interlaced in [
    ("rgba16", [row.tobytes() for row in rgba16], 0),
    ("interlaced", [row.tobytes() for y, x, dy, dx in passes for row in rgba16[y::dy, x::dx]], 1),
]:
    header = W.to_bytes(4, "big") + H.to_bytes(4, "big") + bytes([16, 6, 0, 0, interlaced])
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    (OUT / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
