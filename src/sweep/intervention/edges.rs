//! Edges of attention, from a source position to a destination: `S2->end,IO->end`.

use super::InterventionError;
use crate::engine::Site;
use crate::model::ModelSpec;
use crate::prompts::{PromptError, PromptSet, Selector, resolve_positions};
use crate::sweep::cells::Column;
use std::collections::BTreeSet;
use std::fmt;

/// One item of `--edges`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeName {
    pub source: Selector,
    pub destination: Selector,
}

impl EdgeName {
    /// The items of a comma-separated list.
    ///
    /// # Errors
    /// What is no edge, and edges that are named twice.
    pub fn parse_list(list: &str) -> Result<Vec<EdgeName>, InterventionError> {
        let fail = |reason: String| InterventionError::Edges { text: list.to_owned(), reason };
        let end = |text: &str| match Selector::parse_list(text).map(<[Selector; 1]>::try_from) {
            Ok(Ok([one])) => Ok(one),
            _ => Err(fail(format!("{text:?} is no position; use a name from the prompts, `end` or a number"))),
        };
        let mut edges: Vec<EdgeName> = Vec::new();
        for item in list.split(',').map(str::trim) {
            let Some((source, destination)) = item.split_once("->") else {
                return Err(fail(format!("{item:?} is no edge; write SOURCE->DESTINATION, such as S2->end")));
            };
            let edge = EdgeName { source: end(source.trim())?, destination: end(destination.trim())? };
            if edges.contains(&edge) {
                return Err(fail(format!("{edge} is named twice")));
            }
            edges.push(edge);
        }
        Ok(edges)
    }
}

impl fmt::Display for EdgeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}", self.source, self.destination)
    }
}

/// Edges in the positions of every pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edges {
    /// The destinations, as the position axis of a sweep: one column an edge.
    pub columns: Vec<Column>,
    /// `[edge][pair]`: the sources; `None` where the column has none, too.
    pub sources: Vec<Vec<Option<u32>>>,
}

impl Edges {
    /// Finds the edges in every pair. A number beyond a pair is an edge that it lacks.
    ///
    /// # Errors
    /// A name that a pair lacks, and an edge from a later token to an earlier one, which no causal attention has.
    pub fn resolve(list: &str, set: &PromptSet) -> Result<Edges, crate::Error> {
        let names = EdgeName::parse_list(list)?;
        let mut edges = Edges { columns: Vec::new(), sources: Vec::new() };
        for name in &names {
            let resolve = |s: &Selector| -> Result<Vec<Option<usize>>, PromptError> {
                Ok(resolve_positions(set, std::slice::from_ref(s))?.remove(0))
            };
            for end in [&name.source, &name.destination] {
                if matches!(end, Selector::At(_)) && set.pairs.iter().all(|pair| end.resolve(pair).is_none()) {
                    let (file, longest) = (&set.source, set.longest());
                    let reason =
                        format!("{name}: {end} is beyond every prompt of {file}; the longest has {longest} tokens");
                    return Err(InterventionError::Edges { text: list.to_owned(), reason }.into());
                }
            }
            let (from, to) = (resolve(&name.source)?, resolve(&name.destination)?);
            let (mut sources, mut at) = (Vec::new(), Vec::new());
            for (pair, ends) in set.pairs.iter().zip(from.into_iter().zip(to)) {
                let (source, destination) = match ends {
                    (Some(source), Some(destination)) if source > destination => {
                        let place = set.location(pair);
                        let reason = format!(
                            "{name}: in {place} the source is position {source}, behind the destination {destination}; a token sees only what is before it"
                        );
                        return Err(InterventionError::Edges { text: list.to_owned(), reason }.into());
                    }
                    (Some(source), Some(destination)) => (Some(source as u32), Some(destination as u32)),
                    _ => (None, None),
                };
                sources.push(source);
                at.push(destination);
            }
            edges.columns.push(Column { label: name.to_string(), at });
            edges.sources.push(sources);
        }
        Ok(edges)
    }

    /// Leaves out the pairs that are not kept.
    pub fn retain(&mut self, keep: &[bool]) {
        let kept = |list: &mut Vec<Option<u32>>| {
            let mut keep = keep.iter();
            list.retain(|_| *keep.next().unwrap_or(&true));
        };
        self.columns.iter_mut().for_each(|c| kept(&mut c.at));
        self.sources.iter_mut().for_each(kept);
    }

    /// # Errors
    /// A destination in one of `layers` would be left with nothing to attend to. `jointly`: all edges are knocked out at
    /// once, not one by one.
    pub fn check(
        &self,
        spec: &ModelSpec,
        layers: &BTreeSet<usize>,
        jointly: bool,
        set: &PromptSet,
    ) -> Result<(), InterventionError> {
        let all: Vec<&str> = self.columns.iter().map(|c| c.label.as_str()).collect();
        for &layer in layers.iter().filter(|l| Site::AttnScores.exists(spec, **l)) {
            let Some(attn) = spec.attn(layer).filter(|a| !a.sinks) else { continue };
            for (pair_index, pair) in set.pairs.iter().enumerate() {
                for (edge, column) in self.columns.iter().enumerate() {
                    let Some(to) = column.at[pair_index] else { continue };
                    let gone: BTreeSet<u32> = (0..self.columns.len())
                        .filter(|e| (jointly || *e == edge) && self.columns[*e].at[pair_index] == Some(to))
                        .filter_map(|e| self.sources[e][pair_index])
                        .collect();
                    let from = attn.window.map_or(0, |w| (to as usize + 1).saturating_sub(w));
                    if (from..=to as usize).all(|s| gone.contains(&(s as u32))) {
                        let reason = format!(
                            "{}: position {to} of {} would see nothing in layer {layer}: every source of that destination is knocked out",
                            column.label,
                            set.location(pair)
                        );
                        return Err(InterventionError::Edges { text: all.join(","), reason });
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_read_as_they_are_written() {
        let edges = EdgeName::parse_list("S2->end, 3 -> -1").unwrap();
        assert_eq!(edges.iter().map(EdgeName::to_string).collect::<Vec<_>>(), ["S2->end", "3->-1"]);
        for (list, why) in [
            ("S2", "S2->end"),
            ("", "S2->end"),
            ("S2->", "no position"),
            ("1->2,1->2", "twice"),
            ("->end", "no position"),
        ] {
            let message = EdgeName::parse_list(list).unwrap_err().to_string();
            assert!(message.contains("--edges") && message.contains(why), "{list}: {message}");
        }
    }
}
