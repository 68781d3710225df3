//! What a run is judged by: one number per pair, read at the last token. Definitions: `docs/metrics.md`.

use crate::backend::{Backend, View};
use crate::engine::Model;
use crate::prompts::Pair;
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Metric {
    /// mean logit of the answers − mean logit of the wrong tokens
    #[default]
    LogitDiff,
    /// Σ p(answers)
    Prob,
    /// Σ p(answers) − Σ p(wrong)
    ProbDiff,
    /// ln Σ p(answers)
    LogProb,
    /// KL(p_clean ‖ p) in nats over the whole vocabulary; the clean run is the reference in both directions
    Kl,
}

impl Metric {
    pub const ALL: [Metric; 5] = [Metric::LogitDiff, Metric::Prob, Metric::ProbDiff, Metric::LogProb, Metric::Kl];

    pub fn name(self) -> &'static str {
        match self {
            Metric::LogitDiff => "logit_diff",
            Metric::Prob => "prob",
            Metric::ProbDiff => "prob_diff",
            Metric::LogProb => "logprob",
            Metric::Kl => "kl",
        }
    }

    /// The metric reads the pairs' wrong tokens.
    pub fn needs_wrong(self) -> bool {
        matches!(self, Metric::LogitDiff | Metric::ProbDiff)
    }

    /// The metric reads the pairs' answers.
    pub fn needs_answers(self) -> bool {
        self != Metric::Kl
    }

    /// The metric of `n` rows of final hidden states; row i belongs to pair `pairs[i]` of `all`.
    ///
    /// `clean` `[all, d_embed]` are the clean run's hidden rows, which only `kl` reads.
    pub fn evaluate<B: Backend>(
        self,
        model: &Model<B>,
        all: &[&Pair],
        pairs: &[u32],
        hidden: &B::Buf,
        clean: Option<&B::Buf>,
    ) -> Vec<f32> {
        let (d, n, unembedding) = (model.spec.d_embed(), pairs.len(), model.unembedding());
        let h = View::packed(hidden, n, d);
        if self == Metric::Kl {
            let clean = View::packed(clean.expect("kl needs the clean run's rows"), all.len(), d);
            return model.backend.kl(h, clean, pairs, &unembedding);
        }
        let (mut tokens, mut counts) = (Vec::new(), Vec::with_capacity(n));
        for p in pairs {
            let pair = all[*p as usize];
            let before = tokens.len();
            tokens.extend_from_slice(&pair.answers);
            if self.needs_wrong() {
                tokens.extend_from_slice(&pair.wrong);
            }
            counts.push(tokens.len() - before);
        }
        let logits = model.backend.token_logits(h, &unembedding, &tokens, &counts);
        let totals = match self {
            Metric::LogitDiff => vec![0.0; n],
            _ => model.backend.log_sum_exp(h, &unembedding),
        };
        let mut rest = &logits[..];
        let mut values = Vec::with_capacity(n);
        for ((p, count), total) in pairs.iter().zip(counts).zip(totals) {
            let (mine, others) = rest.split_at(count);
            rest = others;
            let (answers, wrong) = mine.split_at(all[*p as usize].answers.len());
            let mean = |x: &[f32]| x.iter().map(|x| *x as f64).sum::<f64>() / x.len() as f64;
            let prob = |x: &[f32]| x.iter().map(|x| (*x as f64 - total as f64).exp()).sum::<f64>();
            values.push(match self {
                Metric::LogitDiff => mean(answers) - mean(wrong),
                Metric::Prob => prob(answers),
                Metric::ProbDiff => prob(answers) - prob(wrong),
                Metric::LogProb => {
                    // Σ p may underflow where its logarithm does not.
                    let max = answers.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
                    let sum: f64 = answers.iter().map(|x| (*x as f64 - max).exp()).sum();
                    max + sum.ln() - total as f64
                }
                Metric::Kl => unreachable!("returned above"),
            } as f32);
        }
        values
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown metric {0:?}; the metrics are {list}", list = Metric::ALL.map(Metric::name).join(", "))]
pub struct UnknownMetric(pub String);

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(name: &str) -> Result<Self, UnknownMetric> {
        Metric::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| UnknownMetric(name.to_owned()))
    }
}
