//! Which pairs are held out together.

use super::error::ProbeError;
use super::labels::Target;
use crate::random::SplitMix64;

/// A division of the pairs into folds; each is held out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folds {
    pub n: usize,
    /// `[pairs]`: the fold of each.
    pub of: Vec<usize>,
}

impl Folds {
    /// Shuffles the pairs of each class by `seed` and deals them out in turn, class after class, so that every fold has
    /// its share of each and folds differ in size by one at most. Numbers are one class.
    ///
    /// # Errors
    /// Fewer than two folds, fewer pairs than folds, a class with fewer pairs than folds.
    pub fn new(target: &Target, field: &str, n: usize, seed: u64) -> Result<Folds, ProbeError> {
        let examples = target.len();
        if n < 2 {
            return Err(ProbeError::Folds { folds: n });
        }
        if examples < n {
            return Err(ProbeError::TooFewPairs { examples, folds: n });
        }
        let (classes, n_classes) = match target {
            Target::Classes { of, names } => (of.clone(), names.len()),
            Target::Numbers(_) => (vec![0; examples], 1),
        };
        let mut random = SplitMix64(seed);
        let (mut of, mut next) = (vec![0; examples], 0);
        for class in 0..n_classes {
            let mut members: Vec<usize> = (0..examples).filter(|i| classes[*i] == class).collect();
            if let Target::Classes { names, .. } = target
                && members.len() < n
            {
                let (field, class, examples) = (field.to_owned(), names[class].clone(), members.len());
                return Err(ProbeError::FewerThanFolds { field, class, examples, folds: n });
            }
            for i in (1..members.len()).rev() {
                members.swap(i, random.below(i + 1));
            }
            for member in members {
                of[member] = next;
                next = (next + 1) % n;
            }
        }
        Ok(Folds { n, of })
    }

    /// Pairs outside `fold`, and inside.
    pub fn split(&self, fold: usize) -> (Vec<usize>, Vec<usize>) {
        (0..self.of.len()).partition(|i| self.of[*i] != fold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(of: &[usize], n: usize) -> Target {
        Target::Classes { names: (0..n).map(|i| i.to_string()).collect(), of: of.to_vec() }
    }

    #[test]
    fn every_fold_has_its_share_of_each_class() {
        let of: Vec<usize> = (0..53).map(|i| usize::from(i % 3 == 0)).collect();
        let folds = Folds::new(&target(&of, 2), "f", 5, 7).unwrap();
        for class in 0..2 {
            let counts: Vec<usize> =
                (0..5).map(|f| (0..53).filter(|i| folds.of[*i] == f && of[*i] == class).count()).collect();
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
        assert_eq!(folds, Folds::new(&target(&of, 2), "f", 5, 7).unwrap(), "the same seed, the same folds");
        assert_ne!(folds, Folds::new(&target(&of, 2), "f", 5, 8).unwrap());
        let (train, test) = folds.split(2);
        assert_eq!(train.len() + test.len(), 53);
    }

    #[test]
    fn fewer_examples_than_folds() {
        let few = |of: &[usize], n| Folds::new(&target(of, 2), "verb", n, 0).unwrap_err().to_string();
        let message = few(&[0, 0, 0, 0, 0, 1, 1], 3);
        assert!(message.contains("class \"1\" has 2 pairs") && message.contains("3 folds"), "{message}");
        assert!(few(&[0, 1], 3).contains("2 pairs are fewer than the 3 folds"));
        assert!(few(&[0, 1], 1).contains("--folds 1"));
    }
}
