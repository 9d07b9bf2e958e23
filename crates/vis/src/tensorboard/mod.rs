//! `SummaryWriter`: event files for TensorBoard.

mod embedding;
pub mod events;
mod graph;
mod histogram;
mod hparams;
mod pr_curve;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use events::{
    Dim, Event, Kind, PluginData, SessionLog, Summary, SummaryMetadata, TensorProto, TensorShape, Value, What,
};
pub use hparams::HyperParameter;
use kiln_data::transforms::{Image, ToImage, Transform};
use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor};
use prost::Message;

/// Writes scalars, images, histograms, graphs, texts, precision-recall curves, hyperparameters and embeddings of a run to a folder
/// that `tensorboard --logdir` shows: PyTorch's `SummaryWriter`.
///
/// ```
/// use kiln_tensor::{Device, Tensor};
/// use kiln_vis::SummaryWriter;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("runs");
/// let mut writer = SummaryWriter::new(folder.join("first"))?;
/// for step in 0..10 {
///     writer.add_scalar("loss/train", 1.0 / f64::from(step + 1), step.into())?;
/// }
/// let weights = Tensor::randn([64, 32], Device::Cpu)?.requires_grad_(true)?;
/// writer.add_histogram("weights", &weights, 0)?;
/// writer.add_image("sample", &Tensor::rand([3, 16, 16], Device::Cpu)?, 0)?;
/// writer.add_graph(&weights.relu()?.sum(())?)?;
/// writer.flush()?;
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// What was added reaches the file with [`flush`](SummaryWriter::flush), or when the writer is dropped.
#[derive(Debug)]
pub struct SummaryWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

#[located(site)]
impl SummaryWriter {
    /// Starts an event file in `folder`, which is created if needed. Each run should have a folder of its own.
    ///
    /// # Errors
    /// If the folder or the file cannot be created.
    pub fn new(folder: impl AsRef<Path>) -> Result<SummaryWriter> {
        SummaryWriter::start(folder.as_ref(), None)
    }

    /// [`new`](SummaryWriter::new) for a resumed run: `purge_step` is the first step that is repeated, and TensorBoard
    /// hides the data of earlier files in `folder` from that step on. PyTorch's `SummaryWriter(folder, purge_step=…)`.
    ///
    /// ```
    /// # use kiln_vis::SummaryWriter;
    /// # let folder = tempfile::tempdir().unwrap();
    /// // The first run got to step 80, but its last checkpoint is of step 50.
    /// let mut writer = SummaryWriter::with_purge_step(folder.path(), 50)?;
    /// writer.add_scalar("loss/train", 0.3, 50)?;
    /// # Ok::<(), kiln_tensor::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`new`](SummaryWriter::new).
    pub fn with_purge_step(folder: impl AsRef<Path>, purge_step: i64) -> Result<SummaryWriter> {
        SummaryWriter::start(folder.as_ref(), Some(purge_step))
    }

    fn start(folder: &Path, purge_step: Option<i64>) -> Result<SummaryWriter> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let (now, unique) = (now(), COUNTER.fetch_add(1, Ordering::Relaxed));
        // TensorBoard reads the files of a folder in the order of their names.
        let (seconds, micros) = (now as u64, (now.fract() * 1e6) as u64);
        let name = format!("events.out.tfevents.{seconds:010}.{micros:06}.kiln.{}.{unique:06}", process::id());
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(|error| Error::io(&path, error))?;
        let mut writer = SummaryWriter { path, file: BufWriter::new(file) };
        writer.write(purge_step.unwrap_or(0), What::FileVersion("brain.Event:2".into()))?;
        if let Some(step) = purge_step {
            writer.write(step, What::SessionLog(SessionLog { status: SessionLog::START }))?;
        }
        Ok(writer)
    }

    /// The path of the event file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a point to the curve `tag`. A slash in the tag groups curves.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add_scalar(&mut self, tag: &str, value: f64, step: i64) -> Result<()> {
        self.summary(tag, Kind::SimpleValue(value as f32), step)
    }

    /// Adds an image: a tensor as [`ToImage`] expects it.
    ///
    /// # Errors
    /// If the tensor is not an image, or the file cannot be written.
    pub fn add_image(&mut self, tag: &str, image: &Tensor, step: i64) -> Result<()> {
        self.add_picture(tag, &ToImage.apply(image.clone())?, step)
    }

    /// Adds an 8-bit image.
    ///
    /// # Errors
    /// If the image has no pixels, or the file cannot be written.
    pub fn add_picture(&mut self, tag: &str, image: &Image, step: i64) -> Result<()> {
        let side = |n: usize| u32::try_from(n).ok().filter(|&n| n > 0 && n <= i32::MAX as u32);
        let (Some(width), Some(height)) = (side(image.width()), side(image.height())) else {
            return Err(Error::argument("add_picture", format!("{image:?} has no pixels, or too many")));
        };
        let image = events::Image {
            height: height as i32,
            width: width as i32,
            colorspace: image.channels() as i32,
            encoded_image_string: image.encode_png()?,
        };
        self.summary(tag, Kind::Image(image), step)
    }

    /// Adds a histogram of a tensor's values, in PyTorch's default buckets (`bins="tensorflow"`). Values that are not finite are
    /// omitted.
    ///
    /// # Errors
    /// If no value is finite, or the file cannot be written.
    pub fn add_histogram(&mut self, tag: &str, values: &Tensor, step: i64) -> Result<()> {
        let histogram = histogram::of(values)?;
        self.summary(tag, Kind::Histo(histogram), step)
    }

    /// Adds a text, in which Markdown is shown as such.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add_text(&mut self, tag: &str, text: &str, step: i64) -> Result<()> {
        let tensor = TensorProto {
            dtype: TensorProto::STRING,
            tensor_shape: Some(shape(&[1])),
            string_val: vec![text.as_bytes().to_vec()],
            ..TensorProto::default()
        };
        self.plugin(&format!("{tag}/text_summary"), "text", Vec::new(), Some(tensor), step)
    }

    /// Adds the precision-recall curve of a binary classifier: `labels` are 0 or 1 (or `bool`), `predictions` the probabilities
    /// of 1, of the same shape. Precision and recall are computed at 127 thresholds, as by PyTorch's `add_pr_curve`.
    ///
    /// # Errors
    /// If shapes differ, a label is neither 0 nor 1, a prediction is not in 0 to 1, or the file cannot be written.
    pub fn add_pr_curve(&mut self, tag: &str, labels: &Tensor, predictions: &Tensor, step: i64) -> Result<()> {
        let rows = pr_curve::of(labels, predictions)?;
        let tensor = TensorProto {
            dtype: TensorProto::FLOAT,
            tensor_shape: Some(shape(&[pr_curve::ROWS, pr_curve::THRESHOLDS])),
            float_val: rows,
            ..TensorProto::default()
        };
        self.plugin(tag, "pr_curves", pr_curve::plugin_content(), Some(tensor), step)
    }

    /// Adds the hyperparameters of this run and the metrics that it reached, for the table that compares runs. Each run needs a
    /// folder of its own. The metrics are added as scalars of step 0 as well, where TensorBoard looks for them.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// let mut writer = kiln_vis::SummaryWriter::new(folder.path().join("lr_0.1"))?;
    /// writer.add_hparams(
    ///     &[("lr", 0.1.into()), ("optimizer", "Adam".into()), ("bias", true.into())],
    ///     &[("hparam/accuracy", 0.93)],
    /// )?;
    /// # Ok::<(), kiln_tensor::Error>(())
    /// ```
    ///
    /// # Errors
    /// If a name occurs twice, or the file cannot be written.
    pub fn add_hparams(&mut self, hparams: &[(&str, HyperParameter)], metrics: &[(&str, f64)]) -> Result<()> {
        for (tag, content) in hparams::contents(hparams, metrics, now())? {
            self.plugin(tag, "hparams", content, None, 0)?;
        }
        metrics.iter().try_for_each(|(tag, value)| self.add_scalar(tag, *value, 0))
    }

    /// Adds points `[N, features]` for TensorBoard's projector, each with a label and an image, if those are given: `labels` are
    /// texts without tabs and line breaks, `images` is `[N, C, H, W]` as [`ToImage`] takes images. They are files of their own
    /// beside the event file, in a folder for step and tag, and `projector_config.pbtxt` lists them.
    ///
    /// # Errors
    /// If the points have not two dimensions, there are not as many labels or images, a label has a tab or line break, or a file
    /// cannot be written.
    pub fn add_embedding(
        &mut self,
        tag: &str,
        points: &Tensor,
        labels: Option<&[&str]>,
        images: Option<&Tensor>,
        step: i64,
    ) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        embedding::write(folder, tag, points, labels, images, step)
    }

    /// Adds the autograd graph of a tensor; for a loss, that of the whole model.
    ///
    /// # Errors
    /// If the tensor was not recorded, or the file cannot be written.
    pub fn add_graph(&mut self, of: &Tensor) -> Result<()> {
        let graph = graph::of(of)?;
        self.write(0, What::GraphDef(graph.encode_to_vec()))
    }

    /// Writes everything that is buffered to the file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|error| Error::io(&self.path, error))
    }

    fn summary(&mut self, tag: &str, kind: Kind, step: i64) -> Result<()> {
        let value = Value { tag: tag.to_owned(), metadata: None, value: Some(kind) };
        self.write(step, What::Summary(Summary { value: vec![value] }))
    }

    /// A value for one of TensorBoard's plugins.
    fn plugin(
        &mut self,
        tag: &str,
        plugin: &str,
        content: Vec<u8>,
        tensor: Option<TensorProto>,
        step: i64,
    ) -> Result<()> {
        let plugin_data = Some(PluginData { plugin_name: plugin.to_owned(), content });
        let metadata = Some(SummaryMetadata { plugin_data });
        let value = Value { tag: tag.to_owned(), metadata, value: tensor.map(Kind::Tensor) };
        self.write(step, What::Summary(Summary { value: vec![value] }))
    }

    fn write(&mut self, step: i64, what: What) -> Result<()> {
        let event = Event { wall_time: now(), step, what: Some(what) };
        let record = record(&event.encode_to_vec());
        self.file.write_all(&record).map_err(|error| Error::io(&self.path, error))
    }
}

fn shape(extents: &[usize]) -> TensorShape {
    TensorShape { dim: extents.iter().map(|extent| Dim { size: *extent as i64 }).collect() }
}

/// Seconds since 1970.
fn now() -> f64 {
    // A clock before 1970 counts as 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A TFRecord: the length, its checksum, the data, their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u64).to_le_bytes();
    [&len[..], &masked(&len).to_le_bytes(), data, &masked(data).to_le_bytes()].concat()
}

/// TFRecord's masked CRC-32C, which can itself be part of checked data.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        // The check value of CRC-32C (Castagnoli).
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let frame = record(b"abc");
        assert_eq!((&frame[..8], &frame[12..15], frame.len()), (&[3, 0, 0, 0, 0, 0, 0, 0][..], &b"abc"[..], 19));
        assert_eq!(frame[8..12], masked(&frame[..8]).to_le_bytes());
        assert_eq!(frame[15..], masked(b"abc").to_le_bytes());
    }
}
