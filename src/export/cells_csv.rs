//! One line a cell, for spreadsheets.

use super::run::SiteEffects;
use std::collections::BTreeSet;
use std::io::{self, Write};

/// Writes a line for each cell of each site, in the order of the tensors: the site, the cell's place on every axis that
/// some site has (and the label of its position), then what `values(site, cell)` says under the names `columns`.
pub(super) fn write(
    out: &mut impl Write,
    sites: &[&SiteEffects],
    columns: &[&str],
    values: impl Fn(usize, usize) -> Vec<String>,
) -> io::Result<()> {
    let used: BTreeSet<&str> = sites.iter().flat_map(|s| &s.axes).map(|axis| axis.name.as_str()).collect();
    let axes = ["layer", "head", "pos"].into_iter().filter(|name| used.contains(name)).collect::<Vec<_>>();
    let mut csv = csv::Writer::from_writer(out);
    let mut header = vec!["site"];
    header.extend(&axes);
    header.extend(used.contains("pos").then_some("pos_label"));
    header.extend(columns);
    csv.write_record(&header)?;

    let mut record = Vec::with_capacity(header.len());
    for (s, site) in sites.iter().enumerate() {
        for cell in 0..site.effect.len() {
            let index = site.index(cell);
            record.clear();
            record.push(site.site.clone());
            record.extend(axes.iter().map(|name| site.axis(name).map_or(String::new(), |a| index[a].to_string())));
            record.extend(used.contains("pos").then(|| pos_label(site, &index)));
            record.extend(values(s, cell));
            csv.write_record(&record)?;
        }
    }
    csv.flush()
}

/// Nothing for NaN.
pub(super) fn number(v: f32) -> String {
    if v.is_nan() { String::new() } else { v.to_string() }
}

fn pos_label(site: &SiteEffects, index: &[usize]) -> String {
    site.axis("pos").map_or(String::new(), |axis| site.axes[axis].labels[index[axis]].clone())
}
