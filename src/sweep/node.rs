//! Nodes by name: `a9.h6`, `a9.h6<q>@S2`, `m3`, `a9`, `resid_pre5@S1+end`, `blocks.5.hook_resid_pre`, `input`.
//!
//! The names of heads and MLPs, `input` and `logits` are those of EAP-IG and MIB, whose circuit files [`read_list`] reads.

use super::joint::Target;
use crate::engine::{Program, Site};
use crate::model::ModelSpec;
use crate::prompts::{PromptSet, Selector};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// An activation of one layer, perhaps one head of it, perhaps at some positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub site: Site,
    pub layer: usize,
    /// `None` is all heads, or a site without. A KV head at k and v.
    pub head: Option<usize>,
    /// `None` is every position.
    pub positions: Option<Vec<Selector>>,
}

/// What is no node, or no node of this model or of these pairs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    #[error(
        "node {text:?}: {reason}; nodes are a9.h6, a9.h6<q>, a9, m3, m3<post>, resid_pre5, blocks.5.hook_resid_pre, input, each with @POSITION[+POSITION] if wanted"
    )]
    Unreadable { text: String, reason: String },
    #[error("node {node}: {reason}")]
    Absent { node: String, reason: String },
    #[error("node {node}: {place} has no position {position} ({len} tokens)")]
    NoPosition { node: String, place: String, position: String, len: usize },
    #[error("nodes {a} and {b} overlap: {why}")]
    Overlap { a: String, b: String, why: String },
    #[error("{file}: {reason}")]
    List { file: String, reason: String },
}

impl FromStr for Node {
    type Err = NodeError;

    fn from_str(text: &str) -> Result<Node, NodeError> {
        let fail = |reason: &str| NodeError::Unreadable { text: text.to_owned(), reason: reason.to_owned() };
        let (name, positions) = match text.split_once('@') {
            Some((name, list)) => (name.trim(), Some(list)),
            None => (text.trim(), None),
        };
        let positions = match positions {
            None => None,
            Some(list) => {
                let one = |item: &str| match Selector::parse_list(item).map(<[Selector; 1]>::try_from) {
                    Ok(Ok([one])) => Ok(one),
                    _ => Err(fail(&format!("{item:?} is no position"))),
                };
                let all = list.split('+').map(one).collect::<Result<Vec<_>, _>>()?;
                if let Some(twice) = (1..all.len()).find(|i| all[..*i].contains(&all[*i])) {
                    return Err(fail(&format!("position {} is named twice", all[twice])));
                }
                Some(all)
            }
        };
        let (site, layer, head) = place(name).map_err(|reason| fail(&reason))?;
        Ok(Node { site, layer, head, positions })
    }
}

/// The number that `text` is, if it is nothing but digits.
fn number(text: &str) -> Option<usize> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn place(name: &str) -> Result<(Site, usize, Option<usize>), String> {
    if name == "input" {
        return Ok((Site::ResidPre, 0, None));
    }
    if name == "logits" {
        return Err("the logits are what the metric reads, not a place to patch".to_owned());
    }
    if let Some(rest) = name.strip_prefix("blocks.") {
        let (layer, _) = rest.split_once('.').ok_or("a hook's name goes on behind the layer")?;
        let layer = number(layer).ok_or_else(|| format!("{layer:?} is no layer"))?;
        return Ok((name.parse::<Site>().map_err(|e| e.to_string())?, layer, None));
    }
    let (plain, inside) = match name.split_once('<') {
        None => (name, None),
        Some((plain, rest)) => (plain, Some(rest.strip_suffix('>').ok_or("the < is not closed")?)),
    };
    if let Some((layer, head)) = plain.strip_prefix('a').and_then(|s| s.split_once(".h")) {
        let number_of = |s: &str, what: &str| number(s).ok_or_else(|| format!("{s:?} is no {what}"));
        let (layer, head) = (number_of(layer, "layer")?, number_of(head, "head")?);
        let site = match inside {
            None => Site::Z,
            Some(inside) => Site::ALL
                .into_iter()
                .find(|s| s.has_heads() && s.name() == inside)
                .ok_or_else(|| format!("a head has no {inside:?}, but z, q, k, v, attn_scores, pattern and result"))?,
        };
        return Ok((site, layer, Some(head)));
    }
    if let Some(layer) = plain.strip_prefix('m').and_then(number) {
        let site = match inside {
            None => Site::MlpOut,
            Some("pre") => Site::MlpPre,
            Some("post") => Site::MlpPost,
            Some(inside) => return Err(format!("an MLP has no {inside:?}, but pre and post")),
        };
        return Ok((site, layer, None));
    }
    if inside.is_some() {
        return Err("only heads and MLPs have something in <…>".to_owned());
    }
    if let Some(layer) = plain.strip_prefix('a').and_then(number) {
        return Ok((Site::AttnOut, layer, None));
    }
    let digits = plain.len() - plain.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (site, layer) = plain.split_at(digits);
    match (Site::ALL.into_iter().find(|s| s.name() == site), number(layer)) {
        (Some(site), Some(layer)) => Ok((site, layer, None)),
        (Some(_), None) => Err("the layer is missing".to_owned()),
        _ => Err("there is no such node".to_owned()),
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Node { site, layer, .. } = self;
        match (self.head, site) {
            (Some(head), Site::Z) => write!(f, "a{layer}.h{head}")?,
            (Some(head), site) => write!(f, "a{layer}.h{head}<{site}>")?,
            (None, Site::AttnOut) => write!(f, "a{layer}")?,
            (None, Site::MlpOut) => write!(f, "m{layer}")?,
            (None, Site::MlpPre) => write!(f, "m{layer}<pre>")?,
            (None, Site::MlpPost) => write!(f, "m{layer}<post>")?,
            (None, Site::ResidPre) if *layer == 0 => f.write_str("input")?,
            (None, site) => write!(f, "{site}{layer}")?,
        }
        for (i, position) in self.positions.iter().flatten().enumerate() {
            write!(f, "{}{position}", if i == 0 { '@' } else { '+' })?;
        }
        Ok(())
    }
}

impl Node {
    /// # Errors
    /// The model has no such layer, site or head.
    pub fn check(&self, spec: &ModelSpec) -> Result<(), NodeError> {
        let absent = |reason: String| Err(NodeError::Absent { node: self.to_string(), reason });
        let (layers, site) = (spec.n_layers(), self.site);
        if self.layer >= layers {
            return absent(format!("the model has layers 0 to {}", layers.saturating_sub(1)));
        }
        let heads = site.heads(spec, self.layer);
        if heads == 0 {
            return absent(format!("layer {} of this model has no {site}", self.layer));
        }
        match self.head {
            Some(head) if head >= heads => {
                let kind = if matches!(site, Site::K | Site::V) { "KV heads" } else { "heads" };
                absent(format!("layer {} has {heads} {kind} at {site}, 0 to {}", self.layer, heads - 1))
            }
            _ => Ok(()),
        }
    }

    /// The node in the positions of every pair.
    ///
    /// # Errors
    /// A pair lacks a position.
    pub fn target(&self, set: &PromptSet) -> Result<Target, NodeError> {
        let mut positions = Vec::with_capacity(set.pairs.len());
        for pair in &set.pairs {
            let Some(selectors) = &self.positions else {
                positions.push((0..pair.len()).collect());
                continue;
            };
            let mut here = BTreeSet::new();
            for selector in selectors {
                let Some(position) = selector.resolve(pair) else {
                    let (place, position) = (set.location(pair).to_string(), format!("{:?}", selector.to_string()));
                    return Err(NodeError::NoPosition { node: self.to_string(), place, position, len: pair.len() });
                };
                here.insert(position);
            }
            positions.push(here.into_iter().collect());
        }
        Ok(Target { site: self.site, layer: self.layer, head: self.head, column: None, positions })
    }

    /// The node's attention scores, of which a knockout takes edges: those of one head, or of all heads for `a9`.
    ///
    /// # Errors
    /// The node is no attention, or names positions, which the edges do.
    pub fn scores(&self) -> Result<Node, NodeError> {
        let absent = |reason: &str| Err(NodeError::Absent { node: self.to_string(), reason: reason.to_owned() });
        match self.site {
            _ if self.positions.is_some() => absent("the positions of a knockout are those of --edges"),
            Site::Z | Site::AttnScores | Site::AttnOut => {
                Ok(Node { site: Site::AttnScores, layer: self.layer, head: self.head, positions: None })
            }
            _ => absent("a knockout takes edges of attention: of a head (a9.h6) or of all heads of a layer (a9)"),
        }
    }
}

/// `a9.h9,a9.h6@S2,m0` → its nodes.
pub fn parse_list(list: &str) -> Result<Vec<Node>, NodeError> {
    list.split(',').map(|item| item.trim().parse()).collect()
}

/// The nodes of a file: one a line, with `#` comments; or a circuit of EAP-IG or MIB as JSON, `{"nodes": {"a0.h1":
/// {"in_graph": true}, …}}` or `{"nodes": {"a0.h1": true, …}}`: those that are in the graph. `input` and `logits` of a
/// circuit are where it begins and ends, and no nodes to patch.
///
/// # Errors
/// What cannot be read, with the line or key; a file without nodes.
pub fn read_list(file: &str, text: &str) -> Result<Vec<Node>, NodeError> {
    let fail = |reason: String| NodeError::List { file: file.to_owned(), reason };
    let mut nodes = Vec::new();
    if text.trim_start().starts_with('{') {
        let json: Value = serde_json::from_str(text).map_err(|e| fail(e.to_string()))?;
        let Some(Value::Object(all)) = json.get("nodes") else {
            return Err(fail("no circuit: the field \"nodes\" is missing or no object".to_owned()));
        };
        for (name, value) in all {
            let flag = if value.is_object() { value.get("in_graph").unwrap_or(&Value::Null) } else { value };
            let Some(in_graph) = flag.as_bool() else {
                return Err(fail(format!(
                    "nodes.{}: in_graph is missing or neither true nor false",
                    name.escape_debug()
                )));
            };
            if in_graph && name != "logits" && name != "input" {
                nodes.push(name.parse().map_err(|e| fail(format!("{e}")))?);
            }
        }
        if nodes.is_empty() {
            return Err(fail("no head and no MLP of this circuit is in_graph".to_owned()));
        }
        return Ok(nodes);
    }
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            nodes.push(line.parse().map_err(|e| fail(format!("line {}: {e}", i + 1)))?);
        }
    }
    if nodes.is_empty() { Err(fail("no node in it".to_owned())) } else { Ok(nodes) }
}

/// # Errors
/// Two nodes write the same numbers, or one lies inside the other: `a9.h6` in `a9`, `m3<post>` in `m3`.
pub fn check_overlaps(nodes: &[Node], targets: &[Target], spec: &ModelSpec, set: &PromptSet) -> Result<(), NodeError> {
    let program = Program::new(spec);
    let boundary = |n: &Node| match n.site {
        Site::ResidPre | Site::ResidMid | Site::ResidPost => program.entry_boundary(spec, n.site, n.layer),
        _ => None,
    };
    let rank = |site: Site| match site {
        Site::AttnOut => (1, 3),
        Site::Z | Site::Result => (1, 2),
        Site::MlpOut => (2, 3),
        Site::MlpPost => (2, 2),
        Site::MlpPre => (2, 1),
        Site::Pattern => (3, 2),
        Site::AttnScores => (3, 1),
        other => (4 + other as usize, 1),
    };
    for (i, (a, at)) in nodes.iter().zip(targets).enumerate() {
        for (b, bt) in nodes.iter().zip(targets).take(i) {
            let (ra, rb) = (rank(a.site), rank(b.site));
            let same_place = match (boundary(a), boundary(b)) {
                (Some(a), Some(b)) => a == b,
                (None, None) => a.layer == b.layer && ra.0 == rb.0,
                _ => false,
            };
            let same_head = a.head.is_none() || b.head.is_none() || a.head == b.head;
            if !same_place || !same_head {
                continue;
            }
            for (pair, (p, q)) in at.positions.iter().zip(&bt.positions).enumerate() {
                if let Some(position) = p.iter().find(|x| q.contains(x)) {
                    let place = set.location(&set.pairs[pair]);
                    let what = match ra.1.cmp(&rb.1) {
                        _ if boundary(a).is_some() => "both are this residual stream".to_owned(),
                        std::cmp::Ordering::Equal => "both patch the same numbers".to_owned(),
                        std::cmp::Ordering::Less => format!("{a} lies inside {b}"),
                        std::cmp::Ordering::Greater => format!("{b} lies inside {a}"),
                    };
                    let why = format!("{what}, at position {position} of {place}");
                    return Err(NodeError::Overlap { a: b.to_string(), b: a.to_string(), why });
                }
            }
        }
    }
    Ok(())
}

/// Everything but `nodes`: every head's z and every MLP's output, at every position that no node names. The embedding is
/// never among them, as circuits of EAP-IG and MIB begin at `input`: with it patched, too, nothing of the base run is left.
///
/// # Errors
/// A node that is no head's z, no MLP's output and not `input`.
pub fn complement(
    nodes: &[Node],
    targets: &[Target],
    spec: &ModelSpec,
    set: &PromptSet,
) -> Result<Vec<Target>, NodeError> {
    let is_input = |n: &Node| n.site == Site::ResidPre && n.layer == 0;
    for node in nodes.iter().filter(|n| !is_input(n)) {
        if !matches!(node.site, Site::Z | Site::MlpOut) {
            let reason = "--except keeps heads (a9.h6, or z9 for all of a layer), MLPs (m3) and input; this is none";
            return Err(NodeError::Absent { node: node.to_string(), reason: reason.to_owned() });
        }
    }
    let mut all = Vec::new();
    for layer in 0..spec.n_layers() {
        for site in [Site::Z, Site::MlpOut] {
            for head in 0..site.heads(spec, layer) {
                let head = site.has_heads().then_some(head);
                let kept: Vec<&Target> = targets
                    .iter()
                    .filter(|t| t.site == site && t.layer == layer && (t.head.is_none() || t.head == head))
                    .collect();
                let rest = |pair: usize| {
                    let named = |p: &usize| kept.iter().any(|t| t.positions[pair].contains(p));
                    (0..set.pairs[pair].len()).filter(|p| !named(p)).collect()
                };
                let positions: Vec<Vec<usize>> = (0..set.pairs.len()).map(rest).collect();
                if positions.iter().any(|p| !p.is_empty()) {
                    all.push(Target { site, layer, head, column: None, positions });
                }
            }
        }
    }
    Ok(all)
}

/// Every head's attention scores but those of `nodes`: what a knockout with --except takes edges of.
pub fn complement_scores(nodes: &[Node], spec: &ModelSpec) -> Vec<Node> {
    let heads = (0..spec.n_layers()).flat_map(|l| (0..Site::AttnScores.heads(spec, l)).map(move |h| (l, h)));
    let kept = |l: usize, h: usize| nodes.iter().any(|n| n.layer == l && n.head.is_none_or(|own| own == h));
    heads
        .filter(|(l, h)| !kept(*l, *h))
        .map(|(layer, h)| Node { site: Site::AttnScores, layer, head: Some(h), positions: None })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_as_they_are_written() {
        for text in [
            "a9.h6",
            "a9.h6<q>",
            "a0.h11<pattern>@end",
            "a1.h2<result>",
            "a9",
            "m3",
            "m3<pre>@S2+-1",
            "m3<post>@7",
            "input",
            "resid_pre5@S1+S2",
            "resid_mid0",
            "z5",
            "q12",
        ] {
            assert_eq!(text.parse::<Node>().unwrap().to_string(), text);
        }
        for (text, node) in [
            ("blocks.5.hook_resid_pre", "resid_pre5"),
            ("blocks.0.hook_resid_pre@end", "input@end"),
            ("blocks.5.attn.hook_q", "q5"),
            ("blocks.5.mlp.hook_post", "m5<post>"),
            ("attn_out5", "a5"),
            ("mlp_out5", "m5"),
            ("a5.h1<z>", "a5.h1"),
        ] {
            assert_eq!(text.parse::<Node>().unwrap().to_string(), node, "{text}");
        }
        let list = parse_list("a9.h9, a9.h6@S2,m0").unwrap();
        assert_eq!(list.iter().map(Node::to_string).collect::<Vec<_>>(), ["a9.h9", "a9.h6@S2", "m0"]);
    }

    #[test]
    fn what_is_no_node_says_why() {
        for (text, why) in [
            ("", "no such node"),
            ("9.6", "no such node"),
            ("a9.hx", "\"x\" is no head"),
            ("a+9.h1", "\"+9\" is no layer"),
            ("a9.h6<w>", "a head has no \"w\""),
            ("a9.h6<q", "not closed"),
            ("m3<out>", "pre and post"),
            ("resid_pre", "layer is missing"),
            ("resid_pre5<q>", "only heads and MLPs"),
            ("logits", "what the metric reads"),
            ("a9.h6@", "no position"),
            ("a9.h6@S2+S2", "twice"),
            ("blocks.x.hook_resid_pre", "no layer"),
            ("blocks.5.hook_nothing", "unknown site"),
            ("a99999999999999999999999.h0", "no layer"),
        ] {
            let message = text.parse::<Node>().unwrap_err().to_string();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn lists_are_lines_or_circuits() {
        let names = |text: &str| {
            read_list("f", text).map(|l| l.iter().map(Node::to_string).collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        assert_eq!(names("# movers\na9.h9\n\n a9.h6@S2 # at S2\n"), Ok(vec!["a9.h9".into(), "a9.h6@S2".into()]));
        let circuit = r#"{"cfg": {}, "nodes": {"input": {"in_graph": true}, "a0.h1": {"in_graph": true, "score": 0.5},
            "a0.h2": {"in_graph": false}, "m0": true, "logits": {"in_graph": true}}, "edges": {}}"#;
        assert_eq!(names(circuit), Ok(vec!["a0.h1".into(), "m0".into()]));
        for (text, why) in [
            ("a9.h9\nnonsense\n", "line 2"),
            ("# nothing\n", "no node"),
            ("{", "EOF"),
            (r#"{"edges": {}}"#, "\"nodes\""),
            (r#"{"nodes": {"a0.h1": {"score": 1}}}"#, "nodes.a0.h1: in_graph"),
            (r#"{"nodes": {"x": true}}"#, "no such node"),
            (r#"{"nodes": {"input": true, "a0.h1": false}}"#, "no head and no MLP"),
        ] {
            let message = names(text).unwrap_err();
            assert!(message.starts_with("f: ") && message.contains(why), "{text}: {message}");
        }
    }
}
