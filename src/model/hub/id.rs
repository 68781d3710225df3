//! [`HubId`]: `gpt2`, `EleutherAI/pythia-70m@step1000`, `owner/name:FILE.gguf`.

use super::HubError;
use std::fmt;
use std::str::FromStr;

/// A model of the hub, as one writes it after `--model`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `owner/name`, or `name` alone for the oldest models.
    pub repository: String,
    /// A branch, a tag or a commit; `main` where none is written.
    pub revision: String,
    /// One GGUF file of the repository, instead of its config and weights.
    pub file: Option<String>,
}

/// What stands for no revision.
pub const MAIN: &str = "main";
/// Of `huggingface_hub.utils.validate_repo_id`.
const MAX_REPOSITORY: usize = 96;

impl HubId {
    /// The model's name without its owner, with the revision if one was written: for titles and folder names.
    pub fn name(&self) -> String {
        let last = self.repository.rsplit('/').next().unwrap_or(&self.repository);
        let file = self.file.as_deref().and_then(|f| f.rsplit('/').next()).and_then(|f| f.strip_suffix(".gguf"));
        let name = file.unwrap_or(last);
        if self.revision == MAIN { name.to_owned() } else { format!("{name}@{}", self.revision.replace('/', "-")) }
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        self.file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
    }
}

impl FromStr for HubId {
    type Err = HubError;

    /// # Errors
    /// [`HubError::NotAnId`] with the rule that the text breaks. Nothing that passes can leave the cache's folder.
    fn from_str(text: &str) -> Result<HubId, HubError> {
        let wrong = |reason: &'static str| HubError::NotAnId { text: text.to_owned(), reason };
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (text, None),
        };
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
        let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let parts: Vec<&str> = repository.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|p| word(p)) || repository.len() > MAX_REPOSITORY {
            return Err(wrong("an id is NAME or OWNER/NAME, of letters, digits, `-`, `_` and `.`"));
        }
        let ends = |w: &&str| w.starts_with(['-', '.']) || w.ends_with(['-', '.']);
        if parts.iter().any(ends) || repository.contains("--") || repository.contains("..") {
            return Err(wrong("no name begins or ends with `-` or `.`, or has two of them in a row"));
        }
        if repository.ends_with(".gguf") || repository.ends_with(".git") {
            return Err(wrong("that is the name of a file; a file of the hub is OWNER/NAME:FILE.gguf"));
        }
        let plain = |path: &str| path.split('/').all(|p| word(p) && p != "." && p != "..") && path.len() <= 255;
        if !plain(revision) {
            return Err(wrong("a revision is a branch, a tag or a commit, after `@`"));
        }
        if file.is_some_and(|f| !plain(f) || !f.ends_with(".gguf")) {
            return Err(wrong("only a .gguf file can be named after `:`"));
        }
        Ok(HubId { repository: repository.to_owned(), revision: revision.to_owned(), file: file.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String, Option<String>) {
        let id: HubId = text.parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(id.to_string(), text);
        (id.repository, id.revision, id.file)
    }

    #[test]
    fn names_owners_revisions_and_files() {
        let owned = |r: &str, v: &str, f: Option<&str>| (r.to_owned(), v.to_owned(), f.map(str::to_owned));
        assert_eq!(parsed("gpt2"), owned("gpt2", "main", None));
        assert_eq!(parsed("EleutherAI/pythia-70m@step1000"), owned("EleutherAI/pythia-70m", "step1000", None));
        assert_eq!(parsed("a/b@refs/pr/3"), owned("a/b", "refs/pr/3", None));
        assert_eq!(parsed("a/b@v1.0:x/Q4_0.gguf"), owned("a/b", "v1.0", Some("x/Q4_0.gguf")));
        let name = |text: &str| text.parse::<HubId>().map(|id| id.name()).unwrap_or_default();
        assert_eq!(name("EleutherAI/pythia-70m"), "pythia-70m");
        assert_eq!(name("EleutherAI/pythia-70m@refs/pr/3"), "pythia-70m@refs-pr-3");
        assert_eq!(name("a/b:x/Q4_0.gguf"), "Q4_0");
    }

    #[test]
    fn what_is_no_id() {
        for text in [
            "",
            "a/b/c",
            "a//b",
            "/a",
            "a/",
            "../a",
            "a/..",
            ".a",
            "a.",
            "a--b",
            "a b",
            "ä",
            "C:\\models",
            "~/gpt2",
            "a\nb",
            "model.gguf",
            "a/b.git",
            "a/b@",
            "a/b@../x",
            "a/b@x/../y",
            "a/b@/x",
            "a/b@x y",
            "a/b:",
            "a/b:x.bin",
            "a/b:../x.gguf",
            "a/b:/x.gguf",
            "a@b@c",
            &"x".repeat(97),
        ] {
            assert!(matches!(text.parse::<HubId>(), Err(HubError::NotAnId { .. })), "{text:?}");
        }
    }
}
