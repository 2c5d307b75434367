#!/usr/bin/env python3
"""The libraries vellum is compared with: how each is built, loaded and searched, and over which grid.

One process holds one index. `compare.py` starts it twice: to build an index once, and in every turn of the
measurement, on the cores it may use. In a turn it loads the index and then answers operating points, a JSON
line in and a JSON line out, so that two callers can be kept in step from outside.

    peers.py build   SYSTEM PREFIX FOLDER THREADS
    peers.py measure SYSTEM PREFIX FOLDER THREADS batch|single SECONDS

What the settings have in common: lists by the same rule (`lists`), exact f32 vectors to rank by again, and a grid
wide enough that its Pareto front passes .99 on both sides. The fast scan of FAISS and the hashing of ScaNN are
what their makers recommend where speed counts.
"""
import json, os, sys, time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
import numpy as np

K = 10
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
EFS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)


@dataclass
class Data:
    """PREFIX.base.npy, PREFIX.query.npy and PREFIX.truth.npy."""

    prefix: str

    def part(self, name):
        return np.load(f"{self.prefix}.{name}.npy", mmap_mode="r")

    @cached_property
    def shape(self):
        return self.part("base").shape

    @cached_property
    def metric(self):
        """Unit-length rows are compared by inner product, others by squared L2."""
        return "ip" if abs(float(np.linalg.norm(self.part("base")[0].astype(np.float32))) - 1) < 1e-2 else "l2"

    @cached_property
    def base(self):
        return np.ascontiguousarray(self.part("base"), dtype=np.float32)

    @cached_property
    def queries(self):
        return np.ascontiguousarray(self.part("query"), dtype=np.float32)

    @cached_property
    def truth(self):
        return np.asarray(self.part("truth")[:, :K])


def lists(rows):
    """The power of two in (2, 4] sqrt(rows): 2048 for 300,000 rows, 1024 for 108,000."""
    return 1 << int(4 * rows**0.5).bit_length() - 1


class Faiss:
    package = "faiss-cpu"

    def __init__(self, code, refines=(None,)):
        self.code, self.refines = code, refines

    def settings(self, data):
        rows, dim = data.shape
        return f"IVF{lists(rows)},{self.code.format(half=dim // 2)}"

    def build(self, data, folder, threads):
        import faiss

        faiss.omp_set_num_threads(threads)
        metric = faiss.METRIC_INNER_PRODUCT if data.metric == "ip" else faiss.METRIC_L2
        index = faiss.index_factory(data.shape[1], self.settings(data), metric)
        index.train(data.base)
        index.add(data.base)
        faiss.write_index(index, str(folder / "index.faiss"))

    def load(self, folder, threads):
        import faiss

        faiss.omp_set_num_threads(threads)
        self.index = faiss.read_index(str(folder / "index.faiss"))

    def grid(self, data):
        probes = [nprobe for nprobe in PROBES if nprobe <= lists(data.shape[0])]
        return [
            {"nprobe": nprobe} | ({"k_factor": refine} if refine else {}) for nprobe in probes for refine in self.refines
        ]

    def at(self, point):
        import faiss

        faiss.extract_index_ivf(self.index).nprobe = point["nprobe"]
        if "k_factor" in point:
            self.index.k_factor = point["k_factor"]

    def batch(self, queries):
        return self.index.search(queries, K)[1]

    def one(self, query):
        return self.index.search(query[None], K)[1][0]


class FaissHnsw(Faiss):
    """The graph of the same library, with what it is built by unless one asks for more."""

    def __init__(self):
        super().__init__("HNSW32")

    def settings(self, data):
        return self.code

    def grid(self, data):
        return [{"ef": ef} for ef in EFS]

    def at(self, point):
        self.index.hnsw.efSearch = point["ef"]


class Scann:
    package = "scann"

    def __init__(self, spilling=False):
        self.spilling = spilling

    def settings(self, data):
        soar = ", SOAR lambda 1.5" if self.spilling else ""
        return f"tree of {lists(data.shape[0])} leaves, AH of 2 dimensions a block, reorder in f32{soar}"

    def build(self, data, folder, threads):
        import scann

        rows = data.shape[0]
        inner = data.metric == "ip"
        builder = scann.scann_ops_pybind.builder(data.base, K, "dot_product" if inner else "squared_l2")
        spill = {"soar_lambda": 1.5, "overretrieve_factor": 2.0} if self.spilling else {}
        builder = builder.tree(lists(rows), 20, training_sample_size=min(rows, 250_000), **spill)
        # Errors along a row count more than others for inner products, and only for them.
        builder = builder.score_ah(2, **({"anisotropic_quantization_threshold": 0.2} if inner else {}))
        index = builder.reorder(100).set_n_training_threads(threads).build()
        index.serialize(str(folder), relative_path=True)

    def load(self, folder, threads):
        import scann

        self.index = scann.scann_ops_pybind.load_searcher(str(folder))
        self.index.set_num_threads(threads)
        self.search_batch = self.index.search_batched if threads == 1 else self.index.search_batched_parallel

    def grid(self, data):
        leaves = [leaves for leaves in PROBES if leaves <= lists(data.shape[0])]
        return [{"leaves": count, "reorder": rows} for count in leaves for rows in (20, 30, 50, 100, 200, 400)]

    def at(self, point):
        self.knobs = {
            "final_num_neighbors": K,
            "pre_reorder_num_neighbors": point["reorder"],
            "leaves_to_search": point["leaves"],
        }

    def batch(self, queries):
        return self.search_batch(queries, **self.knobs)[0]

    def one(self, query):
        return self.index.search(query, **self.knobs)[0]


class Usearch:
    package = "usearch"

    def settings(self, data):
        return "HNSW, f32, connectivity 16, expansion while adding 128"

    def build(self, data, folder, threads):
        from usearch.index import Index

        metric = "ip" if data.metric == "ip" else "l2sq"
        index = Index(ndim=data.shape[1], metric=metric, dtype="f32", connectivity=16, expansion_add=128)
        index.add(np.arange(len(data.base)), data.base, threads=threads)
        index.save(str(folder / "index.usearch"))

    def load(self, folder, threads):
        from usearch.index import Index

        self.index = Index.restore(str(folder / "index.usearch"))
        self.threads = threads

    def grid(self, data):
        return [{"ef": ef} for ef in EFS]

    def at(self, point):
        self.index.expansion_search = point["ef"]

    def batch(self, queries):
        return self.index.search(queries, K, threads=self.threads).keys

    def one(self, query):
        return self.index.search(query, K, threads=1).keys


def peers(metric):
    """What is compared on data of this metric: SOAR is made for inner products and refuses others."""
    all_metrics = {
        "FAISS IVF,PQfs+refine": Faiss("PQ{half}x4fs,RFlat", refines=(2, 4, 6, 10, 20, 40)),
        "FAISS IVF,Flat": Faiss("Flat"),
        "FAISS HNSW": FaissHnsw(),
        "ScaNN": Scann(),
        "USearch HNSW": Usearch(),
    }
    return all_metrics | ({"ScaNN SOAR": Scann(spilling=True)} if metric == "ip" else {})


def versions():
    names = sorted({peer.package for peer in peers("ip").values()} | {"numpy"})
    return {name: version(name) for name in names}


def recall(found, truth):
    """The mean share of the exact answers that were found, as `vellum bench` counts it."""
    return float(np.mean([np.isin(exact, ids[:K]).mean() for ids, exact in zip(found, truth)]))


def best_pass(run, seconds):
    """One pass to warm up, then passes until `seconds` are over; the answers and the shortest time.

    `vellum bench` does the same. A slow peer shall have its lucky pass too: three passes at least, unless
    they take four times as long. With no seconds, one pass is timed: enough to see what deserves a measurement.
    """
    run()
    best, passes, begin = float("inf"), 0, time.perf_counter()
    while True:
        start = time.perf_counter()
        found = run()
        end = time.perf_counter()
        best, passes = min(best, end - start), passes + 1
        if end - begin >= (seconds if passes >= 3 else 4 * seconds):
            return found, best


def measure(peer, data, point, single, seconds):
    peer.at(point)
    queries = data.queries
    run = (lambda: [peer.one(query) for query in queries]) if single else (lambda: peer.batch(queries))
    found, best = best_pass(run, seconds)
    return {"params": point, "recall": recall(found, data.truth), "qps": len(queries) / best}


def build_command(peer, data, folder, threads):
    data.base  # reading and converting the file is not building
    start = time.perf_counter()
    peer.build(data, folder, threads)
    print(json.dumps({"build_s": round(time.perf_counter() - start, 2)}))


def measure_command(peer, data, folder, threads, mode, seconds):
    peer.load(folder, threads)
    for line in sys.stdin:
        print(json.dumps(measure(peer, data, json.loads(line), mode == "single", float(seconds))), flush=True)


def main():
    command, system, prefix, folder, threads, *rest = sys.argv[1:]
    data = Data(prefix)
    run = {"build": build_command, "measure": measure_command}[command]
    run(peers(data.metric)[system], data, Path(folder), int(threads), *rest)


if __name__ == "__main__":
    main()
