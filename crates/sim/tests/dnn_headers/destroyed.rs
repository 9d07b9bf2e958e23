//! Descriptors that are used after they were destroyed. The simulator refuses every such use. The real library looks at
//! memory that it has freed: it refuses, accepts or crashes, so each of its graphs is made by a process of its own.
use std::env;
use std::process::Command;

use crate::libraries::{Asked, Functions, both, described};
use crate::random_graphs::{Beyond, Random, random_graph};

const GRAPHS: u64 = 200;
const NAME: &str = "destroyed::descriptors_used_after_they_were_destroyed_are_refused";
/// Set in the process that asks the real library.
const ASKS: &str = "KILN_ASKS_THE_REAL_LIBRARY";

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
    fn alarm(seconds: u32) -> u32;
    fn _exit(status: i32) -> !;
}

/// The status of a random use of a destroyed descriptor; none if the graph ended before.
fn misused(of: &Functions, device: usize, seed: u64) -> Option<u32> {
    let mut asked = Asked::new(of, device);
    let mut random = Random(seed);
    asked.destroyed_before = Some(random.below(70));
    random_graph(&mut asked, &mut random, &mut Beyond::default());
    // What a library that takes such a use has freed since is not known.
    asked.made.clear();
    asked.misused
}

/// Asks the library for each graph in a process that may crash, and prints the answers.
fn ask_apart(of: &Functions, device: usize) {
    for seed in 0..GRAPHS {
        // SAFETY: this process was started for this test alone, so no other thread holds what the new process needs. The
        // new one ends by `_exit`, whatever happens; it is given 10 seconds.
        let answer = unsafe {
            let process = fork();
            assert!(process >= 0, "a process cannot be started");
            if process == 0 {
                alarm(10);
                _exit(misused(of, device, seed).map_or(2, |status| i32::from(status != 0)));
            }
            let mut status = 0;
            assert_eq!(waitpid(process, &raw mut status, 0), process);
            status
        };
        let answer = match (answer & 127, answer >> 8 & 255) {
            (0, 0) => "accepted",
            (0, 1) => "refused",
            (0, 2) => "not reached",
            _ => "crashed",
        };
        println!("graph {seed}: {answer}");
    }
}

#[test]
fn descriptors_used_after_they_were_destroyed_are_refused() {
    let Some((own, real)) = both() else { return };
    if env::var_os(ASKS).is_some() {
        return ask_apart(&real, described(&real));
    }
    let device = described(&own);
    let answers: Vec<_> = (0..GRAPHS).map(|seed| misused(&own, device, seed)).collect();
    let accepted: Vec<_> = (0..GRAPHS).filter(|seed| answers[*seed as usize] == Some(0)).collect();
    assert!(accepted.is_empty(), "graphs in which a destroyed descriptor is accepted: {accepted:?}");
    let reached = answers.iter().flatten().count();

    let command = format!("ulimit -c 0; exec \"$0\" --exact {NAME} --nocapture --test-threads 1");
    let test = env::current_exe().unwrap();
    let asked = Command::new("sh").args(["-c", &command]).arg(test).env(ASKS, "1").output().unwrap();
    let text = String::from_utf8_lossy(&asked.stdout);
    let count = |answer: &str| text.lines().filter(|line| line.ends_with(&format!(": {answer}"))).count();
    let [crashed, refused, accepted] = ["crashed", "refused", "accepted"].map(count);
    println!(
        "{reached} uses of destroyed descriptors; the real library: {refused} refused, {accepted} accepted, {crashed} crashed"
    );
    assert_eq!(crashed + refused + accepted + count("not reached"), GRAPHS as usize, "{text}");
    // Were they all refused alike, the simulator would have to answer with the same status.
    // Which of the others happens depends on what lies in the freed memory.
    assert!(crashed + accepted > 0, "the real library seems to check its descriptors: compare the statuses");
}
