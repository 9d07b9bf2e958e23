//! `cargo sim --account`: for each step that a program marks (between `cuProfilerStart` and `cuProfilerStop`), every launch with
//! the bytes that it moves and the time that follows on a GPU.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs, io};

use serde_json::Value;

/// GPUs, one per line; and the instructions and bytes per element of kernels.
const PROFILES: &str = include_str!("../../../scripts/gpu_profiles.txt");
const BUDGETS: &str = include_str!("../../../scripts/kernel_budgets.txt");

/// The variable with the name of the GPU.
const PROFILE: &str = "KILN_SIM_PROFILE";

/// What a GPU does in a microsecond.
struct Gpu {
    name: String,
    /// Bytes that it moves.
    bytes: f64,
    /// Instructions of a thread that it issues.
    instructions: f64,
    /// Floating-point operations, by the type of the factors.
    flops: BTreeMap<&'static str, f64>,
    /// The parts of these rates that attention reaches, and its gradient.
    attention: [f64; 2],
    /// The column of the kernels' instructions in the table of budgets.
    column: usize,
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().collect())
}

impl Gpu {
    fn find(name: &str) -> Option<Gpu> {
        let row = rows(PROFILES).find(|row| row.first().is_some_and(|first| first.eq_ignore_ascii_case(name)))?;
        let number = |i: usize| row.get(i)?.parse::<f64>().ok();
        let rate = |i: usize| Some(number(i)? * 1e6);
        let half = rate(11)?;
        let flops = [("f64", rate(8)?), ("f32", rate(9)?), ("tf32", rate(10)?), ("f16", half), ("bf16", half)];
        Some(Gpu {
            name: name.to_owned(),
            bytes: number(4)? * 1e6,
            instructions: number(2)? * 128.0 * number(3)? * 1e3,
            flops: flops.into(),
            attention: [number(12)?, number(13)?],
            column: match number(1)? as u32 {
                ..90 => 1,
                90..120 => 2,
                _ => 3,
            },
        })
    }

    /// All of them.
    fn all() -> impl Iterator<Item = Gpu> {
        rows(PROFILES).filter_map(|row| Gpu::find(row.first()?))
    }

    /// The microseconds of a step, one launch after the other.
    fn total(&self, step: &Value) -> f64 {
        step["entries"].as_array().into_iter().flatten().map(|entry| self.time(entry).0).sum()
    }

    /// The microseconds that an entry takes, and what it waits for.
    fn time(&self, entry: &Value) -> (f64, &'static str) {
        let moved = number(entry, "read") + number(entry, "written");
        let budget = rows(BUDGETS).find(|row| row.first().copied() == entry["name"].as_str());
        let issue = budget.and_then(|row| {
            let (instructions, bytes) = (row.get(self.column)?.parse::<f64>().ok()?, row.get(4)?.parse::<f64>().ok()?);
            Some(moved / bytes * instructions / self.instructions)
        });
        let reached = match entry["kind"].as_str() {
            Some("attention") => self.attention[0],
            Some("attention_grad") => self.attention[1],
            _ => 1.0,
        };
        let rate =
            entry["data"].as_str().and_then(|data| self.flops.get(data)).map_or(f64::INFINITY, |rate| rate * reached);
        let all =
            [(moved / self.bytes, "memory"), (issue.unwrap_or(0.0), "issue"), (number(entry, "flops") / rate, "math")];
        all.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, "memory"))
    }
}

fn number(entry: &Value, field: &str) -> f64 {
    entry[field].as_f64().unwrap_or(0.0)
}

/// Launches that count together: those of a kernel in any dtype, the convolutions, the products.
fn kind(entry: &Value) -> &str {
    let (name, kind) = (entry["name"].as_str().unwrap_or_default(), entry["kind"].as_str().unwrap_or_default());
    if kind == "kernel" { name.rsplit_once('_').map_or(name, |(family, _)| family) } else { kind }
}

/// The table of one step.
fn table(step: &Value, gpu: &Gpu) -> String {
    let mut out = format!(
        "{:<44}{:>14}{:>12}{:>12}{:>10}{:>10}  bound by ({})\n",
        "launch", "grid", "KB read", "KB written", "MFLOP", "µs", gpu.name
    );
    let (mut kinds, mut total) = (BTreeMap::<&str, [f64; 4]>::new(), 0.0);
    for entry in step["entries"].as_array().into_iter().flatten() {
        let (time, bound) = gpu.time(entry);
        let (read, written, flops) = (number(entry, "read"), number(entry, "written"), number(entry, "flops"));
        // Only the grids of kernels are known.
        let grid = entry["grid"].as_array().filter(|_| entry["kind"] == "kernel");
        let grid: Vec<String> = grid.into_iter().flatten().map(Value::to_string).collect();
        out += &format!(
            "{:<44}{:>14}{:>12.1}{:>12.1}{:>10.2}{:>10.3}  {bound}\n",
            entry["name"].as_str().unwrap_or_default(),
            grid.join("x"),
            read / 1e3,
            written / 1e3,
            flops / 1e6,
            time
        );
        let sums = kinds.entry(kind(entry)).or_default();
        for (sum, value) in sums.iter_mut().zip([1.0, read, written, time]) {
            *sum += value;
        }
        total += time;
    }
    out += &format!("\n{:<44}{:>14}{:>12}{:>12}{:>20}\n", "kind", "launches", "KB read", "KB written", "µs");
    for (kind, [launches, read, written, time]) in kinds {
        out += &format!("{kind:<44}{launches:>14}{:>12.1}{:>12.1}{time:>20.3}\n", read / 1e3, written / 1e3);
    }
    let (moved, least) = (number(step, "moved"), number(step, "least"));
    out += &format!(
        "\n{:.1} KB moved, {:.1} KB at least ({:+.1} %); {total:.3} µs on {}, one launch after the other\n",
        moved / 1e3,
        least / 1e3,
        100.0 * (moved / least.max(1.0) - 1.0),
        gpu.name
    );
    let each: Vec<String> = Gpu::all().map(|gpu| format!("{} {:.1}", gpu.name, gpu.total(step))).collect();
    out + &format!("µs on each GPU: {}\n", each.join(", "))
}

/// Prints the steps that programs have left in a folder.
pub fn print(reports: &Path) -> io::Result<()> {
    let name = env::var(PROFILE).unwrap_or_else(|_| "H100".into());
    let gpu = Gpu::find(&name).ok_or_else(|| {
        let names: Vec<&str> = rows(PROFILES).filter_map(|row| row.first().copied()).collect();
        io::Error::other(format!("{PROFILE}={name} is none of {}", names.join(", ")))
    })?;
    let mut files: Vec<_> =
        fs::read_dir(reports)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        path.extension().is_some_and(|extension| extension == "json") && stem.contains('-')
    });
    files.sort();
    if files.is_empty() {
        eprintln!("simulated device: no step was marked by cuProfilerStart and cuProfilerStop");
    }
    for file in files {
        let step: Value = serde_json::from_str(&fs::read_to_string(&file)?).map_err(io::Error::other)?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        eprintln!("simulated device: step {name}\n{}", table(&step, &gpu));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_from_bytes_instructions_and_operations() {
        let gpu = Gpu::find("h100").unwrap();
        let entry = |name: &str, read: u64, flops: u64, data: &str| serde_json::json!({"name": name, "kind": "kernel", "grid": [1, 1, 1], "read": read, "written": 0, "flops": flops, "data": data});
        let time = |entry: Value| {
            let (time, bound) = gpu.time(&entry);
            (format!("{time:.6}"), bound)
        };
        assert_eq!(time(entry("unknown", 3_350_000, 0, "")), ("1.000000".into(), "memory"));
        assert_eq!(time(entry("cublasLtMatmul", 8, 989_400_000 * 2, "bf16")), ("2.000000".into(), "math"));
        assert_eq!(time(entry("cublasLtMatmul", 8, 66_900_000, "f32")), ("1.000000".into(), "math"));
        // More instructions than the bandwidth lets wait: a table that no budget permits for a hot kernel.
        let slow = Gpu { instructions: 1.0, ..Gpu::find("H100").unwrap() };
        assert_eq!(slow.time(&entry("unary_relu_f32", 8000, 0, "")).1, "issue");
        assert!(Gpu::find("RTX_4090").is_some() && Gpu::find("abacus").is_none());
    }

    #[test]
    fn a_step_has_rows_sums_and_the_least() {
        let step: Value = serde_json::from_str(
            r#"{"moved": 3000, "least": 2000, "entries": [
                {"name": "unary_relu_f32", "kind": "kernel", "grid": [4, 1, 1], "read": 1000, "written": 500, "flops": 0, "data": ""},
                {"name": "unary_relu_f16", "kind": "kernel", "grid": [2, 1, 1], "read": 1000, "written": 500, "flops": 0, "data": ""}]}"#,
        )
        .unwrap();
        let text = table(&step, &Gpu::find("H100").unwrap());
        assert!(text.contains("unary_relu_f16") && text.contains("4x1x1"), "{text}");
        let sums = text.lines().find(|line| line.starts_with("unary_relu ")).unwrap();
        assert_eq!(sums.split_whitespace().collect::<Vec<_>>()[..4], ["unary_relu", "2", "2.0", "1.0"]);
        assert!(text.contains("3.0 KB moved, 2.0 KB at least (+50.0 %)"), "{text}");
        let large = serde_json::json!({"entries": [{"name": "x", "read": 3_350_000, "written": 6_700_000}]});
        assert!(table(&large, &Gpu::find("H100").unwrap()).contains(", H100 3.0, "));
    }
}
