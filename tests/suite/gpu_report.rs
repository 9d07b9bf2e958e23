//! The report of `scripts/gpu/run.sh`, with planted sections: failures appear in Markdown, in JSON and in the exit
//! status, and a run that is cut off still reports what it has found.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::checkout;

/// A bundle without programs, whose sections are these; `None` on a machine without bash, where no bundle runs.
fn bundle(sections: &str) -> Option<TempDir> {
    Command::new("/bin/bash").arg("--version").output().ok()?;
    let folder = tempfile::tempdir().unwrap();
    fs::copy(checkout::path("scripts/gpu/run.sh"), folder.path().join("run.sh")).unwrap();
    fs::write(folder.path().join("sections.sh"), sections).unwrap();
    fs::write(folder.path().join("build.txt"), "commit 1234567\ntarget \"none\"\n").unwrap();
    Some(folder)
}

fn command(bundle: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new("/bin/bash");
    command.arg(bundle.path().join("run.sh")).args(args).current_dir(bundle.path());
    // Sections are judged by themselves, on whatever device these tests run.
    command.env_remove("KILN_SIM_REPORT").env_remove("KILN_CUDA_LAUNCH_BLOCKING");
    fs::create_dir_all(scratch(bundle)).unwrap();
    command.env("TMPDIR", scratch(bundle)).env_remove("SLURM_TMPDIR");
    command
}

/// Where a run has its temporary folder.
fn scratch(bundle: &TempDir) -> PathBuf {
    bundle.path().join("scratch")
}

fn assert_nothing_is_left(bundle: &TempDir) {
    let left: Vec<_> = fs::read_dir(scratch(bundle)).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn run(bundle: &TempDir, args: &[&str]) -> (Output, Value, String) {
    let output = command(bundle, args).output().unwrap();
    assert_nothing_is_left(bundle);
    let (json, markdown) = reports(bundle.path());
    (output, json, markdown)
}

fn reports(folder: &Path) -> (Value, String) {
    let json = fs::read_to_string(folder.join("kiln-gpu-report.json")).unwrap();
    let markdown = fs::read_to_string(folder.join("kiln-gpu-report.md")).unwrap();
    (serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}")), markdown)
}

/// The state of each section, in order.
fn states(json: &Value) -> Vec<(&str, &str)> {
    let sections = json["sections"].as_array().unwrap().iter();
    sections.map(|section| (section["name"].as_str().unwrap(), section["state"].as_str().unwrap())).collect()
}

const PLANTED: &str = r#"
SECTIONS='
good  60 -              One that passes
bad   60 -              One that fails
slow  1  -              One that takes too long
tool  60 no-such-tool   One that needs a tool
unfit 60 -              One that finds out that it cannot
last  60 -              One that passes after all that
'
section_good() {
    printf 'a "quoted" \\ line\twith a tab, %s and \033[31mcolor\033[0m\n' 'ümläuts'
    printf '| what | ms |\n| --- | --- |\n| relu | 0.25 |\n| conv2d 3→64 |  |\n\n| alone |\n'
}
section_bad() { echo "blocking: ${KILN_CUDA_LAUNCH_BLOCKING:-no}" && return 3; }
section_slow() { echo "begins" && sleep 60; }
section_unfit() { echo "looks" && skip 'no "counters" here' || return; echo "goes on"; }
section_last() { echo "device ${KILN_REQUIRE_DEVICE:-is not required}, files in $CARGO_MANIFEST_DIR"; }
"#;

#[test]
fn what_failed_is_failed_everywhere() {
    let Some(bundle) = bundle(PLANTED) else { return };
    let (output, json, markdown) = run(&bundle, &["10"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        states(&json),
        [
            ("good", "passed"),
            ("bad", "failed"),
            ("slow", "timed out"),
            ("tool", "skipped"),
            ("unfit", "skipped"),
            ("last", "passed")
        ]
    );
    assert_eq!((&json["state"], &json["passed"], &json["failed"]), (&"finished".into(), &2.into(), &2.into()));
    let sections = json["sections"].as_array().unwrap();
    let lines = |section: &Value| -> Vec<String> {
        section["output"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    };
    // What a section prints, and its tables.
    assert_eq!(lines(&sections[0])[0], "a \"quoted\" \\ line\twith a tab, ümläuts and [31mcolor[0m");
    let tables: Value = serde_json::json!([[["what", "ms"], ["relu", "0.25"], ["conv2d 3→64", ""]], [["alone"]]]);
    assert_eq!(sections[0]["tables"], tables);
    // A section that failed has run again with every launch waited for.
    assert_eq!(sections[1]["status"], 3);
    assert_eq!(lines(&sections[1]), ["blocking: no"]);
    let again = &sections[1]["launch_blocking"];
    assert_eq!((&again["state"], &again["status"]), (&"failed".into(), &3.into()));
    assert_eq!(lines(again), ["blocking: 1"]);
    assert!(sections[0].get("launch_blocking").is_none());
    assert_eq!(lines(&sections[2]), ["begins"]);
    assert!(sections[3]["reason"].as_str().unwrap().contains("no-such-tool"));
    assert_eq!(sections[4]["reason"], "no \"counters\" here");
    assert_eq!(lines(&sections[4]), ["looks", "no \"counters\" here"]);
    assert!(sections[4].get("launch_blocking").is_none());
    let root = fs::canonicalize(bundle.path()).unwrap();
    assert_eq!(lines(&sections[5]), [format!("device 1, files in {}", root.display())]);

    for part in [
        "finished: 2 passed, 1 failed, 1 timed out, 2 skipped.",
        "commit 1234567",
        "| One that fails | failed (status 3); again with KILN_CUDA_LAUNCH_BLOCKING=1: failed |",
        "## One that takes too long\n",
        "| One that needs a tool | skipped: there is no no-such-tool",
        "blocking: 1\n```",
        "| conv2d 3→64 |  |",
    ] {
        assert!(markdown.contains(part), "{part:?} is not in\n{markdown}");
    }
    assert!(said.contains("2 passed, 1 failed"), "{said}");
}

#[test]
fn what_passes_ends_well() {
    let Some(bundle) = bundle("SECTIONS='only 60 - The only one'\nsection_only() { echo fine; }") else { return };
    // The reports go to a folder that is not there yet, and other folders are left as they are.
    let output = command(&bundle, &["10", "some/folder"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (json, markdown) = reports(&bundle.path().join("some/folder"));
    assert_eq!((states(&json), &json["failed"]), (vec![("only", "passed")], &0.into()));
    assert!(markdown.contains("finished: 1 passed.") && !bundle.path().join("kiln-gpu-report.md").exists());
    let output = command(&bundle, &["--section", "only"]).output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"fine\n"[..]));
    let (missing, minutes) = (command(&bundle, &["--section", "other"]), command(&bundle, &["an hour"]));
    for mut wrong in [missing, minutes] {
        assert_eq!(wrong.output().unwrap().status.code(), Some(2));
    }
    assert_nothing_is_left(&bundle);
}

const LONG: &str = r#"
SECTIONS='
first  60  - One that passes
long   60  - One that does not come to its end
never  60  - One that is not reached
'
section_first() { echo "found out"; }
section_long() { echo "under way" && sleep 30; }
section_never() { echo "never"; }
"#;

#[test]
fn sections_share_the_time_that_there_is() {
    let Some(bundle) = bundle(LONG) else { return };
    let (output, json, markdown) = run(&bundle, &["3s"]);
    assert_eq!(output.status.code(), Some(0), "what was not reached has not failed: {markdown}");
    assert_eq!(states(&json), [("first", "passed"), ("long", "cut off"), ("never", "not run")]);
    assert!(markdown.contains("found out\n") && markdown.contains("under way\n"), "{markdown}");
    assert!(markdown.contains("| One that is not reached | not run: no time was left |"), "{markdown}");
}

/// A run that is in its second section.
fn started(bundle: &TempDir) -> Child {
    let child = command(bundle, &["10"]).stdout(Stdio::null()).spawn().unwrap();
    let (start, report) = (Instant::now(), bundle.path().join("kiln-gpu-report.json"));
    while !fs::read_to_string(&report)
        .is_ok_and(|text| text.contains(r#""state": "running""#) && text.contains("found out"))
    {
        assert!(start.elapsed() < Duration::from_secs(60), "the second section does not begin");
        thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn a_run_that_is_told_to_end_says_what_it_found() {
    let Some(bundle) = bundle(LONG) else { return };
    let mut child = started(&bundle);
    // Time for the section to say something.
    thread::sleep(Duration::from_secs(1));
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_nothing_is_left(&bundle);
    let (json, markdown) = reports(bundle.path());
    assert_eq!(json["state"], "cut off");
    assert_eq!(states(&json), [("first", "passed"), ("long", "cut off"), ("never", "not run")]);
    assert!(markdown.contains("found out\n") && markdown.contains("under way\n"), "{markdown}");
}

#[test]
fn a_run_that_is_killed_has_left_a_whole_report() {
    let Some(bundle) = bundle(LONG) else { return };
    let mut child = started(&bundle);
    child.kill().unwrap();
    child.wait().unwrap();
    let (json, markdown) = reports(bundle.path());
    assert_eq!(json["state"], "under way");
    assert_eq!(states(&json), [("first", "passed"), ("long", "running"), ("never", "not run")]);
    assert!(markdown.contains("found out\n") && markdown.contains("under way: 1 passed, 1 running, 1 not run."));
}

/// What ncu prints, in its forms: a column a metric with the units below (`--page raw`), as `--print-units base` has
/// them in newer and older releases, with prefixes, and a row a metric.
const NCU: [&str; 3] = [
    r#"==PROF== Connected to process 4321 (/bundle/bin/ops)
"quoted" by the program, and "once more
==PROF== Profiling "unary_relu_f32" - 0: 0%....50%....100% - 1 pass
==PROF== Disconnected from process 4321
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","dram__bytes.sum.per_second","dram__throughput.avg.pct_of_peak_sustained_elapsed","gpu__time_duration.sum"
"","","","","","","","","","","","byte/s","%","ns"
"0","4321","ops","127.0.0.1","unary_relu_f32","1","7","(256, 1, 1)","(1,056, 1, 1)","0","9.0","2,680,000,000,000","80.1","100,200"
"1","4321","ops","127.0.0.1","unary_relu_f32","1","7","(256, 1, 1)","(1,056, 1, 1)","0","9.0","2,000,000,000,000","60","50,000.5"
"2","4321","ops","127.0.0.1","void softmax<float>(float const *, float *)","1","7","(256, 1, 1)","(8, 1, 1)","0","9.0","n/a","(!) n/a","2,000,000"
"#,
    r#""ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","dram__bytes.sum.per_second","dram__throughput.avg.pct_of_peak_sustained_elapsed","gpu__time_duration.sum"
"","","","","","","","","","","","Tbyte/second","%","usecond"
"0","4321","ops","127.0.0.1","unary_relu_f32","1","7","(256, 1, 1)","(1056, 1, 1)","0","8.0","2.68","80.1","100.20"
"1","4321","ops","127.0.0.1","softmax(float const *)","1","7","(256, 1, 1)","(8, 1, 1)","0","8.0","","","2,000"
"#,
    r#"==PROF== Connected to process 1
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"
"0","1","ops","host","unary_relu_f32","1","7","(256, 1, 1)","(8, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes.sum.per_second","Gbyte/s","2,680.00"
"0","1","ops","host","unary_relu_f32","1","7","(256, 1, 1)","(8, 1, 1)","0","9.0","Command line profiler metrics","dram__throughput.avg.pct_of_peak_sustained_elapsed","%","80.10"
"0","1","ops","host","unary_relu_f32","1","7","(256, 1, 1)","(8, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","us","100.20"
"1","1","ops","host","softmax","1","7","(256, 1, 1)","(8, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","second","2e-03"
"1","1","ops","host","softmax","1","7","(256, 1, 1)","(8, 1, 1)","0","9.0","Command line profiler metrics","launch__registers","register/thread","32"
"#,
];
const NCU_TABLE: &str = "\
| kernel | ms | GB/s | of the memory's bandwidth |
| --- | --- | --- | --- |
| softmax | 2.000 | – | – |
| unary_relu_f32 | 0.100 | 2680.0 | 80 % |
";

/// The table of `benches/ncu_table.py`, or what it says instead; `None` where there is no Python.
fn ncu_table(text: &str) -> Option<Result<String, String>> {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("ncu.csv");
    fs::write(&csv, text).unwrap();
    let output = Command::new("python3")
        .env("PYTHONIOENCODING", "utf-8")
        .arg(checkout::path("benches/ncu_table.py"))
        .arg(csv)
        .output()
        .ok()?;
    let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Some(if output.status.success() { Ok(out) } else { Err(error) })
}

#[test]
fn the_figures_of_ncu_are_read_in_all_its_forms() {
    for text in NCU {
        let Some(table) = ncu_table(text) else { return };
        assert_eq!(table.as_deref(), Ok(NCU_TABLE), "of\n{text}");
    }
    // What is no figure is not taken for one.
    for (text, says) in [
        ("==ERROR== ERR_NVGPUCTRPERM - no permission\n", "there are no figures in it:\n==ERROR== ERR_NVGPUCTRPERM"),
        (&NCU[0].replace("\"ns\"", "\"cycle\""), "'cycle' is no unit"),
        // Without the row of units nobody knows what the numbers are.
        (&NCU[0].replace("\"\",\"\",\"\"", "\"x\",\"\",\"\""), "'' is no unit"),
    ] {
        let error = ncu_table(text).unwrap().unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

/// A program that notes its arguments and what is set for it, and then does what the script says.
fn stand_in(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let note = r#"printf '%s|' "${0##*/}" "KILN_BENCH_ONCE=${KILN_BENCH_ONCE:-}" "LC_ALL=${LC_ALL:-}" \
        "UNCACHED=${KILN_CUDA_NO_MEMORY_CACHING:-}" "$@" >>"$CALLS"; echo >>"$CALLS""#;
    fs::write(path, format!("#!/bin/bash\n{note}\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The bundle's sections that run NVIDIA's tools, with scripts in the tools' place.
#[test]
fn nvidias_tools_are_called_as_they_have_to_be() {
    let sections = fs::read_to_string(checkout::path("scripts/gpu/sections.sh")).unwrap();
    let Some(bundle) = bundle(&sections) else { return };
    let (tools, calls) = (bundle.path().join("tools"), bundle.path().join("calls"));
    fs::create_dir_all(bundle.path().join("benches")).unwrap();
    fs::copy(checkout::path("benches/ncu_table.py"), bundle.path().join("benches/ncu_table.py")).unwrap();
    let section = |name: &str, text: &str| {
        let _ = fs::remove_file(&calls);
        fs::write(bundle.path().join("csv"), text).unwrap();
        let mut command = command(&bundle, &["--section", name]);
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("CALLS", &calls).env("CSV", bundle.path().join("csv")).env_remove("LC_ALL");
        command.env_remove("KILN_CUDA_NO_MEMORY_CACHING").env("PYTHONIOENCODING", "utf-8");
        let output = command.output().unwrap();
        let calls = fs::read_to_string(&calls).unwrap_or_default();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), calls)
    };

    // The program's lines and ncu's own do not come between the figures.
    stand_in(
        &tools.join("ncu"),
        r#"while [ "$1" != --log-file ]; do shift; done; cat "$CSV" >"$2"; shift 2; "$@"; exit "${STATUS:-0}""#,
    );
    stand_in(&bundle.path().join("bin/ops"), "echo 'no newline at the end'");
    if let Some(table) = ncu_table(NCU[0]) {
        let (status, said, calls) = section("bandwidth", NCU[0]);
        assert_eq!((status, Ok(said)), (Some(0), table), "{calls}");
        for part in ["ncu|KILN_BENCH_ONCE=1|LC_ALL=C|", "|--csv|--page|raw|--print-units|base|", "|regex:^(unary|"] {
            assert!(calls.contains(part), "{part} is not in {calls}");
        }
        assert!(calls.contains("\nops|KILN_BENCH_ONCE=1|"), "{calls}");
        let (status, said, _) =
            section("bandwidth", "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission\n");
        assert_eq!((status, said.contains("may not read the GPU's counters")), (Some(77), true), "{said}");
        let (status, ..) = section("bandwidth", "==PROF== Connected to process 1\n");
        assert_eq!(status, Some(1), "no figures");
    }

    // Each group of kernels, uncached; the tool's own status for findings makes the section fail, a group that takes
    // too long does not.
    let bad = |tool: &str| r#"case "$*" in *"--tool TOOL "*losses::*) exit 86 ;; esac"#.replace("TOOL", tool);
    stand_in(&tools.join("compute-sanitizer"), &bad("memcheck"));
    let (_, groups) = sections.split_once("KERNEL_GROUPS='").unwrap();
    let groups: Vec<&str> = groups.split_once('\'').unwrap().0.split_whitespace().collect();
    for (tool, want) in [("memcheck", 1), ("racecheck", 0), ("initcheck", 0), ("synccheck", 0)] {
        let (status, said, calls) = section(tool, "");
        assert_eq!(status, Some(want), "{tool}: {said}");
        assert_eq!(calls.lines().count(), groups.len(), "{calls}");
        for group in &groups {
            let program = fs::canonicalize(bundle.path()).unwrap().join("bin/against_cpu");
            let call = format!("|UNCACHED=1|--tool|{tool}|--error-exitcode|86|{}|{group}::|", program.display());
            assert!(calls.contains(&call), "{call} is not in {calls}");
        }
    }
    assert_nothing_is_left(&bundle);
}

/// The bundle's own list: each section has its function, and each program that it runs is built.
#[test]
fn the_list_of_sections_is_whole() {
    let Some(folder) = bundle(&fs::read_to_string(checkout::path("scripts/gpu/sections.sh")).unwrap()) else { return };
    let list = command(&folder, &["--list"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let text = fs::read_to_string(folder.path().join("sections.sh")).unwrap();
    let names: Vec<&str> = list.lines().collect();
    assert!(names.len() > 10 && names[0] == "device", "{names:?}");
    for name in &names {
        assert!(text.contains(&format!("\nsection_{name}() {{")), "there is no section_{name}");
    }
    let (_, programs) = text.split_once("PROGRAMS='").unwrap();
    let (programs, _) = programs.split_once('\'').unwrap();
    let built: Vec<&str> = programs.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    // Also of several on a line: `program NAME …`.
    let mut words = text.split_whitespace().skip_while(|word| !word.starts_with("section_")).peekable();
    while let Some(word) = words.next() {
        let Some(name) = words.peek().map(|name| name.trim_end_matches(';')).filter(|_| word == "program") else {
            continue;
        };
        assert!(built.contains(&name), "{name} is in no line of PROGRAMS");
    }
    // ncu is asked for kernels that exist.
    let list = |name: &str| {
        let (_, list) = text.split_once(&format!("\n{name}='")).unwrap();
        list.split_once('\'').unwrap().0.split([' ', '\n', '|']).filter(|word| !word.is_empty()).collect::<Vec<_>>()
    };
    let kernels = fs::read_dir(checkout::path("kernels")).unwrap().map(|entry| entry.unwrap().path());
    let kernels = kernels.filter(|path| path.extension().is_some_and(|ending| ending == "cu"));
    let kernels: String = kernels.map(|path| fs::read_to_string(path).unwrap()).collect();
    for family in list("HOT_KERNELS") {
        assert!(kernels.contains(&format!("FAMILY({family},")), "no kernel is {family}");
    }
    // Packages and targets are those of the workspace.
    for line in programs.lines().filter(|line| !line.trim().is_empty()) {
        let [package, kind, name] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
        let folder = match package {
            "kiln" => PathBuf::new(),
            "kiln-tests" => "tests".into(),
            "kiln-benches" => "benches".into(),
            other => Path::new("crates").join(other.trim_start_matches("kiln-")),
        };
        let places = match kind {
            "lib" => vec![folder.join("src/lib.rs")],
            "example" if package == "kiln" => vec![format!("examples/{name}.rs").into()],
            "example" => vec![folder.join("launch").join(format!("{name}.rs"))],
            "test" if package == "kiln-cuda" => {
                vec![folder.join(format!("tests/{name}.rs")), folder.join(format!("tests/{name}/main.rs"))]
            }
            _ => vec![folder.join(format!("{name}.rs")), folder.join(format!("{name}/main.rs"))],
        };
        let top = checkout::path("scripts/gpu");
        let top = top.ancestors().nth(2).unwrap();
        assert!(places.iter().any(|place| top.join(place).exists()), "{line}: none of {places:?}");
    }
}
