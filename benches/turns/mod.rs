//! Timing on request: a program to be compared answers lines on its standard input, so that several programs can take
//! short turns in one run (`peers/compare.py` sends the lines). The programs of the other frameworks include this file
//! too.

use std::{io::BufRead, time::Instant};

/// What a program repeats.
pub trait Workload {
    /// One training step, or one pass forward.
    fn step(&mut self) -> anyhow::Result<()>;

    /// Returns when the device has done all steps.
    fn wait(&self) -> anyhow::Result<()>;

    /// The milliseconds that a step takes, of so many.
    fn time(&mut self, steps: u32) -> anyhow::Result<f64> {
        let start = Instant::now();
        for _ in 0..steps {
            self.step()?;
        }
        self.wait()?;
        Ok(start.elapsed().as_secs_f64() * 1e3 / f64::from(steps))
    }

    /// The most bytes of a GPU's memory that tensors have taken at one time, if this framework says.
    fn peak_memory(&self) -> anyhow::Result<Option<usize>> {
        Ok(None)
    }
}

/// Answers each line `workload batch steps` by the milliseconds that a step took, and the line `memory` by the MiB that the
/// workload has taken at most, or by `unknown`. A workload is made when it is first asked for, and the one before it dropped.
/// What fails, as where memory is too small, is answered by `error: ` and a line that says why.
pub fn serve<W: Workload>(mut make: impl FnMut(&str, usize) -> anyhow::Result<W>) -> anyhow::Result<()> {
    let mut made: Option<(String, W)> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line == "memory" {
            let peak = made.as_ref().map(|(_, workload)| workload.peak_memory()).transpose()?.flatten();
            println!("{}", peak.map_or("unknown".into(), |bytes| (bytes as f64 / f64::from(1 << 20)).to_string()));
            continue;
        }
        let [name, batch, steps] = line.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("a line is `workload batch steps`, or `memory`");
        };
        let (key, steps) = (format!("{name} {batch}"), steps.parse::<u32>()?);
        if made.as_ref().is_none_or(|(as_before, _)| *as_before != key) {
            drop(made.take()); // before the next is made: both might not fit into memory
        }
        let mut timed = || -> anyhow::Result<(W, f64)> {
            let mut workload = match made.take() {
                Some((_, workload)) => workload,
                None => make(name, batch.parse()?)?,
            };
            workload.step()?; // wakes the threads
            workload.wait()?;
            let time = workload.time(steps)?;
            Ok((workload, time))
        };
        match timed() {
            Ok((workload, time)) => {
                println!("{time}");
                made = Some((key, workload));
            }
            Err(error) => println!("error: {}", error.to_string().lines().next().unwrap_or_default()),
        }
    }
    Ok(())
}
