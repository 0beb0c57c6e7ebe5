"""Writes als.safetensors: weights, column weights and what alternating least squares makes of them, in numpy.

An independent implementation: sums over groups in float64, every iterate scored. Needs numpy 2 and safetensors.
"""

import numpy as np
from safetensors.numpy import save_file

ROWS, COLS = 40, 256
QMAX = {8: 255, 6: 63, 4: 15, 3: 7, 2: 3, 1: 1}
PARTS = np.array([1.0, 0.9, 0.8, 0.7, 0.6], np.float32)
ROUNDS = 4


def column_weights(w):
    """m2^3 / m1^8 of each column, relative to the geometric mean, clamped."""
    a = np.abs(w.astype(np.float64))
    r = 3 * np.log((a**2).mean(0)) - 8 * np.log(a.mean(0))
    return np.clip(np.exp(r - r.mean()), 1e-2, 1e2).astype(np.float32)


def codes_of(w, s, z, qmax):
    return np.clip(np.rint(w / s[:, None] + z[:, None]), 0, qmax).astype(np.float32)


def fit(w, q, h):
    """Weighted least squares of w on q: scale, zero, and which groups have a solution."""
    all_h = h.sum(1, dtype=np.float64)
    mq = (h * q).sum(1, dtype=np.float64) / all_h
    mw = (h * w).sum(1, dtype=np.float64) / all_h
    dq = q - mq[:, None]
    num = (h * dq * (w - mw[:, None])).sum(1)
    den = (h * dq * dq).sum(1)
    solved = (den > 0) & (num > 0)
    s = np.where(solved, num / np.where(den > 0, den, 1), 1)
    z = mq - mw / np.where(solved, s, 1)
    return s.astype(np.float32), z.astype(np.float32), solved


def solve(w, h, bits, group_size):
    """codes, scale and zero of each group."""
    h = np.broadcast_to(h, w.shape).reshape(-1, group_size)
    w, qmax = w.reshape(-1, group_size), QMAX[bits]
    lo, hi = w.min(1), w.max(1)
    mid, half = 0.5 * (lo + hi), 0.5 * (hi - lo)
    best = np.full(len(w), np.inf)
    codes, scale, zero = np.zeros_like(w), np.ones_like(lo), np.zeros_like(lo)
    for part in PARTS:
        s = (2 * half * part / qmax).astype(np.float32)
        z = (-(mid - half * part) / s).astype(np.float32)
        live = np.ones(len(w), bool)
        for i in range(ROUNDS + 1):
            q = codes_of(w, s, z, qmax)
            e = w - (q - z[:, None]) * s[:, None]
            o = (h * e * e).sum(1, dtype=np.float64)
            better = live & (o < best)
            best[better], scale[better], zero[better], codes[better] = o[better], s[better], z[better], q[better]
            if i == ROUNDS:
                break
            ns, nz, solved = fit(w, q, h)
            live = live & solved & ~((ns == s) & (nz == z))
            s, z = np.where(live, ns, s), np.where(live, nz, z)
    return codes.astype(np.uint8), scale, zero


def solve_whole(w, h, bits, group_size, symmetric):
    """The same for whole zeros: every start with three of them, or one in the middle; only scales are fitted."""
    h = np.broadcast_to(h, w.shape).reshape(-1, group_size)
    w, qmax = w.reshape(-1, group_size), QMAX[bits]
    lo, hi = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
    if symmetric:
        hi = np.maximum(-lo, hi)
        lo = -hi
    mid, half = 0.5 * (lo + hi), 0.5 * (hi - lo)
    best = np.full(len(w), np.inf)
    codes, scale, zero = np.zeros_like(w), np.ones_like(lo), np.zeros_like(lo)
    for part in PARTS:
        start = (2 * half * part / qmax).astype(np.float32)
        for aside in (0,) if symmetric else (-1, 0, 1):
            z = np.full_like(lo, (qmax + 1) // 2) if symmetric else np.rint(-(mid - half * part) / start) + aside
            live = (z >= 0) & (z <= qmax)
            s = start
            for _ in range(ROUNDS + 1):
                q = codes_of(w, s, z, qmax)
                d = q - z[:, None]
                o = (h * (w - d * s[:, None]) ** 2).sum(1, dtype=np.float64)
                better = live & (o < best)
                best[better], scale[better], zero[better], codes[better] = o[better], s[better], z[better], q[better]
                products, squares = (h * w * d).sum(1, dtype=np.float64), (h * d * d).sum(1, dtype=np.float64)
                s = np.where(products > 0, products / np.where(squares > 0, squares, 1), s).astype(np.float32)
    return codes.astype(np.uint8), scale, zero


def main():
    random = np.random.default_rng(20260701)
    gauss = 0.02 * random.standard_normal((ROWS, COLS))
    tails = 0.02 * random.standard_t(3, (ROWS, COLS))
    # A few channels carry large inputs: their weights are small and heavy-tailed.
    loud = 0.03 * random.standard_normal((ROWS, COLS)) * np.exp(0.4 * random.standard_normal(COLS))
    loud[:, ::37] = 0.004 * random.standard_t(3, (ROWS, len(loud[0, ::37])))
    tensors = {}
    weights = {"gauss": gauss, "tails": tails, "loud": loud}
    importance = {"gauss": np.ones(COLS, np.float32)}
    for name, w in weights.items():
        weights[name] = w.astype(np.float32)
        importance.setdefault(name, column_weights(weights[name]))
    weights["decades"], importance["decades"] = weights["loud"], (10 ** random.uniform(-3, 4, COLS)).astype(np.float32)
    for name, cases in {
        "gauss": [(4, 64), (2, 32)],
        "tails": [(8, 64), (4, 128), (3, 64)],
        "loud": [(6, 64), (4, 64), (4, 256), (3, 32), (2, 64), (1, 64)],
        "decades": [(8, 128), (4, 64), (2, 64)],
    }.items():
        tensors[name], tensors[name + ".h"] = weights[name], importance[name]
        for bits, group_size in cases:
            case = f"{name}.b{bits}.g{group_size}"
            results = solve(weights[name], importance[name], bits, group_size)
            for kind, values in zip(("codes", "scale", "zero"), results):
                tensors[f"{case}.{kind}"] = values
    save_file(tensors, "als.safetensors")

    whole = {}
    for name, cases in {"loud": [(8, 128), (4, 32), (4, 128), (3, 64), (2, 64)], "decades": [(4, 64), (3, 32)]}.items():
        for bits, group_size in cases:
            for kind in ("integer", "symmetric"):
                results = solve_whole(weights[name], importance[name], bits, group_size, kind == "symmetric")
                for what, values in zip(("codes", "scale", "zero"), results):
                    whole[f"{name}.{kind}.b{bits}.g{group_size}.{what}"] = values
    save_file(whole, "whole.safetensors")


main()
