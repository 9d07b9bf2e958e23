//! What the view shows: where the run is, panels of curves, and the last lines.

use kiln_backend::Bytes;
use kiln_data::clock;
use ratatui_core::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use super::{plot, text::text};
use crate::{
    curve::{Curve, number},
    run::{Run, Status},
};

/// Colors of the curves of a panel, in turn.
const COLORS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::LightBlue, Color::LightRed];
/// Rows that a panel needs, and columns if there are others beside it.
const MIN_PANEL: (u16, u16) = (6, 50);

/// What the keys have chosen.
#[derive(Debug, Default)]
pub struct Screen {
    /// Which panels are shown, if not all fit.
    pub page: usize,
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

impl Screen {
    /// Draws the run over the whole buffer.
    pub fn draw(&mut self, run: &Run, buffer: &mut Buffer) {
        let area = buffer.area;
        let status = run.status();
        header(&status, run, area, buffer);
        let rest = below(area, 4);
        let lines = (run.lines.len() as u16).min(if rest.height >= 12 { rest.height / 3 } else { 0 });
        let panels = Rect { height: rest.height - lines, ..rest };
        self.panels(&run.curves, panels, buffer);
        let last = run.lines.iter().skip(run.lines.len() - usize::from(lines));
        for (row, line) in last.enumerate() {
            text(buffer, below(rest, panels.height), 0, row as u16, line, Style::new());
        }
    }

    fn panels(&mut self, curves: &[Curve], area: Rect, buffer: &mut Buffer) {
        let panels = in_panels(curves);
        if panels.is_empty() || area.is_empty() {
            return;
        }
        let side_by_side = |count: usize| count.clamp(1, usize::from(area.width / MIN_PANEL.1).max(1));
        let rows = usize::from(area.height / MIN_PANEL.0).max(1);
        let per_page = side_by_side(panels.len().div_ceil(rows)) * rows;
        let pages = panels.len().div_ceil(per_page);
        self.page %= pages;
        let shown = &panels[self.page * per_page..panels.len().min((self.page + 1) * per_page)];
        let columns = side_by_side(shown.len().div_ceil(rows));
        let rows = shown.len().div_ceil(columns);
        for (i, panel) in shown.iter().enumerate() {
            // Edges, so that rounding leaves nothing over.
            let edges = |i: usize, count: usize, size: u16| {
                let edge = |i: usize| (i * usize::from(size) / count) as u16;
                (edge(i), edge(i + 1) - edge(i))
            };
            let (x, width) = edges(i % columns, columns, area.width);
            let (y, height) = edges(i / columns, rows, area.height);
            draw_panel(panel, Rect { x: area.x + x, y: area.y + y, width: width.saturating_sub(1), height }, buffer);
        }
        if pages > 1 {
            let page = format!(" {}/{pages}: Tab ", self.page + 1);
            text(buffer, area, area.width.saturating_sub(page.len() as u16), 0, &page, BOLD);
        }
    }
}

/// The curves by panels, in the order of their first ones.
fn in_panels(curves: &[Curve]) -> Vec<Vec<&Curve>> {
    let mut panels: Vec<Vec<&Curve>> = Vec::new();
    for curve in curves {
        match panels.iter_mut().find(|panel| panel[0].names().0 == curve.names().0) {
            Some(panel) => panel.push(curve),
            None => panels.push(vec![curve]),
        }
    }
    panels
}

/// The area without its first rows.
fn below(area: Rect, rows: u16) -> Rect {
    let rows = rows.min(area.height);
    Rect { y: area.y + rows, height: area.height - rows, ..area }
}

fn header(status: &Status, run: &Run, area: Rect, buffer: &mut Buffer) {
    let Status { position, steps, .. } = *status;
    text(buffer, area, 0, 0, &run.title, BOLD);
    let keys = "q: close the view";
    text(buffer, area, area.width.saturating_sub(keys.len() as u16), 0, keys, Color::DarkGray);

    let epoch = status.epoch.map_or(String::new(), |(epoch, epochs)| format!("epoch {epoch}/{epochs}  "));
    let place = format!("{epoch}step {position}/{steps} ");
    text(buffer, area, 0, 1, &place, Style::new());
    let bar = Rect { x: area.x + place.len() as u16, width: area.width.saturating_sub(place.len() as u16), ..area };
    let share = (position as f64 / steps.max(1) as f64).min(1.0);
    let filled = (share * f64::from(bar.width)) as u16;
    for x in 0..bar.width {
        let (symbol, color) = if x < filled { ("━", Color::Cyan) } else { ("─", Color::DarkGray) };
        text(buffer, bar, x, 1, symbol, color);
    }

    let mut facts = vec![format!("elapsed {}", clock(status.elapsed))];
    facts.extend(status.left.map(|left| format!("left {}", clock(left))));
    facts.push(format!("{:.0} {}/s", status.rate, status.unit));
    if let Some((device, memory)) = status.memory {
        let [now, peak, reserved] = [memory.allocated, memory.peak_allocated, memory.reserved].map(Bytes);
        facts.push(format!("{device}: {now} (peak {peak}, reserved {reserved})"));
    }
    text(buffer, area, 0, 2, &facts.join("   "), Style::new());
}

fn draw_panel(curves: &[&Curve], area: Rect, buffer: &mut Buffer) {
    let colored: Vec<(&Curve, Color)> = curves.iter().copied().zip(COLORS.into_iter().cycle()).collect();
    let (panel, _) = curves[0].names();
    text(buffer, area, 0, 0, panel, BOLD);
    let mut x = panel.chars().count() as u16 + 2;
    for (curve, color) in &colored {
        let (_, name) = curve.names();
        let legend = format!("{name} {}", number(curve.last));
        let color = if curve.last.is_finite() { *color } else { Color::Red };
        text(buffer, area, x, 0, legend.trim_start(), color);
        x = x.saturating_add(legend.chars().count() as u16 + 2);
        if curve.not_finite > 0 {
            let count = format!("({} not finite)", curve.not_finite);
            text(buffer, area, x - 1, 0, &count, Color::Red);
            x = x.saturating_add(count.len() as u16 + 1);
        }
    }
    plot::draw(&colored, below(area, 1), buffer);
}

#[cfg(test)]
mod tests {
    use ratatui_core::{backend::TestBackend, terminal::Terminal};

    use std::time::Instant;

    use super::*;
    use crate::run::{Shared, tests::example};

    /// The rows of a screen of this size.
    fn drawn(run: &Run, screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(run, frame.buffer_mut())).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect()
    }

    const CURVES: [(&str, f64); 3] = [("loss/train", -1.0), ("loss/test", 2.0), ("accuracy", 0.01)];

    #[test]
    fn a_screen() {
        let rows = drawn(&example(&CURVES, 10), &mut Screen::default(), 72, 21);
        let want = [
            "example                                                q: close the view",
            "epoch 2/3  step 50/100 ━━━━━━━━━━━━━━━━━━━━━━━━─────────────────────────",
            "elapsed 01:30   left 01:30   100 samples/s",
            "",
            "loss  train -99.00  test 198.0",
            "    198.0                                        ⢀⣀⣀⣀⣀⣀⣀⠤⠤⠤⠤⠤⠤⠒⠒⠒⠒⠒⠒⠉⠉⠉",
            "                         ⢀⣀⣀⣀⣀⣀⡠⠤⠤⠤⠤⠤⠔⠒⠒⠒⠒⠒⠊⠉⠉⠉⠉⠉⠁",
            "          ⠤⠤⠤⠶⠶⠶⣒⣒⣒⣉⣉⣉⣉⣉⣉⣁⣀⣀",
            "   -99.00                   ⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠑⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠢⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⣀⣀⣀⣀⣀⣀",
            "          0                                                          99",
            "accuracy  0.9900",
            "   0.9900                                               ⢀⣀⣀⣀⡠⠤⠤⠤⠤⠒⠒⠒⠊⠉⠉",
            "                                        ⢀⣀⣀⣀⣀⠤⠤⠤⠔⠒⠒⠒⠒⠉⠉⠉⠁",
            "                        ⢀⣀⣀⣀⡠⠤⠤⠤⠔⠒⠒⠒⠊⠉⠉⠉⠁",
            "        0 ⣀⣀⡠⠤⠤⠤⠒⠒⠒⠒⠊⠉⠉⠉⠁",
            "          0                                                          99",
            "line 5",
            "line 6",
            "line 7",
            "line 8",
            "line 9",
        ];
        assert_eq!(rows, want);
    }

    #[test]
    fn what_does_not_fit_is_on_other_pages() {
        let run = example(&[("a", 1.0), ("b", 1.0), ("c/x", 1.0), ("c/y", 1.0), ("d", 1.0)], 0);
        let titles = |screen: &mut Screen, width| {
            let rows = drawn(&run, screen, width, 12);
            rows[4].split_whitespace().filter(|word| "abcd".contains(word)).collect::<String>()
        };
        let mut screen = Screen::default();
        let mut seen = String::new();
        for page in 0..4 {
            screen.page = page;
            seen += &titles(&mut screen, 80);
        }
        assert_eq!(seen, "abcd");
        screen.page = 4;
        assert_eq!((titles(&mut screen, 80), screen.page), ("a".to_owned(), 0));
        // Beside each other.
        assert_eq!(titles(&mut screen, 110), "ab");
        screen.page = 1;
        assert_eq!(titles(&mut screen, 110), "cd");
    }

    #[test]
    fn values_that_are_not_finite_and_text_of_any_kind() {
        let run = example(&[("loss/train", f64::NAN), ("\u{1b}[31mx/\u{4f60}\u{597d}\n", f64::INFINITY)], 3);
        let rows = drawn(&run, &mut Screen::default(), 80, 24);
        assert_eq!(rows[4], "loss  train NaN (100 not finite)");
        assert_eq!(rows[5], "no finite values");
        assert!(rows.iter().any(|row| row.contains("[31mx")) && !rows.concat().contains('\u{1b}'), "{rows:#?}");
    }

    /// `cargo test --release -p kiln-dashboard cost -- --ignored --nocapture`.
    #[test]
    #[ignore = "prints times"]
    fn what_a_step_a_value_and_a_frame_cost() {
        let shared = Shared::new(Run::new("costs".to_owned(), 0..1, None));
        let time = |what: &str, count: u32, f: &mut dyn FnMut(u32)| {
            let start = Instant::now();
            (0..count).for_each(f);
            println!("{what}: {:.0} ns", start.elapsed().as_nanos() as f64 / f64::from(count));
        };
        shared.begin(10_000_000, Some(640_000_000));
        time("a step, with lines", 10_000_000, &mut |i| shared.step(i.into()));
        shared.set_viewed();
        time("a step, with a view", 10_000_000, &mut |i| shared.step(i.into()));
        for tag in ["loss/train", "loss/test", "accuracy/train", "accuracy/test", "grad_norm", "lr"] {
            time("a value", 10_000_000, &mut |i| shared.add_scalar(tag, f64::from(i % 1000), i.into()));
        }
        time("a snapshot of 6 curves, during which values wait", 100, &mut |_| drop(shared.snapshot()));
        let mut screen = Screen::default();
        for (width, height) in [(80, 24), (200, 60)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            time(&format!("a frame of {width}x{height}"), 100, &mut |_| {
                let run = shared.snapshot();
                terminal.draw(|frame| screen.draw(&run, frame.buffer_mut())).unwrap();
            });
        }
    }

    #[test]
    fn any_size() {
        for lines in [0, 2000] {
            let run = example(&CURVES, lines);
            for (width, height) in
                (0..60).map(|i| (i, i / 3)).chain((0..30).map(|i| (3 * i, i))).chain([(400, 200), (0, 9), (9, 0)])
            {
                drawn(&run, &mut Screen { page: 7 }, width, height);
                drawn(&Run::new(String::new(), 0..0, None), &mut Screen::default(), width, height);
            }
        }
    }

    #[test]
    fn a_screen_that_is_drawn_again_is_that_of_a_new_size() {
        let (run, mut screen) = (example(&CURVES, 10), Screen::default());
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        for (width, height) in [(80, 24), (200, 60), (30, 8), (81, 24)] {
            terminal.backend_mut().resize(width, height);
            terminal.draw(|frame| screen.draw(&run, frame.buffer_mut())).unwrap();
            let mut fresh = Terminal::new(TestBackend::new(width, height)).unwrap();
            fresh.draw(|frame| Screen::default().draw(&run, frame.buffer_mut())).unwrap();
            terminal.backend().assert_buffer(fresh.backend().buffer());
        }
    }
}
