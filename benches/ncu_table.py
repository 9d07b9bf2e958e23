#!/usr/bin/env python3
"""A table of what Nsight Compute measured of each kernel: time, bytes a second, and their share of what the memory can do.

    ncu --csv --page raw --print-units base --metrics ... PROGRAM >ncu.csv; python3 benches/ncu_table.py ncu.csv
"""

import csv
import sys

TIME, RATE = "gpu__time_duration.sum", "dram__bytes.sum.per_second"
SHARE = "dram__throughput.avg.pct_of_peak_sustained_elapsed"


def rows(lines):
    """The rows of the CSV, which comes after what the program and ncu itself print, and without that of the units."""
    lines = list(lines)
    starts = [i for i, line in enumerate(lines) if line.startswith('"ID"')]
    if not starts:
        sys.exit("there are no figures in it:\n" + "".join(lines[-20:]))
    return [row for row in csv.DictReader(lines[starts[0] :]) if row["ID"] and row["ID"].isdigit()]


def main():
    with open(sys.argv[1], encoding="utf-8", errors="replace") as file:
        found = rows(file)
    best = {}
    for row in found:
        name, time = row["Kernel Name"].split("(")[0], float(row[TIME].replace(",", ""))
        # Of launches of one kernel the longest: it has the most to do, and shows the bandwidth best.
        if name not in best or time > best[name][0]:
            best[name] = (time, float(row[RATE].replace(",", "")), float(row[SHARE].replace(",", "")))
    print("| kernel | ms | GB/s | of the memory's bandwidth |\n| --- | --- | --- | --- |")
    for name, (time, rate, share) in sorted(best.items(), key=lambda item: -item[1][0]):
        print(f"| {name} | {time / 1e6:.3f} | {rate / 1e9:.1f} | {share:.0f} % |")


if __name__ == "__main__":
    main()
