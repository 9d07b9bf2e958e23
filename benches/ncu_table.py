#!/usr/bin/env python3
"""Prints a table of Nsight Compute's measurements of each kernel: time, bytes per second, and their share of the memory's peak.

    ncu --csv --page raw --metrics ... --log-file ncu.csv PROGRAM; python3 benches/ncu_table.py ncu.csv

It reads both of ncu's forms (a column a metric under `--page raw`, with the units in a row below the names; else a row a
metric, with the unit in a column), and passes over lines of ncu (`==PROF==`) and of the program. Units are those that are
written there, with the prefixes that ncu chooses unless it is told `--print-units base`.
"""

import csv
import sys

TIME, RATE = "gpu__time_duration.sum", "dram__bytes.sum.per_second"
SHARE = "dram__throughput.avg.pct_of_peak_sustained_elapsed"

PREFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
# Releases write a second and a byte differently: `nsecond` and `ns`, `Gbyte/second`, `Gbyte/s` and `GB/s`.
SECONDS, BYTES = ("second", "s"), ("byte/second", "byte/s", "B/s")
UNITS = {
    **{prefix + unit: factor for unit in SECONDS + BYTES for prefix, factor in PREFIXES.items()},
    **dict.fromkeys(["sec", "%", "pct"], 1),
    **{"nsec": 1e-9, "usec": 1e-6, "msec": 1e-3},
}


def number(text, unit):
    """A value in seconds, bytes a second or percent; None for what ncu could not measure (`n/a`, an empty cell)."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    if unit.strip() not in UNITS:
        sys.exit(f"{unit!r} is no unit that this knows")
    return value * UNITS[unit.strip()]


def launches(lines):
    """The kernel's name and the figures, by the names of the metrics, of each launch."""
    columns, units, launches = [], {}, {}
    for line in lines:
        # Each for itself: a line of the program may have one quotation mark.
        cells = next(csv.reader([line]), [])
        if cells[:1] == ["ID"]:
            columns, units = cells, {}
            continue
        if not columns or len(cells) != len(columns):
            continue
        row = dict(zip(columns, cells))
        if not row["ID"]:
            units = row
        elif row["ID"].isdigit():
            if "Metric Name" in row:
                metrics = {row["Metric Name"]: (row["Metric Value"], row["Metric Unit"])}
            else:
                metrics = {name: (row[name], units.get(name, "")) for name in columns}
            _, figures = launches.setdefault(row["ID"], (row["Kernel Name"], {}))
            for name in metrics.keys() & {TIME, RATE, SHARE}:
                figures[name] = number(*metrics[name])
    return list(launches.values())


def main():
    with open(sys.argv[1], encoding="utf-8", errors="replace", newline="") as file:
        lines = file.read().splitlines()
    best = {}
    for name, figures in launches(lines):
        name, time = name.split("(")[0].split("<")[0].split()[-1], figures.get(TIME)
        # Of launches of one kernel the longest: it has the most to do, and shows the bandwidth best.
        if time is not None and (name not in best or time > best[name][TIME]):
            best[name] = figures
    if not best:
        sys.exit("\n".join(["there are no figures in it:", *lines[-20:]]))
    print("| kernel | ms | GB/s | of the memory's bandwidth |\n| --- | --- | --- | --- |")
    for name, figures in sorted(best.items(), key=lambda item: -item[1][TIME]):
        rate, share = figures.get(RATE), figures.get(SHARE)
        rate, share = "–" if rate is None else f"{rate / 1e9:.1f}", "–" if share is None else f"{share:.0f} %"
        print(f"| {name} | {figures[TIME] * 1e3:.3f} | {rate} | {share} |")


if __name__ == "__main__":
    main()
