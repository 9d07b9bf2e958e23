"""Writes splits.json: the samples that scikit-learn's KFold and StratifiedKFold hold out, without shuffling, and how many of
each class the parts of `train_test_split` with `stratify` have."""

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from golden import write_json

random = np.random.default_rng(0)
folds = [
    {"len": n, "k": k, "valid": [valid.tolist() for _, valid in KFold(k).split(range(n))]}
    for n, k in [(10, 5), (11, 3), (7, 7), (23, 4)]
]


def stratified(labels, k):
    valid = [valid.tolist() for _, valid in StratifiedKFold(k).split(np.zeros(len(labels)), labels)]
    return {"labels": labels, "k": k, "valid": valid}


stratified_folds = [
    stratified([0, 0, 1, 1, 0, 1, 0, 1], 2),
    stratified([5, 5, -1, 5, -1, 5, 5, 5, -1, 5, 5], 3),
    stratified(random.integers(0, 4, 50).tolist(), 5),
    stratified(np.sort(random.choice(3, 40, p=[0.7, 0.2, 0.1])).tolist(), 4),
]


def parts(labels, first):
    train, test = train_test_split(labels, train_size=first, stratify=labels, random_state=0)
    classes = sorted(set(labels))
    return {"labels": labels, "first": first, "counts": [[part.count(c) for c in classes] for part in (train, test)]}


splits = [
    parts([0] * 70 + [1] * 20 + [2] * 10, 60),
    parts([0] * 37 + [1] * 11 + [2] * 5, 40),
    parts(random.choice(4, 97, p=[0.5, 0.3, 0.15, 0.05]).tolist(), 30),
]
write_json("splits.json", {"folds": folds, "stratified": stratified_folds, "splits": splits})
