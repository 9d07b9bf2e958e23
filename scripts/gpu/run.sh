#!/bin/bash
# Tests and measures Kiln on this machine's GPU in one command: runs the sections of sections.sh, the most informative first,
# and writes one report as Markdown and as JSON.
#
#   ./run.sh [minutes] [folder]      minutes: the time limit, by default 60 (90s stands for 90 seconds);
#                                    folder: where kiln-gpu-report.md and .json go, by default the current one
#   ./run.sh --section NAME          one section, in the terminal
#   ./run.sh --list
#
# Needs bash, coreutils, an NVIDIA driver, and NVIDIA's libraries from a toolkit or from Python packages (PyTorch installs
# them). Both files are complete after each section, so a run that is cut off still reports what it has found. The exit
# status is 0 if no section failed.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
# shellcheck source=sections.sh
source "$root/sections.sh" || exit 2

# ---- for the sections ----

# Whether this is the simulated device (docs/simulator.md), where figures mean nothing and full sizes take hours.
simulated() { [ -n "${KILN_SIM_REPORT:-}" ]; }

# Runs a program of the bundle.
program() {
    local name=$1
    shift
    printf '$ %s\n' "$name $*"
    "$root/bin/$name" "$@"
}

has_program() { [ -x "$root/bin/$1" ]; }

# Prints the path of a tool of NVIDIA's toolkit, if it is there.
tool() {
    local place
    command -v "$1" && return
    for place in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda /usr/local/cuda-* /opt/cuda /opt/nvidia/nsight-compute/* \
        "${KILN_PYTHON_PACKAGES:-}"/nvidia/cu*; do
        for place in "$place/bin/$1" "$place/$1"; do
            [ -f "$place" ] && [ -x "$place" ] && printf '%s\n' "$place" && return
        done
    done
    return 1
}

# Ends a section that cannot run here, and says why: `skip REASON || return`.
SKIPPED=77
skip() {
    printf '%s\n' "$1"
    return "$SKIPPED"
}

# Whether a line of a file contains this text.
has_line() {
    local line
    while IFS= read -r line; do [[ $line != *"$1"* ]] || return 0; done <"$2"
    return 1
}

# ---- environment ----

# A folder on a local disk: caches on network drives are slow, and may be read-only.
local_folder() {
    local place
    for place in "${SLURM_TMPDIR:-}" "${TMPDIR:-}" /tmp /var/tmp /dev/shm; do
        [ -n "$place" ] && [ -d "$place" ] && [ -w "$place" ] || continue
        case $(stat -f -c %T "$place" 2>/dev/null) in
        *nfs* | *lustre* | *gpfs* | *beegfs* | *fhgfs* | *fuse* | *ceph* | *cifs* | *smb* | *afs* | *panfs*) ;;
        *) printf '%s\n' "$place" && return ;;
        esac
    done
    printf '%s\n' "${TMPDIR:-/tmp}"
}

# Sets the environment of programs and tests.
prepare() {
    KILN_PYTHON=$(command -v python3 || command -v python) || KILN_PYTHON=
    KILN_PYTHON_PACKAGES=
    if [ -n "$KILN_PYTHON" ]; then
        # Where PyTorch is installed, beside NVIDIA's packages. It is located without importing it.
        local lines
        lines=$("$KILN_PYTHON" - 2>/dev/null <<'PY'
import importlib.util, pathlib, site, sysconfig
def found(name):
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
sites, torch = [], found("torch")
if torch and torch.origin:
    sites.append(pathlib.Path(torch.origin).parent.parent)
nvidia = found("nvidia")
sites += [pathlib.Path(place).parent for place in (nvidia.submodule_search_locations or [])] if nvidia else []
sites += map(pathlib.Path, [sysconfig.get_paths()["purelib"], site.getusersitepackages()])
sites = list(dict.fromkeys(sites))
print(sites[0])
for place in sites:
    for lib in sorted(place.glob("nvidia/*/lib"), reverse=True) + [place / "torch" / "lib"]:
        if lib.is_dir():
            print(lib)
PY
        )
        KILN_PYTHON_PACKAGES=${lines%%$'\n'*}
        # The simulated device has its own libraries, which some tests remove.
        [ "$lines" = "$KILN_PYTHON_PACKAGES" ] || simulated || libraries=${lines#*$'\n'}
    fi
    # After the folders that the user has set.
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}${libraries:+${LD_LIBRARY_PATH:+:}${libraries//$'\n'/:}}"
    [ -n "$LD_LIBRARY_PATH" ] || unset LD_LIBRARY_PATH
    export KILN_PYTHON KILN_PYTHON_PACKAGES
    # A test that finds no device fails instead of passing.
    export KILN_REQUIRE_DEVICE=1
    # By which tests find their files.
    export CARGO_MANIFEST_DIR=$root
    export KILN_NULL_DRIVER=$root/bin/libnull_driver.so
    # Caches of code that is compiled at run time, here and in PyTorch: on a local disk, and only for this run.
    KILN_SCRATCH=$(mktemp -d "$(local_folder)/kiln-gpu.XXXXXX") || exit 2
    export KILN_SCRATCH TMPDIR=$KILN_SCRATCH CUDA_CACHE_PATH=$KILN_SCRATCH/cuda-cache CRITERION_HOME=$KILN_SCRATCH/criterion
    export KILN_PLAN_CACHE=$KILN_SCRATCH/plans
    export TORCHINDUCTOR_CACHE_DIR=$KILN_SCRATCH/inductor TRITON_CACHE_DIR=$KILN_SCRATCH/triton PYTHONDONTWRITEBYTECODE=1
    mkdir -p "$CUDA_CACHE_PATH" "$KILN_SCRATCH/work"
}

# Why a section cannot run here; nothing if it can.
lacking() {
    case $1 in
    -) ;;
    gpu) ! simulated || echo "it needs a real GPU" ;;
    python) [ -n "$KILN_PYTHON" ] || echo "there is no python3" ;;
    *)
        if simulated; then
            echo "it needs a real GPU"
        else
            tool "$1" >/dev/null || echo "there is no $1: it is sought on the path and in toolkits"
        fi
        ;;
    esac
}

# ---- the report ----

# Indexed by the section's number.
names=() limits=() needs=() titles=() states=() codes=() seconds=() reasons=() again=()

read_sections() {
    local name limit need title
    while read -r name limit need title; do
        [ -n "$name" ] || continue
        names+=("$name") limits+=("$limit") needs+=("$need") titles+=("$title")
        states+=("not run") codes+=("") seconds+=("") reasons+=("") again+=("")
    done <<<"$SECTIONS"
}

# The lines of a log that go into the report: the last ones if there are many, without control characters, which would be
# invalid in JSON.
kept() {
    [ -f "$1" ] && tail -n "${KILN_REPORT_LINES:-300}" "$1" | tr -d '\000-\010\013-\037\177'
}

json_string() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\t'/\\t}
    printf '"%s"' "$text"
}

# The lines of a log, and its tables as lists of rows of cells, as two members of a JSON object.
json_output() {
    local line cell row separator='' tables='' open=0
    printf '"output": ['
    while IFS= read -r line; do
        printf '%s%s' "$separator" "$(json_string "$line")"
        separator=', '
        if [[ $line != '| '* ]]; then
            [ "$open" = 0 ] || tables+=']'
            open=0
            continue
        fi
        [[ $line != '| --- |'* ]] || continue
        row=
        local cells
        line=${line#'|'}
        IFS='|' read -ra cells <<<"${line%'|'}|"
        for cell in "${cells[@]}"; do
            cell=${cell#"${cell%%[! ]*}"}
            row+=${row:+, }$(json_string "${cell%"${cell##*[! ]}"}")
        done
        if [ "$open" = 1 ]; then tables+=", [$row]"; else tables+="${tables:+, }[[$row]"; fi
        open=1
    done < <(kept "$1")
    [ "$open" = 0 ] || tables+=']'
    printf '], "tables": [%s]' "$tables"
}

count() {
    local state count=0
    for state in "${states[@]}"; do [[ $state != "$1" ]] || count=$((count + 1)); done
    echo "$count"
}

# The result of a section as text.
verdict() {
    local i=$1 text=${states[$1]}
    [ -z "${codes[i]}" ] || [ "${codes[i]}" = 0 ] || text+=" (status ${codes[i]})"
    [ -z "${reasons[i]}" ] || text+=": ${reasons[i]}"
    [ -z "${again[i]}" ] || text+="; again with KILN_CUDA_LAUNCH_BLOCKING=1: ${again[i]%% *}"
    printf '%s' "$text"
}

summary() {
    local state text=
    for state in passed failed "timed out" "cut off" skipped running "not run"; do
        [ "$(count "$state")" = 0 ] || text+="${text:+, }$(count "$state") $state"
    done
    printf '%s' "$text"
}

# A section's part of the JSON, which is made once, when the section has ended.
json_section() {
    local i=$1
    printf '    {"name": %s, "title": %s, "state": %s' \
        "$(json_string "${names[i]}")" "$(json_string "${titles[i]}")" "$(json_string "${states[i]}")"
    printf ', "status": %s, "seconds": %s, "limit": %s, "reason": %s' "${codes[i]:-null}" "${seconds[i]:-null}" \
        "${limits[i]}" "$(json_string "${reasons[i]}")"
    if [ -n "${again[i]}" ]; then
        printf ', "launch_blocking": {"state": %s, "status": %s, %s}' "$(json_string "${again[i]%% *}")" \
            "${again[i]##* }" "$(json_output "$logs/${names[i]}.blocking.log")"
    fi
    printf ', %s}' "$(json_output "$logs/${names[i]}.log")"
}

markdown_section() {
    local i=$1 log
    printf '\n## %s\n\n`./run.sh --section %s`: %s' "${titles[i]}" "${names[i]}" "$(verdict "$i")"
    [ -z "${seconds[i]}" ] || printf '; %s s of at most %s' "${seconds[i]}" "${limits[i]}"
    printf '\n'
    for log in "$logs/${names[i]}.log" "$logs/${names[i]}.blocking.log"; do
        [ -s "$log" ] || continue
        [[ $log != *.blocking.log ]] || printf '\nWith `KILN_CUDA_LAUNCH_BLOCKING=1`:\n'
        printf '\n```text\n'
        kept "$log"
        printf '```\n'
    done
}

# Writes both files under temporary names and renames them, so that the reports are complete at every moment.
write_reports() {
    local i build
    build=$(cat "$root/build.txt" 2>/dev/null)
    {
        printf '# Kiln on a GPU, %s\n\n%s: %s.\n' "$started" "$1" "$(summary)"
        printf '\n%s' "${build:+$build$'\n'}"
        ! simulated || printf '\nThis is the simulated device: what it says of speed means nothing.\n'
        printf '\n| section | result | seconds |\n| --- | --- | --- |\n'
        for i in "${!names[@]}"; do
            printf '| %s | %s | %s |\n' "${titles[i]}" "$(verdict "$i")" "${seconds[i]}"
        done
        for i in "${!names[@]}"; do [ ! -f "$logs/$i.md" ] || cat "$logs/$i.md"; done
    } >"$logs/report.md"
    {
        printf '{\n  "started": "%s",\n  "state": "%s",\n  "simulated": %s,\n  "build": %s,\n' "$started" "$1" \
            "$(simulated && echo true || echo false)" "$(json_string "${build//$'\n'/; }")"
        printf '  "passed": %s,\n  "failed": %s,\n  "sections": [\n' "$(count passed)" \
            "$(($(count failed) + $(count "timed out")))"
        for i in "${!names[@]}"; do
            if [ -f "$logs/$i.json" ]; then cat "$logs/$i.json"; else json_section "$i"; fi
            [ "$((i + 1))" = "${#names[@]}" ] || printf ','
            printf '\n'
        done
        printf '  ]\n}\n'
    } >"$logs/report.json"
    for i in md json; do
        cp "$logs/report.$i" "$folder/.kiln-gpu-report.$i.new" &&
            mv -f "$folder/.kiln-gpu-report.$i.new" "$folder/kiln-gpu-report.$i"
    done || exit 2
}

# ---- running ----

# Runs a section with a time limit, and gives its status; 124 if it took too long.
bounded() {
    local name=$1 limit=$2 log=$3 status
    KILN_SECTION_SECONDS=$limit timeout -k 10 "$limit" "$BASH" "$root/run.sh" --section "$name" >"$log" 2>&1 </dev/null &
    running=$!
    wait "$running"
    status=$?
    running=
    # Killed because it did not end when it was told to.
    [ "$status" != 137 ] || status=124
    return "$status"
}

left() { echo $((deadline - SECONDS)); }

run_section() {
    local i=$1 limit=${limits[$1]} reason status
    begun=$SECONDS
    reason=$(lacking "${needs[i]}")
    if [ -n "$reason" ]; then
        states[i]=skipped reasons[i]=$reason
    elif [ "$(left)" -le 0 ]; then
        reasons[i]="no time was left"
    else
        [ "$limit" -le "$(left)" ] || limit=$(left)
        states[i]=running
        write_reports "under way"
        bounded "${names[i]}" "$limit" "$logs/${names[i]}.log"
        status=$? seconds[i]=$((SECONDS - begun))
        case $status in
        0) states[i]=passed codes[i]=0 ;;
        "$SKIPPED") states[i]=skipped reasons[i]=$(tail -n 1 "$logs/${names[i]}.log" | tr -d '\000-\037\177') ;;
        124)
            states[i]="timed out"
            [ "$limit" = "${limits[i]}" ] || states[i]="cut off" reasons[i]="the minutes for all were over"
            ;;
        *) states[i]=failed codes[i]=$status ;;
        esac
    fi
    # Where each launch is waited for, an error comes out at its cause.
    if [[ ${states[i]} = failed || ${states[i]} = "timed out" ]] && [ "$(left)" -gt 4 ]; then
        limit=$(($(left) / 4))
        [ "$limit" -le "${limits[i]}" ] || limit=${limits[i]}
        KILN_CUDA_LAUNCH_BLOCKING=1 bounded "${names[i]}" "$limit" "$logs/${names[i]}.blocking.log"
        status=$?
        case $status in
        0) again[i]="passed 0" ;;
        124) again[i]="timed-out 124" ;;
        *) again[i]="failed $status" ;;
        esac
    fi
    finish_section "$i"
}

finish_section() {
    markdown_section "$1" >"$logs/$1.md"
    json_section "$1" >"$logs/$1.json"
    write_reports "under way"
    printf '%-64s %s\n' "${titles[$1]}" "$(verdict "$1")"
}

# On a signal: ends the running section, and writes what has been found so far.
cut_off() {
    local i
    [ -z "${running:-}" ] || { kill "$running" 2>/dev/null && wait "$running"; }
    for i in "${!names[@]}"; do
        [ "${states[i]}" = running ] || continue
        states[i]="cut off" reasons[i]="the run was told to end" seconds[i]=$((SECONDS - begun))
        finish_section "$i"
    done
    write_reports "cut off"
    exit 1
}

main() {
    local i minutes=60
    case ${1:-} in
    --list)
        printf '%s\n' "${names[@]}"
        return
        ;;
    --section)
        : "${KILN_SECTION_SECONDS:=3600}"
        [ -n "${KILN_SCRATCH:-}" ] || { prepare && trap 'rm -rf "$KILN_SCRATCH"' EXIT; }
        declare -F "section_${2:-}" >/dev/null || { echo "there is no section ${2:-}: see --list" >&2; return 2; }
        cd "$KILN_SCRATCH/work" && "section_$2"
        return
        ;;
    -*)
        echo "usage: run.sh [minutes] [folder], run.sh --section NAME, run.sh --list" >&2
        return 2
        ;;
    esac
    minutes=${1:-60}
    folder=$(mkdir -p "${2:-.}" && cd "${2:-.}" && pwd) || return 2
    if [[ $minutes =~ ^[0-9]+s$ ]]; then
        deadline=${minutes%s}
    elif [[ $minutes =~ ^[0-9]+$ ]]; then
        deadline=$((minutes * 60))
    else
        echo "$minutes is no number of minutes" >&2
        return 2
    fi
    deadline=$((SECONDS + deadline))
    started="$(date -u '+%F %R') UTC"
    unset KILN_CUDA_LAUNCH_BLOCKING
    prepare
    trap 'rm -rf "$KILN_SCRATCH"' EXIT
    logs=$KILN_SCRATCH/logs
    mkdir -p "$logs"
    trap cut_off TERM INT HUP
    write_reports "under way"
    for i in "${!names[@]}"; do run_section "$i"; done
    write_reports finished
    printf '%s; the report is %s\n' "$(summary)" "$folder/kiln-gpu-report.md"
    [ "$(($(count failed) + $(count "timed out")))" = 0 ]
}

read_sections
main "$@"
