//! Shared parts of figures: output files, fonts and colors.

use std::path::Path;

use kiln_data::transforms::Image;
use kiln_tensor::{Error, Result};
use plotters::{
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};

pub(crate) const FONT: &str = "sans-serif";
pub(crate) const INK: RGBColor = RGBColor(40, 44, 52);
pub(crate) const RULES: RGBColor = RGBColor(225, 228, 232);

/// A figure that can be drawn on any of plotters' backends.
pub(crate) trait Drawing {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>;
}

/// Draws a figure to a file: as vector graphics if the name ends in `.svg`, otherwise as pixels in the format of the
/// extension.
pub(crate) fn save(drawing: &impl Drawing, path: &Path) -> Result<()> {
    // DejaVu Sans from the `dejavu` crate, because the machine may have no fonts.
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| Error::file(path, "the built-in font is broken"))?;
    let (width, height) = drawing.size();
    let failed = |error: String| Error::file(path, format!("cannot be drawn: {error}"));
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("svg")) {
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        whole(drawing, &area).map_err(failed)?;
        drop(area);
        return std::fs::write(path, text).map_err(|error| Error::io(path, error));
    }
    let len = (width as usize).checked_mul(height as usize).and_then(|area| area.checked_mul(3));
    let mut pixels = Vec::new();
    let too_large = || failed(format!("{width}×{height} pixels are too many"));
    pixels.try_reserve_exact(len.ok_or_else(too_large)?).map_err(|_| too_large())?;
    pixels.resize(len.unwrap_or_default(), 255);
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        whole(drawing, &area).map_err(failed)?;
    }
    Image::new(height as usize, width as usize, 3, pixels)?.save(path)
}

fn whole<B: DrawingBackend>(drawing: &impl Drawing, area: &DrawingArea<B, Shift>) -> Result<(), String> {
    area.fill(&WHITE).and_then(|()| drawing.draw(area)).and_then(|()| area.present()).map_err(|error| error.to_string())
}
