#!/usr/bin/env python3
"""Times decoding, RandomResizedCrop(224), flipping and normalizing JPEG photographs in Kiln and in torchvision with Pillow.

Both load the same files with two workers and take turns of one pass each (Kiln, torchvision, Kiln, ...), in processes that
stay alive throughout, so that other load on the machine affects both. The figures are medians over the turns; the last one
is the median of the ratios of the turns. Needs `pip install torch torchvision scikit-image`, whose photographs it uses.

    python3 benches/compare_data.py [--images 256] [--turns 9]
"""

import argparse
import pathlib
import random
import statistics
import sys
import tempfile
import time

from turns import Program, build

WORKERS = 2


def photographs(folder, count):
    """Parts of scikit-image's photographs, 500 x 375 as most of ImageNet's, in JPEG of quality 90."""
    from PIL import Image
    from skimage import data

    random.seed(0)
    sources = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in ["astronaut", "coffee", "chelsea", "rocket"]]
    (folder / "class").mkdir()
    for number in range(count):
        source = sources[number % len(sources)]
        share = random.uniform(0.7, 1.0)
        width = int(min(source.width, source.height * 4 / 3) * share)
        height = width * 3 // 4
        left, top = random.randint(0, source.width - width), random.randint(0, source.height - height)
        part = source.crop((left, top, left + width, top + height)).resize((500, 375), Image.Resampling.BICUBIC)
        part.save(folder / "class" / f"{number:04}.jpg", quality=90)


class Kiln:
    """The bench program, answering over its standard streams."""

    def __init__(self, folder):
        program = build("bench", "--features", "images", "--bench", "data", "--no-run")
        self.program = Program([program], KILN_BENCH_TURNS=1, KILN_BENCH_PHOTOS=folder)

    def turn(self):
        return float(self.program.ask())


class Torchvision:
    def __init__(self, folder):
        import torch
        from torch.utils.data import DataLoader
        from torchvision import datasets, transforms

        torch.set_num_threads(1)
        change = transforms.Compose([
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ])
        data = datasets.ImageFolder(folder, change)
        self.loader = DataLoader(data, 32, shuffle=True, num_workers=WORKERS, persistent_workers=True)

    def turn(self):
        start = time.perf_counter()
        for _ in self.loader:
            pass
        return len(self.loader.dataset) / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        photographs(folder, args.images)
        programs = {"Kiln": Kiln(folder), "torchvision": Torchvision(folder)}
        rates = {name: [] for name in programs}
        for program in programs.values():
            program.turn()  # starts the workers, and brings the files into memory
        for turn in range(args.turns):
            for name, program in programs.items():
                rates[name].append(program.turn())
            print(".", end="", flush=True, file=sys.stderr)
        print(file=sys.stderr)
        programs["Kiln"].program.close()
    for name, values in rates.items():
        print(f"{name:12} {statistics.median(values):8.1f} images/s  ({min(values):.1f} to {max(values):.1f})")
    ratio = statistics.median(a / b for a, b in zip(rates["Kiln"], rates["torchvision"]))
    print(f"Kiln / torchvision, speed: {ratio:.2f}")


if __name__ == "__main__":
    main()
