//! First names, by the pronoun that most English text uses for them.

pub(super) const FEMALE: &[&str] = &[
    "Mary",
    "Alice",
    "Anna",
    "Emma",
    "Sarah",
    "Laura",
    "Julia",
    "Emily",
    "Jane",
    "Lisa",
    "Helen",
    "Ruth",
    "Rose",
    "Susan",
    "Karen",
    "Nancy",
    "Linda",
    "Maria",
    "Kate",
    "Lucy",
    "Grace",
    "Clara",
    "Rachel",
    "Rebecca",
    "Amy",
    "Claire",
    "Diana",
    "Elizabeth",
    "Victoria",
    "Jennifer",
    "Jessica",
    "Michelle",
    "Nicole",
    "Amanda",
    "Barbara",
];

pub(super) const MALE: &[&str] = &[
    "John", "Tom", "James", "Paul", "Peter", "Mark", "David", "Daniel", "Robert", "Michael", "William", "George",
    "Henry", "Charles", "Frank", "Jack", "Simon", "Adam", "Martin", "Andrew", "Kevin", "Brian", "Steven", "Eric",
    "Jason", "Ryan", "Scott", "Thomas", "Richard", "Joseph", "Edward", "Matthew", "Anthony", "Patrick", "Arthur",
];

/// Both lists.
pub(super) fn all() -> Vec<&'static str> {
    [FEMALE, MALE].concat()
}
