"""Writes level_grids.safetensors: weights on grids with levels, as their definition (kernels/float_grid.h,
kernels/level_grid.h) says it, in numpy.

Usage: make_level_grids.py OUT.safetensors    (needs numpy, safetensors)
"""

import math
import sys

import numpy as np
from safetensors.numpy import save_file

ROWS, COLS, GROUP, STARTS, ROUNDS, BINS = 24, 96, 32, 5, 4, 1024
FLOAT = np.float32
NORMAL = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
          -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
          0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # bitsandbytes, functional.py
TABLES = {
    "fp4-e2m1": [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6],
    "fp3-e2m0": [-4, -2, -1, 0, 1, 2, 4],
    "fp3-e1m1": [-3, -2, -1, 0, 1, 2, 3],
    "nf4": NORMAL,
    "learned4": 16,
    "learned3": 8,
}


def fitted(weights: np.ndarray, importance: np.ndarray, count: int) -> np.ndarray:
    """The best levels for weights over the largest of their groups, each place of a histogram being one."""
    largest = np.abs(weights).max(1, keepdims=True)
    bins = np.minimum(BINS - 1, ((weights / largest + FLOAT(1)) * FLOAT(BINS / 2)).astype(int))
    terms = importance * (largest * largest)
    mass = np.array([math.fsum(terms[bins == b].astype(float)) for b in range(BINS)])
    at = (2 * np.arange(BINS) + 1) / BINS - 1
    at, mass = at[mass > 0], mass[mass > 0]
    sums = [np.concatenate([[0], np.cumsum(mass * at ** power)]) for power in (0, 1, 2)]
    cost = np.full((len(at) + 1, len(at) + 1), np.inf)  # of the run [begin, end)
    for begin in range(len(at)):
        m, first, second = (part[begin + 1:] - part[begin] for part in sums)
        cost[begin, begin + 1:] = second - first * first / m
    least, begins = cost[0], []
    for _ in range(count - 1):
        total = least[:, None] + cost
        begins.append(total.argmin(0))
        least = total.min(0)
    levels, end = [], len(at)
    for begin_of in [*reversed(begins), None]:
        begin = 0 if begin_of is None else begin_of[end]
        levels.insert(0, (sums[1][end] - sums[1][begin]) / (sums[0][end] - sums[0][begin]))
        end = begin
    return np.array(levels, FLOAT)


def stored(scale: np.ndarray) -> np.ndarray:
    return np.maximum(scale.astype(np.float16).astype(FLOAT), FLOAT(2.0**-24))


def codes_of(weights: np.ndarray, scale: np.ndarray, table: np.ndarray) -> np.ndarray:
    middles = table[:-1] * FLOAT(0.5) + table[1:] * FLOAT(0.5)
    return np.searchsorted(middles, weights * (FLOAT(1) / scale)[:, None], side="left")  # as many as it is above


def in_order(terms: np.ndarray) -> np.ndarray:
    total = np.zeros(len(terms), FLOAT)
    for k in range(terms.shape[1]):
        total = total + terms[:, k]
    return total


def searched(weights: np.ndarray, h: np.ndarray, table: np.ndarray, first: np.ndarray) -> np.ndarray:
    best, least = stored(first), np.full(len(weights), np.inf, FLOAT)
    for start in range(STARTS):
        scale = stored(first * FLOAT(1 - 0.4 * start / (STARTS - 1)))
        for _ in range(ROUNDS + 1):
            level = table[codes_of(weights, scale, table)]
            e = weights - level * scale[:, None]
            score, a, b = in_order((h * e) * e), in_order((h * level) * weights), in_order((h * level) * level)
            better = score < least
            best, least = np.where(better, scale, best), np.where(better, score, least)
            ok = (a > 0) & (b > 0)
            scale = np.where(ok, stored(a / np.where(ok, b, 1)), scale)
    return best


def main():
    random = np.random.default_rng(7)
    w = (0.02 * random.standard_t(4, (ROWS, COLS))).astype(FLOAT)
    w[:, 7] *= 20
    w[3, :GROUP] *= FLOAT(2.0**-12)
    importance = np.clip(np.exp(2 * random.standard_normal(COLS)), 1e-2, 1e2).astype(FLOAT)
    weights, h = w.reshape(-1, GROUP), np.tile(importance, (ROWS, 1)).reshape(-1, GROUP)
    tensors = {"weight": w, "importance": importance}
    for name, table in TABLES.items():
        learned = isinstance(table, int)
        table = fitted(weights, h, table) if learned else np.array(table, FLOAT)
        first = np.abs(weights).max(1) / (FLOAT(1) if learned else table[-1])
        tensors[f"{name}.table"] = table
        for way, scale in (("rounded", stored(first)), ("searched", searched(weights, h, table, first))):
            tensors[f"{name}.{way}.scale"] = scale
            tensors[f"{name}.{way}.codes"] = codes_of(weights, scale, table).astype(np.uint8).reshape(w.shape)
    save_file(tensors, sys.argv[1])


if __name__ == "__main__":
    main()
