"""The figures of an analysis in loops and float64, written from their definitions."""

import math

import torch


def alignment(z, y, clean, y_clean, own):
    """Of features z among clean ones; `own` is the row of each image's clean version."""
    z, clean, y, y_clean = z.double(), clean.double(), y.tolist(), y_clean.tolist()
    within, between, cos_within, cos_between, by_means, by_neighbours = [], [], [], [], [], []
    for i in range(len(z)):
        nearest = {True: math.inf, False: math.inf}
        members = {}
        for j in range(len(clean)):
            if j == own[i]:
                continue
            same = y[i] == y_clean[j]
            distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(z[i].tolist(), clean[j].tolist(), strict=True)))
            cosine = sum(a * b for a, b in zip(z[i].tolist(), clean[j].tolist(), strict=True))
            (within if same else between).append(distance)
            (cos_within if same else cos_between).append(cosine)
            nearest[same] = min(nearest[same], distance)
            members.setdefault(y_clean[j], []).append(clean[j])
        if y[i] not in members or len(members) < 2:
            continue
        to_mean = {label: float((z[i] - sum(rows) / len(rows)).norm()) for label, rows in members.items()}
        by_means.append(min(value for label, value in to_mean.items() if label != y[i]) < to_mean[y[i]])
        by_neighbours.append(nearest[False] < nearest[True])
    lists = (within, between, cos_within, cos_between, by_means, by_neighbours)
    names = ("within_distance", "between_distance", "within_cosine", "between_cosine")
    names += ("misaligned_means", "misaligned_neighbours")
    return {name: sum(values) / len(values) for name, values in zip(names, lists, strict=True)}


def knn_accuracy(z, y, train, y_train, count):
    right = 0
    for i in range(len(z)):
        cosines = [(float(z[i].double() @ train[j].double()), int(y_train[j])) for j in range(len(train))]
        nearest = sorted(cosines, reverse=True)[:count]
        labels = [label for _, label in nearest]
        most = max(labels.count(label) for label in labels)
        tied = {
            label: sum(c + 1 for c, other in nearest if other == label) for label in labels if labels.count(label) == most
        }
        right += max(tied, key=tied.get) == int(y[i])
    return right / len(z)


def local_lipschitz(output, x, noise, eps):
    """One image at a time: ten steps of 0.003 at eps 8/255, and in proportion at others."""
    scale = eps / (8 / 255)
    found = []
    for image, own_noise in zip(x, noise, strict=True):
        there = image + 0.001 * scale * own_noise
        for _ in range(10):
            there = there.detach().requires_grad_(True)
            lip = (output(there[None]) - output(image[None])).abs().sum() / (there - image).abs().max()
            lip.backward()
            there = there.detach() + 0.003 * scale * there.grad.sign()
            there = torch.minimum(torch.maximum(there, image - eps), image + eps).clamp(0, 1)
        moved = (output(there[None]) - output(image[None])).abs().sum()
        found.append(float(moved.detach() / (there - image).abs().max()))
    return found


def calibration_error(logits, y, bins=15):
    count, error = len(y), 0.0
    for m in range(1, bins + 1):
        confidences, rights = [], []
        for row, label in zip(logits.double().tolist(), y.tolist(), strict=True):
            high = max(row)
            confidence = 1 / sum(math.exp(value - high) for value in row)
            if (m - 1) / bins < confidence <= m / bins:
                confidences.append(confidence)
                rights.append(row.index(high) == label)
        if confidences:
            error += len(rights) / count * abs(sum(rights) / len(rights) - sum(confidences) / len(confidences))
    return error
