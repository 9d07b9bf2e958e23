//! Pictures of a training run, as PNG files.

use std::{ops::Range, path::Path};

use anyhow::{Result, anyhow};
use plotters::{
    prelude::*,
    style::{
        FontStyle, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

/// What is known of a run, for [`curves`].
#[derive(Default)]
pub struct History {
    /// The loss of every training batch.
    pub losses: Vec<f32>,
    /// After each epoch: the number of batches so far, the loss and the accuracy (0 to 1) on the test set.
    pub tests: Vec<(usize, f32, f32)>,
}

/// An image to show: its grey values (0 to 1, row by row), its classes as predicted and in truth.
pub struct Predicted {
    pub pixels: Vec<f32>,
    pub width: usize,
    pub predicted: String,
    pub actual: String,
}

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(225, 228, 232);
const TRAIN: RGBColor = RGBColor(170, 190, 225);
const TRAIN_MEAN: RGBColor = RGBColor(38, 84, 160);
const TEST: RGBColor = RGBColor(214, 96, 38);
const RIGHT: RGBColor = RGBColor(30, 130, 60);
const WRONG: RGBColor = RGBColor(190, 30, 45);

/// Draws loss and accuracy over the batches.
pub fn curves(history: &History, path: &Path) -> Result<()> {
    font()?;
    let root = BitMapBackend::new(path, (1200, 480)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let (left, right) = root.split_horizontally(600);

    let batches = history.losses.len().max(2);
    let tested = history.tests.iter().map(|&(_, loss, _)| loss);
    let finite = history.losses.iter().copied().chain(tested).filter(|loss| loss.is_finite());
    let top = finite.fold(0.0f32, f32::max).max(0.1) * 1.05;
    let mut chart = axes(&left, "Loss", "cross-entropy", 0..batches, 0.0..top)?;
    let points = |values: &[f32]| values.iter().copied().enumerate().collect::<Vec<_>>();
    chart
        .draw_series(LineSeries::new(points(&history.losses), TRAIN))
        .map_err(failed)?
        .label("training, each batch")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], TRAIN.stroke_width(2)));
    chart
        .draw_series(LineSeries::new(points(&smoothed(&history.losses)), TRAIN_MEAN.stroke_width(2)))
        .map_err(failed)?
        .label("training, running mean")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], TRAIN_MEAN.stroke_width(2)));
    let tests: Vec<_> = history.tests.iter().map(|&(batch, loss, _)| (batch, loss)).collect();
    marked(&mut chart, &tests, "test")?;
    legend(&mut chart)?;

    let percent: Vec<_> = history.tests.iter().map(|&(batch, _, accuracy)| (batch, 100.0 * accuracy)).collect();
    let lowest = percent.iter().map(|p| p.1).fold(100.0f32, f32::min);
    let bottom = ((lowest - 5.0) / 10.0).floor().max(0.0) * 10.0;
    let mut chart = axes(&right, "Accuracy", "% of the test images", 0..batches, bottom..100.0)?;
    marked(&mut chart, &percent, "test")?;
    if let Some(&(batch, last)) = percent.last() {
        // On the side of the point where the line does not come from.
        let falls = percent.iter().rev().nth(1).is_some_and(|&(_, previous)| previous > last);
        let (side, place) = if falls { (-1.0, VPos::Top) } else { (1.0, VPos::Bottom) };
        let style = (FONT, 16).into_font().color(&TEST).pos(Pos::new(HPos::Right, place));
        let text = Text::new(format!("{last:.1} %"), (batch, last + side * (100.0 - bottom) * 0.02), style);
        chart.draw_series([text]).map_err(failed)?;
    }
    root.present().map_err(failed)
}

/// Draws images in a grid, titled with what they were taken for and, if that was wrong, with what they are.
pub fn predictions(images: &[Predicted], path: &Path) -> Result<()> {
    const COLUMNS: usize = 6;
    const CELL: (u32, u32) = (170, 190);
    font()?;
    let rows = images.len().div_ceil(COLUMNS).max(1);
    let size = (CELL.0 * COLUMNS as u32, CELL.1 * rows as u32 + 10);
    let root = BitMapBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    for (i, image) in images.iter().enumerate() {
        let (x, y) = ((i % COLUMNS) as i32 * CELL.0 as i32, (i / COLUMNS) as i32 * CELL.1 as i32);
        let right = image.predicted == image.actual;
        let title = |size: u32, color: &RGBColor| {
            (FONT, size).into_font().color(color).pos(Pos::new(HPos::Center, VPos::Center))
        };
        let middle = x + CELL.0 as i32 / 2;
        let predicted =
            Text::new(image.predicted.clone(), (middle, y + 17), title(16, if right { &RIGHT } else { &WRONG }));
        root.draw(&predicted).map_err(failed)?;
        if !right {
            let actual = Text::new(format!("is {}", image.actual), (middle, y + 34), title(13, &INK));
            root.draw(&actual).map_err(failed)?;
        }
        let pixel = (140 / image.width.max(1)).max(1) as i32;
        let start = (middle - pixel * image.width as i32 / 2, y + 44);
        for (j, &value) in image.pixels.iter().enumerate() {
            let corner = (start.0 + (j % image.width) as i32 * pixel, start.1 + (j / image.width) as i32 * pixel);
            let shade = (255.0 * (1.0 - value.clamp(0.0, 1.0))) as u8;
            let square =
                Rectangle::new([corner, (corner.0 + pixel, corner.1 + pixel)], RGBColor(shade, shade, shade).filled());
            root.draw(&square).map_err(failed)?;
        }
    }
    root.present().map_err(failed)
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b> = ChartContext<
    'a,
    BitMapBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordusize, plotters::coord::types::RangedCoordf32>,
>;

fn axes<'a, 'b>(area: &'a Area<'b>, title: &str, unit: &str, x: Range<usize>, y: Range<f32>) -> Result<Chart<'a, 'b>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 22).into_font().color(&INK))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(58)
        .build_cartesian_2d(x, y)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style((FONT, 14).into_font().color(&INK))
        .axis_desc_style((FONT, 15).into_font().color(&INK))
        .x_desc("batches")
        .y_desc(unit)
        .draw()
        .map_err(failed)?;
    Ok(chart)
}

fn marked(chart: &mut Chart<'_, '_>, points: &[(usize, f32)], label: &str) -> Result<()> {
    chart
        .draw_series(LineSeries::new(points.iter().copied(), TEST.stroke_width(2)))
        .map_err(failed)?
        .label(label)
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], TEST.stroke_width(2)));
    chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, TEST.filled()))).map_err(failed)?;
    Ok(())
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>) -> Result<()> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font((FONT, 14).into_font().color(&INK))
        .draw()
        .map_err(failed)
}

/// The mean over the last batches, without the bias towards the first one.
fn smoothed(values: &[f32]) -> Vec<f32> {
    const KEEP: f32 = 0.95;
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut next = |&value: &f32| {
        (sum, weight) = (KEEP * sum + value, KEEP * weight + 1.0);
        sum / weight
    };
    values.iter().map(&mut next).collect()
}

/// DejaVu Sans, which comes with the `dejavu` crate: the machine may have no fonts.
fn font() -> Result<()> {
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular()).map_err(|_| anyhow!("the built-in font is broken"))
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}
