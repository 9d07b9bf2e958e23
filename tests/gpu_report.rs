//! The report of `scripts/gpu/run.sh`, with planted sections: failures appear in Markdown, in JSON and in the exit
//! status, and a run that is cut off still reports what it has found.
#![cfg(target_os = "linux")]

#[path = "support/checkout.rs"]
mod checkout;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

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
    command
}

fn run(bundle: &TempDir, args: &[&str]) -> (Output, Value, String) {
    let output = command(bundle, args).output().unwrap();
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
last  60 -              One that passes after all that
'
section_good() {
    printf 'a "quoted" \\ line\twith a tab, %s and \033[31mcolor\033[0m\n' 'ümläuts'
    printf '| what | ms |\n| --- | --- |\n| relu | 0.25 |\n| conv2d 3→64 |  |\n\n| alone |\n'
}
section_bad() { echo "blocking: ${KILN_CUDA_LAUNCH_BLOCKING:-no}" && return 3; }
section_slow() { echo "begins" && sleep 60; }
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
        [("good", "passed"), ("bad", "failed"), ("slow", "timed out"), ("tool", "skipped"), ("last", "passed")]
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
    let root = fs::canonicalize(bundle.path()).unwrap();
    assert_eq!(lines(&sections[4]), [format!("device 1, files in {}", root.display())]);

    for part in [
        "finished: 2 passed, 1 failed, 1 timed out, 1 skipped.",
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
