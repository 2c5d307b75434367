#!/usr/bin/env python3
"""vellum beside FAISS, ScaNN and USearch: builds all indexes, measures them in turns, writes a table and plots.

    benches/peers/compare.py [PREFIX=SPEC ...] [--rounds 3] [--seconds 0.5] [--threads 2]
    benches/peers/compare.py --self-check

PREFIX of PREFIX.base.npy, PREFIX.query.npy and PREFIX.truth.npy, SPEC of the vellum index to build from them.
What is made, the virtual environment and the indexes, is kept under --work and made again only if what it was made
from has changed. README.md beside this file says how it is measured and why.
"""
import argparse, contextlib, datetime, hashlib, json, os, platform, shutil, statistics, subprocess, sys, tempfile, venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = ROOT.parent / "shared/data"
DEFAULTS = [f"{DATA}/sift-300k=IVF2048,Nibble2,RU8", f"{DATA}/text-108k=IVF1024_SOAR,Nibble1,RF16"]
PACKAGES = ("numpy", "faiss-cpu", "scann", "usearch")
RERANKS = (20, 40, 80, 160, 320)


def main():
    args = arguments()
    enter_venv(args.work / "venv")
    if args.self_check:
        return self_check(args.work)
    result = compare(args)
    write(result, args.out or args.work / "results")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", metavar="PREFIX=SPEC", default=DEFAULTS)
    parser.add_argument("--work", type=Path, default=ROOT / "target/peers", help="where environment and indexes are kept")
    parser.add_argument("--out", type=Path, help="where results go [default: WORK/results]")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each system; the median counts")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a point is repeated in a turn, at least")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1, help="2: two threads as well as one")
    parser.add_argument("--systems", help="only those whose names contain one of these, separated by commas")
    parser.add_argument("--self-check", action="store_true", help="run everything on the samples in tests/data")
    return parser.parse_args()


def enter_venv(folder):
    """Goes on under the environment's Python, which has the peers; makes it if it is not there."""
    if Path(sys.prefix).resolve() == folder.resolve():
        return
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        # Wheels only: a peer compiled here for want of one would not be the peer its users have.
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *PACKAGES], check=True)
        (folder / "complete").touch()
    os.execv(python, [str(python), *sys.argv])


def compare(args):
    binary = build_vellum()
    cores = sorted(os.sched_getaffinity(0))[-args.threads :]
    if len(cores) < args.threads:
        sys.exit(f"{args.threads} threads need as many cores, and there are {len(cores)}")
    load_before = os.getloadavg()[0]
    points, builds = [], {}
    for named in args.data:
        prefix, _, spec = named.partition("=")
        name = Path(prefix).name
        competitors = indexes(prefix, spec, binary, args.work / "index" / name, args.systems)
        builds[name] = [competitor.built for competitor in competitors]
        points += [{"data": name} | point for point in measure(competitors, cores, args)]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine() | {"load_before": round(load_before, 1), "load_after": round(os.getloadavg()[0], 1)},
        "versions": versions(binary),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "builds": builds,
        "points": points,
    }


def build_vellum():
    """The path of the release binary, which Cargo knows best."""
    command = ["cargo", "build", "--release", "--features", "cli", "--bin", "vellum", "--message-format", "json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    made = [message["executable"] for message in map(json.loads, lines) if message.get("executable")]
    return Path(made[-1])


def indexes(prefix, spec, binary, folder, wanted):
    """All systems of one data set, built or found built."""
    import peers

    data = peers.Data(prefix)
    digest = file_digest(Path(f"{prefix}.base.npy"))
    named = {name: Peer(name, peer, data) for name, peer in peers.peers(data.metric).items()}
    competitors = [Vellum(binary, spec, data), *named.values()]
    if wanted:
        competitors = [c for c in competitors if any(part in c.name for part in wanted.split(","))]
    for competitor in competitors:
        competitor.built = built(competitor, folder / "".join(c if c.isalnum() else "-" for c in competitor.name), digest)
    return competitors


def file_digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def built(competitor, folder, digest):
    """What is known of the index in `folder`, which is built if it was not built from just this."""
    key = [digest, competitor.settings, competitor.version]
    note = folder / "built.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    if known.get("key") != key:
        say(f"building {competitor.name}: {competitor.settings}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        known = {"key": key, "build_s": competitor.build(folder)}
        known["bytes"] = sum(file.stat().st_size for file in folder.iterdir())
        note.write_text(json.dumps(known))
    competitor.folder = folder
    figures = {name: known[name] for name in ("build_s", "bytes")}
    return {"system": competitor.name, "settings": competitor.settings} | figures


class Vellum:
    """Our own index, measured by its own `vellum bench`."""

    name = "vellum"

    def __init__(self, binary, spec, data):
        self.binary, self.settings, self.data = binary, spec, data
        # The format may change between builds of the program: each builds its own index.
        self.version = file_digest(binary)

    def build(self, folder):
        metric = ["--metric", self.data.metric, "--data", f"{self.data.prefix}.base.npy", "--json"]
        store = [self.binary, "build", folder / "index.vellum", "i", "--spec", self.settings]
        stages = json.loads(run([*store, *metric], None, os.cpu_count()))["stages"]
        return round(sum(stage["seconds"] for stage in stages if stage["stage"] != "sample"), 2)

    def grid(self):
        from peers import PROBES

        # The index is asked, since its specification may leave lists and kept rows to the defaults.
        index = json.loads(run([self.binary, "info", self.folder / "index.vellum", "i", "--json"], None, 1))["indexes"][0]
        keeps_rows = any(part.startswith("R") for part in index["spec"].split(",")[1:])
        return [{"nprobe": nprobe} | ({"rerank": rerank} if rerank else {})
                for nprobe in PROBES if nprobe <= index["lists"] for rerank in (RERANKS if keeps_rows else (None,))]  # fmt: skip

    def turn(self, points, mode, cores, seconds):
        """`bench` crosses its lists of parameters: points with the same reranks go into one call."""
        by_reranks = {}
        for nprobe in dict.fromkeys(point["nprobe"] for point in points):
            reranks = tuple(p["rerank"] for p in points if p["nprobe"] == nprobe and "rerank" in p)
            by_reranks.setdefault(reranks, []).append(nprobe)
        for reranks, nprobes in by_reranks.items():
            yield from self.bench(nprobes, reranks, mode, cores, seconds)

    def bench(self, nprobes, reranks, mode, cores, seconds):
        command = [self.binary, "bench", self.folder / "index.vellum", "i", "-k", "10", "--quiet"]
        command += ["--queries", f"{self.data.prefix}.query.npy", "--truth", f"{self.data.prefix}.truth.npy"]
        command += ["--nprobe", comma(nprobes), "--threads", str(len(cores)), "--seconds", str(seconds)]
        command += ["--rerank", comma(reranks)] * bool(reranks) + ["--single"] * (mode == "single")
        for line in run(command, cores, len(cores)).splitlines():
            found = json.loads(line)
            params = {name: found[name] for name in ("nprobe", "rerank") if found[name] is not None}
            yield {"params": params, "recall": found["recall"], "qps": found["qps"]}


class Peer:
    """A library, in processes of its own: peers.py."""

    def __init__(self, name, peer, data):
        from peers import version

        self.name, self.peer, self.data = name, peer, data
        self.settings, self.version = peer.settings(data), version(peer.package)

    def build(self, folder):
        cores = len(os.sched_getaffinity(0))
        return json.loads(run(self.command("build", folder, cores), None, cores).splitlines()[-1])["build_s"]

    def command(self, verb, folder, threads):
        return [sys.executable, HERE / "peers.py", verb, self.name, self.data.prefix, folder, str(threads)]

    def grid(self):
        return self.peer.grid(self.data)

    def turn(self, points, mode, cores, seconds):
        """A batch is one process on all cores; callers of single queries are a process each, so that Python's lock
        does not stand between them. Callers get each point at the same time, and their QPS add up."""
        shares = [[core] for core in cores] if mode == "single" else [cores]
        with contextlib.ExitStack() as stack:
            callers = [stack.enter_context(self.caller(mode, share, seconds)) for share in shares]
            for point in points:
                for caller in callers:
                    print(json.dumps(point), file=caller.stdin, flush=True)
                answers = [json.loads(caller.stdout.readline()) for caller in callers]
                yield answers[0] | {"qps": sum(answer["qps"] for answer in answers)}

    def caller(self, mode, cores, seconds):
        command = [*self.command("measure", self.folder, len(cores)), mode, str(seconds)]
        return start(command, cores, len(cores), stdin=subprocess.PIPE)


def start(command, cores, threads, **pipes):
    """A process on these cores, with as many threads in whatever counts for itself."""
    # Large pages for all who use the C library's allocator, where the system leaves it to the program.
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    environment |= {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
    pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    return subprocess.Popen(command, env=environment, preexec_fn=pin, stdout=subprocess.PIPE, text=True, **pipes)


def run(command, cores, threads):
    with start(command, cores, threads) as process:
        output = process.stdout.read()
    if process.returncode:
        sys.exit(f"{Path(command[0]).name} {command[1]} failed with {process.returncode}")
    return output


def comma(numbers):
    return ",".join(map(str, numbers))


def measure(competitors, cores, args):
    """All points of all systems in all modes: one hasty pass to find those near the front, then rounds over those."""
    modes = [(mode, cores[-threads:]) for threads in range(1, args.threads + 1) for mode in ("batch", "single")]
    # What is near the front on one core is taken to be near it on two.
    chosen = {(c.name, mode): choose(c, mode, cores[-1:]) for mode in ("batch", "single") for c in competitors}
    turns = {}
    for number in range(args.rounds):
        for mode, used in modes:
            # Another one begins each round: nobody always follows the same neighbour.
            for competitor in competitors[number % len(competitors) :] + competitors[: number % len(competitors)]:
                say(f"round {number + 1} of {args.rounds}, {mode}, {len(used)} thread(s): {competitor.name}")
                for point in competitor.turn(chosen[competitor.name, mode], mode, used, args.seconds):
                    key = (competitor.name, mode, len(used), json.dumps(point["params"]))
                    turns.setdefault(key, []).append(point)
    return [summed(key, found) for key, found in turns.items()]


def choose(competitor, mode, cores):
    from report import worth_measuring

    say(f"looking for the front of {competitor.name}, {mode}")
    found = list(competitor.turn(competitor.grid(), mode, cores, 0))
    return [point["params"] for point in worth_measuring(found)]


def summed(key, found):
    system, mode, threads, params = key
    rounds = [round(point["qps"], 1) for point in found]
    recall = statistics.median(point["recall"] for point in found)
    point = {"system": system, "mode": mode, "threads": threads, "params": json.loads(params)}
    return point | {"recall": round(recall, 6), "qps": statistics.median(rounds), "rounds": rounds}


def machine():
    info = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    return {"cpu": (models or [platform.processor()])[0], "cores": len(os.sched_getaffinity(0))}


def versions(binary):
    import peers

    said = lambda *command: subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    ours = {"vellum": f"{said(binary, '--version').split()[1]} ({said('git', 'describe', '--always', '--dirty')})"}
    return ours | {"rustc": said("rustc", "--version").split()[1], "python": platform.python_version()} | peers.versions()


def write(result, folder):
    import report

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "table.md").write_text(report.markdown(result))
    for data, mode, threads in dict.fromkeys((p["data"], p["mode"], p["threads"]) for p in result["points"]):
        points = report.of(result["points"], data=data, mode=mode, threads=threads)
        calls = {"batch": "one call for all queries", "single": "one query a call"}[mode]
        plural = "s" if threads > 1 else ""
        picture = report.svg(points, f"{data}, {calls}, {threads} thread{plural}")
        (folder / f"{data}-{mode}-{threads}.svg").write_text(picture)
    say(f"\n{report.markdown(result)}\nwritten to {os.path.relpath(folder)}")


def say(line):
    print(line, file=sys.stderr, flush=True)


def self_check(work):
    """The whole way on the samples of this repository, in a folder of its own; figures mean nothing here."""
    check_fronts()
    samples = ROOT / "tests/data"
    with tempfile.TemporaryDirectory() as folder:
        args = argparse.Namespace(
            data=[f"{samples}/sift-10k=IVF64,Flat", f"{samples}/text-2k=IVF16,SQfp16,RFlat"],
            work=Path(folder), rounds=1, seconds=0.0, threads=min(2, len(os.sched_getaffinity(0))), systems=None,
        )  # fmt: skip
        result = compare(args)
        write(result, Path(folder) / "results")
        check_result(result, Path(folder) / "results", args.threads)
        check_kept(args, result)
    say("self-check passed")


def check_fronts():
    from report import front, qps_at, worth_measuring

    points = [{"recall": r, "qps": q} for r, q in ((0.9, 400.0), (0.8, 300.0), (0.96, 100.0), (0.95, 50.0))]
    assert [p["recall"] for p in front(points)] == [0.9, 0.96]
    assert qps_at(points, 0.85) == 400.0 and qps_at(points, 0.99) is None
    assert abs(qps_at(points, 0.93) - 200.0) < 1e-6, "half of the way in log QPS"
    assert [p["recall"] for p in worth_measuring(points)] == [0.9, 0.96]


def check_result(result, folder, threads):
    import xml.etree.ElementTree as xml

    for data, builds in result["builds"].items():
        for mode in ("batch", "single"):
            points = [p for p in result["points"] if (p["data"], p["mode"]) == (data, mode)]
            assert {p["system"] for p in points} == {b["system"] for b in builds}, (data, mode)
            for built in builds:
                best = max(p["recall"] for p in points if p["system"] == built["system"])
                assert 0.9 <= best <= 1.0, (data, mode, built["system"], best)
            for count in range(1, threads + 1):
                drawing = xml.parse(folder / f"{data}-{mode}-{count}.svg")
                curves = [e for e in drawing.iter() if e.get("class", "").startswith("curve")]
                # On so few rows a system may be beyond the plot with its worst setting.
                assert 2 <= len(curves) <= len(builds), (data, mode, count)
    assert "vellum / best peer" in (folder / "table.md").read_text()


def check_kept(args, result):
    """What is built is not built again; what is built from something else is."""
    prefix, _, spec = args.data[-1].partition("=")
    name = Path(prefix).name
    find = lambda spec: [c.built for c in indexes(prefix, spec, build_vellum(), args.work / "index" / name, "vellum")]
    assert find(spec) == result["builds"][name][:1]
    assert find("IVF8,Flat") != result["builds"][name][:1]


if __name__ == "__main__":
    main()
