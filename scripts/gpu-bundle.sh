#!/usr/bin/env bash
# Builds an archive with which Kiln is tested and measured on a machine that has a GPU but no Rust, compiler or network:
# unpack it there and start `run.sh` (see scripts/gpu/run.sh).
#
#   scripts/gpu-bundle.sh [ARCHIVE]            for x86-64 Linux with glibc 2.28 or later: optimized, at most 60 MiB
#   scripts/gpu-bundle.sh --light [ARCHIVE]    the programs that CI builds for its tests, for this machine's glibc
#   scripts/gpu-bundle.sh --here FOLDER        optimized, for this machine, in a folder instead of an archive
#
# Needs cargo, nvcc (kernels/README.md) and binutils; the first form also `pip install cargo-zigbuild ziglang`, for the old
# C library. CUDA_COMPUTE_CAP names the architectures, as for any build.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
# shellcheck source=gpu/sections.sh
source scripts/gpu/sections.sh
GLIBC=2.28
MOST_BYTES=$((60 << 20))

kind=full
target=$(rustc -vV | sed -n 's/^host: //p')
case ${1:-} in
--light | --here) kind=${1#--} && shift ;;
-*) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
if [ "$kind" = here ]; then
    [ $# = 1 ] || { echo "--here needs a folder" >&2 && exit 2; }
    mkdir -p "$1" && folder=$(cd "$1" && pwd)
else
    mkdir -p target/gpu-bundle
    archive=$(realpath -m "${1:-target/kiln-gpu.tar.xz}")
    folder=$checkout/target/gpu-bundle/kiln-gpu
fi
export CARGO_TERM_COLOR=never
unset KILN_CUDA_STUB

# ---- building ----

packages=(-p kiln -p kiln-cuda -p kiln-tests -p kiln-benches --features cuda,images)
case $kind in
full)
    command -v cargo-zigbuild >/dev/null || { echo "cargo-zigbuild is not there: pip install cargo-zigbuild ziglang" >&2 && exit 1; }
    target=x86_64-unknown-linux-gnu.$GLIBC
    # Otherwise panic messages would name folders of this machine.
    export RUSTFLAGS="--remap-path-prefix=$checkout=kiln --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
    cargo=cargo-zigbuild
    options=(--release --target "$target" --target-dir "${CARGO_TARGET_DIR:-target}/gpu-bundle" "${packages[@]}")
    ;;
here) cargo=cargo options=(--release "${packages[@]}") ;;
# As .ci/run builds them, so that nothing is built again.
light) cargo=cargo options=(--workspace --features cuda,download,linalg,ndarray) ;;
esac
tests=() examples=()
while read -r _ kind_of name; do
    case $kind_of in
    '') ;;
    # With --workspace, --lib would select the unit tests of every crate.
    lib) [ "$kind" = light ] || tests+=(--lib) ;;
    # Built separately: `cargo test` would build them as tests.
    example) examples+=(--example "$name") ;;
    *) tests+=("--$kind_of" "$name") ;;
    esac
done <<<"$PROGRAMS"
start=$SECONDS
messages=$(mktemp) && trap 'rm -f "$messages"' EXIT
"$cargo" test --no-run "${options[@]}" "${tests[@]}" --message-format json-render-diagnostics >"$messages"
"$cargo" build "${options[@]}" "${examples[@]}" --message-format json-render-diagnostics >>"$messages"
took=$((SECONDS - start))

# ---- collecting ----

rm -rf "$folder"
mkdir -p "$folder/bin"
# The file of a program, from cargo's messages, which have one line per artifact.
file_of() {
    local package=$1 kind=$2 name=$3 field=executable
    [ "$name" != null_driver ] || field=filenames
    sed -n '/"reason":"compiler-artifact"/{
        \#"manifest_path":"'"$checkout/$package"'Cargo.toml"#!d
        /"kind":\["'"$kind"'"\]/!d
        /"name":"'"$name"'"/!d
        s/.*"'"$field"'":\[\{0,1\}"\([^"]*\)".*/\1/p
    }' "$messages" | tail -n 1
}
while read -r package kind_of name; do
    [ -n "$package" ] || continue
    case $package in
    kiln) at= ;;
    kiln-tests | kiln-benches) at=${package#kiln-}/ ;;
    *) at=crates/${package#kiln-}/ ;;
    esac
    file=$(file_of "$at" "$kind_of" "$name")
    if [ -z "$file" ]; then
        [ "$kind_of" = lib ] && [ "$kind" = light ] && continue
        echo "cargo has built no $kind_of $name of $package" >&2 && exit 1
    fi
    [ "$name" != null_driver ] || name=libnull_driver.so
    strip --strip-all -o "$folder/bin/$name" "$file"
done <<<"$PROGRAMS"
cp scripts/gpu/run.sh scripts/gpu/sections.sh "$folder"
# The files that programs read, under the same paths as in the checkout.
git ls-files crates/data/assets/fashion-mnist 'tests/golden/*.json' 'tests/golden/*.safetensors' benches/turns.py \
    benches/ncu_table.py benches/peers/compare.py benches/peers/pytorch.py 'scripts/cost/*.py' scripts/kernel_budgets.txt \
    scripts/gpu_profiles.txt scripts/gpu/predicted.py scripts/gpu/predicted_steps.txt |
    while read -r file; do install -D -m 644 "$file" "$folder/$file"; done
{
    printf 'commit %s%s\n' "$(git rev-parse --short=12 HEAD)" "$([ -z "$(git status --porcelain)" ] || echo ' and changes')"
    printf 'built on %s for %s, %s\n' "$(date -u +%F)" "$target" \
        "$([ "$kind" = light ] && echo "for tests" || echo "optimized")"
    printf '%s; nvcc for %s\n' "$(rustc --version)" "${CUDA_COMPUTE_CAP:-the default architectures}"
} >"$folder/build.txt"
chmod -R a+rX "$folder"

# ---- checking ----

# The latest version of the C library that a program needs.
glibc_of() { objdump -T "$1" | sed -n 's/.*(\{0,1\}GLIBC_\([0-9.]*\).*/\1/p' | sort -V | tail -n 1; }
highest=$(for file in "$folder"/bin/*; do glibc_of "$file"; done | sort -V | tail -n 1)
echo "programs need glibc $highest; they were built in $took s"
if [ "$kind" = full ]; then
    [ "$(printf '%s\n' "$highest" "$GLIBC" | sort -V | tail -n 1)" = "$GLIBC" ] || { echo "that is later than $GLIBC" >&2 && exit 1; }
    for place in "$checkout" "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}" "${CARGO_TARGET_DIR:-$checkout}" "$HOME"; do
        # With a slash at the end, so that a short path such as /root matches only paths inside it.
        if grep -aoF "${place%/}/" "$folder"/bin/* | sort | uniq -c; then
            echo "programs contain paths of this machine" >&2 && exit 1
        fi
    done
fi
[ "$kind" != here ] || exit 0

# All programs contain the same kernels: a window that spans several programs packs them once.
packer='xz -9 --lzma2=preset=9,dict=256MiB'
[ "$kind" != light ] || packer='xz --lzma2=preset=0,dict=64MiB'
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" -C "${folder%/*}" -cf - kiln-gpu |
    $packer >"$archive.new"
mv "$archive.new" "$archive"
bytes=$(stat -c %s "$archive")
echo "$archive: $((bytes >> 20)) MiB, $(du -sm "$folder" | cut -f 1) MiB unpacked"
rm -rf "$folder"
[ "$bytes" -le "$MOST_BYTES" ] || { echo "that is more than $((MOST_BYTES >> 20)) MiB" >&2 && exit 1; }
