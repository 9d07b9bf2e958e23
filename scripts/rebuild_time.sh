#!/usr/bin/env bash
# Measures the rebuild time after changing a line of a user's program: CPU seconds of `cargo build --release`, the median of
# five builds. The program is examples/quickstart.rs in a separate package, outside the workspace.
#
#   scripts/rebuild_time.sh [example] [limit]
#
# Another example is measured in the same way, with the dependencies of the examples. With a limit, a longer time is a failure.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
example=${1:-quickstart}
limit=${2:-}
case $example in
quickstart | mlp | lenet | autograd) features= ;;
*) features='"images", "onnx", "pth"' ;;
esac
package=$root/target/rebuild-time
mkdir -p "$package/src"
cp -r "$root/examples/support" "$package/src/" 2>/dev/null || true
cat >"$package/Cargo.toml" <<EOF
[package]
name = "rebuild-time"
version = "0.1.0"
edition = "2024"

[dependencies]
kiln = { path = "$root", features = [$features] }
anyhow = "1"
clap = { version = "4", default-features = false, features = ["derive", "error-context", "help", "std", "usage"] }
csv = "1"
serde_json = "1"
tempfile = "3"

[workspace]
EOF
cp "$root/Cargo.lock" "$package/"
cd "$package"

# The program with another value in one line.
program() { { cat "$root/examples/$example.rs" && printf '\n#[allow(dead_code)]\nconst CHANGED: u32 = %s;\n' "$1"; } >src/main.rs; }

program 0
cargo build --release --quiet
seconds=()
for change in 1 2 3 4 5; do
    program "$change"
    TIMEFORMAT='%U %S'
    used=$({ time cargo build --release --quiet; } 2>&1 | tail -n 1)
    seconds+=("$(awk '{ printf "%.2f", $1 + $2 }' <<<"$used")")
done
median=$(printf '%s\n' "${seconds[@]}" | sort -n | sed -n 3p)
echo "$example: $median CPU-s (${seconds[*]})"
if [ -n "$limit" ]; then
    awk -v median="$median" -v limit="$limit" 'BEGIN { exit !(median <= limit) }' ||
        { echo "$example: more than $limit CPU-s" >&2; exit 1; }
fi
