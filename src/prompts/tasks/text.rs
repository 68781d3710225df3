//! Prompts with places in them: templates whose words are known by name.

/// A prompt, and where its named words end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Text {
    pub text: String,
    pub marks: Vec<Mark>,
}

/// A place of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub name: &'static str,
    /// The byte after the word.
    pub end: usize,
    /// How many tokens after the word's last one: 1 for `S1+1`.
    pub after: usize,
}

impl Text {
    /// Puts words into the `{places}` of a template. A place whose name begins with `_` gets a word but no mark.
    pub(super) fn fill(template: &str, words: &[(&'static str, &str)]) -> Text {
        let mut filled = Text::default();
        let mut rest = template;
        while let Some((before, (place, after))) =
            rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            filled.text.push_str(before);
            match words.iter().find(|(name, _)| *name == place) {
                Some((name, word)) => filled.push(name, word),
                None => debug_assert!(false, "no word for {place} in {template}"),
            }
            rest = after;
        }
        filled.text.push_str(rest);
        filled
    }

    /// Appends `word` and marks its end, unless the name begins with `_`.
    pub(super) fn push(&mut self, name: &'static str, word: &str) {
        self.text.push_str(word);
        if !name.starts_with('_') {
            self.marks.push(Mark { name, end: self.text.len(), after: 0 });
        }
    }

    /// Marks the token after the word `name` as `as_name`.
    pub(super) fn mark_next(mut self, name: &str, as_name: &'static str) -> Text {
        if let Some(mark) = self.marks.iter().find(|mark| mark.name == name) {
            let end = mark.end;
            self.marks.push(Mark { name: as_name, end, after: 1 });
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_template_are_filled_and_marked() {
        let text = Text::fill("The {a}, {_b}!", &[("a", "cat"), ("_b", "dog")]).mark_next("a", "a+1");
        assert_eq!(text.text, "The cat, dog!");
        assert_eq!(text.marks, [Mark { name: "a", end: 7, after: 0 }, Mark { name: "a+1", end: 7, after: 1 }]);
    }
}
