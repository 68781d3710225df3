//! The strongest cells as a table for the terminal.

use std::fmt::Write as _;

use super::node::{node_name, visible};
use super::run::{RunResult, SiteEffects};

/// Width of the bar on either side of zero, in characters.
const BAR: usize = 12;

struct Row<'a> {
    site: &'a SiteEffects,
    cell: usize,
    value: f32,
}

/// The `n` cells of largest |effect|, strongest first: rank, node, effect and a bar to the right (positive) or left
/// (negative) of zero; then how many more there are. Where effects are undefined it says so and shows m − m_base.
/// Cells that do not exist are left out, and so are those that changed nothing. Every line ends in a newline.
pub fn top_cells(run: &RunResult, n: usize) -> String {
    let mut rows: Vec<Row> = Vec::new();
    let mut unchanged = 0_usize;
    for site in &run.sites {
        for (cell, &effect) in site.effect.iter().enumerate() {
            let value = if run.effect_defined { effect } else { run.cell_metric(site, cell).mean_change };
            match value {
                v if v.is_nan() => {}
                0.0 => unchanged += 1,
                value => rows.push(Row { site, cell, value }),
            }
        }
    }
    // Stable: equal effects stay in the order of sites, layers, positions and heads.
    rows.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));

    let mut out = String::new();
    let quantity = if run.effect_defined { "effect".to_owned() } else { format!("m - m_{}", run.direction.base()) };
    if !run.effect_defined {
        let _ = writeln!(
            out,
            "Effects are undefined: m_clean and m_corrupted are within the noise floor of each other. Shown is {quantity}."
        );
    }
    if rows.is_empty() {
        out.push_str("No cell changed the metric.\n");
        return out;
    }
    let shown = &rows[..n.min(rows.len())];
    let names: Vec<String> = shown.iter().map(|row| cell_name(row.site, row.cell)).collect();
    let values: Vec<String> = shown.iter().map(|row| signed(row.value)).collect();
    let sites: Vec<String> = shown.iter().map(|row| visible(&row.site.site)).collect();
    let several = run.sites.len() > 1;
    let widest = |texts: &[String], heading: &str| {
        texts.iter().map(|text| text.chars().count()).fold(heading.chars().count(), usize::max)
    };
    let rank_width = shown.len().to_string().len();
    let (name_width, value_width) = (widest(&names, "node"), widest(&values, &quantity));
    let site_width = widest(&sites, "site");
    let mut line = |rank: &str, site: &str, name: &str, value: &str, bar: &str| {
        let site = if several { format!("{site:<site_width$}  ") } else { String::new() };
        let text = format!("{rank:>rank_width$}  {site}{name:<name_width$}  {value:>value_width$}  {bar}");
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line("#", "site", "node", &quantity, "");
    let largest = shown.iter().map(|row| row.value.abs()).filter(|v| v.is_finite()).fold(0.0, f32::max);
    for (i, row) in shown.iter().enumerate() {
        line(&(i + 1).to_string(), &sites[i], &names[i], &values[i], &bar(row.value, largest));
    }
    let rest = match (rows.len() - shown.len(), unchanged) {
        (0, 0) => return out,
        (0, zero) => format!("and {zero} without any effect"),
        (more, 0) => format!("and {more} more"),
        (more, zero) => format!("and {more} more, and {zero} without any effect"),
    };
    let _ = writeln!(out, "{rest}");
    out
}

/// The node that a cell patches.
pub(super) fn cell_name(site: &SiteEffects, cell: usize) -> String {
    let index = site.index(cell);
    let place = |axis: &str| site.axis(axis).map(|a| index[a]);
    let pos = site.axis("pos").map(|a| site.axes[a].labels[index[a]].as_str());
    node_name(&site.site, index[0], place("head"), pos)
}

pub(super) fn signed(value: f32) -> String {
    let exponent = value != 0.0 && !(1e-4..1e6).contains(&value.abs());
    if exponent { format!("{value:+.3e}") } else { format!("{value:+.4}") }
}

/// `    ████│` for negative, `        │████` for positive values.
fn bar(value: f32, largest: f32) -> String {
    let share = if largest > 0.0 { (value.abs() / largest).min(1.0) } else { 1.0 };
    let length = (share * BAR as f32).round() as usize;
    let blocks = "█".repeat(length);
    if value < 0.0 { format!("{blocks:>BAR$}│") } else { format!("{:BAR$}│{blocks}", "") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_from_the_middle() {
        assert_eq!(bar(1.0, 1.0), "            │████████████");
        assert_eq!(bar(-0.25, 1.0), "         ███│");
        assert_eq!(bar(0.001, 1.0), "            │");
    }

    #[test]
    fn numbers_have_a_sign() {
        assert_eq!([signed(0.5), signed(-0.5), signed(3e-7)], ["+0.5000", "-0.5000", "+3.000e-7"]);
    }
}
