"""Feature losses in float64 NumPy, place by place, straight from the formulas of the papers."""

import itertools
import math

import numpy as np


def places(shape):
    return list(np.ndindex(*shape))


def resize(features, shape):
    """Mean over the block of every new place along axes that shrink; the nearest old place along axes that grow."""
    result = np.empty((*features.shape[:2], *shape))
    for new in places(shape):
        block = [slice(None), slice(None)]
        for i, size, old in zip(new, shape, features.shape[2:], strict=True):
            if size <= old:
                block.append(slice(i * old // size, -(-(i + 1) * old // size)))
            else:
                nearest = int((i + 0.5) * old / size)
                block.append(slice(nearest, nearest + 1))
        result[(slice(None), slice(None), *new)] = features[tuple(block)].mean(tuple(range(2, features.ndim)))
    return result


def resize_masks(masks, shape):
    result = np.empty((*masks.shape[:2], *shape), bool)
    for new in places(shape):
        old = tuple(int((i + 0.5) * o / n) for i, o, n in zip(new, masks.shape[2:], shape, strict=True))
        result[(slice(None), slice(None), *new)] = masks[(slice(None), slice(None), *old)]
    return result


def unit(vector):
    vector = np.asarray(vector)
    return vector / math.sqrt(sum(x * x for x in vector))


def cosine(a, b):
    return sum(x * y for x, y in zip(unit(a), unit(b), strict=True))


def attention_maps(features, exponent):
    """One flat map of unit L2 norm for each image."""
    for image in features:
        yield unit([sum(abs(c) ** exponent for c in image[(slice(None), *v)]) for v in places(image.shape[1:])])


def maps_of_both(student, teacher, exponent):
    student = resize(student, teacher.shape[2:])
    return list(zip(attention_maps(student, exponent), attention_maps(teacher, exponent), strict=True))


def importance(student, teacher, exponent, scale):
    distances = [sum(abs(a - b)) for a, b in maps_of_both(student, teacher, exponent)]
    return np.mean(distances) / (1 if scale == "paper" else math.sqrt(math.prod(teacher.shape[2:])))


def attention(student, teacher, exponent):
    return np.mean([math.sqrt(sum((a - b) ** 2)) for a, b in maps_of_both(student, teacher, exponent)])


def hint(student, teacher):
    return np.mean((resize(student, teacher.shape[2:]) - teacher) ** 2)


def channel_wise(student, teacher, temperature):
    student, values = resize(student, teacher.shape[2:]), []
    for b, c in np.ndindex(*teacher.shape[:2]):
        p, q = (np.exp(e[b, c].ravel() / temperature) for e in (student, teacher))
        p, q = p / p.sum(), q / q.sum()
        values.append(sum(y * math.log(y / x) for x, y in zip(p, q, strict=True)))
    return temperature**2 * np.mean(values)


def region_mean(image, mask):
    """Mean feature vector of the places of a mask, None without any."""
    vectors = [image[(slice(None), *v)] for v in places(mask.shape) if mask[v]]
    return sum(vectors) / len(vectors) if vectors else None


def region_affinity(student, teacher, regions, form, norm):
    contrasts = []
    for features in (student, teacher):
        masks = resize_masks(regions, features.shape[2:])
        means = [[region_mean(i, m) for m in ms] for i, ms in zip(features, masks, strict=True)]
        contrasts.append(means)
    distances = []
    for s, t in zip(*contrasts, strict=True):
        pairs = [
            (cosine(s[i], s[j]), cosine(t[i], t[j]))
            for i, j in itertools.combinations(range(len(s)), 2)
            if all(r is not None for r in (s[i], s[j], t[i], t[j]))
        ]
        if pairs:
            both = np.array(pairs)
            if form == "mean":
                distances.append(abs(both[:, 0].mean() - both[:, 1].mean()))
            else:
                distances.append((abs(both[:, 0] - both[:, 1]) ** norm).sum() ** (1 / norm))
    return np.mean(distances) if distances else 0.0


def intra_class(student, teacher, regions):
    student, regions = resize(student, teacher.shape[2:]), resize_masks(regions, teacher.shape[2:])
    squares = []
    for s, t, masks in zip(student, teacher, regions, strict=True):
        for mask in masks:
            for v in places(mask.shape):
                if mask[v]:
                    place = (slice(None), *v)
                    squares.append(
                        (cosine(s[place], region_mean(s, mask)) - cosine(t[place], region_mean(t, mask))) ** 2
                    )
    return np.mean(squares)


def pairwise(student, teacher, grid):
    squares = []
    for s, t in zip(resize(student, grid), resize(teacher, grid), strict=True):
        for u, v in itertools.product(places(grid), repeat=2):
            u, v = (slice(None), *u), (slice(None), *v)
            squares.append((cosine(s[u], s[v]) - cosine(t[u], t[v])) ** 2)
    return np.mean(squares)


def similarity(student, teacher):
    matrices = []
    for features in (student, teacher):
        rows = features.reshape(len(features), -1)
        matrices.append([unit([sum(a * b) for b in rows]) for a in rows])
    return np.sum((np.array(matrices[0]) - np.array(matrices[1])) ** 2) / len(student) ** 2
