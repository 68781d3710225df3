//! The heat map as PNG: the SVG, drawn with the bundled font.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, fontdb};

use super::Heatmap;
use super::svg::Glyphs;
use crate::export::error::ExportError;
use crate::export::font;

/// Pixels of the PNG for each of the SVG's, so that it is sharp on today's screens.
const SCALE: u32 = 2;

/// A picture with more pixels than this (256 MB while it is drawn) is refused.
const MAX_PIXELS: u64 = 64 << 20;

impl Heatmap {
    /// The heat map as a PNG of twice the SVG's width and height (once, if that would be very large).
    ///
    /// # Errors
    /// [`ExportError::Render`] when there are too many cells for a PNG.
    pub fn to_png(&self) -> Result<Vec<u8>, ExportError> {
        let render_error = |reason: String| ExportError::Render(reason);
        let svg = self.svg(Glyphs::Bundled);
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(font::DATA.to_vec());
        let options =
            usvg::Options { font_family: font::FAMILY.into(), fontdb: Arc::new(fonts), ..usvg::Options::default() };
        let tree = usvg::Tree::from_str(&svg, &options).map_err(|e| render_error(format!("cannot draw: {e}")))?;
        let (width, height) = (tree.size().width().ceil(), tree.size().height().ceil());
        let pixels = |scale: u32| u64::from(scale).pow(2).saturating_mul((f64::from(width) * f64::from(height)) as u64);
        let Some(scale) = [SCALE, 1].into_iter().find(|&scale| pixels(scale) <= MAX_PIXELS) else {
            return Err(render_error(format!(
                "{width} × {height} pixels are too many for a PNG; write .svg or .html instead"
            )));
        };
        let mut pixmap = Pixmap::new(width as u32 * scale, height as u32 * scale)
            .ok_or_else(|| render_error(format!("cannot make a picture of {width} × {height} pixels")))?;
        resvg::render(&tree, Transform::from_scale(scale as f32, scale as f32), &mut pixmap.as_mut());
        pixmap.encode_png().map_err(|e| render_error(format!("cannot encode PNG: {e}")))
    }
}
