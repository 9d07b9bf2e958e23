#!/usr/bin/env bash
# Runs a bundle of scripts/gpu-bundle.sh on the simulated device as it will be run on a machine with a GPU: in a separate
# folder, as another user if this user may switch to one, and with only coreutils and Python on the path.
#
#   scripts/gpu/rehearse.sh ARCHIVE KILN-SIM [minutes]     KILN-SIM: the simulator's program, with its library in deps/
set -euo pipefail
archive=$(realpath "$1") sim=$(realpath "$2") minutes=${3:-10}
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
tar -xf "$archive" -C "$room"
mkdir -p "$room"/{path,report,sim/deps}
cp "$sim" "$room/sim/kiln-sim"
cp "${sim%/*}/deps/libkiln_sim.so" "$room/sim/deps/"
for program in cat cp date dirname mkdir mktemp mv rm sleep stat tail timeout tr; do
    ln -s "$(command -v "$program")" "$room/path/$program"
done
chmod 755 "$room"
as=()
if [ "$(id -u)" = 0 ]; then
    # The bundle stays root's: nothing may be written there.
    chown -R nobody "$room/report" "$room/sim"
    as=(setpriv --reuid nobody --regid "$(id -g nobody)" --clear-groups)
else
    echo "not root: it runs with the rights of $(id -un)"
fi
# The first interpreter that this user may run; a virtual environment's is only a link to one.
while read -r python; do
    python=$(readlink -f "$python")
    if "${as[@]}" env -i "$python" -c '' 2>/dev/null; then ln -s "$python" "$room/path/python3" && break; fi
done < <(type -aP python3)
[ -e "$room/path/python3" ] || { echo "there is no python3 that another user may run" >&2 && exit 1; }
# From a folder that has nothing to do with it.
cd /
failed=0
"${as[@]}" env -i PATH="$room/path" HOME=/nonexistent LC_ALL=C.UTF-8 KILN_SIM_ORDER="${KILN_SIM_ORDER:-forward}" \
    "$room/sim/kiln-sim" "$room/kiln-gpu/run.sh" "$minutes" "$room/report" || failed=$?
cat "$room/report/kiln-gpu-report.md"
# What is no real hardware's has passed, and nothing else was left out.
python3 - "$room/report/kiln-gpu-report.json" <<'PY'
import json, sys
with open(sys.argv[1]) as file:
    report = json.load(file)
others = [s["name"] for s in report["sections"] if s["state"] != "passed" and s["reason"] != "it needs a real GPU"]
assert report["state"] == "finished" and report["passed"] >= 10 and not others, f"not passed: {others}"
# Each operation, hot kernel and step has a time that is predicted, one that was measured, and how far the two are from each
# other.
tables = next(section for section in report["sections"] if section["name"] == "predicted")["tables"]
operations, kernels, steps = ([dict(zip(table[0], row)) for row in table[1:]] for table in tables)
measured = [row for row in operations + kernels + steps if row["measured, ms"] != "not measured"]
counts = [len(rows) for rows in (operations, kernels, steps)]
assert len(operations) > 60 and len(kernels) > 120 and len(steps) > 4 and len(measured) == sum(counts[:2]) + 3, counts
assert all(float(row["predicted, ms"]) >= 0 and float(row["measured / predicted"]) >= 0 for row in measured)
PY
exit "$failed"
