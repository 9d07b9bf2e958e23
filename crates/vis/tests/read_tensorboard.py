"""Prints as JSON what TensorBoard's own reader finds in a folder of event files."""

import io
import json
import sys

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0, "histograms": 0})
events.Reload()


def image(tag):
    (event,) = events.Images(tag)
    picture = Image.open(io.BytesIO(event.encoded_image_string))
    assert (picture.width, picture.height) == (event.width, event.height)
    corner = picture.getpixel((0, 0))
    return [picture.width, picture.height, picture.mode, list(corner) if isinstance(corner, tuple) else corner]


def histogram(tag):
    (event,) = events.Histograms(tag)
    value = event.histogram_value
    assert len(value.bucket) == len(value.bucket_limit)
    return {"num": value.num, "counted": sum(value.bucket), "min": value.min, "max": value.max}


tags = events.Tags()
print(json.dumps({
    "scalars": {tag: [[e.step, round(e.value, 4)] for e in events.Scalars(tag)] for tag in tags["scalars"] if tag != "accuracy"},
    "images": {tag: image(tag) for tag in tags["images"]},
    "histograms": {tag: histogram(tag) for tag in tags["histograms"]},
    "graph": sorted({node.op for node in events.Graph().node}),
}))
