"""Writes transforms/: a photograph, and what torchvision's transforms make of it.

The photograph is a part of NASA's portrait of Eileen Collins (public domain), which scikit-image brings along.
"""

import json
import pathlib

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
grey = photo.convert("L")
photo.save(OUT / "photo.png", optimize=True)
grey.save(OUT / "grey.png", optimize=True)
photo.save(OUT / "photo.jpg", quality=90)
Image.open(OUT / "photo.jpg").save(OUT / "decoded.png", optimize=True)


def save(name, image):
    image.save(OUT / f"{name}.png", optimize=True)


for mode in ["nearest", "bilinear", "bicubic"]:
    for size in [(40, 50), (33, 120), (150, 170)]:
        save(f"resize_{mode}_{size[0]}x{size[1]}", T.Resize(size, getattr(Mode, mode.upper()))(photo))
    save(f"resize_{mode}_shorter_37", T.Resize(37, getattr(Mode, mode.upper()))(photo))
save("grey_bilinear_40x50", T.Resize((40, 50))(grey))
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
