//! Text in the view: as much of it as there is room for.

use ratatui_core::{buffer::Buffer, layout::Rect, style::Style};

/// Writes text at a place in `area`, as much of it as fits. Control characters are left out.
pub fn text(buffer: &mut Buffer, area: Rect, x: u16, y: u16, text: &str, style: impl Into<Style>) {
    let area = area.intersection(buffer.area);
    if x < area.width && y < area.height {
        buffer.set_stringn(area.x + x, area.y + y, text, usize::from(area.width - x), style);
    }
}
