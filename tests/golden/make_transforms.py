"""Writes transforms/: a photograph, and the results of torchvision's transforms.

The photograph is a part of NASA's portrait of Eileen Collins (public domain), which scikit-image includes.
"""

import json
import pathlib

import torch
from PIL import Image
from skimage import data
from torchvision.transforms import InterpolationMode as Mode
from torchvision.transforms import v2 as T
from torchvision.transforms import functional as F

OUT = pathlib.Path(__file__).parent / "transforms"
OUT.mkdir(exist_ok=True)
for old in OUT.iterdir():
    old.unlink()

photo = Image.fromarray(data.astronaut()[20:140, 150:310])  # 120 rows of 160 columns
gray = photo.convert("L")
photo.save(OUT / "photo.png", optimize=True)
gray.save(OUT / "gray.png", optimize=True)
photo.save(OUT / "photo.jpg", quality=90)
Image.open(OUT / "photo.jpg").save(OUT / "decoded.png", optimize=True)


def save(name, image):
    image.save(OUT / f"{name}.png", optimize=True)


for mode in ["nearest", "bilinear", "bicubic"]:
    for size in [(40, 50), (33, 120), (150, 170)]:
        save(f"resize_{mode}_{size[0]}x{size[1]}", T.Resize(size, getattr(Mode, mode.upper()))(photo))
    save(f"resize_{mode}_shorter_37", T.Resize(37, getattr(Mode, mode.upper()))(photo))
save("gray_bilinear_40x50", T.Resize((40, 50))(gray))
# Without antialias, which torchvision has for tensors only.
plain = T.Resize((40, 50), antialias=False)(F.pil_to_tensor(photo))
save("plain_bilinear_40x50", F.to_pil_image(plain))
# An odd margin at both sides, an even one, and a crop larger than the picture.
save("center_crop_51x60", T.CenterCrop((51, 60))(photo))
save("center_crop_130x101", T.CenterCrop((130, 101))(photo))
save("pad", T.Pad([1, 2, 3, 4], fill=9)(photo.crop((0, 0, 30, 20))))
save("flip_horizontal", F.hflip(photo.crop((0, 0, 31, 20))))
save("flip_vertical", F.vflip(photo.crop((0, 0, 31, 20))))
tensor = F.normalize(F.to_tensor(photo), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
(OUT / "normalized_corner.json").write_text(json.dumps(tensor[:, :4, :5].flatten().tolist()) + "\n")

# Turning and colors, on a part of the photograph to keep the files small.
part = photo.crop((40, 10, 104, 58))  # 48 rows of 64 columns
save("part", part)
for mode in ["nearest", "bilinear", "bicubic"]:
    mode_of = getattr(Mode, mode.upper())
    save(f"rotate_{mode}_33", F.rotate(part, 33, mode_of))
    save(f"rotate_{mode}_-100.5_expand", F.rotate(part, -100.5, mode_of, expand=True, fill=[77, 77, 77]))
    save(f"rotate_{mode}_15_center", F.rotate(part, 15, mode_of, center=[10, 20], fill=[9, 9, 9]))
for angle in [90, 180, 270]:
    save(f"rotate_nearest_{angle}", F.rotate(part, angle))
    save(f"rotate_nearest_{angle}_expand", F.rotate(part, angle, expand=True))
save("rotate_gray", F.rotate(part.convert("L"), 33, Mode.BILINEAR, fill=[200]))
for factor in [0, 0.4, 1.7]:
    save(f"brightness_{factor}", F.adjust_brightness(part, factor))
    save(f"contrast_{factor}", F.adjust_contrast(part, factor))
    save(f"saturation_{factor}", F.adjust_saturation(part, factor))
for factor in [-0.5, -0.13, 0.3]:
    save(f"hue_{factor}", F.adjust_hue(part, factor))
save("grayscale_1", F.to_grayscale(part, 1))
save("grayscale_3", F.to_grayscale(part, 3))

# The same on tensors, which torchvision computes in floats and with other borders; a smaller part still.
x = F.to_tensor(part.crop((20, 10, 36, 22)))  # 12 rows of 16 columns
bytes_ = (x * 255).round().to(torch.uint8)
cases = {
    "input": x,
    "rotate_nearest": F.rotate(x, 33, fill=[0.25] * 3),
    "rotate_bilinear": F.rotate(x, 33, Mode.BILINEAR, fill=[0.25] * 3),
    "rotate_expand": F.rotate(x, -100.5, Mode.BILINEAR, expand=True, fill=[0.0] * 3),
    "rotate_center": F.rotate(x, 15, Mode.BILINEAR, center=[3, 4], fill=[1.0] * 3),
    "brightness": F.adjust_brightness(x, 1.7),
    "contrast": F.adjust_contrast(x, 1.7),
    "contrast_gray": F.adjust_contrast(x[:1], 0.4),
    "saturation": F.adjust_saturation(x, 1.7),
    "hue": F.adjust_hue(x, -0.13),
    "grayscale": F.rgb_to_grayscale(x),
    "bytes_contrast": F.adjust_contrast(bytes_, 1.7),
    "bytes_saturation": F.adjust_saturation(bytes_, 0.4),
    "bytes_hue": F.adjust_hue(bytes_, 0.3),
    "bytes_rotate": F.rotate(bytes_, 33, Mode.BILINEAR, fill=[9] * 3),
    "erase": F.erase(x, 2, 3, 4, 5, torch.tensor([0.1, 0.2, 0.3])[:, None, None]),
}
golden = {name: {"shape": list(t.shape), "values": [round(v, 6) for v in t.flatten().tolist()]} for name, t in cases.items()}
(OUT / "tensors.json").write_text(json.dumps(golden) + "\n")
