//! Repeated and resumed runs: the same seed gives the same bits, and a run that was stopped and loaded from its
//! checkpoint gives the bits of one that was not.

use std::path::Path;

use kiln::{
    data::{LoaderState, TensorDataset},
    io::Checkpoint,
    nn::{CrossEntropyLoss, Dropout, Linear, ReLU, Sequential, seq},
    optim::{
        Adam, Optimizer, SGD, SGDOptions,
        lr_scheduler::{CosineAnnealingLR, LrScheduler},
    },
    prelude::*,
};

/// All that a run consists of.
struct Run {
    model: Sequential,
    optimizer: Box<dyn Optimizer>,
    scheduler: LrScheduler,
    loader: DataLoader,
}

const BATCHES: usize = 7;

impl Run {
    fn new(adam: bool, workers: usize) -> kiln::Result<Run> {
        manual_seed(7);
        let x = Tensor::randn([100, 12], Device::Cpu)?;
        let y = Tensor::randint(0, 4, 100, Device::Cpu)?;
        let model = seq![Linear::new(12, 32)?, ReLU::new(), Dropout::new(0.4)?, Linear::new(32, 4)?];
        let parameters = model.named_parameters();
        let mut optimizer: Box<dyn Optimizer> = if adam {
            Box::new(Adam::new(parameters, 1e-2)?)
        } else {
            Box::new(SGD::new(parameters, SGDOptions::new(0.1).momentum(0.9))?)
        };
        let scheduler = LrScheduler::new(&mut *optimizer, CosineAnnealingLR::new(10))?;
        let data = TensorDataset::new((x, y))?;
        let loader = DataLoader::builder(data).batch_size(15).shuffle(true).seed(3).num_workers(workers).build()?;
        assert_eq!(loader.len(), BATCHES);
        Ok(Run { model, optimizer, scheduler, loader })
    }

    /// Trains on the next `batches` batches; at the end of an epoch the scheduler makes a step.
    fn train(&mut self, mut batches: usize) -> kiln::Result<()> {
        self.model.train();
        while batches > 0 {
            for batch in self.loader.iter().take(batches) {
                let (x, y) = batch?;
                let loss = CrossEntropyLoss::new().forward(&self.model.forward(&x)?, &y)?;
                self.optimizer.zero_grad();
                loss.backward()?;
                self.optimizer.step()?;
                batches -= 1;
            }
            if self.loader.state().position == 0 {
                self.scheduler.step(&mut *self.optimizer)?;
            }
        }
        Ok(())
    }

    fn save(&self, path: &Path) -> kiln::Result<()> {
        let mut checkpoint = Checkpoint {
            model: self.model.state_dict(),
            optimizer: self.optimizer.state_dict()?,
            scheduler: self.scheduler.state_dict()?,
            ..Checkpoint::now()
        };
        checkpoint.put("loader", &self.loader.state())?;
        checkpoint.save(path)
    }

    fn load(&mut self, path: &Path) -> kiln::Result<()> {
        let checkpoint = Checkpoint::load(path, Device::Cpu)?;
        self.model.load_state_dict(&checkpoint.model, true)?;
        self.optimizer.load_state_dict(&checkpoint.optimizer)?;
        self.scheduler.load_state_dict(&checkpoint.scheduler)?;
        self.loader.set_state(checkpoint.get::<LoaderState>("loader")?)?;
        checkpoint.restore_random_state();
        Ok(())
    }

    fn bits(&self) -> kiln::Result<Vec<u32>> {
        let mut out = Vec::new();
        for parameter in self.model.parameters() {
            out.extend(parameter.to_vec::<f32>()?.into_iter().map(f32::to_bits));
        }
        Ok(out)
    }
}

/// One test, because the generator of random numbers is shared by all threads of a process.
#[test]
fn runs_repeat_and_resume_bit_for_bit() -> kiln::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.ckpt");
    for adam in [false, true] {
        let mut straight = Run::new(adam, 0)?;
        straight.train(4 * BATCHES)?;
        let want = straight.bits()?;

        // The same seed twice; and with workers.
        for workers in [0, 2] {
            let mut again = Run::new(adam, workers)?;
            again.train(4 * BATCHES)?;
            assert_eq!(again.bits()?, want, "adam {adam}, {workers} workers");
        }

        // Stopped after two epochs, and in the middle of the third.
        for first in [2 * BATCHES, 2 * BATCHES + 3] {
            let mut stopped = Run::new(adam, 0)?;
            stopped.train(first)?;
            stopped.save(&path)?;
            stopped.train(BATCHES)?; // goes on, which the checkpoint must not notice
            drop(stopped);
            manual_seed(1234);
            let mut resumed = Run::new(adam, 1)?;
            resumed.load(&path)?;
            resumed.train(4 * BATCHES - first)?;
            assert_eq!(resumed.bits()?, want, "adam {adam}, stopped after {first} batches");
        }
    }
    Ok(())
}
