//! The tables of `patchwave bench`.

use crate::bench::kernels::Bound;
use crate::bench::{KernelReport, KernelRow, WaveReport};
use crate::export::roofline::{self, Roofline, si};
use std::fmt::Write as _;

/// Columns as wide as their widest entry: the first two to the left, the others to the right.
fn columns(rows: &[Vec<String>]) -> String {
    let n = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (c, (entry, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if c < 2 { write!(line, " {entry:<width$} ") } else { write!(line, " {entry:>width$} ") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Seconds in the unit that reads best.
fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", 1e3 * s),
        s => format!("{:.1} µs", 1e6 * s),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn rate(row: &KernelRow) -> String {
    match row.compute {
        true => format!("{}FLOP/s", si(row.flops_per_second)),
        false => format!("{}B/s", si(row.bytes_per_second)),
    }
}

/// What was compared with, in a line or two.
fn ceilings(c: &crate::bench::Ceilings) -> String {
    let mut text = format!("ceilings: copy of {} MiB {}B/s", c.copy_bytes >> 20, si(c.copy));
    for p in &c.products {
        let whose = if p.of_rival { " (the vendor's)" } else { "" };
        let _ = write!(text, "; {} product of {}³ {}FLOP/s{whose}", p.precision, p.size, si(p.flops));
    }
    text
}

pub fn kernels(report: &KernelReport) -> String {
    let mut text = report.model.clone();
    if let Some(s) = &report.shape {
        let _ = write!(
            text,
            ": a wave of {} rows, {} segments of {} behind {}, {} pairs of {} tokens",
            s.rows,
            s.segments(),
            s.own(),
            s.first(),
            s.pairs,
            s.len
        );
    }
    let _ = writeln!(text, "\ndevice: {}", report.device);
    let _ = writeln!(text, "{}", ceilings(&report.ceilings));
    if let Some(rival) = &report.rival {
        let _ = writeln!(text, "{rival}");
    }
    text.push('\n');
    let rivals = report.kernels.iter().any(|k| k.rival.is_some());
    let heads = ["kernel", "shape", "precision", "median", "quartiles", "rate", "of ceiling", "error max", "error rms"];
    let mut rows: Vec<Vec<String>> = vec![heads.map(str::to_owned).to_vec()];
    if rivals {
        rows[0].extend(["of cuBLAS".to_owned(), "its error".to_owned()]);
    }
    for k in &report.kernels {
        let bound = if k.bound == Bound::Product { "product" } else { "copy" };
        let error = |e: Option<f64>| e.map_or_else(String::new, |e| format!("{e:.1e}"));
        let mut row = vec![
            k.name(),
            k.shape.clone(),
            k.precision.to_owned(),
            time(k.time.median),
            format!("{} – {}", time(k.time.q1), time(k.time.q3)),
            rate(k),
            format!("{} {bound}", percent(k.share)),
            error(k.error.map(|e| e.max)),
            error(k.error.map(|e| e.rms)),
        ];
        if rivals {
            row.push(k.rival.as_ref().map_or_else(String::new, |r| percent(r.of_rival)));
            row.push(error(k.rival.as_ref().map(|r| r.error.max)));
        }
        rows.push(row);
    }
    text + columns(&rows).trim_end()
}

pub fn wave(r: &WaveReport) -> String {
    let mut text = format!(
        "{}: z of {} heads in {} layers, {} pairs of {} tokens that differ at the {}th, random weights that all layers share\n",
        r.model,
        r.heads,
        r.layers,
        r.pairs,
        r.len,
        r.first + 1
    );
    let _ = writeln!(text, "device: {}\n{}\n", r.device, ceilings(&r.ceilings));
    let plural = if r.waves == 1 { "" } else { "s" };
    let _ = writeln!(
        text,
        "{} (of {} runs the median) in {} wave{plural} of at most {} rows: {} row-layers/s",
        time(r.seconds),
        r.runs.len(),
        r.waves,
        r.max_rows,
        si(r.row_layers_per_second).trim_end()
    );
    let _ = writeln!(
        text,
        "{}FLOP/s of {} GEMM over all of the time, {} of the product's ceiling",
        si(r.gemm_flops_per_second),
        r.precision,
        percent(r.share)
    );
    match r.host_seconds {
        Some(host) => {
            let _ = writeln!(
                text,
                "the host issues {} operations in {}, {} of the time{}",
                r.operations,
                time(host),
                percent(host / r.seconds),
                match r.launch_bound {
                    true => ": the device waits for launches; taller waves help, and CUDA graphs could",
                    false => ": launches are not what it waits for",
                }
            );
        }
        None => {
            let _ = writeln!(text, "{} operations, each done when its call returns", r.operations);
        }
    }
    let _ = writeln!(text, "\nwhere the time goes, {} with each operation waited for", time(r.timed_seconds));
    let heads = ["operation", "calls", "time", "of all", "rate", "of ceiling"];
    let mut rows: Vec<Vec<String>> = vec![heads.map(str::to_owned).to_vec()];
    for p in &r.breakdown {
        let rate = match p.share {
            Some(_) if p.flops > 4.0 * p.bytes => format!("{}FLOP/s", si(p.flops / p.seconds)),
            Some(_) => format!("{}B/s", si(p.bytes / p.seconds)),
            None => String::new(),
        };
        rows.push(vec![
            p.operation.clone(),
            if p.calls == 0 { String::new() } else { p.calls.to_string() },
            time(p.seconds),
            format!("{:.1} %", 100.0 * p.of_time),
            rate,
            p.share.map_or_else(String::new, percent),
        ]);
    }
    text + columns(&rows).trim_end()
}

/// The report as a picture. What only moves numbers has no place on its axes.
pub fn picture(report: &KernelReport) -> Roofline {
    let precisions: Vec<&str> = report.ceilings.products.iter().map(|p| p.precision).collect();
    let point = |k: &KernelRow| roofline::Point {
        name: k.name(),
        about: format!(
            "{} {}, {}FLOP/s, {}B/s, {:.2} FLOP per byte, {} of the ceiling, median {}",
            k.shape,
            k.precision,
            si(k.flops_per_second),
            si(k.bytes_per_second),
            k.flops / k.bytes,
            percent(k.share),
            time(k.time.median)
        ),
        intensity: k.flops / k.bytes,
        flops_per_second: k.flops_per_second,
        ceiling: precisions.iter().position(|p| *p == k.precision).unwrap_or(0),
    };
    Roofline {
        title: format!("{} on {}", report.model, report.device),
        notes: vec![ceilings(&report.ceilings)],
        bandwidth: report.ceilings.copy,
        ceilings: report
            .ceilings
            .products
            .iter()
            .map(|p| roofline::Ceiling { name: p.precision.to_owned(), flops_per_second: p.flops })
            .collect(),
        points: report.kernels.iter().filter(|k| k.flops > 0.0).map(point).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "b", "1"], ["µs", "long", "100"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "  a   b       1\n  µs  long  100\n");
    }

    #[test]
    fn times_have_their_unit() {
        assert_eq!([2.0, 0.0123, 4.56e-5].map(time), ["2.00 s", "12.30 ms", "45.6 µs"]);
    }
}
