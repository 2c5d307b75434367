"""From measured points to Markdown and SVG; the arithmetic of Pareto fronts is here, and no measuring.

A point is {"data", "system", "mode", "threads", "params", "recall", "qps", ...}. A *front* is the points of one
system in one mode that no other of them beats in both recall and QPS, recall ascending.
"""
import math
from html import escape

FLOORS = (0.90, 0.95, 0.99)
OURS = "vellum"


def front(points):
    """Recall ascending, QPS strictly descending."""
    kept = []
    for point in sorted(points, key=lambda p: (-p["recall"], -p["qps"])):
        if not kept or point["qps"] > kept[-1]["qps"]:
            kept.append(point)
    return kept[::-1]


def qps_at(points, recall):
    """QPS at a recall: on the straight line, in log QPS, between the two points of the front around it.

    Where the whole front has a higher recall, its fastest point; None where it does not get so far.
    """
    line = front(points)
    above = next((i for i, point in enumerate(line) if point["recall"] >= recall), None)
    if above is None:
        return None
    if above == 0:
        return line[0]["qps"]
    low, high = line[above - 1], line[above]
    share = (recall - low["recall"]) / (high["recall"] - low["recall"])
    return math.exp(math.log(low["qps"]) * (1 - share) + math.log(high["qps"]) * share)


def worth_measuring(points):
    """The points of a first, hasty pass that may lie on the front: those within 15 % of it, from recall .8 to
    the first front point beyond .995. All systems are thinned alike."""
    line = front(points)
    end = next((p["recall"] for p in line if p["recall"] >= 0.995), 1.0)
    kept = [p for p in points if 0.8 <= p["recall"] <= end and p["qps"] >= 0.85 * qps_at(points, p["recall"])]
    return kept or line[-1:]


def systems(points):
    """Ours first, the others in the order they were measured."""
    names = list(dict.fromkeys(p["system"] for p in points))
    return sorted(names, key=lambda name: name != OURS)


def of(points, **fields):
    return [p for p in points if all(p[name] == value for name, value in fields.items())]


def markdown(result):
    parts = [heading(result)]
    for data in dict.fromkeys(p["data"] for p in result["points"]):
        points = of(result["points"], data=data)
        parts.append(f"## {data}\n")
        for mode, threads in dict.fromkeys((p["mode"], p["threads"]) for p in points):
            parts.append(speed_table(of(points, mode=mode, threads=threads), mode, threads))
        parts += scaling_table(points)
        parts.append(build_table(result["builds"][data]))
    return "\n".join(parts)


def heading(result):
    machine, versions = result["machine"], result["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{result['date']}, {machine['cpu']}, {machine['cores']} cores, load {machine['load_before']} before and "
        f"{machine['load_after']} after; {named}; {result['rounds']} rounds, k = 10.\n"
    )


def speed_table(points, mode, threads):
    names = systems(points)
    ratio = OURS in names and len(names) > 1
    title = {"batch": "all queries in one call", "single": "one query a call"}[mode]
    rows = [f"**{title}, {threads} thread{'s' * (threads > 1)}**: QPS at recall@10\n"]
    rows += header(["recall", *names] + ["vellum / best peer"] * ratio)
    for floor in FLOORS:
        qps = {name: qps_at(of(points, system=name), floor) for name in names}
        cells = [f"{qps[name]:,.0f}" if qps[name] else "–" for name in names]
        rows.append(row([f"{floor:.2f}", *cells] + [against_best(qps)] * ratio))
    rows.append("\nSettings of the fastest point at or above each recall:\n")
    rows += header(["system", *(f"{floor:.2f}" for floor in FLOORS)])
    for name in names:
        rows.append(row([name, *(fastest(of(points, system=name), floor) for floor in FLOORS)]))
    return "\n".join(rows) + "\n"


def against_best(qps):
    others = [value for name, value in qps.items() if name != OURS and value]
    return f"{qps[OURS] / max(others):.2f}" if qps[OURS] and others else "–"


def fastest(points, floor):
    best = max((p for p in points if p["recall"] >= floor), key=lambda p: p["qps"], default=None)
    if best is None:
        return "–"
    return " ".join(f"{name} {value}" for name, value in best["params"].items()) + f" ({best['qps']:,.0f})"


def scaling_table(points):
    """What two threads bring, if they were measured."""
    if not of(points, threads=2):
        return []
    names = systems(points)
    rows = ["**Two threads over one**: ratio of QPS at the same recall\n", *header(["mode", "recall", *names])]
    for mode in ("batch", "single"):
        for floor in FLOORS:
            cells = [scaling(of(points, system=name, mode=mode), floor) for name in names]
            rows.append(row([mode, f"{floor:.2f}", *cells]))
    return ["\n".join(rows) + "\n"]


def scaling(points, floor):
    one, two = (qps_at(of(points, threads=threads), floor) for threads in (1, 2))
    return f"{two / one:.2f}" if one and two else "–"


def build_table(builds):
    rows = ["**Indexes**\n", *header(["system", "settings", "built in s", "MB on disk"])]
    rows += [row([b["system"], b["settings"], f"{b['build_s']:.1f}", f"{b['bytes'] / 1e6:.1f}"]) for b in builds]
    return "\n".join(rows) + "\n"


def header(cells):
    return [row(cells), "|---" * len(cells) + "|"]


def row(cells):
    return "| " + " | ".join(cells) + " |"


# The plot: QPS, logarithmic, over recall, on a scale on which .9, .99 and .999 are as far apart.

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 62, 452, 52, 332
TICKS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
LAST = 0.997
# Told apart on white and on black, and by those who see no red or no green.
COLOURS = ("#d9480f", "#1c7ed6", "#748ffc", "#15aabf", "#2b8a3e", "#9c36b5", "#74b816")

# One grey for white and for black: a page's scheme need not be the one that the picture is told of.
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #6e7781 }
.title { font-size: 14px; font-weight: 600 }
.ours { font-weight: 700 }
.grid { stroke: #868e96; stroke-opacity: .25 }
.frame { stroke: #868e96; fill: none }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.thick { stroke-width: 3 }
.leader { stroke-width: 1; stroke-dasharray: 2 2; stroke-opacity: .7 }
"""


def x_of(recall):
    first = math.log(1 - TICKS[0])
    return LEFT + (RIGHT - LEFT) * (first - math.log(1 - recall)) / (first - math.log(1 - LAST))


class Scale:
    """Where a QPS lies between the round numbers below and above all of them."""

    def __init__(self, values):
        steps = [base * 10**power for power in range(8) for base in (1, 2, 5)]
        low = max(step for step in steps if step <= max(1, min(values)))
        high = min(step for step in steps if step >= max(values))
        self.ticks = [step for step in steps if low <= step <= high]
        self.low, self.span = math.log(low), math.log(max(high, 2 * low)) - math.log(low)

    def y(self, qps):
        return BOTTOM - (BOTTOM - TOP) * (math.log(qps) - self.low) / self.span


def inside(line):
    return [(p["recall"], p["qps"]) for p in line if TICKS[0] <= p["recall"] <= LAST]


def clipped(line):
    """The front inside the plot; a segment that leaves it ends at the edge, where nothing was measured."""
    path = inside(line)
    if line[0]["recall"] < TICKS[0] <= line[-1]["recall"]:
        path.insert(0, (TICKS[0], qps_at(line, TICKS[0])))
    if line[0]["recall"] <= LAST < line[-1]["recall"]:
        path.append((LAST, qps_at(line, LAST)))
    return path


def svg(points, title):
    fronts = {name: front(of(points, system=name)) for name in systems(points)}
    fronts = {name: line for name, line in fronts.items() if clipped(line)}
    paths = {name: clipped(line) for name, line in fronts.items()}
    scale = Scale([qps for path in paths.values() for _, qps in path] or [1.0])
    parts = [axes(scale, title)]
    labels = spread({name: scale.y(path[-1][1]) for name, path in paths.items()})
    for colour, (name, line) in zip(COLOURS, fronts.items()):
        parts.append(curve(name, line, colour, scale, labels[name]))
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">\n<style>{STYLE}</style>\n{body}\n</svg>\n'


def axes(scale, title):
    parts = [text(6, 18, title, "title"), f'<path class="frame" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>']
    for recall in TICKS:
        x = x_of(recall)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{BOTTOM}"/>')
        parts.append(text(x, BOTTOM + 18, f"{recall:g}".lstrip("0"), "tick", "middle"))
    for qps in scale.ticks:
        y = scale.y(qps)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        parts.append(text(LEFT - 8, y + 4, f"{qps // 1000}k" if qps >= 1000 else str(qps), "tick", "end"))
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 38, "recall@10", "axis", "middle"))
    parts.append(text(6, TOP - 12, "queries/s", "axis"))
    return "\n".join(parts)


def spread(wanted, gap=17):
    """Heights of labels near those wanted, but never closer than a line of text; pushed down, then back up."""
    names = sorted(wanted, key=wanted.get)
    heights = [wanted[name] + 4 for name in names]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    overflow = BOTTOM
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], overflow)
        overflow = heights[i] - gap
    return dict(zip(names, heights))


def curve(name, line, colour, scale, label_y):
    place = lambda found: [(x_of(recall), scale.y(qps)) for recall, qps in found]
    places, measured = place(clipped(line)), place(inside(line))
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    width = "curve thick" if name == OURS else "curve"
    (x, y), style = places[-1], "ours" if name == OURS else "peer"
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in measured)
    return (
        f'<g fill="{colour}"><path class="{width}" stroke="{colour}" d="{path}"/>{dots}'
        f'<path class="leader" stroke="{colour}" d="M{x:.1f} {y:.1f}L{RIGHT + 12} {label_y - 4:.1f}"/>'
        f'<rect x="{RIGHT + 14}" y="{label_y - 9:.1f}" width="10" height="10" rx="2"/></g>'
        f"{text(RIGHT + 29, label_y, name, style)}"
    )


def text(x, y, content, style, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(content)}</text>'
