//! `Curves`: loss, accuracy and other metrics over the course of a run.

use std::path::Path;

use kiln_derive::located;
use kiln_tensor::Result;
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::canvas::{Drawing, FONT, INK, RULES, save};

/// A figure of panels side by side, each with curves over a common axis.
///
/// ```
/// use kiln_vis::{Curves, Panel, running_mean};
///
/// let losses = [2.3, 1.9, 1.2, 1.0, 0.9];
/// let points = |values: &[f64]| values.iter().enumerate().map(|(i, &v)| (i as f64, v)).collect::<Vec<_>>();
/// let loss = Panel::new("Loss", "batches", "cross-entropy")
///     .faint("training, each batch", points(&losses))
///     .line("training, running mean", points(&running_mean(&losses, 0.95)))
///     .marked("test", [(2.0, 1.3), (4.0, 1.0)]);
/// let accuracy = Panel::new("Accuracy", "batches", "% of the test images").marked("test", [(2.0, 61.0), (4.0, 70.5)]);
/// Curves::new([loss, accuracy]).save(std::env::temp_dir().join("curves.svg"))?;
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Curves {
    panels: Vec<Panel>,
}

#[located(site)]
impl Curves {
    /// A figure of these panels, from left to right.
    pub fn new(panels: impl IntoIterator<Item = Panel>) -> Curves {
        Curves { panels: panels.into_iter().collect() }
    }

    /// Writes the figure to a file: `.svg`, `.png`, or another pixel format
    /// ([`Image::save`](kiln_data::transforms::Image::save)), 600 × 480 pixels per panel.
    ///
    /// # Errors
    /// With the path: if the extension is not known, or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.draw_to(path.as_ref())
    }

    /// Not generic, so that drawing is compiled here and not again in every program.
    fn draw_to(&self, path: &Path) -> Result<()> {
        save(self, path)
    }
}

/// Curves over a common axis. Points that are not finite are omitted.
#[derive(Clone, Debug)]
pub struct Panel {
    title: String,
    x: String,
    y: String,
    curves: Vec<Curve>,
}

#[derive(Clone, Debug)]
struct Curve {
    label: String,
    points: Vec<(f64, f64)>,
    style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Faint,
    Line,
    Marked,
}

impl Style {
    fn stroke(self) -> ShapeStyle {
        match self {
            Style::Faint => RGBColor(170, 190, 225).stroke_width(1),
            Style::Line => RGBColor(38, 84, 160).stroke_width(2),
            Style::Marked => MARKED.stroke_width(2),
        }
    }
}

const MARKED: RGBColor = RGBColor(214, 96, 38);

impl Panel {
    /// An empty panel with a title and labels of its axes.
    pub fn new(title: impl Into<String>, x: impl Into<String>, y: impl Into<String>) -> Panel {
        Panel { title: title.into(), x: x.into(), y: y.into(), curves: Vec::new() }
    }

    fn with(mut self, label: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>, style: Style) -> Panel {
        let points = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        self.curves.push(Curve { label: label.into(), points, style });
        self
    }

    /// Adds a thin, pale line, for noisy data.
    #[must_use]
    pub fn faint(self, label: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Panel {
        self.with(label, points, Style::Faint)
    }

    /// Adds a line.
    #[must_use]
    pub fn line(self, label: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Panel {
        self.with(label, points, Style::Line)
    }

    /// Adds a line with marked points and the value of the last one, for few points.
    #[must_use]
    pub fn marked(self, label: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Panel {
        self.with(label, points, Style::Marked)
    }

    /// The range of a coordinate over all curves, with a margin.
    fn range(&self, coordinate: impl Fn(&(f64, f64)) -> f64, room: f64) -> std::ops::Range<f64> {
        let values = self.curves.iter().flat_map(|curve| &curve.points).map(coordinate);
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            return 0.0..1.0;
        }
        // If all values are equal, the range must still not be empty.
        let room = ((high - low) * room).max(high.abs().max(low.abs()) * 1e-3).max(1e-9);
        low - room..high + room
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let (x, y) = (self.range(|p| p.0, 0.02), self.range(|p| p.1, 0.05));
        let height = y.end - y.start;
        let text = |size: u32| (FONT, size).into_font().color(&INK);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, text(22))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(66)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(RULES)
            .axis_style(INK)
            .label_style(text(14))
            .axis_desc_style(text(15))
            .x_labels(8)
            .x_desc(&self.x)
            .y_desc(&self.y)
            .draw()?;
        for curve in &self.curves {
            let stroke = curve.style.stroke();
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), stroke))?
                .label(&curve.label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], stroke));
            if curve.style != Style::Marked {
                continue;
            }
            chart.draw_series(curve.points.iter().map(|&point| Circle::new(point, 4, MARKED.filled())))?;
            if let Some(&(x, last)) = curve.points.last() {
                // On the side of the point that the line does not come from.
                let falls = curve.points.iter().rev().nth(1).is_some_and(|&(_, before)| before > last);
                let (side, place) = if falls { (-1.0, VPos::Top) } else { (1.0, VPos::Bottom) };
                let style = (FONT, 15).into_font().color(&MARKED).pos(Pos::new(HPos::Right, place));
                chart.draw_series([Text::new(short(last), (x, last + side * height * 0.02), style)])?;
            }
        }
        if self.curves.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.85))
                .border_style(RULES)
                .label_font(text(14))
                .draw()?;
        }
        Ok(())
    }
}

/// Formats with four significant digits.
fn short(value: f64) -> String {
    let digits = 3 - value.abs().max(1e-3).log10().floor() as i32;
    format!("{value:.*}", digits.clamp(0, 6) as usize)
}

impl Drawing for Curves {
    fn size(&self) -> (u32, u32) {
        (600 * self.panels.len().clamp(1, 100) as u32, 480)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let parts = area.split_evenly((1, self.panels.len().max(1)));
        self.panels.iter().zip(&parts).try_for_each(|(panel, part)| panel.draw(part))
    }
}

/// The exponential moving average with decay `keep`, with bias correction. With 0.95 it averages about the last twenty values.
#[must_use]
pub fn running_mean(values: &[f64], keep: f64) -> Vec<f64> {
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut next = |&value: &f64| {
        (sum, weight) = (keep * sum + value, keep * weight + 1.0);
        sum / weight
    };
    values.iter().map(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_all_points() {
        let panel = Panel::new("", "", "").line("", [(0.0, 1.0), (10.0, 3.0), (f64::NAN, 9.0), (3.0, f64::INFINITY)]);
        let (x, y) = (panel.range(|p| p.0, 0.02), panel.range(|p| p.1, 0.05));
        assert!(x.start < 0.0 && x.end > 10.0 && x.end < 11.0 && y.start < 1.0 && y.end > 3.0 && y.end < 4.0);
        assert_eq!(Panel::new("", "", "").range(|p| p.0, 0.1), 0.0..1.0);
        let one = Panel::new("", "", "").line("", [(5.0, 0.0)]);
        assert!(one.range(|p| p.0, 0.1).contains(&5.0) && one.range(|p| p.1, 0.1).contains(&0.0));
    }

    #[test]
    fn means_and_numbers() {
        assert_eq!(running_mean(&[2.0, 2.0, 2.0], 0.9), [2.0; 3]);
        let means = running_mean(&[0.0, 1.0], 0.5);
        assert!((means[1] - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(
            [short(83.4), short(0.46133), short(0.0), short(-12345.6)],
            ["83.40", "0.4613", "0.000000", "-12346"]
        );
    }
}
