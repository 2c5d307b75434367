#!/usr/bin/env python3
"""Cuts a small sample with exact answers out of a large set of vectors: made the files in tests/data.

    pip install numpy
    cut_sample.py SOURCE OUT --rows N --queries M --metric l2|ip [--depth 100] [--seed 1]

SOURCE  a prefix: reads SOURCE.base.npy and SOURCE.query.npy
OUT     a prefix: writes OUT.base.npy and OUT.query.npy (element type kept) and OUT.truth.npy (int32, nearest first)

Rows and queries are drawn without replacement by one seeded generator and kept in the order of the source.
Answers come from brute force: in exact integers if the vectors are integers, else in float64.
Equal distances are ordered by row number, the lower first.
"""
import argparse
import numpy as np


def draw(rng, array, n):
    return np.ascontiguousarray(array[np.sort(rng.choice(len(array), n, replace=False))])


def scores(base, query, metric):
    """Smaller is nearer; one row per query."""
    wide = np.int64 if np.issubdtype(base.dtype, np.integer) else np.float64
    base, query = base.astype(wide), query.astype(wide)
    dot = query @ base.T
    if metric == "ip":
        return -dot
    return (query**2).sum(1)[:, None] - 2 * dot + (base**2).sum(1)[None, :]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("source")
    ap.add_argument("out")
    ap.add_argument("--rows", type=int, required=True)
    ap.add_argument("--queries", type=int, required=True)
    ap.add_argument("--metric", choices=["l2", "ip"], required=True)
    ap.add_argument("--depth", type=int, default=100)
    ap.add_argument("--seed", type=int, default=1)
    a = ap.parse_args()
    rng = np.random.default_rng(a.seed)
    base = draw(rng, np.load(f"{a.source}.base.npy", mmap_mode="r"), a.rows)
    query = draw(rng, np.load(f"{a.source}.query.npy", mmap_mode="r"), a.queries)
    truth = np.argsort(scores(base, query, a.metric), axis=1, kind="stable")[:, : a.depth].astype("<i4")
    np.save(f"{a.out}.base.npy", base)
    np.save(f"{a.out}.query.npy", query)
    np.save(f"{a.out}.truth.npy", truth)


if __name__ == "__main__":
    main()
