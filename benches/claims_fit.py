"""The scaling law: fits loss = C * N^-a * D^-b + delta to points (parameters N, pairs D, loss) and draws them as SVG."""

import math


def solve(matrix, right):
    """Gaussian elimination with pivoting; None where the system has no single solution."""
    rows = [row[:] + [value] for row, value in zip(matrix, right)]
    size = len(rows)
    for at in range(size):
        pivot = max(range(at, size), key=lambda row: abs(rows[row][at]))
        if abs(rows[pivot][at]) < 1e-12:
            return None
        rows[at], rows[pivot] = rows[pivot], rows[at]
        for row in range(size):
            if row != at:
                factor = rows[row][at] / rows[at][at]
                rows[row] = [value - factor * other for value, other in zip(rows[row], rows[at])]
    return [rows[at][size] / rows[at][at] for at in range(size)]


def with_floor(points, delta):
    """Least squares of log(loss - delta) on log N and log D."""
    logs = [(1.0, math.log(n), math.log(d), math.log(loss - delta)) for n, d, loss in points]
    matrix = [[sum(row[i] * row[j] for row in logs) for j in range(3)] for i in range(3)]
    right = [sum(row[i] * row[3] for row in logs) for i in range(3)]
    found = solve(matrix, right)
    if found is None:
        return None
    constant, slope_n, slope_d = found
    return {"C": math.exp(constant), "a": -slope_n, "b": -slope_d, "delta": delta}


def predict(law, n, d):
    return law["C"] * n ** -law["a"] * d ** -law["b"] + law["delta"]


def squares(law, points):
    return sum((predict(law, n, d) - loss) ** 2 for n, d, loss in points)


def fit(points, floor=False):
    """The law that fits best; with `floor` delta is searched below the least loss, else it is 0. Adds `r2`."""
    least = min((loss for _, _, loss in points), default=0.0)
    deltas = [least * step / 400 for step in range(400)] if floor else [0.0]
    laws = [law for law in (with_floor(points, delta) for delta in deltas) if law]
    if not laws:
        raise ValueError("a fit needs at least two depths and two amounts of data")
    law = min(laws, key=lambda law: squares(law, points))
    mean = sum(loss for _, _, loss in points) / len(points)
    total = sum((loss - mean) ** 2 for _, _, loss in points)
    law["r2"] = 1 - squares(law, points) / total if total else 1.0
    return law


COLOURS = ["#3366cc", "#dd7700", "#229944", "#aa3388", "#777777"]


def number(value):
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def panel(left, title, label, points, law, x_of, line_of, name, point):
    """One log-log panel: a line of the law and its points for every value of `line_of`."""
    width, height, top = 330, 260, 40
    xs, ys = [x_of(p) for p in points], [p[2] for p in points]
    span = lambda values: (math.log(min(values)) - 0.08, math.log(max(values)) + 0.08)
    (x0, x1), (y0, y1) = span(xs), span(ys + [predict(law, p[0], p[1]) for p in points])
    px = lambda x: left + width * (math.log(x) - x0) / (x1 - x0)
    py = lambda y: top + height * (1 - (math.log(y) - y0) / (y1 - y0))
    out = [f'<text x="{left}" y="22" font-size="14" font-weight="bold">{title}</text>']
    out.append(f'<path d="M{left} {top}V{top + height}H{left + width}" fill="none" stroke="#888"/>')
    for x in sorted(set(xs)):
        out.append(f'<text x="{px(x):.1f}" y="{top + height + 16}" text-anchor="middle">{number(x)}</text>')
    for y in (math.exp(y0 + 0.08), math.exp((y0 + y1) / 2), math.exp(y1 - 0.08)):
        out.append(f'<text x="{left - 5}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    out.append(f'<text x="{left + width / 2}" y="{top + height + 34}" text-anchor="middle">{label}</text>')
    for at, line in enumerate(sorted({line_of(p) for p in points})):
        colour = COLOURS[at % len(COLOURS)]
        steps = [math.exp(x0 + (x1 - x0) * step / 40) for step in range(41)]
        path = " ".join(f"{px(x):.1f},{py(max(predict(law, *point(x, line)), 1e-9)):.1f}" for x in steps)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-dasharray="4 3"/>')
        for p in points:
            if line_of(p) == line:
                out.append(f'<circle cx="{px(x_of(p)):.1f}" cy="{py(p[2]):.1f}" r="4" fill="{colour}"/>')
        out.append(
            f'<text x="{left + width - 5}" y="{top + 14 + 15 * at}" text-anchor="end" fill="{colour}">{number(line)} {name}</text>'
        )
    return "\n".join(out)


def figure(points, law):
    """Loss over parameters and over pairs, both axes logarithmic; dashed lines are the fit."""
    first = panel(
        60, "contrastive entropy over model size", "parameters of the kept layers", points, law,
        lambda p: p[0], lambda p: p[1], "pairs", lambda x, line: (x, line),
    )
    second = panel(
        480, "contrastive entropy over data", "training pairs", points, law,
        lambda p: p[1], lambda p: p[0], "parameters", lambda x, line: (line, x),
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 350" font-family="sans-serif" font-size="11">\n'
        f'<rect width="840" height="350" fill="white"/>\n{first}\n{second}\n</svg>\n'
    )
