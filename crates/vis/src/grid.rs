//! `ImageGrid`: images in rows and columns, with labels.

use std::path::Path;

use kiln_data::transforms::{Image, ToImage, Transform};
use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::canvas::{Drawing, FONT, INK, save};

const RIGHT: RGBColor = RGBColor(30, 130, 60);
const WRONG: RGBColor = RGBColor(190, 30, 45);
/// Height of a label.
const LINE: u32 = 22;
/// Margin around each image.
const GAP: u32 = 12;

/// A figure of images in rows and columns, each with its label above it.
#[derive(Clone, Debug)]
pub struct ImageGrid {
    columns: usize,
    side: u32,
    cells: Vec<Cell>,
}

#[derive(Clone, Debug)]
struct Cell {
    image: Image,
    label: String,
    color: RGBColor,
    note: Option<String>,
}

#[located(site)]
impl ImageGrid {
    /// An empty grid with this number of columns.
    #[must_use]
    pub fn new(columns: usize) -> ImageGrid {
        ImageGrid { columns: columns.max(1), side: 140, cells: Vec::new() }
    }

    /// The length of an image's longer side in the figure, in pixels; 140 by default. Images are scaled to it, smaller ones by
    /// integer factors.
    #[must_use]
    pub fn side(self, pixels: u32) -> ImageGrid {
        ImageGrid { side: pixels.clamp(1, 4096), ..self }
    }

    /// Adds an image with its label. [`ToImage`] converts tensors to images.
    pub fn push(&mut self, image: Image, label: impl Into<String>) {
        self.cells.push(Cell { image, label: label.into(), color: INK, note: None });
    }

    /// Adds an image with its predicted class: in green if the prediction is right, otherwise in red and with the actual class
    /// below.
    pub fn push_prediction(&mut self, image: Image, predicted: impl Into<String>, actual: impl Into<String>) {
        let (label, actual) = (predicted.into(), actual.into());
        let right = label == actual;
        let note = (!right).then(|| format!("is {actual}"));
        self.cells.push(Cell { image, label, color: if right { RIGHT } else { WRONG }, note });
    }

    /// Writes the figure to a file, `.png` or another format that its extension names.
    ///
    /// # Errors
    /// With the path: if the figure is too large, or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.draw_to(path.as_ref())
    }

    /// Not generic, so that drawing is compiled here and not again in every program.
    fn draw_to(&self, path: &Path) -> Result<()> {
        let (width, height) = self.cell();
        let rows = self.cells.len().div_ceil(self.columns) as u64;
        if u64::from(width).saturating_mul(self.columns as u64) > 1 << 16
            || u64::from(height).saturating_mul(rows) > 1 << 16
        {
            let message = format!("{} images in {} columns make the figure too large", self.cells.len(), self.columns);
            return Err(Error::file(path, message));
        }
        save(self, path)
    }

    /// Width and height of a cell.
    fn cell(&self) -> (u32, u32) {
        let lines = if self.cells.iter().any(|cell| cell.note.is_some()) { 2 } else { 1 };
        (self.side + 2 * GAP, self.side + LINE * lines + 2 * GAP)
    }
}

/// Writes a batch of images as a grid with labels: torchvision's `save_image(make_grid(…))`. The tensor is
/// `[n, channels, height, width]` with values as [`ToImage`] expects; there may be fewer labels than images.
///
/// # Errors
/// If the tensor is not a batch of images, or the file cannot be written.
#[located(site)]
pub fn save_image_grid(
    images: &Tensor,
    labels: &[impl AsRef<str>],
    columns: usize,
    path: impl AsRef<Path>,
) -> Result<()> {
    let labels: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
    grid_of(images, &labels, columns)?.draw_to(path.as_ref())
}

fn grid_of(images: &Tensor, labels: &[&str], columns: usize) -> Result<ImageGrid> {
    let (n, ..) = images.dims4()?;
    let mut grid = ImageGrid::new(columns);
    for index in 0..n {
        let image = ToImage.apply(images.select(0, index as i64)?)?;
        grid.push(image, labels.get(index).copied().unwrap_or_default());
    }
    Ok(grid)
}

impl Drawing for ImageGrid {
    fn size(&self) -> (u32, u32) {
        let (width, height) = self.cell();
        // `save` has bounded both.
        (width * self.columns as u32, height * self.cells.len().div_ceil(self.columns).max(1) as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let (width, height) = self.cell();
        for (number, cell) in self.cells.iter().enumerate() {
            let (column, row) = ((number % self.columns) as u32, (number / self.columns) as u32);
            let (left, top) = ((column * width) as i32, (row * height) as i32);
            let middle = left + (width / 2) as i32;
            let line = |text: &str, number: u32, size: u32, color: &RGBColor| {
                let style = (FONT, size).into_font().color(color).pos(Pos::new(HPos::Center, VPos::Center));
                area.draw(&Text::new(text.to_owned(), (middle, top + (GAP + LINE * number + LINE / 2) as i32), style))
            };
            line(&cell.label, 0, 16, &cell.color)?;
            if let Some(note) = &cell.note {
                line(note, 1, 13, &INK)?;
            }
            let (w, h) = fitted((cell.image.width(), cell.image.height()), self.side);
            let corner = (middle - (w / 2) as i32, top + (height - GAP - self.side) as i32);
            for y in 0..h {
                for x in 0..w {
                    let color = pixel(&cell.image, (x, y), (w, h));
                    area.draw_pixel((corner.0 + x as i32, corner.1 + y as i32), &color)?;
                }
            }
        }
        Ok(())
    }
}

/// The size of an image in the figure.
fn fitted((width, height): (usize, usize), side: u32) -> (u32, u32) {
    let longer = width.max(height) as u64;
    if longer == 0 {
        return (0, 0);
    }
    let whole = u64::from(side) / longer;
    let scaled = |n: usize| {
        let n = n as u64;
        (if whole > 0 { n * whole } else { (n * u64::from(side) / longer).max(1) }) as u32
    };
    (scaled(width), scaled(height))
}

/// The pixel of the image at a position in the figure.
fn pixel(image: &Image, (x, y): (u32, u32), (w, h): (u32, u32)) -> RGBColor {
    let at = |place: u32, of: u32, len: usize| (u64::from(place) * len as u64 / u64::from(of)) as usize;
    let start = (at(y, h, image.height()) * image.width() + at(x, w, image.width())) * image.channels();
    match image.pixels()[start..][..image.channels()] {
        [r, g, b] => RGBColor(r, g, b),
        [gray, ..] => RGBColor(gray, gray, gray),
        [] => WHITE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_keep_their_aspect() {
        assert_eq!(fitted((28, 28), 140), (140, 140));
        assert_eq!(fitted((30, 10), 140), (120, 40));
        assert_eq!(fitted((500, 375), 140), (140, 105));
        assert_eq!(fitted((100_000, 1), 140), (140, 1));
        assert_eq!(fitted((0, 0), 140), (0, 0));
    }

    #[test]
    fn pixels_are_those_of_the_image() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid.png");
        let mut grid = ImageGrid::new(2).side(4);
        grid.push(Image::new(1, 2, 3, vec![255, 0, 0, 0, 0, 255])?, "");
        grid.push(Image::new(2, 2, 1, vec![0, 50, 100, 150])?, "");
        grid.push(Image::new(0, 0, 1, vec![])?, "nothing");
        grid.save(&path)?;
        let seen = Image::open(&path)?;
        let (width, height) = grid.cell();
        assert_eq!((seen.width() as u32, seen.height() as u32), (2 * width, 2 * height));
        let at = |x: u32, y: u32| {
            let start = (y as usize * seen.width() + x as usize) * 3;
            [seen.pixels()[start], seen.pixels()[start + 1], seen.pixels()[start + 2]]
        };
        let top = GAP + LINE;
        assert_eq!([at(GAP, top), at(GAP + 3, top + 1), at(GAP, top + 2)], [[255, 0, 0], [0, 0, 255], [255; 3]]);
        assert_eq!([at(width + GAP + 3, top), at(width + GAP, top + 3)], [[50; 3], [100; 3]]);

        let batch = Tensor::zeros([5, 1, 3, 3], kiln_tensor::Device::Cpu)?;
        save_image_grid(&batch, &["one", "two"], 3, &path)?;
        assert_eq!(Image::open(&path)?.width() as u32, 3 * (140 + 2 * GAP));
        assert!(save_image_grid(&batch.select(0, 0)?, &["one"], 3, &path).is_err());
        save_image_grid(&batch.narrow(0, 0, 0)?, &["none"], 3, &path)?;
        let nowhere = folder.path().join("no/grid.png");
        assert!(grid.save(&nowhere).unwrap_err().to_string().contains("grid.png"));
        assert!(ImageGrid::new(usize::MAX).save(&path).is_err());
        Ok(())
    }

    #[test]
    fn predictions_are_colored() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let has = |predicted: &str, color: RGBColor| -> Result<bool> {
            let path = folder.path().join("grid.png");
            let mut grid = ImageGrid::new(1);
            grid.push_prediction(Image::new(1, 1, 1, vec![255])?, predicted, "Boot");
            grid.save(&path)?;
            let image = Image::open(&path)?;
            Ok(image.pixels().chunks(3).any(|pixel| pixel == [color.0, color.1, color.2]))
        };
        assert!(has("Boot", RIGHT)? && !has("Boot", WRONG)?);
        assert!(has("Bag", WRONG)? && !has("Bag", RIGHT)?);
        Ok(())
    }
}
