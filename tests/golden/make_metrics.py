"""Writes metrics.json: classification metrics of scikit-learn, of random predictions with ties, classes without samples and
classes that are never predicted."""

import json
import os

import numpy as np
from sklearn.metrics import (
    accuracy_score, confusion_matrix, precision_recall_fscore_support, roc_auc_score, top_k_accuracy_score,
)

HERE = os.path.dirname(os.path.abspath(__file__))


def case(seed, samples, classes, absent=()):
    """Scores are multiples of 1/8, so that some are equal; those of the classes in `absent` never win, and have no samples."""
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 24, (samples, classes)) / 8 + np.arange(classes) / 1024
    present = [c for c in range(classes) if c not in absent]
    targets = draw.choice(present, samples)
    scores[np.arange(samples), targets] += 1
    scores[:, list(absent)] -= 10
    predicted, numbers = scores.argmax(1), list(range(classes))
    out = {"scores": scores.tolist(), "targets": targets.tolist(), "accuracy": accuracy_score(targets, predicted)}
    out["top_k"] = {
        k: top_k_accuracy_score(targets, scores, k=k, labels=numbers) for k in range(2, classes)
    }
    out["matrix"] = confusion_matrix(targets, predicted, labels=numbers).tolist()
    for average in ["macro", "micro", None]:
        values = precision_recall_fscore_support(targets, predicted, labels=numbers, average=average, zero_division=0)
        out[str(average)] = [np.asarray(value).tolist() for value in values[:3]]
    if not absent:
        out["auroc"] = [roc_auc_score(targets == c, scores[:, c]) for c in numbers]
    return out


def binary(seed, samples):
    draw = np.random.default_rng(seed)
    targets = draw.integers(0, 2, samples)
    scores = (draw.integers(0, 8, samples) + targets) / 8 - 0.5
    return {"scores": scores.tolist(), "targets": targets.tolist(), "auroc": [roc_auc_score(targets, scores)]}


if __name__ == "__main__":
    out = {
        "two": case(1, 40, 2),
        "five": case(2, 61, 5),
        "absent": case(3, 50, 4, absent=[2]),
        "binary": binary(4, 57),
    }
    with open(os.path.join(HERE, "metrics.json"), "w") as file:
        json.dump(out, file)
        file.write("\n")
