//! Curves as dots of braille characters, 2 by 4 in a cell: the mean of each column of dots as a line, and behind it the range of
//! the values.

use std::cmp::Ordering;

use ratatui_core::{buffer::Buffer, layout::Rect, style::Color};

use super::text::text;
use crate::curve::{Curve, Point, number};

/// Columns that labels of the vertical axis take.
const LABELS: u16 = 10;
/// Bits of the dots of a cell, by column and row.
const DOTS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// The values in one column of dots.
#[derive(Clone, Copy)]
struct Column {
    min: f64,
    max: f64,
    /// The sum of the means of points, each divided by `points`.
    mean: f64,
    points: f64,
}

/// A range of values.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// The range of finite values, if there are any.
    fn of(values: impl Iterator<Item = f64>) -> Option<Axis> {
        let start = Axis { low: f64::INFINITY, high: f64::NEG_INFINITY };
        let axis = values.fold(start, |axis, v| Axis { low: axis.low.min(v), high: axis.high.max(v) });
        (axis.low <= axis.high).then_some(axis)
    }

    /// Where a value is among `count` places, clamped to them. Halves are subtracted, since the difference of the largest numbers
    /// overflows.
    fn place(&self, value: f64, count: usize) -> usize {
        let last = count.saturating_sub(1) as f64;
        let height = self.high / 2.0 - self.low / 2.0;
        let share = if height > 0.0 { (value / 2.0 - self.low / 2.0) / height } else { 0.5 };
        (share.clamp(0.0, 1.0) * last).round() as usize
    }
}

/// Draws the curves of a panel, with labels of the axes, into `area`.
pub fn draw(curves: &[(&Curve, Color)], area: Rect, buffer: &mut Buffer) {
    let points = || curves.iter().flat_map(|(curve, _)| &curve.points);
    let steps = Axis::of(points().flat_map(|point| [point.steps.0 as f64, point.steps.1 as f64]));
    if area.width <= LABELS || area.height < 2 {
        return;
    }
    let Some(steps) = steps else { return text(buffer, area, 0, 0, "no finite values", Color::DarkGray) };
    let plot = Rect { x: area.x + LABELS, width: area.width - LABELS, height: area.height - 1, ..area };
    let width = 2 * usize::from(plot.width);
    let columns: Vec<Vec<Option<Column>>> =
        curves.iter().map(|(curve, _)| columns(&curve.points, &steps, width)).collect();
    // Means alone decide on the range, so that a single spike does not flatten everything.
    let Some(values) = Axis::of(columns.iter().flatten().flatten().map(|column| column.mean)) else { return };

    let mut dots = Dots::new(plot);
    for (columns, (_, color)) in columns.iter().zip(curves) {
        dots.ranges(columns, &values);
        dots.line(columns, &values, *color);
    }
    dots.show(buffer);
    let (bottom, gray) = (area.height - 1, Color::DarkGray);
    text(buffer, area, 0, 0, &format!("{:>9}", number(values.high)), gray);
    if values.low < values.high && bottom > 1 {
        text(buffer, area, 0, bottom - 1, &format!("{:>9}", number(values.low)), gray);
    }
    let (first, last) = (steps.low.to_string(), steps.high.to_string());
    text(buffer, area, LABELS, bottom, &first, gray);
    if first.len() + last.len() < usize::from(plot.width) && first != last {
        text(buffer, area, area.width - last.len() as u16, bottom, &last, gray);
    }
}

/// The points by columns, which several may share.
fn columns(points: &[Point], steps: &Axis, width: usize) -> Vec<Option<Column>> {
    let mut columns: Vec<Option<Column>> = vec![None; width];
    for point in points {
        let column = &mut columns[steps.place(point.step(), width)];
        let Column { min, max, mean, points } =
            column.unwrap_or(Column { min: point.min, max: point.max, mean: 0.0, points: 0.0 });
        let all = points + 1.0;
        *column = Some(Column {
            min: min.min(point.min),
            max: max.max(point.max),
            mean: mean * (points / all) + point.mean / all,
            points: all,
        });
    }
    columns
}

/// A grid of dots.
struct Dots {
    area: Rect,
    /// For each cell the dots of lines and their color, and the dots of ranges.
    cells: Vec<(u8, Color, u8)>,
}

impl Dots {
    fn new(area: Rect) -> Dots {
        Dots { area, cells: vec![(0, Color::Reset, 0); usize::from(area.width) * usize::from(area.height)] }
    }

    fn height(&self) -> usize {
        4 * usize::from(self.area.height)
    }

    /// The row of a value, from the top.
    fn row(&self, values: &Axis, value: f64) -> usize {
        self.height() - 1 - values.place(value, self.height())
    }

    /// The cell of a dot, and the dot's bit.
    fn at(&mut self, column: usize, row: usize) -> (&mut (u8, Color, u8), u8) {
        let cell = (row / 4) * usize::from(self.area.width) + column / 2;
        (&mut self.cells[cell], DOTS[column % 2][row % 4])
    }

    fn ranges(&mut self, columns: &[Option<Column>], values: &Axis) {
        for (at, column) in columns.iter().enumerate() {
            let Some(column) = column.filter(|column| column.min < column.max) else { continue };
            for row in self.row(values, column.max)..=self.row(values, column.min) {
                let (cell, bit) = self.at(at, row);
                cell.2 |= bit;
            }
        }
    }

    /// A line through the means, straight where columns have no values.
    fn line(&mut self, columns: &[Option<Column>], values: &Axis, color: Color) {
        let mut before: Option<(usize, usize)> = None;
        for (at, column) in columns.iter().enumerate() {
            let Some(column) = column else { continue };
            let row = self.row(values, column.mean);
            let (from, from_row) = before.unwrap_or((at, row));
            let mut last = from_row;
            for x in from..=at {
                let share = if at > from { (x - from) as f64 / (at - from) as f64 } else { 1.0 };
                let next = (from_row as f64 + share * (row as f64 - from_row as f64)).round() as usize;
                // Down or up to the next dot, from the row after the last one.
                let rows = match last.cmp(&next) {
                    Ordering::Less => last + 1..=next,
                    Ordering::Equal => next..=next,
                    Ordering::Greater => next..=last - 1,
                };
                for y in rows {
                    let (cell, bit) = self.at(x, y);
                    (cell.0, cell.1) = (cell.0 | bit, color);
                }
                last = next;
            }
            before = Some((at, row));
        }
    }

    fn show(&self, buffer: &mut Buffer) {
        for (position, &(line, color, range)) in self.area.positions().zip(&self.cells) {
            let (dots, color) = if line > 0 { (line, color) } else { (range, Color::DarkGray) };
            if dots > 0
                && let Some(cell) = buffer.cell_mut(position)
            {
                cell.set_char(char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' ')).set_fg(color);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plotted(curve: &[(i64, f64)], width: u16, height: u16) -> Vec<String> {
        let mut plotted = Curve::new("x");
        for &(step, value) in curve {
            plotted.push(value, step);
        }
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        draw(&[(&plotted, Color::Cyan)], area, &mut buffer);
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect()
    }

    #[test]
    fn a_diagonal_is_one() {
        let points: Vec<_> = (0..8).map(|i| (i, i as f64)).collect();
        assert_eq!(plotted(&points, 14, 3), ["    7.000   ⡠⠊", "        0 ⡠⠊", "          0  7"]);
        let falling: Vec<_> = (0..8).map(|i| (i, -(i as f64))).collect();
        assert_eq!(plotted(&falling, 14, 3)[0].chars().nth(10), Some('⠑'));
    }

    #[test]
    fn points_apart_are_joined_and_one_point_is_a_dot() {
        let rows = plotted(&[(0, 1.0), (99, 1.0)], 20, 2);
        assert_eq!(rows, ["    1.000 ⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒", "          0       99"]);
        let dots = plotted(&[(5, 1.0)], 20, 2);
        assert_eq!(dots[0].chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count(), 1);
        assert_eq!(plotted(&[(5, f64::NAN)], 30, 3)[0], "no finite values");
    }

    #[test]
    fn ranges_are_behind_the_means_and_spikes_do_not_flatten() {
        let mut curve = Curve::new("x");
        for i in 0..10_000 {
            curve.push(if i == 5000 { 1e9 } else { f64::from(i % 2) }, i.into());
        }
        let area = Rect::new(0, 0, 60, 10);
        let mut buffer = Buffer::empty(area);
        draw(&[(&curve, Color::Cyan)], area, &mut buffer);
        let colored =
            |color| (0..60).flat_map(|x| (0..9).map(move |y| (x, y))).filter(|&at| buffer[at].fg == color).count();
        assert!(colored(Color::Cyan) >= 50 && colored(Color::DarkGray) > 0);
    }

    #[test]
    fn extremes_do_not_panic() {
        let values = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 0.0, f64::NAN, f64::INFINITY, 1.0];
        let curve: Vec<_> = values.iter().zip([i64::MIN, i64::MAX, 0, 0, 3, 3, -1]).map(|(v, s)| (s, *v)).collect();
        for width in [0, 1, 9, 10, 11, 12, 13, 80, 1000] {
            for height in [0, 1, 2, 3, 50] {
                plotted(&curve, width, height);
                plotted(&[], width, height);
            }
        }
    }
}
