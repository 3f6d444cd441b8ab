//! A white sheet, what is drawn on it, and how figures become places.

use crate::cli::Result;
use crate::report::number;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) const WIDTH: i32 = 860;
pub(super) const MARGIN: i32 = 20;
/// From the top until the first panel.
pub(super) const HEAD: i32 = 52;
/// From the last panel until the bottom.
pub(super) const FOOT: i32 = 34;

pub(super) const ACCENT: RGBColor = RGBColor(0xd9, 0x48, 0x0f);
pub(super) const INK: RGBColor = RGBColor(0x21, 0x25, 0x29);
pub(super) const FAINT: RGBColor = RGBColor(0x6c, 0x75, 0x7d);
pub(super) const GRID: RGBColor = RGBColor(0xdd, 0xe1, 0xe6);
pub(super) const OTHER: RGBColor = RGBColor(0x8f, 0xa3, 0xb8);

pub(super) type Place = (i32, i32);

pub(super) struct Canvas<'a>(DrawingArea<SVGBackend<'a>, Shift>);

impl<'a> Canvas<'a> {
    /// With the title above, and what all was measured on below.
    pub(super) fn new(
        svg: &'a mut String,
        height: i32,
        title: &str,
        machine: &str,
    ) -> Result<Self> {
        let size = (WIDTH.cast_unsigned(), height.cast_unsigned());
        let canvas = Self(SVGBackend::with_string(svg, size).into_drawing_area());
        canvas.0.fill(&WHITE)?;
        canvas.text(title, (MARGIN, 26), Text { size: 17, bold: true, ..Text::default() })?;
        let below = Text { size: 11, color: FAINT, ..Text::default() };
        canvas.text(machine, (MARGIN, height - 14), below)?;
        Ok(canvas)
    }

    pub(super) fn text(&self, text: &str, place: Place, how: Text) -> Result<()> {
        /// What the backend divides sizes by.
        const SCALE: f64 = 1.24;
        let style = if how.bold { FontStyle::Bold } else { FontStyle::Normal };
        let font = FontDesc::new(FontFamily::SansSerif, f64::from(how.size) * SCALE, style);
        let position = Pos::new(how.anchor, VPos::Center);
        let style = font.color(&how.color).pos(position);
        self.0.draw(&plotters::element::Text::new(text.to_owned(), place, style))?;
        Ok(())
    }

    pub(super) fn line(&self, places: Vec<Place>, color: RGBColor, width: u32) -> Result<()> {
        self.0.draw(&PathElement::new(places, color.stroke_width(width)))?;
        Ok(())
    }

    pub(super) fn dot(&self, place: Place, color: RGBColor, radius: i32) -> Result<()> {
        self.0.draw(&Circle::new(place, radius, color.filled()))?;
        Ok(())
    }

    pub(super) fn bar(&self, corners: [Place; 2], color: RGBColor) -> Result<()> {
        self.0.draw(&Rectangle::new(corners, color.filled()))?;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<()> {
        self.0.present()?;
        Ok(())
    }
}

#[derive(Clone, Copy)]
pub(super) struct Text {
    pub(super) size: i32,
    pub(super) color: RGBColor,
    pub(super) bold: bool,
    pub(super) anchor: HPos,
}

impl Default for Text {
    fn default() -> Self {
        Self { size: 13, color: INK, bold: false, anchor: HPos::Left }
    }
}

/// Where figures are along an axis.
pub(super) struct Scale {
    is_log: bool,
    low: f64,
    high: f64,
    /// In pixels.
    from: i32,
    to: i32,
}

impl Scale {
    /// Logarithmic where the figures span a decade and more.
    pub(super) fn of_bars(figures: &[f64], from: i32, to: i32) -> Self {
        let (low, high) = span(figures);
        if high > 10.0 * low {
            // The least one is to be seen as well.
            Self::log(low / 1.5, high, from, to)
        } else {
            Self { is_log: false, low: 0.0, high, from, to }
        }
    }

    pub(super) fn of_curve(figures: &[f64], from: i32, to: i32) -> Self {
        let (low, high) = span(figures);
        Self::log(low, high * 1.05, from, to)
    }

    fn log(low: f64, high: f64, from: i32, to: i32) -> Self {
        Self { is_log: true, low: round_down(low), high, from, to }
    }

    pub(super) fn is_log(&self) -> bool {
        self.is_log
    }

    pub(super) fn place(&self, figure: f64) -> i32 {
        let share = if self.is_log {
            (figure.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            figure / self.high
        };
        self.from + (share * f64::from(self.to - self.from)).round() as i32
    }

    /// Figures that are easy to read, and on the axis.
    pub(super) fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let wide = self.high > 100.0 * self.low;
            let steps: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let decades =
                (-9..10).flat_map(|power| steps.iter().map(move |it| it * 10_f64.powi(power)));
            // A little below the lowest one is rounding.
            return decades.filter(|it| *it > self.low * 0.999 && *it <= self.high).collect();
        }
        let step = step(self.high / 5.0);
        (0..).map(|i| f64::from(i) * step).take_while(|it| *it <= self.high).collect()
    }
}

fn span(figures: &[f64]) -> (f64, f64) {
    /// Nothing at all has no place on a logarithmic axis.
    const LEAST: f64 = 1e-3;
    let low = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let high = figures.iter().copied().fold(LEAST, f64::max);
    (low.max(LEAST), high)
}

/// To one, two or five times a power of ten.
fn round_down(figure: f64) -> f64 {
    let decade = 10_f64.powf(figure.log10().floor());
    let fits = |it: &&f64| **it * decade <= figure * 1.000_001;
    [5.0, 2.0].iter().find(fits).map_or(decade, |it| it * decade)
}

/// Up to such.
fn step(figure: f64) -> f64 {
    let below = round_down(figure);
    let decade = 10_f64.powf(below.log10().floor());
    let next = if below > 4.0 * decade {
        10.0
    } else if below > 1.5 * decade {
        5.0
    } else {
        2.0
    };
    if below >= figure { below } else { next * decade }
}

/// A figure with its unit, in the one that suits it.
pub(super) fn with_unit(figure: f64, unit: &str) -> String {
    match unit {
        "µs" if figure >= 1e3 => with_unit(figure / 1e3, "ms"),
        "ms" if figure >= 1e3 => with_unit(figure / 1e3, "s"),
        _ if figure >= 100.0 => format!("{figure:.0} {unit}"),
        _ if figure >= 10.0 && figure.fract() != 0.0 => format!("{figure:.1} {unit}"),
        _ => format!("{} {unit}", number(figure)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_places() {
        let scale = Scale::of_bars(&[1.5, 100.0], 0, 200);
        assert!(scale.is_log());
        assert_eq!((scale.place(1.0), scale.place(10.0), scale.place(100.0)), (0, 100, 200));
        let scale = Scale::of_bars(&[30.0, 40.0], 100, 200);
        assert!(!scale.is_log());
        assert_eq!((scale.place(0.0), scale.place(20.0), scale.place(40.0)), (100, 150, 200));
        assert_eq!(scale.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
    }

    #[test]
    fn figures_have_units() {
        assert_eq!(with_unit(613.5, "µs"), "614 µs");
        assert_eq!(with_unit(7_654.0, "µs"), "7.65 ms");
        assert_eq!(with_unit(20.0, "µs"), "20 µs");
    }
}
