//! Training in two processes of one thread each, against one process of two threads: images per second of the MLP at batch
//! 2×256 and of LeNet at batch 2×64. The two take turns, since a machine is never equally busy for long; the figure is the
//! median of the quotients of neighbors.
//!
//! ```text
//! cargo bench --features distributed --bench distributed             # needs `mpiexec` (`pip install mpich`)
//! cargo bench --features distributed --bench distributed -- 21       # so many turns
//! ```

use std::{
    env,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use kiln::{
    distributed::{DistributedDataParallel, init_process_group},
    models::LeNet,
    nn::{CrossEntropyLoss, Linear, ReLU, seq},
    optim::{Adam, Optimizer},
    prelude::*,
};

const MODELS: [&str; 2] = ["mlp", "lenet"];
/// Steps that are not counted: caches, buckets and pages of memory are new in them.
const WARM_UP: usize = 5;

/// A rank: prints how many images it has trained on in a second.
fn work(model: &str) -> Result<()> {
    let group = init_process_group()?;
    let (shape, batch, steps): (&[usize], usize, usize) = match model {
        "mlp" => (&[784], 512, 60),
        _ => (&[1, 32, 32], 128, 100),
    };
    manual_seed(0);
    let network: Box<dyn Module> = match model {
        "mlp" => {
            let layers =
                seq![Linear::new(784, 512)?, ReLU::new(), Linear::new(512, 512)?, ReLU::new(), Linear::new(512, 10)?];
            Box::new(layers)
        }
        _ => Box::new(LeNet::new(10)?),
    };
    let _averages = DistributedDataParallel::new(&*network, &group)?;
    let mut optimizer = Adam::new(network.named_parameters(), 1e-3)?;
    let share = batch / group.size();
    let x = Tensor::randn([&[share], shape].concat(), Device::Cpu)?;
    let y = Tensor::randint(0, 10, [share], Device::Cpu)?;
    let loss_fn = CrossEntropyLoss::new();
    let mut started = Instant::now();
    for step in 0..WARM_UP + steps {
        if step == WARM_UP {
            group.barrier()?;
            started = Instant::now();
        }
        let loss = loss_fn.forward(&network.forward(&x)?, &y)?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()?;
    }
    group.barrier()?;
    if group.rank() == 0 {
        println!("images/s {}", (steps * batch) as f64 / started.elapsed().as_secs_f64());
    }
    Ok(())
}

fn images_per_second(model: &str, processes: usize) -> Result<f64> {
    let program = env::current_exe()?;
    let mut command = match processes {
        1 => Command::new(&program),
        _ => {
            let mut command = Command::new("mpiexec");
            command.args(["-n", &processes.to_string()]).arg(&program);
            command
        }
    };
    command.env("KILN_BENCH_MODEL", model).env("RAYON_NUM_THREADS", (2 / processes).to_string());
    let output = command.output().context("mpiexec does not start (`pip install mpich` brings it)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("images/s ")?.parse().ok());
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    rate.context("no figure")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(turns: usize) -> Result<()> {
    if let Err(error) = Command::new("mpiexec").arg("--version").output() {
        println!("skipped: mpiexec does not start ({error}); `pip install mpich` brings one");
        return Ok(());
    }
    println!("{:8} {:>20} {:>20} {:>10}", "", "1 process, 2 threads", "2 processes", "quotient");
    for model in MODELS {
        let (mut alone, mut together, mut quotients) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..turns {
            let (a, b) = (images_per_second(model, 1)?, images_per_second(model, 2)?);
            alone.push(a);
            together.push(b);
            quotients.push(b / a);
        }
        println!("{model:8} {:20.0} {:20.0} {:10.3}", median(alone), median(together), median(quotients));
    }
    Ok(())
}

fn main() -> ExitCode {
    let turns = env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(9usize);
    let done = match env::var("KILN_BENCH_MODEL") {
        Ok(model) => work(&model),
        Err(_) => compare(turns.max(1)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}
