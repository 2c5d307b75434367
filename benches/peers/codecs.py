#!/usr/bin/env python3
"""Each codec of vellum beside FAISS's of the same factory string: bytes, recall, speed, time to build.

    benches/peers/codecs.py [PREFIX ...] [--codecs SQ8,OPQ16-PQ16] [--skip LSQ8x8] [--nlist N] [--rounds 3] [--seconds 0.5]
    benches/peers/codecs.py --list
    benches/peers/codecs.py --self-check

PREFIX of PREFIX.base.npy, PREFIX.query.npy and PREFIX.truth.npy. For each codec both systems build an index from the
same string with two threads, once: what is built is kept under --work, until data, string or version change. Then they
take turns on one core: a turn loads the index and answers all queries in one call at each nprobe, again and again for
--seconds, the shortest pass counts, and of the rounds the median. Nothing is ranked again by exact rows: the codes alone
are compared. A string that a system refuses is reported as missing there. With `--rounds 0` indexes are built and no more.
With `--same-centroids` vellum takes the centroids of FAISS's k-means, but behind a transform: then recall differs by
the codec alone, and training is that of the codec.

Writes codecs.md and codecs.json to --out. How a turn is measured is told in README.md; `compare.py` has the rest.
"""
import argparse, importlib.util, json, os, re, shutil, statistics, subprocess, sys, tempfile, time
from datetime import date
from pathlib import Path

import compare
from compare import DATA, HERE, ROOT, say

PROBES = (1, 8, 32, 128)
SHOWN = (32, 128)
BUILDERS = 2
SYSTEMS = ("FAISS", "vellum")


def main():
    if sys.argv[1:2] == ["child"]:
        return child(*sys.argv[2:])
    args = arguments()
    if importlib.util.find_spec("faiss") is None:
        compare.enter_venv(args.work / "venv")
    if args.self_check:
        return self_check(args)
    if args.list:
        return print("\n".join(f"{Path(p).name}: {' '.join(c.name for c in wanted(p, args))}" for p in args.data))
    write(measured(args), args.out or args.work / "results")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", metavar="PREFIX", default=[f"{DATA}/sift-300k", f"{DATA}/text-108k"])
    parser.add_argument("--codecs", help="these instead of the list: a codec as in a factory string, a transform and a dash before it")
    parser.add_argument("--skip", default="", help="names not to measure")
    parser.add_argument("--list", action="store_true", help="print what would be measured")
    parser.add_argument("--nlist", type=int, help="lists [default: the power of two in (2, 4] sqrt(rows)]")
    parser.add_argument("--same-centroids", action="store_true", help="lists of one k-means for both")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each system; the median counts")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a point is repeated in a turn, at least")
    parser.add_argument("--work", type=Path, default=ROOT / "target/peers", help="where environment and indexes are kept")
    parser.add_argument("--out", type=Path, help="where results go [default: WORK/results]")
    parser.add_argument("--vellum", type=Path, help="the program [default: what Cargo builds]")
    parser.add_argument("--self-check", action="store_true", help="run everything on the samples in tests/data")
    return parser.parse_args()


# What is compared.


class Codec:
    """A name, as `--codecs` takes it, and what it stands for."""

    def __init__(self, name, nlist, metric):
        self.name = name
        # FAISS has spectral hashes for L2 only, which orders rows of length 1 as inner products do.
        self.metric = "l2" if name.endswith("SH") else metric
        first, dash, rest = name.partition("-")
        # ITQ belongs to the hash that follows it; other transforms stand before the lists.
        inside = not dash or first.startswith("ITQ")
        outside = f"{first},IVF{nlist},{rest}"
        self.spec = f"IVF{nlist},{name.replace('-', ',')}" if inside else outside
        # Ours has all transforms in front.
        self.ours = outside if dash else self.spec


def names(dim, metric):
    """The default list, in proportion to the dimension."""
    # The norms behind additive codes are for L2; fast scan accepts only these two.
    norm, norm_fast = ("_Nqint8", "_Nrq2x4") if metric == "l2" else ("", "")
    eighth, quarter, half = dim // 8, dim // 4, dim // 2
    plain = ["Flat", "FlatDedup", "SQ8", "SQ6", "SQ4", "SQfp16", "SQbf16"] + ["SQ8_direct"] * (metric == "l2")
    product = [f"PQ{eighth}", f"PQ{quarter}", f"PQ{half}x4fs", f"PQ{half}x4fsr"]
    additive = [f"RQ{dim // 16}x8{norm}", f"LSQ8x8{norm}", f"PRQ{dim // 32}x2x8{norm}", f"RQ{eighth}x4fsr{norm_fast}"]
    turned = [f"RR{dim}-{name}" for name in ("RaBitQ", "RaBitQ4", "RaBitQfs")]
    return plain + product + additive + turned + [f"OPQ{eighth}-PQ{eighth}", f"PCA{half}-SQ8", f"ITQ{half}-SH"]


def wanted(prefix, args):
    from peers import Data, lists

    data = Data(prefix)
    rows, dim = data.shape
    chosen = args.codecs.split(",") if args.codecs else names(dim, data.metric)
    return [Codec(name, args.nlist or lists(rows), data.metric) for name in chosen if name not in args.skip.split(",")]


# Measuring.


def measured(args):
    binary = args.vellum or compare.build_vellum()
    core = sorted(os.sched_getaffinity(0))[-1:]
    rows, load_before = [], os.getloadavg()[0]
    for prefix in args.data:
        digest = compare.file_digest(Path(f"{prefix}.base.npy"))
        for codec in wanted(prefix, args):
            row = {"data": Path(prefix).name, "codec": codec.name, "spec": codec.spec, "metric": codec.metric}
            rows.append(row | one_codec(codec, prefix, digest, binary, core, args))
            (args.work / "codecs/so-far.json").write_text(json.dumps(rows, indent=1))
    versions = compare.versions(binary)
    if args.vellum:
        # Of which commit a program is that was not built here is not known.
        versions["vellum"] = versions["vellum"].split()[0]
    load = {"load_before": round(load_before, 1), "load_after": round(os.getloadavg()[0], 1)}
    return {
        "date": date.today().isoformat(),
        "machine": compare.machine() | load,
        "versions": versions,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "same_centroids": args.same_centroids,
        "rows": rows,
    }


def one_codec(codec, prefix, digest, binary, core, args):
    """Both systems built, then measured in turns, each round begun by the other one."""
    centroids, place = "", args.work / "codecs" / Path(prefix).name
    if args.same_centroids and codec.spec.startswith("IVF"):
        centroids = shared_centroids(prefix, lists_of(codec.spec), codec.metric, digest, place)
    sides, found = [Faiss(codec, prefix, centroids), Vellum(codec, prefix, centroids, binary)], {}
    for side in sides:
        folder = place / side.name / re.sub(r"\W", "-", f"{codec.spec}-{codec.metric}{'-same' * bool(centroids)}")
        found[side.name] = prepared(side, folder, digest)
    turns = {side.name: [] for side in sides if "missing" not in found[side.name]}
    for number in range(args.rounds):
        for side in sides[:: -1 if number % 2 else 1]:
            if side.name in turns:
                say(f"{Path(prefix).name} {codec.spec}: round {number + 1} of {args.rounds}, {side.name}")
                try:
                    turns[side.name].append(side.turn(core, args.seconds))
                except (Refused, SystemExit) as reason:
                    # Of a long run the others are worth having.
                    found[side.name]["missing"] = f"cannot be measured: {reason}"
                    del turns[side.name]
    for name, rounds in turns.items():
        found[name]["points"] = summed(rounds)
    return found


def shared_centroids(prefix, nlist, metric, digest, place):
    """FAISS's, found once for each number of lists."""
    side = Faiss(Codec("Flat", nlist, metric), prefix, "")
    prepared(side, place / side.name / f"centroids-{nlist}-{metric}", digest)
    return side.folder / "centroids.npy"


def summed(rounds):
    """The median of the rounds at each nprobe."""
    by_probe = {}
    for point in (point for points in rounds for point in points):
        by_probe.setdefault(point["params"]["nprobe"], []).append(point)
    return [
        {
            "nprobe": nprobe,
            "recall": round(statistics.median(p["recall"] for p in points), 4),
            "qps": round(statistics.median(p["qps"] for p in points), 1),
            "rounds": [round(p["qps"], 1) for p in points],
        }
        for nprobe, points in by_probe.items()
    ]


def prepared(side, folder, digest):
    """Figures of the index in `folder`, which is built if it was not built from just this."""
    side.folder = folder
    key, note = [digest, side.codec.spec, side.version], folder / "built.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    if known.get("key") == key:
        return {name: value for name, value in known.items() if name != "key"}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say(f"{side.name} builds {side.codec.spec}")
    try:
        figures = side.build()
    except Refused as reason:
        say(f"{side.name}: {reason}")
        return {"missing": str(reason)}
    note.write_text(json.dumps({"key": key} | figures))
    return figures


class Refused(Exception):
    """The system does not make such an index."""


class Faiss:
    """In a process of its own: `codecs.py child`."""

    name = "FAISS"

    def __init__(self, codec, prefix, centroids):
        from peers import version

        self.codec, self.prefix, self.centroids, self.version = codec, prefix, centroids, version("faiss-cpu")

    def build(self):
        return json.loads(attempt([*self.command("build"), self.centroids], None, BUILDERS).splitlines()[-1])

    def turn(self, core, seconds):
        return [json.loads(line) for line in attempt([*self.command("measure"), str(seconds)], core, 1).splitlines()]

    def command(self, verb):
        return [sys.executable, HERE / "codecs.py", "child", verb, self.prefix, self.codec.spec, self.codec.metric, self.folder]


class Vellum:
    name = "vellum"

    def __init__(self, codec, prefix, centroids, binary):
        self.codec, self.prefix, self.centroids, self.binary = codec, prefix, centroids, binary
        self.version = compare.file_digest(binary)

    def build(self):
        store = self.folder / "index.vellum"
        command = [self.binary, "build", store, "i", "--spec", self.codec.ours, "--metric", self.codec.metric, "--json"]
        command += ["--data", f"{self.prefix}.base.npy", "--threads", str(BUILDERS)]
        command += ["--initial-centroids", self.centroids, "--frozen"] * bool(self.centroids)
        stages = {stage["stage"]: stage["seconds"] for stage in json.loads(attempt(command, None, BUILDERS))["stages"]}
        index = json.loads(attempt([self.binary, "info", store, "i", "--json"], None, 1))["indexes"][0]
        # By `IndexStats::logical_bytes`: an entry has 8 bytes beside its code, a row 20.
        code = (index["logical_bytes"] - 20 * index["rows"]) / index["entries"] - 8
        return {"code_bytes": round(code, 1), "stages": stages, "build_s": round(stages["train"] + stages["add"], 2)}

    def turn(self, core, seconds):
        from peers import Data

        probes = [nprobe for nprobe in PROBES if nprobe <= lists_of(self.codec.spec)]
        data = Data(self.prefix)
        bench = compare.Vellum(self.binary, self.codec.ours, data)
        bench.folder = self.folder
        return list(bench.bench(probes, (), "batch", core, seconds))


def lists_of(spec):
    return int(re.search(r"IVF(\d+)", spec)[1])


def attempt(command, cores, threads):
    """What a process prints; its complaint if it fails."""
    with compare.start(command, cores, threads, stderr=subprocess.PIPE) as process:
        output, complaint = process.communicate()
    if process.returncode:
        lines = [line.strip() for line in (complaint or output).splitlines() if line.strip()]
        # Of a traceback the last line says it; of a program with `error:`, that line. The reason is at its end.
        said = [line for line in lines if line.startswith("error:")] or lines[-1:] or [f"exit code {process.returncode}"]
        raise Refused(re.sub(r"^.*( failed|Error|<SPEC>'): ", "", said[0]))
    return output


def child(verb, prefix, spec, metric, folder, last):
    """FAISS, alone in its process; `last` is the centroids to build with, or for how many seconds to measure."""
    import faiss
    from peers import Data

    data, peer = Data(prefix), FaissIndex(spec)
    if verb == "build":
        faiss.omp_set_num_threads(BUILDERS)
        return print(json.dumps(peer.build(data, metric, Path(folder), last)))
    from peers import measure

    peer.load(Path(folder), 1)
    for nprobe in (nprobe for nprobe in PROBES if nprobe <= lists_of(spec)):
        print(json.dumps(measure(peer, data, {"nprobe": nprobe}, False, float(last))), flush=True)


def FaissIndex(spec):
    """peers.Faiss of a whole string, that says what building took."""
    import faiss, peers
    import numpy as np

    class Whole(peers.Faiss):
        def build(self, data, metric, folder, centroids):
            base, dim = data.base, data.shape[1]
            index = faiss.index_factory(dim, spec, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
            ivf, stages = faiss.extract_index_ivf(index), {}
            if centroids:
                ivf.quantizer.add(np.load(centroids))
            for stage in ("train", "add"):
                begin = time.perf_counter()
                getattr(index, stage)(base)
                stages[stage] = round(time.perf_counter() - begin, 3)
            faiss.write_index(index, str(folder / "index.faiss"))
            np.save(folder / "centroids.npy", ivf.quantizer.reconstruct_n(0, ivf.nlist))
            return {"code_bytes": ivf.code_size, "stages": stages, "build_s": round(sum(stages.values()), 2)}

    return Whole(spec)


# What is written.


def write(result, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "codecs.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "codecs.md").write_text(markdown(result))
    say(f"\n{markdown(result)}\nwritten to {os.path.relpath(folder)}")


def markdown(result):
    from report import header, row

    machine, versions = result["machine"], result["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("vellum", "rustc", "faiss-cpu"))
    centroids = ", the same centroids but behind transforms" * result["same_centroids"]
    parts = [
        f"{result['date']}, {machine['cpu']}, one core, all queries in one call, k = 10; load {machine['load_before']} before, "
        f"{machine['load_after']} after{centroids}; {named}; "
        f"median of {result['rounds']} rounds. FAISS / vellum; × is vellum's QPS over FAISS's, at the same nprobe, not at the same recall.\n"
    ]
    for data in dict.fromkeys(r["data"] for r in result["rows"]):
        parts.append(f"**{data}**\n")
        recalls = [f"recall@10, nprobe {nprobe}" for nprobe in PROBES]
        speeds = [cell for nprobe in SHOWN for cell in (f"QPS, nprobe {nprobe}", "×")]
        parts += header(["codec", "bytes a code", *recalls, *speeds, "train + add, s"])
        parts += [row(cells(r)) for r in result["rows"] if r["data"] == data]
        parts.append("")
        parts += [f"- {r['spec']}: {name} {r[name]['missing']}" for r in result["rows"] for name in SYSTEMS
                  if r["data"] == data and "missing" in r[name]]  # fmt: skip
        parts.append("")
    return "\n".join(parts)


def cells(found):
    pair = lambda get, form: " / ".join("–" if get(found[name]) is None else format(get(found[name]), form) for name in SYSTEMS)
    out = [found["spec"], pair(lambda side: side.get("code_bytes"), "g")]
    out += [pair(lambda side: at(side, nprobe, "recall"), ".3f") for nprobe in PROBES]
    for nprobe in SHOWN:
        qps = [at(found[name], nprobe, "qps") for name in SYSTEMS]
        out += [pair(lambda side: at(side, nprobe, "qps"), ",.0f"), f"{qps[1] / qps[0]:.2f}" if all(qps) else "–"]
    return [*out, pair(lambda side: side.get("build_s"), ".1f")]


def at(side, nprobe, what):
    return next((point[what] for point in side.get("points", ()) if point["nprobe"] == nprobe), None)


def self_check(args):
    """The whole way on the samples of this repository; figures mean nothing here."""
    specs = {"SQ8": "IVF9,SQ8", "OPQ16-PQ16": "OPQ16,IVF9,PQ16", "ITQ64-SH": "IVF9,ITQ64,SH"}
    assert all(Codec(name, 9, "l2").spec == spec for name, spec in specs.items())
    samples = ROOT / "tests/data"
    chosen = "Flat,SQ8,SQfp16,PQ16x4fs,PCA64-SQ8,ITQ64-SH,Nibble"
    with tempfile.TemporaryDirectory() as folder:
        args = argparse.Namespace(
            data=[f"{samples}/sift-10k", f"{samples}/text-2k"], work=Path(folder), rounds=2, seconds=0.0,
            codecs=chosen, skip="", nlist=32, vellum=args.vellum, same_centroids=False,
        )  # fmt: skip
        result = measured(args)
        write(result, Path(folder) / "results")
        check_result(result, chosen.split(","))
        again = measured(args)
        for before, after in zip(result["rows"], again["rows"]):
            assert all(before[name].get("build_s") == after[name].get("build_s") for name in SYSTEMS), "built once"
        args.same_centroids = True
        for found in measured(args)["rows"]:
            if found["codec"] in ("Flat", "SQfp16"):
                ours, theirs = ([point["recall"] for point in found[name]["points"]] for name in SYSTEMS)
                assert all(abs(a - b) < 0.002 for a, b in zip(ours, theirs)), (found["codec"], ours, theirs)
    say("self-check passed")


def check_result(result, chosen):
    assert [r["codec"] for r in result["rows"]] == chosen * 2
    for found in result["rows"]:
        for name in SYSTEMS:
            side, what = found[name], (found["data"], found["codec"], name)
            assert ("missing" in side) == ("points" not in side), what
            if "points" in side:
                assert [point["nprobe"] for point in side["points"]] == [1, 8, 32], what
                assert side["points"][-1]["recall"] >= 0.15 and side["code_bytes"] > 0, what
        if found["codec"] == "Flat":
            assert all(found[name]["points"][-1]["recall"] > 0.999 for name in SYSTEMS)
        if found["codec"] == "Nibble":
            assert "missing" in found["FAISS"] and "points" in found["vellum"]


if __name__ == "__main__":
    main()
