"""Prints as JSON what TensorBoard's own reader finds in a folder of event files."""

import io
import json
import os
import sys

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.pr_curve import metadata as pr_curve_plugin
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.util import tensor_util

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


def text(tag):
    (event,) = events.Tensors(f"{tag}/text_summary")
    assert events.SummaryMetadata(f"{tag}/text_summary").plugin_data.plugin_name == "text"
    return [event.step, event.tensor_proto.string_val[0].decode()]


def pr_curve(tag):
    """Compares the curve with PyTorch's arithmetic (`torch.utils.tensorboard.summary.compute_curve`)."""
    (event,) = events.Tensors(tag)
    plugin = events.SummaryMetadata(tag).plugin_data
    data = pr_curve_plugin.parse_plugin_metadata(plugin.content)
    labels = np.array([1, 0, 1, 1, 0, 0, 1, 0])
    predictions = np.array([0.9, 0.2, 0.65, 0.1, 0.65, 0.0, 1.0, 0.5])
    buckets = np.floor(predictions * 126).astype(int)
    counts = [np.histogram(buckets, 127, (0, 126), weights=w.astype(float))[0] for w in (labels, 1 - labels)]
    tp, fp = [np.cumsum(c[::-1])[::-1] for c in counts]
    tn, fn = fp[0] - fp, tp[0] - tp
    rows = np.stack([tp, fp, tn, fn, tp / np.maximum(1e-7, tp + fp), tp / np.maximum(1e-7, tp + fn)])
    got = tensor_util.make_ndarray(event.tensor_proto)
    return {"thresholds": data.num_thresholds, "equal": bool(np.allclose(got, rows))}


def hparams():
    content = lambda tag: events.SummaryMetadata(tag).plugin_data.content
    experiment = hparams_metadata.parse_experiment_plugin_data(content("_hparams_/experiment"))
    start = hparams_metadata.parse_session_start_info_plugin_data(content("_hparams_/session_start_info"))
    end = hparams_metadata.parse_session_end_info_plugin_data(content("_hparams_/session_end_info"))
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    kinds = sorted(info.type for info in experiment.hparam_infos)
    return {**values, "kinds": kinds, "metrics": [info.name.tag for info in experiment.metric_infos], "status": end.status}


def embedding():
    folder = sys.argv[1]
    with open(os.path.join(folder, "projector_config.pbtxt")) as file:
        config = text_format.Parse(file.read(), ProjectorConfig())
    (one,) = config.embeddings
    rows = np.loadtxt(os.path.join(folder, one.tensor_path))
    with open(os.path.join(folder, one.metadata_path), encoding="utf-8") as file:
        labels = file.read().split()
    sheet = Image.open(os.path.join(folder, one.sprite.image_path))
    return [one.tensor_name, list(rows.shape), labels, [sheet.width, sheet.height], list(one.sprite.single_image_dim)]


tags = events.Tags()
print(json.dumps({
    "scalars": {tag: [[e.step, round(e.value, 4)] for e in events.Scalars(tag)] for tag in tags["scalars"] if tag not in ("accuracy", "hparam/accuracy")},
    "images": {tag: image(tag) for tag in tags["images"]},
    "histograms": {tag: histogram(tag) for tag in tags["histograms"]},
    "texts": {"notes": text("notes")},
    "pr_curve": pr_curve("spam"),
    "hparams": hparams(),
    "embedding": embedding(),
    "graph": sorted({node.op for node in events.Graph().node}),
}))
