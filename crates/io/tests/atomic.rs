//! Saving is atomic, whenever it is interrupted.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use kiln_io::{Checkpoint, atomic, load, save};
use kiln_tensor::{Device, Error, StateDict, Tensor};
use tempfile::tempdir;

/// Where the child process of `a_kill_at_any_moment_leaves_a_whole_file` saves to.
const CHILD: &str = "KILN_TEST_SAVE_TO";

fn filled(value: f32) -> StateDict {
    let tensor = || Tensor::from_vec(vec![value; 50_000], [50_000], Device::Cpu).unwrap();
    [("a".to_owned(), tensor()), ("b".to_owned(), tensor())].into()
}

fn value_of(path: &Path) -> f32 {
    let state = load(path, Device::Cpu).unwrap();
    let values: Vec<f32> = state.iter().flat_map(|(_, t)| t.to_vec::<f32>().unwrap()).collect();
    assert_eq!(values.len(), 100_000);
    assert!(values.iter().all(|v| *v == values[0]), "the file mixes old and new values");
    values[0]
}

/// Not a test by itself: the process that the next test kills.
#[test]
fn child_that_saves_for_ever() {
    let Some(path) = env::var_os(CHILD) else { return };
    for i in 1.. {
        save(Path::new(&path), &filled(i as f32)).unwrap();
    }
}

/// Starts a process that saves to `path` again and again, and kills it after this time.
fn save_until_killed(path: &Path, time: Duration) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child_that_saves_for_ever", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_kill_at_any_moment_leaves_a_whole_file() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut advanced = 0;
    for round in 0..25u64 {
        save(&path, &filled(0.0)).unwrap();
        // Different moments, without a source of randomness: 2 to 40 ms after the start, in steps that do
        // not repeat with the length of one save.
        save_until_killed(&path, Duration::from_micros(2_000 + round * 1_531));
        advanced += usize::from(value_of(&path) > 0.0);
    }
    assert!(advanced > 0, "the child never got to save: the test shows nothing");
}

#[test]
fn a_failed_save_leaves_the_old_file_and_nothing_else() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save(&path, &filled(1.0)).unwrap();
    let result = atomic::write(&path, |file| {
        use std::io::Write;
        file.write_all(b"half of").unwrap();
        Err(Error::argument("test", "stopped"))
    });
    assert!(result.is_err());
    assert_eq!(value_of(&path), 1.0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_is_not_there_is_an_error_with_the_path() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("no/such/model.safetensors");
    let message = save(&path, &filled(1.0)).unwrap_err().to_string();
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    let message = Checkpoint::now().save(folder.path()).unwrap_err().to_string();
    assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
}

#[test]
fn what_a_killed_save_left_is_removed_by_the_next_one() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut seen = 0;
    for round in 0..60u64 {
        save_until_killed(&path, Duration::from_micros(5_000 + round * 1_531));
        let files = || fs::read_dir(folder.path()).unwrap().count();
        seen += usize::from(files() > 1);
        save(&path, &filled(0.0)).unwrap();
        assert_eq!(files(), 1, "only what was saved is left");
        if seen >= 2 {
            return;
        }
    }
    panic!("no save was killed while it wrote: the test shows nothing");
}

#[test]
fn saves_at_the_same_time_do_not_remove_each_others_files() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    thread::scope(|scope| {
        for i in 0..4 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    save(path, &filled(i as f32)).unwrap();
                }
            });
        }
    });
    assert!((0.0..4.0).contains(&value_of(&path)));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn names_may_be_as_long_as_the_file_system_allows() {
    let folder = tempdir().unwrap();
    let shared = "a".repeat(200);
    for length in [1, 119, 120, 121, 243, 244, 250, 255] {
        // A beginning that others have too, whose leftovers are not this one's.
        let name: String = shared.chars().chain("b".repeat(55).chars()).take(length).collect();
        let path = folder.path().join(&name);
        save(&path, &filled(length as f32)).unwrap_or_else(|e| panic!("{length}: {e}"));
        assert_eq!(value_of(&path), length as f32);
    }
    let wide = folder.path().join("\u{e9}".repeat(127));
    save(&wide, &filled(1.0)).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 9);
    assert!(save(folder.path().join("a".repeat(256)), &filled(1.0)).is_err());
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_replaced() {
    use std::os::unix::{fs::FileTypeExt, net::UnixListener};
    let folder = tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for path in [fifo.as_path(), &socket, Path::new("/dev/null"), folder.path()] {
        let message = save(path, &filled(1.0)).unwrap_err().to_string();
        assert!(message.contains(path.to_str().unwrap()) && message.contains("in its place"), "{message}");
    }
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[cfg(unix)]
#[test]
fn a_link_to_a_file_that_is_not_there_yet_is_written_through() {
    use std::os::unix::fs::symlink;
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("runs")).unwrap();
    let link = folder.path().join("latest");
    // Relative to where the link is, and through another link.
    symlink("runs/next", &link).unwrap();
    symlink("3.safetensors", folder.path().join("runs/next")).unwrap();
    save(&link, &filled(2.0)).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
    assert_eq!(value_of(&folder.path().join("runs/3.safetensors")), 2.0);
    let turning = folder.path().join("turning");
    symlink("turning", &turning).unwrap();
    let message = save(&turning, &filled(1.0)).unwrap_err().to_string();
    assert!(message.contains("links") && message.contains("turning"), "{message}");
}

#[cfg(unix)]
#[test]
fn permissions_and_links_are_kept() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, b"").unwrap();

    let path = folder.path().join("model");
    save(&path, &filled(1.0)).unwrap();
    assert_eq!(mode(&path), mode(&plain), "a new file gets what any new file gets");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    save(&path, &filled(2.0)).unwrap();
    assert_eq!(mode(&path), 0o640);

    let link = folder.path().join("latest");
    symlink(&path, &link).unwrap();
    save(&link, &filled(3.0)).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
    assert_eq!(value_of(&path), 3.0);
}
