//! Lists that users write: layers, heads, ways of cutting a site, amounts of memory.

use super::cells::By;
use crate::engine::Site;
use crate::model::ModelSpec;
use std::collections::BTreeSet;

/// A list that does not say what it should; the message quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} {text:?}: {reason}")]
pub struct BadList {
    pub option: &'static str,
    pub text: String,
    pub reason: String,
}

fn bad(option: &'static str, text: &str, reason: impl Into<String>) -> BadList {
    BadList { option, text: text.to_owned(), reason: reason.into() }
}

/// `8-12,15` → {8, 9, 10, 11, 12, 15}.
///
/// # Errors
/// Numbers that are none, ranges that run backward, layers the model does not have.
pub fn layers(text: &str, n_layers: usize) -> Result<BTreeSet<usize>, BadList> {
    let fail = |reason: String| bad("--layers", text, reason);
    let number = |s: &str| s.trim().parse::<usize>().map_err(|_| fail(format!("{s:?} is not a layer number")));
    let mut all = BTreeSet::new();
    for item in text.split(',') {
        let (from, to) = match item.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(item)?, number(item)?),
        };
        if from > to {
            return Err(fail(format!("the range {item} runs backward")));
        }
        if to >= n_layers {
            return Err(fail(format!("the model has layers 0 to {}", n_layers.saturating_sub(1))));
        }
        all.extend(from..=to);
    }
    Ok(all)
}

/// `a9.h6,a9.h9` → {(9, 6), (9, 9)}; `9.6` is the same head.
///
/// # Errors
/// What is no head, and heads that no site of `sites` has.
pub fn heads(text: &str, spec: &ModelSpec, sites: &[Site]) -> Result<BTreeSet<(usize, usize)>, BadList> {
    let mut all = BTreeSet::new();
    for item in text.split(',').map(str::trim) {
        let plain = item.strip_prefix('a').unwrap_or(item);
        let parts = plain.split_once('.').map(|(l, h)| (l, h.strip_prefix('h').unwrap_or(h)));
        let parsed = parts.and_then(|(l, h)| Some((l.parse::<usize>().ok()?, h.parse::<usize>().ok()?)));
        let Some((layer, head)) = parsed else {
            return Err(bad("--heads", text, format!("{item:?} is not a head; write a9.h6 for head 6 of layer 9")));
        };
        if layer >= spec.n_layers() {
            let last = spec.n_layers().saturating_sub(1);
            return Err(bad("--heads", text, format!("{item}: the model has layers 0 to {last}")));
        }
        let most = sites.iter().map(|s| s.heads(spec, layer)).max().unwrap_or(0);
        if head >= most {
            return Err(bad("--heads", text, format!("{item}: layer {layer} has {most} heads at the chosen sites")));
        }
        all.insert((layer, head));
    }
    Ok(all)
}

/// `head`, `head,pos` (or `pos,head`), `pos`, `layer`.
pub fn by(text: &str) -> Result<By, BadList> {
    let mut parts: Vec<&str> = text.split(',').map(str::trim).collect();
    parts.sort_unstable();
    match parts[..] {
        ["head"] => Ok(By::Head),
        ["head", "pos"] => Ok(By::HeadPos),
        ["pos"] => Ok(By::Pos),
        ["layer"] => Ok(By::Layer),
        _ => Err(bad("--by", text, "expected head, pos, head,pos or layer")),
    }
}

/// How `site` is cut: as asked, or by head where it has heads and by position where it has none.
pub fn by_for(site: Site, asked: Option<By>) -> Result<By, BadList> {
    match asked {
        None if site.has_heads() => Ok(By::Head),
        None => Ok(By::Pos),
        Some(by) if by.has_heads() && !site.has_heads() => {
            let with: Vec<&str> = Site::ALL.into_iter().filter(|s| s.has_heads()).map(Site::name).collect();
            let reason = format!("{site} has no heads (those that have: {}); use pos or layer", with.join(", "));
            Err(bad("--by", by.name(), reason))
        }
        Some(by) => Ok(by),
    }
}

/// `8GiB`, `512MB`, `1.5 GiB`, or plain bytes.
pub fn bytes(text: &str) -> Result<u64, BadList> {
    let fail = || bad("--max-memory", text, "expected an amount such as 8GiB, 500MB or a number of bytes");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit: f64 = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1048576.0,
        "g" | "gib" => 1073741824.0,
        "t" | "tib" => 1099511627776.0,
        _ => return Err(fail()),
    };
    let amount: f64 = digits.trim().parse().map_err(|_| fail())?;
    let total = amount * unit;
    if (1.0..1e18).contains(&total) { Ok(total as u64) } else { Err(fail()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_numbers_and_ranges() {
        assert_eq!(layers("8-10,3", 12).unwrap(), [3, 8, 9, 10].into());
        for (text, why) in
            [("8-12", "0 to 11"), ("5-3", "backward"), ("x", "not a layer"), ("", "not a layer"), ("-1", "not a layer")]
        {
            let message = layers(text, 12).unwrap_err().to_string();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn amounts_have_units() {
        assert_eq!(bytes("8GiB").unwrap(), 8 << 30);
        assert_eq!(bytes("1.5 gib").unwrap(), 3 << 29);
        assert_eq!(bytes("500MB").unwrap(), 500_000_000);
        assert_eq!(bytes("4096").unwrap(), 4096);
        for text in ["", "GiB", "8 parsecs", "-3GB", "0", "nan", "1e300"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn by_has_its_four_forms_and_knows_which_sites_have_heads() {
        assert_eq!(by("pos, head").unwrap(), By::HeadPos);
        assert!(by("heads").is_err());
        assert_eq!(by_for(Site::Z, None).unwrap(), By::Head);
        assert_eq!(by_for(Site::ResidPre, None).unwrap(), By::Pos);
        assert!(by_for(Site::MlpOut, Some(By::Head)).unwrap_err().to_string().contains("mlp_out has no heads"));
    }
}
