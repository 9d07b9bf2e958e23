//! Timing on request: a program that is compared with others answers lines on its standard input, so that all of them can
//! take short turns in one run (`compare.py` in `peers` asks). The other frameworks' programs have this file as well.

use std::{io::BufRead, time::Instant};

/// What a program repeats.
pub trait Workload {
    /// One training step, or one pass forward.
    fn step(&mut self) -> anyhow::Result<()>;

    /// Returns when the device has done all steps.
    fn wait(&self) -> anyhow::Result<()>;
}

/// Answers each line `workload batch steps` by the milliseconds that a step took. A workload is made when it is first asked
/// for, and the one before it dropped.
pub fn serve<W: Workload>(mut make: impl FnMut(&str, usize) -> anyhow::Result<W>) -> anyhow::Result<()> {
    let mut made: Option<(String, W)> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let [name, batch, steps] = line.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("a line is `workload batch steps`");
        };
        let (key, steps) = (format!("{name} {batch}"), steps.parse::<u32>()?);
        let mut workload = match made.take() {
            Some((as_before, workload)) if as_before == key => workload,
            other => {
                drop(other); // before the next is made: both might not fit into memory
                make(name, batch.parse()?)?
            }
        };
        workload.step()?; // wakes the threads
        workload.wait()?;
        let start = Instant::now();
        for _ in 0..steps {
            workload.step()?;
        }
        workload.wait()?;
        println!("{}", start.elapsed().as_secs_f64() * 1e3 / f64::from(steps));
        made = Some((key, workload));
    }
    Ok(())
}
