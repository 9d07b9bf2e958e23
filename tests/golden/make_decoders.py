"""Writes decoders/: a small image in every format and kind that Kiln reads, and the result of Pillow's convert.

Formats that Pillow reads but does not write are constructed here, byte by byte.
"""

import io
import json
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

OUT = pathlib.Path(__file__).parent / "decoders"
OUT.mkdir(exist_ok=True)
for old in OUT.iterdir():
    old.unlink()

rng = np.random.default_rng(7)
H, W = 26, 35  # no multiple of a block, a byte's bits or four bytes
ys, xs = np.mgrid[0:H, 0:W]
smooth = np.stack([xs * 255 / W, ys * 255 / H, (xs + ys) * 255 / (W + H)], axis=2)
rgb = np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)
gray = np.array(Image.fromarray(rgb).convert("L"))
alpha = (xs * 7 % 256).astype(np.uint8)
RGB, L = Image.fromarray(rgb), Image.fromarray(gray)
RGBA = Image.fromarray(np.dstack([rgb, alpha]))
LA = Image.fromarray(np.dstack([gray, alpha]))
P = RGB.quantize(200)
P16 = RGB.quantize(16)
BW = L.convert("1")
I16 = Image.fromarray((gray.astype(np.uint16) * 3))
images, want = [], {}


def put(name, data):
    """A file, and what Pillow makes of it: gray or RGB."""
    (OUT / name).write_bytes(data)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        mode = "L" if image.mode in ("1", "L", "LA", "La", "I", "I;16", "I;16B", "F") else "RGB"
        # Formats of which every image is read as RGB.
        if name == "gray_alpha16.png":
            mode = "L"
        if name.endswith((".gif", ".bmp", ".webp")):
            mode = "RGB"
        # ImageFolder's convert("RGB"), of which gray images repeat one channel.
        pixels = np.array(image.convert("RGB"))
        if mode == "L":
            assert (pixels == pixels[..., :1]).all(), name
            pixels = pixels[..., :1]
        # Most files hold the same image.
        pixels = [*pixels.shape, zlib.compress(pixels.tobytes(), 9).hex()]
        if pixels not in images:
            images.append(pixels)
        want[name] = images.index(pixels)


def save(name, image, **options):
    out = io.BytesIO()
    image.save(out, options.pop("format", name.rsplit(".")[-1].upper()), **options)
    put(name, out.getvalue())


# JPEG
save("rgb444.jpeg", RGB, quality=90, subsampling=0)
save("rgb420.jpeg", RGB, quality=80)
save("gray.jpeg", L, quality=85)
save("progressive.jpeg", RGB, quality=85, progressive=True)
save("progressive_gray.jpeg", L, quality=85, progressive=True)
save("restarts.jpeg", RGB, quality=85, restart_marker_blocks=2)
save("cmyk.jpeg", RGB.convert("CMYK"), quality=90)
# Photoshop's YCCK: the same with the transform of Adobe's marker.
ycck = bytearray((OUT / "cmyk.jpeg").read_bytes())
ycck[ycck.index(b"Adobe") + 11] = 2
put("ycck.jpeg", bytes(ycck))
# A thumbnail within, which has an end marker of its own.
thumbnail = io.BytesIO()
RGB.resize((8, 6)).save(thumbnail, "JPEG")
save("thumbnail.jpeg", RGB, quality=85, exif=b"Exif\0\0" + thumbnail.getvalue(), comment=b"\xff\xd9")

# PNG
for name, image in [("rgb", RGB), ("rgba", RGBA), ("gray", L), ("gray_alpha", LA), ("palette", P), ("bits", BW), ("gray16", I16)]:
    save(f"{name}.png", image)
save("palette4.png", P16, bits=4)
save("palette2.png", RGB.quantize(4), bits=2)
save("palette_transparent.png", P, transparency=3)
save("rgb_transparent.png", RGB, transparency=(1, 2, 3))


def png(color, depth, rows, interlaced=False):
    """A PNG of rows of bytes, or of the seven passes of an interlaced image."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", W, H, depth, color, 0, 0, int(interlaced))
    data = b"".join(b"\0" + row for row in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


noise = rng.integers(0, 256, (H, W, 1), dtype=np.uint8)


def wide(values):
    """16 bits a sample, of which the upper ones are given."""
    return np.stack([values, np.broadcast_to(noise, values.shape)], axis=-1).reshape(H, -1)


put("rgb16.png", png(2, 16, [row.tobytes() for row in wide(rgb)]))
put("rgba16.png", png(6, 16, [row.tobytes() for row in wide(np.dstack([rgb, alpha]))]))
put("gray_alpha16.png", png(4, 16, [row.tobytes() for row in wide(np.dstack([gray, alpha]))]))
passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
rows = [row.tobytes() for y, x, dy, dx in passes for row in rgb[y::dy, x::dx]]
put("interlaced.png", png(2, 8, rows, True))

# GIF
save("palette.gif", P)
save("gray.gif", L)
save("interlaced.gif", P, interlace=1)
save("transparent.gif", P, transparency=5)
save("animation.gif", P, save_all=True, append_images=[L.convert("P")], duration=50)


def gif_canvas(data, width, height, left, top):
    """The same GIF on a larger canvas: its frame somewhere within."""
    data = bytearray(data)
    data[6:10] = struct.pack("<HH", width, height)
    at = 13 + 3 * (2 << (data[10] & 7))
    while data[at] != 0x2C:  # extensions before the frame
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    data[at + 1 : at + 5] = struct.pack("<HH", left, top)
    return bytes(data)


put("canvas.gif", gif_canvas((OUT / "palette.gif").read_bytes(), W + 9, H + 5, 4, 3))

# BMP
for name, image in [("rgb", RGB), ("rgba", RGBA), ("gray", L), ("palette", P), ("bits", BW)]:
    save(f"{name}.bmp", image)


def bmp(bits, compression, data, palette=b"", masks=b"", height=H, colors=0):
    offset = 54 + len(masks) + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, W, height, 1, bits, compression, len(data), 0, 0, colors, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + masks + palette + data


def padded(rows):
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


up = rgb[::-1].astype(np.uint16)
r, g, b = up[..., 0], up[..., 1], up[..., 2]
put("rgb555.bmp", bmp(16, 0, padded(row.tobytes() for row in (r >> 3 << 10 | g >> 3 << 5 | b >> 3).astype("<u2"))))
masks565 = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
put("rgb565.bmp", bmp(16, 3, padded(row.tobytes() for row in (r >> 3 << 11 | g >> 2 << 5 | b >> 3).astype("<u2")), masks=masks565))
put("top_down.bmp", bmp(24, 0, padded(row.tobytes() for row in rgb[..., ::-1]), height=-H))
palette16 = bytes(v for color in np.array(P16.getpalette()[:48]).reshape(16, 3) for v in (*color[::-1], 0))
index = np.array(P16)[::-1]
nibbles = [bytes(a << 4 | b for a, b in zip(row[::2], [*row[1::2], 0])) for row in index.tolist()]
put("palette4.bmp", bmp(4, 0, padded(nibbles), palette16))
core = struct.pack("<IHHHH", 12, W, H, 1, 24)
data = padded(row.tobytes() for row in rgb[::-1, :, ::-1])
put("os2.bmp", b"BM" + struct.pack("<IHHI", 26 + len(data), 0, 0, 26) + core + data)


def rle8(row):
    out, x = b"", 0
    while x < len(row):
        run = 1
        while x + run < len(row) and row[x + run] == row[x] and run < 255:
            run += 1
        if run == 1 and len(row) - x > 5:  # five as they are, and a byte to an even number
            out += bytes([0, 5, *row[x : x + 5], 0])
            x += 5
        else:
            out += bytes([run, row[x]])
            x += run
    return out + b"\0\0"


flat = np.array(L.quantize(8))[::-1].tolist()
palette256 = bytes(v for color in np.array(L.quantize(8).getpalette() + [0] * 768)[:768].reshape(256, 3) for v in (*color[::-1], 0))
put("rle8.bmp", bmp(8, 1, b"".join(map(rle8, flat))[:-2] + b"\0\1", palette256))

# WebP
save("lossy.webp", RGB, quality=80)
save("lossless.webp", RGB, lossless=True)
save("lossy_alpha.webp", RGBA, quality=80)
save("lossless_alpha.webp", RGBA, lossless=True, exact=True)
save("gray.webp", L, lossless=True)
save("animation.webp", RGB, save_all=True, append_images=[RGB.rotate(180)], lossless=True)

# TIFF
INT, FLOAT = gray.astype(np.int32) * 3 - 100, gray.astype(np.float32) * 1.5 - 60.25
for name, image in [
    ("rgb", RGB), ("rgba", RGBA), ("gray", L), ("gray_alpha", LA), ("palette", P), ("bits", BW), ("cmyk", RGB.convert("CMYK")),
    ("gray16", I16), ("gray32", Image.fromarray(INT)), ("float", Image.fromarray(FLOAT)),
]:  # fmt: skip
    save(f"{name}.tiff", image)
for compression in ["tiff_lzw", "tiff_adobe_deflate", "packbits"]:
    save(f"rgb_{compression}.tiff", RGB, compression=compression)
    save(f"gray16_{compression}.tiff", I16, compression=compression)
save("float_lzw.tiff", Image.fromarray(FLOAT), compression="tiff_lzw")
save("group4.tiff", BW, compression="group4")


def tiff(tags, strips, order="<"):
    """A TIFF of these tags (a number, its type 3 or 4, its values) and strips or tiles."""
    place = 324 if 322 in tags else 273
    data, at, offsets = b"", 8, []
    for strip in strips:
        offsets.append(at + len(data))
        data += strip + bytes(len(strip) % 2)
    tags = {**tags, place: (4, offsets), place + (1 if place == 324 else 6): (4, [len(strip) for strip in strips])}
    directory, more = b"", b""
    start = 8 + len(data)
    for tag, (kind, values) in sorted(tags.items()):
        packed = b"".join(struct.pack(order + {3: "H", 4: "I"}[kind], value) for value in values)
        if len(packed) > 4:
            value = struct.pack(order + "I", start + 2 + 12 * len(tags) + 4 + len(more))
            more += packed
        else:
            value = packed.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + value
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", start)
    return head + data + struct.pack(order + "H", len(tags)) + directory + bytes(4) + more


def basics(bits, photometric, samples=1, **more):
    tags = {256: (3, [W]), 257: (3, [H]), 258: (3, [bits] * samples), 259: (3, [1]), 262: (3, [photometric]), 277: (3, [samples])}
    return {**tags, 278: (3, [H]), **{int(tag[1:]): value for tag, value in more.items()}}


put("planes.tiff", tiff(basics(8, 2, 3, t284=(3, [2])), [rgb[..., c].tobytes() for c in range(3)]))
put("rgb16.tiff", tiff(basics(16, 2, 3), [wide(rgb)[..., :].tobytes()], ">"))
colors = np.array(P16.getpalette()[:48]).reshape(16, 3).T.ravel() * 257
upright = [bytes(a << 4 | b for a, b in zip(row[::2], [*row[1::2], 0])) for row in np.array(P16).tolist()]
put("palette4.tiff", tiff(basics(4, 3, t320=(3, colors.tolist())), [b"".join(upright)], ">"))
put("white_is_zero.tiff", tiff(basics(8, 0), [(255 - gray).tobytes()]))
put("gray4.tiff", tiff(basics(4, 1), [b"".join(bytes(a << 4 | b for a, b in zip(row[::2], [*row[1::2], 0])) for row in (gray >> 4).tolist())]))
tiles = [np.pad(rgb, ((0, 6), (0, 13), (0, 0)))[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16, 32)]
put("tiles.tiff", tiff(basics(8, 2, 3, t322=(3, [16]), t323=(3, [16])), tiles))
strips = [rgb[y : y + 5].tobytes() for y in range(0, H, 5)]
put("strips.tiff", tiff({**basics(8, 2, 3), 278: (3, [5])}, strips, ">"))

# PNM
header = f"{W} {H}\n"
save("rgb.ppm", RGB)
save("gray.pgm", L, format="PPM")
save("bits.pbm", BW, format="PPM")
save("gray16.pgm", I16, format="PPM")
text = lambda values: " ".join(map(str, np.ravel(values).tolist())) + "\n"
put("text.pbm", f"P1\n# a comment\n{header}{text((gray < 128).astype(int))}".encode())
put("text.pgm", f"P2\n{header}255\n{text(gray)}".encode())
put("text.ppm", f"P3\n{header}# a comment\n100\n{text(rgb // 3)}".encode())
put("max100.ppm", f"P6\n{header}100\n".encode() + (rgb // 3).tobytes())
put("max1000.ppm", f"P6\n{header}1000\n".encode() + (rgb.astype(">u2") * 3).tobytes())
put("max1000.pgm", f"P5\n{header}1000\n".encode() + (gray.astype(">u2") // 90).tobytes())

text = json.dumps({"images": images, "files": want}, indent=0)
(OUT / "want.json").write_text(text + "\n")
